"""The processor of a host: its name, its instruction sets, and the machine class they define. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Flags of /proc/cpuinfo that each x86-64 microarchitecture level adds (x86-64 psABI, section 3.1.1); `pni` is SSE3,
# `abm` has LZCNT, and `xsave` with `avx` means that the operating system saves the wide registers.
_X86_LEVELS = (
    ("v2", frozenset({"cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"})),
    ("v3", frozenset({"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"})),
    ("v4", frozenset({"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"})),
)
# Vector and matrix extensions of aarch64 (Linux, Documentation/arch/arm64/elf_hwcaps.rst), the strongest first.
_ARM_VECTORS = ("sve2", "sve", "asimd")
_ARM_MATRICES = ("sme2", "sme", "i8mm")
# MIDR_EL1 implementer -> its name and the names of its parts (Linux, arch/arm64/include/asm/cputype.h; util-linux,
# sys-utils/lscpu-arm.c), for processors of data centres, accelerator hosts and developers' machines.
_ARM: dict[int, tuple[str, dict[int, str]]] = {
    0x41: (
        "ARM",
        {
            0xD03: "Cortex-A53",
            0xD05: "Cortex-A55",
            0xD07: "Cortex-A57",
            0xD08: "Cortex-A72",
            0xD0B: "Cortex-A76",
            0xD0C: "Neoverse-N1",
            0xD40: "Neoverse-V1",
            0xD49: "Neoverse-N2",
            0xD4F: "Neoverse-V2",
        },
    ),
    0x43: ("Cavium", {0x0A1: "ThunderX-88XX", 0x0AF: "ThunderX2-99xx"}),
    0x46: ("Fujitsu", {0x001: "A64FX"}),
    0x48: ("HiSilicon", {0xD01: "Kunpeng-920"}),
    0x4E: ("NVIDIA", {0x004: "Carmel"}),
    0x61: (
        "Apple",
        {0x022: "Icestorm-M1", 0x023: "Firestorm-M1", 0x032: "Blizzard-M2", 0x033: "Avalanche-M2"},
    ),
    0xC0: ("Ampere", {0xAC3: "Ampere-1", 0xAC4: "Ampere-1a"}),
}
# Parts of a model name other than vendor and model: trademarks, filler words, the number of cores, the clock.
_NO_NAME = re.compile(
    r"\((?:R|TM)\)|[®™]|@\s*[\d.]+\s*[GM]Hz|\b(?:\d+|dual|quad|six|eight)-cores?\b|\b(?:CPU|Processor)\b",
    re.IGNORECASE,
)
# Maximum characters of the name and of each other part in a class, and of the name as it is stored.
_LONGEST_NAME, _LONGEST_PART, _LONGEST_STORED = 48, 12, 160


@dataclass(frozen=True)
class Processor:
    """The parts of a CPU class name.

    Attributes:
        name: model name as the host reports it, "AMD EPYC 7B13 64-Core Processor"; None if it reports none.
        arch: instruction set, as printed by `uname -m`.
        cores: logical processors of the host.
        level: `v1` to `v4` of x86-64's microarchitecture levels; `sve2`, `sve` or `asimd` on aarch64.
        matrix: strongest matrix extension: `amx`; `sme2`, `sme` or `i8mm` on aarch64.
    """

    name: str | None
    arch: str
    cores: int
    level: str | None = None
    matrix: str | None = None

    @property
    def machine_class(self) -> str:
        """`cpu-<name>-<arch>-<level>-<matrix>-<cores>c`, as `cpu-intel-xeon-x86_64-v4-amx-2c`; at most 100 characters.

        Only `a` to `z`, digits, `-` and `_`. Level and matrix extension are omitted if unknown; a processor without a
        name is `unknown`.
        """
        name = _slug(_NO_NAME.sub(" ", self.name or ""), _LONGEST_NAME) or "unknown"
        parts = [name, *(_slug(part or "", _LONGEST_PART) for part in (self.arch, self.level, self.matrix))]
        return "-".join(["cpu", *(part for part in parts if part), f"{self.cores}c"])


def _slug(text: str, longest: int) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:longest].strip("-_")


def read_processor(cpuinfo: str, arch: str, cores: int) -> Processor:
    """The processor that `/proc/cpuinfo` describes. Missing facts are None; no text raises.

    Args:
        cpuinfo: the text of the file; empty if it cannot be read.
        arch: instruction set, as printed by `uname -m`.
        cores: logical processors of the host.
    """
    parted = (line.partition(":") for line in cpuinfo.splitlines())
    fields = [(key.strip(), value.strip()) for key, _, value in parted]
    # x86 has "flags", aarch64 "Features"; all processors of a host have the same, except on a few hybrid ones.
    flags = next((set(value.split()) for key, value in fields if key in {"flags", "Features"}), set())
    level, matrix = _extensions(arch, flags)
    name = _name(fields)
    return Processor(name and name[:_LONGEST_STORED], arch, cores, level, matrix)


def _name(fields: Sequence[tuple[str, str]]) -> str | None:
    """The model name (`cpu` on POWER); on ARM, which has none, vendor and part of each kind of core."""
    for wanted in ("model name", "cpu"):
        named = next((value for key, value in fields if key == wanted and value), None)
        if named is not None:
            return named
    return " + ".join(dict.fromkeys(_arm_names(fields))) or None


def _arm_names(fields: Sequence[tuple[str, str]]) -> Iterator[str]:
    implementer: int | None = None
    for key, value in fields:
        if key == "CPU implementer":
            implementer = _number(value)
        elif key == "CPU part" and implementer is not None:
            part = _number(value)
            if part is None:
                continue
            vendor, parts = _ARM.get(implementer, (f"implementer 0x{implementer:02x}", {}))
            yield f"{vendor} {parts.get(part, f'part 0x{part:03x}')}"


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _extensions(arch: str, flags: set[str]) -> tuple[str | None, str | None]:
    if not flags:
        return None, None
    if arch == "x86_64":
        level = "v1"
        for name, needed in _X86_LEVELS:
            if not needed <= flags:
                break
            level = name
        return level, "amx" if "amx_tile" in flags else None
    if arch == "aarch64":
        return _first(_ARM_VECTORS, flags), _first(_ARM_MATRICES, flags)
    return None, None


def _first(known: Sequence[str], flags: set[str]) -> str | None:
    return next((one for one in known if one in flags), None)
