"""NCCL's settings and their verdicts. Pure; `sources` finds the settings, `names` and `values` judge them.

NCCL's manual asks to remove settings outside its "System configuration" section once the problem they work around is
solved.
"""

import string
from dataclasses import dataclass
from enum import StrEnum

from runner.base.remedy import Remedy, is_plain
from runner.kit.nccl.names import (
    KNOWN,
    NEWEST,
    OLDEST,
    RENAMED,
    RETIRED,
    SYSTEM,
    Version,
    format_version,
    misspelt,
)
from runner.kit.nccl.values import RULES, Judgement


class Origin(StrEnum):
    """The kind of source of a setting; it decides how to remove the setting."""

    ENVIRONMENT = "environment"
    FILE = "file"
    UNIT = "unit"
    PROCESS = "process"


@dataclass(frozen=True)
class NcclSetting:
    """One setting.

    Attributes:
        source: the place where it is set.
        shadowed: an earlier source also sets it, and takes precedence.
        dangling: it names a file that cannot be read.
        line: line in the file, from 1; None if it is not from a file.
    """

    name: str
    value: str
    source: str
    origin: Origin = Origin.ENVIRONMENT
    shadowed: bool = False
    dangling: bool = False
    line: int | None = None

    @property
    def undo(self) -> Remedy:
        """How to remove it: a line for this shell if it is in its environment, else a manual step."""
        match self.origin:
            case Origin.ENVIRONMENT:
                return Remedy.unset(self.name)
            case Origin.FILE:
                return self._out_of_file()
            case Origin.UNIT:
                return Remedy.by_hand(
                    "remove {} from {}, then run systemctl daemon-reload and restart the unit",
                    self.name,
                    self.source,
                )
            case Origin.PROCESS:
                kind, _, number = self.source.partition(" ")
                return Remedy.by_hand(
                    "restart {} {} without {}: it keeps its initial environment", kind, number, self.name
                )

    def _out_of_file(self) -> Remedy:
        # The characters of sed's [[:space:]]; Python accepts more as whitespace.
        name = self.name.strip(string.whitespace)
        # In a sed pattern, special characters in a name could end the pattern and start a command.
        if is_plain(name) and self.source.isprintable():
            return Remedy.by_hand("sed -i {} -- {}", rf"/^[[:space:]]*{name}[[:space:]]*=/d", self.source)
        if self.line is None:
            return Remedy.by_hand("remove the line that sets {} from {}", self.name, self.source)
        return Remedy.by_hand("remove line {} from {}: it sets {}", str(self.line), self.source, self.name)


@dataclass(frozen=True)
class NcclFinding:
    """A setting and its verdict."""

    setting: NcclSetting
    judgement: Judgement
    why: str


def judge_setting(setting: NcclSetting, nodes: int, version: Version | None = None) -> NcclFinding:
    """The verdict on a setting for a job on this many nodes.

    Args:
        setting: the setting.
        nodes: number of nodes of the job.
        version: the NCCL version that reads it, if known.
    """
    if setting.shadowed:
        return NcclFinding(setting, Judgement.HARMLESS, "no effect: overridden by an earlier source")
    if setting.dangling:
        return NcclFinding(
            setting,
            Judgement.MISSPELT,
            "names a file that cannot be read; NCCL ignores it silently" + _home_hint(setting.value),
        )
    if setting.name != setting.name.strip():
        plain = (
            f"NCCL takes the spaces as part of the name, so it has no effect; write {setting.name.strip()}="
        )
        return NcclFinding(setting, Judgement.MISSPELT, plain)
    return NcclFinding(setting, *_judge(setting.name, setting.value, nodes, version))


def _home_hint(value: str) -> str:
    # The shell expands an unquoted `~`; a unit file, a pod spec or quotes pass it on.
    return "; it does not expand ~: write the whole path" if value.startswith("~") else ""


def _judge(name: str, value: str, nodes: int, version: Version | None) -> tuple[Judgement, str]:
    if name in RENAMED:
        return Judgement.LEGACY, f"old name; use {RENAMED[name]}"
    if name in RETIRED:
        return Judgement.HARMLESS, f"no effect: NCCL {format_version(OLDEST)} and later do not read it"
    if name in KNOWN and version is not None and not _is_read(name, version):
        first, last = map(format_version, KNOWN[name])
        read = f"{first} to {last} do" if first != last else f"{first} does"
        return Judgement.HARMLESS, f"no effect: NCCL {format_version(version)} does not read it; {read}"
    if name in RULES:
        return RULES[name](value, nodes)
    if name in SYSTEM:
        return Judgement.SYSTEM, "describes this system; may stay if it is right"
    if name in KNOWN:
        return (
            Judgement.TUNING,
            "overrides NCCL's own choice; remove it unless a measurement shows that it helps",
        )
    # A newer NCCL may have any name.
    near = misspelt(name) if version is None or version <= NEWEST else None
    if near:
        versions = f"{format_version(OLDEST)} to {format_version(NEWEST)}"
        return (
            Judgement.MISSPELT,
            f"no variable of NCCL {versions}, so it has no effect; did you mean {near}?",
        )
    return Judgement.UNKNOWN, "unknown variable; it may belong to a plugin or a newer NCCL"


def _is_read(name: str, version: Version) -> bool:
    """Whether a version reads a known name; the oldest and newest known stand for those before and after them."""
    first, last = KNOWN[name]
    return first <= max(OLDEST, min(NEWEST, version)) <= last
