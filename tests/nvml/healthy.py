"""Healthy nodes, as text for the stand-in: whatever is judged on them, nothing has to be done.

Memory and links as NVML gives them with the drivers named; those of other parts of NVML are added by their own lines.
"""

from tests.nvml import EIGHT_B200
from tests.nvml.boards import (
    BRIDGED_A6000,
    BRIDGED_H100_NVL,
    CUBE_MESH_V100,
    EIGHT_A100,
    EIGHT_H100,
    FOUR_H100,
    FOUR_L40S,
    ONE_H200_VM,
    POWER9_V100,
    TWO_4090,
)

# `memory_kind`: see memory.c.
_PAGES, _ROWS, _NEW, _GEFORCE = (f"memory_kind {kind}\n" for kind in (1, 2, 3, 4))
# Since Hopper, a board keeps what it remapped years ago.
_OLD_REMAPS = "remapped 2 1 1 0 0\nbanks 2 2558 2 0 0 0\n"
_NVLINK4 = "nvlink_version 6\n"
_NVLINK5 = "counters 1\nport_fields\nnvlink_version 7\n"

_EIGHT_H200 = EIGHT_H100.replace("H100 80GB HBM3", "H200").replace("85520809984", "150754820096")
_FOUR_GB200 = EIGHT_B200.replace("B200", "GB200").replace("count 8", "count 4")
_TWO_H100_PCIE = (
    "driver 570.133.20\nname NVIDIA H100 PCIe\ncount 2\nmemory 85520809984\ncapability 9 0\nlinks 0\n"
    "fabric 0 0 0\nancestor 50\n"
)
_TWO_T4 = (
    "driver 535.183.01\nname Tesla T4\ncount 2\nmemory 15843721216\ncapability 7 5\nlinks 0\nfabric 0 0 0\n"
    "fail nvmlDeviceGetGpuFabricInfoV 13\nancestor 50\n"
)

HEALTHY_NODES: dict[str, str] = {
    "eight H100": EIGHT_H100 + _NEW + _NVLINK4,
    "eight H100, one with an old remapping": EIGHT_H100 + _NEW + _NVLINK4 + _OLD_REMAPS,
    "eight H200": _EIGHT_H200 + _NEW + _NVLINK4,
    "eight B200": EIGHT_B200 + _NEW + _NVLINK5,
    "eight B200, read without root": EIGHT_B200 + _NEW + _NVLINK5 + "sram_closed\n",
    "eight B200, split": EIGHT_B200 + _NEW + _NVLINK5 + "mig 1\n",
    "one B200, split": EIGHT_B200.replace("count 8", "count 1") + _NEW + _NVLINK5 + "mig 1\n",
    "four GB200": _FOUR_GB200 + _NEW + _NVLINK5,
    "eight A100 with a driver of 2022": EIGHT_A100 + _ROWS + "nvlink_version 4\n",
    "four H100 without switches": FOUR_H100 + _NEW + _NVLINK4,
    "one H200 in a virtual machine": ONE_H200_VM + _NEW + "virtualization 0 1\n",
    "one H200 whose links are off, in a virtual machine": ONE_H200_VM.replace("links 0", "links 18")
    + _NEW
    + "virtualization 0 1\n"
    + "".join(f"link_down 0 {link}\n" for link in range(18)),
    "two H100 PCIe without a bridge": _TWO_H100_PCIE + _ROWS,
    "pairs of H100 NVL with bridges": BRIDGED_H100_NVL + _NEW + _NVLINK4,
    "pairs of A6000 with bridges, ECC off": BRIDGED_A6000
    + _ROWS
    + "".join(f"ecc_mode {gpu} 0 0\n" for gpu in range(4)),
    "two A6000 without their bridge": BRIDGED_A6000.replace("count 4", "count 2").split("bond")[0]
    + "bond 0 1 0\n"
    + _ROWS,
    "four L40S": FOUR_L40S + _NEW,
    "two GeForce without ECC": TWO_4090 + _GEFORCE,
    "the cube mesh of a DGX-1, one GPU with retired pages": CUBE_MESH_V100 + _PAGES + "retired 5 2 1 0\n",
    "two sockets of POWER9": POWER9_V100 + _PAGES,
    "two T4": _TWO_T4 + _PAGES,
    "a virtual GPU": ONE_H200_VM + "virtualization 0 2\n",
}
