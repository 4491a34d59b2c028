"""Reads the settings of a node. Nothing that identifies it: no names, addresses, serial numbers or UUIDs."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from runner.hardware.machine import installed_nccl, installed_torch
from runner.node.findings import NotRead
from runner.node.host.tree import HostTree

_GIB = 1 << 30
# Equal nodes differ by some MiB that firmware and kernel keep for themselves.
_FINE_STEP, _COARSE_STEP, _COARSE_FROM = 1, 8, 64
_MODULES = (
    "nvidia",
    "nvidia_uvm",
    "nvidia_peermem",
    "nvidia_fs",
    "gdrdrv",
    "mlx5_core",
    "mlx5_ib",
    "ib_core",
    "efa",
    "bnxt_re",
    "lustre",
)
_FILES = {
    "kernel": "/proc/sys/kernel/osrelease",
    "BIOS version": "/sys/class/dmi/id/bios_version",
    "BIOS date": "/sys/class/dmi/id/bios_date",
    "system vendor": "/sys/class/dmi/id/sys_vendor",
    "product": "/sys/class/dmi/id/product_name",
    "board": "/sys/class/dmi/id/board_name",
    "hugepages": "/proc/sys/vm/nr_hugepages",
    "NUMA balancing": "/proc/sys/kernel/numa_balancing",
    "zone reclaim": "/proc/sys/vm/zone_reclaim_mode",
    "swappiness": "/proc/sys/vm/swappiness",
    "overcommit": "/proc/sys/vm/overcommit_memory",
    "SMT": "/sys/devices/system/cpu/smt/control",
    "cpufreq driver": "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver",
    "cpuidle driver": "/sys/devices/system/cpu/cpuidle/current_driver",
    "clock source": "/sys/devices/system/clocksource/clocksource0/current_clocksource",
}
_CHOICES = {
    "transparent hugepages": "/sys/kernel/mm/transparent_hugepage/enabled",
    "transparent hugepages, defragmentation": "/sys/kernel/mm/transparent_hugepage/defrag",
}
# Parameters of the kernel whose values are modes and sizes. Of the others only the name is kept: a value may be an
# address, a UUID, a token or a host name.
_WITH_VALUE = re.compile(
    r"(?:[a-z]+_iommu|iommu|iommu\.\w+|pci|pcie_\w+|hugepages|hugepagesz|default_hugepagesz|transparent_hugepage"
    r"|numa_balancing|numa|isolcpus|nohz|nohz_full|rcu_nocbs|irqaffinity|mitigations|spectre_v2|nosmt|maxcpus|nr_cpus"
    r"|mem|cma|swiotlb|idle|intel_idle\.\w+|processor\.\w+|intel_pstate|amd_pstate|cpufreq\.\w+|cpuidle\.\w+|clocksource"
    r"|tsc|preempt|threadirqs|skew_tick|audit|selinux|apparmor|security|lockdown|crashkernel|nvidia[\w.-]*"
    r"|nouveau\.\w+|modprobe\.blacklist|rd\.driver\.blacklist|module_blacklist|cgroup_\w+|cgroup\.memory|swapaccount"
    r"|systemd\.unified_cgroup_hierarchy|init_on_alloc|init_on_free|psi|movable_node|kernelcore|memmap|hpet|nmi_watchdog"
    r"|nowatchdog|watchdog|vfio[\w.-]*|efi|noefi|ipv6\.disable|mce|panic|hardened_usercopy|page_poison|slub_debug)",
    re.ASCII,
)
# Quotes keep a value with spaces together: `dyndbg="file a +p"` (Linux, next_arg in lib/cmdline.c).
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')
_NEVER = ("root", "BOOT_IMAGE", "resume", "initrd")


@dataclass(frozen=True)
class SettingsFacts:
    """The settings by name, and what could not be read."""

    settings: Mapping[str, str]
    not_read: tuple[NotRead, ...]


def read_node_settings(tree: HostTree) -> SettingsFacts:
    """The settings of this host, or of a captured tree."""
    found = {name: text for name, path in _FILES.items() if (text := tree.text(path)) is not None}
    found |= {name: text for name, path in _CHOICES.items() if (text := _chosen(tree.text(path)))}
    found |= dict(_software(tree))
    found |= dict(_processors(tree))
    found |= dict(_memory(tree))
    found |= dict(_network(tree))
    return SettingsFacts(found, tuple(tree.not_read))


def counted_values(values: Iterable[str]) -> str:
    """Values with how often each is there, the most frequent first: `28.39 × 7, 28.37 × 1`; one alone without."""
    counts = sorted(Counter(values).items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(
        f"{value} × {count}" if sum(dict(counts).values()) > 1 else value for value, count in counts
    )


def kernel_parameters(text: str) -> str:
    """The kernel's command line without what identifies a node: sorted, and most values left out (`ip=…`)."""
    kept = set()
    for word in _WORD.findall(text.partition(" -- ")[0]):
        name, equals, _ = word.partition("=")
        if name.partition(".")[0] in _NEVER:
            continue
        kept.add(word if not equals or _WITH_VALUE.fullmatch(name) else f"{name}=…")
    return " ".join(sorted(kept))


