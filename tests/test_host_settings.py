"""`host_paths --group settings`: what nodes are compared by, without anything that identifies a node."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.kit.host_paths import host_findings
from runner.node.host.settings import GROUP
from runner.node.host.settings_reading import counted_values, driver_module, kernel_parameters, rounded_gib
from runner.node.host.tree import HostTree
from tests.host_trees import host, plant

B200_NODE = {
    "proc/sys/kernel/osrelease": "6.8.0-60-generic",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.2 LTS"\n',
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=UUID=3f1c2b6e-1 ro iommu=pt ip=10.2.3.4::10.2.3.1 hostname=gpu-17 "
    "nvidia.NVreg_EnableGpuFirmware=1 quiet",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build"
    "  (dvs-builder)\nGCC version:  gcc version 13.3.0",
    "sys/module/nvidia/version": "570.133.20",
    "sys/module/nvidia_peermem/version": "570.133.20",
    "sys/module/mlx5_core/refcnt": "1",
    "sys/class/dmi/id/bios_version": "2.5.1",
    "sys/class/dmi/id/product_name": "PowerEdge XE9680",
    "sys/class/dmi/id/product_serial": "SECRET1",
    "sys/class/dmi/id/product_uuid": "SECRET2",
    "proc/cpuinfo": "model name\t: INTEL(R) XEON(R) 8570\nmicrocode\t: 0x21000283\n\n" * 2,
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave",
    "sys/class/infiniband/mlx5_0/fw_ver": "28.43.2026",
    "sys/class/infiniband/mlx5_0/board_id": "MT_0000001244",
    "sys/class/infiniband/mlx5_0/node_guid": "SECRET3",
    "sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)",
    "sys/class/net/eth0/device/vendor": "0x15b3",
    "sys/class/net/eth0/address": "SECRET4",
    "sys/class/net/eth0/speed": "25000",
    "sys/class/net/lo/address": "00:00:00:00:00:00",
    "proc/meminfo": "MemTotal:       2113391000 kB\nSwapTotal:             0 kB\nHugepagesize:       2048 kB\n",
}


def test_a_node_lists_its_settings_and_nothing_that_identifies_it(tmp_path: Path) -> None:
    verdict = GROUP.judge(GROUP.read(HostTree(plant(tmp_path, {**host(), **B200_NODE}))))
    assert verdict.findings == ()
    assert not [one for one in verdict.not_read if one.matters]
    settings = dict(verdict.settings)
    assert settings == {
        "kernel": "6.8.0-60-generic",
        "operating system": "Ubuntu 24.04.2 LTS",
        "kernel parameters": "hostname=… iommu=pt ip=… nvidia.NVreg_EnableGpuFirmware=1 quiet ro",
        "NVIDIA kernel module": "570.133.20, open",
        "module nvidia": "570.133.20",
        "module nvidia_peermem": "570.133.20",
        "module mlx5_core": "loaded, without a version",
        "BIOS version": "2.5.1",
        "product": "PowerEdge XE9680",
        "CPU": "INTEL(R) XEON(R) 8570 × 2",
        "microcode": "0x21000283 × 2",
        "transparent hugepages": "madvise",
        "cpufreq governor": "performance × 1, powersave × 1",
        "firmware of RDMA devices": "MT_0000001244: 28.43.2026",
        "RDMA ports": "400 Gb/sec (4X NDR)",
        "network interfaces": "25000 Mb/s",
        "memory": "2016 GiB",
        "swap": "0 GiB",
        "hugepage size": "2048 KiB",
        "control groups": settings["control groups"],
    }
    assert "SECRET" not in str(verdict)


def test_equal_nodes_whose_firmware_keeps_some_memory_have_equal_sizes() -> None:
    assert {rounded_gib(2113391000 + kib) for kib in (0, 4096, 65536)} == {"2016 GiB"}
    assert rounded_gib(24684084) == "24 GiB"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12",
            ("535.183.01", "proprietary"),
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release",
            ("580.65.06", "open"),
        ),
        ("", None),
    ],
)
def test_old_and_new_drivers_say_their_version_in_different_words(
    text: str, version: tuple[str, str] | None
) -> None:
    assert driver_module(text) == version


def test_of_the_kernel_parameters_nothing_that_may_name_the_node_is_kept() -> None:
    text = "BOOT_IMAGE=/x root=/dev/sda1 BOOTIF=01-aa-bb ds=nocloud;h=node7 rd.luks.uuid=luks-1 pci=realloc -- secret"
    assert kernel_parameters(text) == "BOOTIF=… ds=… pci=realloc rd.luks.uuid=…"


def test_this_host_lists_its_settings_without_its_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.host_paths", "--group", "settings"],
        capture_output=True,
        text=True,
        check=True,
    )
    settings = json.loads(done.stdout)["details"]["settings"]
    assert settings["kernel"] == os.uname().release
    assert "memory" in settings


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    kernel_parameters(text)
    driver_module(text)


@given(st.lists(st.sampled_from(["a", "b", "c"])))
def test_values_are_counted_with_the_most_frequent_first(values: list[str]) -> None:
    shown = counted_values(values)
    if len(values) > 1:
        counts = [int(one.rpartition(" × ")[2]) for one in shown.split(", ")]
        assert sum(counts) == len(values)
        assert counts == sorted(counts, reverse=True)
    else:
        assert shown == "".join(values)


def test_a_folder_that_holds_no_captured_tree_is_bad_input_and_not_a_host_without_devices(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="has neither proc/ nor sys/; name the folder that holds them"):
        host_findings(Namespace(group="rdma", root=tmp_path, pid=None, capture=None, watch=0.0))


def test_a_quoted_parameter_of_the_kernel_is_one_word() -> None:
    assert kernel_parameters('quiet dyndbg="file secret.c +p" audit=0 x="y z') == "audit=0 dyndbg=… quiet x=…"
