"""What NVML answers on boards of each generation, as text for the stand-in."""

from tests.nvml import EIGHT_B200

# The pairs of a DGX-1 with V100 that share one link, and those that share two.
_ONE = ((0, 1), (0, 2), (1, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7))
_TWO = ((0, 3), (0, 4), (1, 2), (1, 5), (2, 3), (4, 7), (5, 6), (6, 7))
_NO_FABRIC = "fabric 0 0 0\nfail nvmlDeviceGetGpuFabricInfoV 13\n"


def _bonds(pairs: tuple[tuple[int, int], ...], links: int) -> str:
    return "".join(f"bond {a} {b} {links}\n" for a, b in pairs)


CUBE_MESH_V100 = (
    "driver 470.256.02\nname Tesla V100-SXM2-32GB\ncount 8\nmemory 34089730048\ncapability 7 0\nlinks 6\n"
    f"nvlink_version 2\n{_NO_FABRIC}{_bonds(_ONE, 1)}{_bonds(_TWO, 2)}"
)
POWER9_V100 = (
    "driver 470.256.02\nname Tesla V100-SXM2-16GB\ncount 4\nmemory 16945512448\ncapability 7 0\nlinks 6\n"
    f"nvlink_version 2\nremote_kind 1\nancestor 50\n{_NO_FABRIC}{_bonds(((0, 1), (2, 3)), 3)}"
)
EIGHT_A100 = (
    "driver 525.147.05\nname NVIDIA A100-SXM4-80GB\ncount 8\nmemory 85899345920\ncapability 8 0\nlinks 12\n"
    "nvlink_version 3\nfabric 0 0 0\nfabric_version 2\n"
)
BRIDGED_A6000 = (
    "driver 550.54.15\nname NVIDIA RTX A6000\ncount 4\nmemory 51527024640\ncapability 8 6\nlinks 4\nnvlink_version 3\n"
    f"ancestor 50\nfabric 0 0 0\n{_bonds(((0, 1), (2, 3)), 4)}"
)
FOUR_L40S = (
    "driver 550.54.15\nname NVIDIA L40S\ncount 4\nmemory 48305799168\ncapability 8 9\nlinks 0\nfabric 0 0 0\n"
    "ancestor 30\n"
)
TWO_4090 = FOUR_L40S.replace("L40S", "GeForce RTX 4090").replace("count 4", "count 2") + "p2p 1\n"
EIGHT_H100 = (
    "driver 580.95.05\nname NVIDIA H100 80GB HBM3\ncount 8\nmemory 85520809984\ncapability 9 0\nlinks 18\n"
    "nvlink_version 4\n"
)
FOUR_H100 = (
    EIGHT_H100.replace("count 8", "count 4")
    + "fabric 0 0 0\n"
    + _bonds(((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), 6)
)
# As read on a virtual machine with one H200.
ONE_H200_VM = (
    "driver 580.159.04\nname NVIDIA H200\ncount 1\nmemory 150754820096\ncapability 9 0\nlinks 0\n"
    "fabric 0 0 0\n"
)
BRIDGED_H100_NVL = (
    "driver 580.95.05\nname NVIDIA H100 NVL\ncount 4\nmemory 100485038080\ncapability 9 0\nlinks 12\nnvlink_version 4\n"
    f"ancestor 50\nfabric 0 0 0\n{_bonds(((0, 1), (2, 3)), 12)}"
)
# Blackwell keeps the counters of its links as fields, and answers 0 to the older calls.
EIGHT_B200_FIELDS = EIGHT_B200 + "counters 1\n"

HEALTHY = {
    "the cube mesh of a DGX-1": (CUBE_MESH_V100, {"NV1", "NV2", "NODE"}, None),
    "two sockets of POWER9": (POWER9_V100, {"NV3", "SYS"}, None),
    "eight A100 on switches": (EIGHT_A100, {"NV12"}, "ok"),
    "pairs of A6000 with bridges": (BRIDGED_A6000, {"NV4", "SYS"}, None),
    "four L40S": (FOUR_L40S, {"PHB"}, None),
    "two GeForce without peer access": (TWO_4090, {"PHB"}, None),
    "eight H100 on switches": (EIGHT_H100, {"NV18"}, "ok"),
    "pairs of H100 NVL with bridges": (BRIDGED_H100_NVL, {"NV12", "SYS"}, "ok"),
    "four H100 without switches": (FOUR_H100, {"NV6"}, "ok"),
    "eight B200 on switches": (EIGHT_B200_FIELDS, {"NV18"}, "ok"),
    "eight B200, split": (EIGHT_B200_FIELDS + "mig 1\n", {"NODE"}, "ok"),
}