def driver_module(text: str) -> tuple[str, str] | None:
    """Version and kind of NVIDIA's kernel module, from /proc/driver/nvidia/version: `570.86.15`, `open`."""
    found = re.search(
        r"Kernel Module(?: for [\w-]{1,30})? {1,10}(\d{2,4}(?:\.\d{1,4}){1,3})\b", text, re.ASCII
    )
    if found is None:
        return None
    return found[1], "open" if "Open Kernel Module" in text else "proprietary"


def rounded_gib(kib: int) -> str:
    """A size of memory as `2016 GiB`, to whole GiB below 64 and to multiples of 8 above."""
    gib = kib * 1024 / _GIB
    step = _FINE_STEP if gib < _COARSE_FROM else _COARSE_STEP
    return f"{round(gib / step) * step} GiB"


def _chosen(text: str | None) -> str | None:
    found = re.search(r"\[([\w+-]{1,40})\]", text or "")
    return found[1] if found else None


def _software(tree: HostTree) -> Iterator[tuple[str, str]]:
    release = re.search(r"^PRETTY_NAME=\"?([^\"\n]{1,200})", tree.text("/etc/os-release") or "", re.MULTILINE)
    if release:
        yield "operating system", release[1]
    parameters = kernel_parameters(tree.text("/proc/cmdline") or "")
    if parameters:
        yield "kernel parameters", parameters
    module = driver_module(tree.text("/proc/driver/nvidia/version") or "")
    if module:
        yield "NVIDIA kernel module", ", ".join(module)
    for name in _MODULES:
        if tree.exists(f"/sys/module/{name}"):
            # A module of the kernel's own tree has no version but the kernel's.
            yield (
                f"module {name}",
                tree.text(f"/sys/module/{name}/version") or "loaded, without a version",
            )
    controllers = tree.text("/sys/fs/cgroup/cgroup.controllers")
    if controllers is not None:
        yield "control groups", "version 2"
    elif tree.exists("/sys/fs/cgroup/memory"):
        yield "control groups", "version 1"
    if tree.root is None:
        torch, cuda = installed_torch()
        for name, version in (("torch", torch), ("CUDA of torch", cuda), ("NCCL package", installed_nccl())):
            if version:
                yield name, version


def _processors(tree: HostTree) -> Iterator[tuple[str, str]]:
    text = tree.text("/proc/cpuinfo") or ""
    for name, field in (("CPU", "model name"), ("microcode", "microcode")):
        values = re.findall(rf"^{field}\s*: (.{{1,120}})$", text, re.MULTILINE)
        if values:
            yield name, counted_values(values)
    cpus = [one for one in tree.names("/sys/devices/system/cpu") if re.fullmatch(r"cpu\d{1,5}", one)]
    governors = [
        one
        for cpu in cpus
        if (one := tree.text(f"/sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")) is not None
    ]
    if governors:
        yield "cpufreq governor", counted_values(governors)
    nodes = [one for one in tree.names("/sys/devices/system/node") if re.fullmatch(r"node\d{1,4}", one)]
    if nodes:
        yield "NUMA nodes", str(len(nodes))
    if tree.exists("/sys/kernel/iommu_groups"):
        yield "IOMMU groups", "some" if tree.names("/sys/kernel/iommu_groups") else "none"


def _memory(tree: HostTree) -> Iterator[tuple[str, str]]:
    text = tree.text("/proc/meminfo") or ""
    for name, field in (("memory", "MemTotal"), ("swap", "SwapTotal"), ("hugepage size", "Hugepagesize")):
        found = re.search(rf"^{field}:\s+(\d{{1,15}}) kB", text, re.MULTILINE)
        if found:
            yield name, f"{found[1]} KiB" if field == "Hugepagesize" else rounded_gib(int(found[1]))


def _network(tree: HostTree) -> Iterator[tuple[str, str]]:
    devices = tree.names("/sys/class/infiniband")
    firmware = [
        f"{tree.text(f'/sys/class/infiniband/{one}/board_id') or 'board unknown'}: "
        f"{tree.text(f'/sys/class/infiniband/{one}/fw_ver') or 'unknown'}"
        for one in devices
    ]
    if firmware:
        yield "firmware of RDMA devices", counted_values(firmware)
    rates = [
        tree.text(f"/sys/class/infiniband/{one}/ports/{port}/rate") or "unknown"
        for one in devices
        for port in tree.names(f"/sys/class/infiniband/{one}/ports")
    ]
    if rates:
        yield "RDMA ports", counted_values(rates)
    interfaces = [one for one in tree.names("/sys/class/net") if tree.exists(f"/sys/class/net/{one}/device")]
    # The kernel refuses the speed of an interface that is down.
    speeds = [tree.text(f"/sys/class/net/{one}/speed") for one in interfaces]
    if speeds:
        yield (
            "network interfaces",
            counted_values(f"{one} Mb/s" if one and one.isdecimal() else "speed unknown" for one in speeds),
        )
