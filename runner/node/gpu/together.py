"""Facts of several GPUs in few words: what could not be read, and settings that should be equal. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runner.base.plain import one_line
from runner.base.words import ranges
from runner.node.findings import NotRead
from runner.node.gpu.asking import RefusalKind

_NUMBERED = re.compile(r"GPU (\d{1,6})")


@dataclass(frozen=True)
class UnreadFact:
    """A fact of one GPU that could not be read.

    Attributes:
        what: `remapped rows`.
        kind: as of a refusal of NVML; `absent`: a pasted text does not hold it.
        text: NVML's message, or what to paste.
    """

    what: str
    kind: RefusalKind | Literal["absent"]
    text: str


def gpus_named(places: Sequence[str]) -> str:
    """`GPU 3`, `GPUs 0-7`, or the names one after the other where they have no numbers."""
    found = [_NUMBERED.fullmatch(place) for place in places]
    if len(places) == 1 or not all(found):
        return ", ".join(places)
    return f"GPUs {ranges(int(one[1]) for one in found if one)}"


def gpu_label(place: str) -> tuple[tuple[str, int | str], ...]:
    """The label of a GPU's numbers: its number, or its name in a pasted text, such as a PCI address."""
    name = place.removeprefix("GPU ")
    return (("gpu", int(name) if name.isdigit() else name),)


def not_read_together(facts: Iterable[tuple[str, NotRead]]) -> tuple[NotRead, ...]:
    """What is equal on several GPUs, once: `remapped rows of GPUs 0-7`. Of each pair, the first is the GPU."""
    places: dict[NotRead, list[str]] = {}
    for place, unread in facts:
        found = places.setdefault(unread, [])
        if place not in found:
            found.append(place)
    return tuple(
        NotRead(f"{one.what} of {gpus_named(found)}", one.why, one.matters) for one, found in places.items()
    )


def same_on_all(values: Iterable[str | None]) -> str | None:
    """One value if all GPUs have the same, else each with its count, the most frequent first: `on × 7, off × 1`.

    None counts as unknown; the result is None if nothing is known.
    """
    counts = Counter("unknown" if value is None else one_line(value) for value in values)
    if not counts.keys() - {"unknown"}:
        return None
    if len(counts) == 1:
        return next(iter(counts))
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{value} × {count}" for value, count in ordered)


def known_settings(settings: Mapping[str, str | None]) -> dict[str, str]:
    """The settings whose value is known."""
    return {name: value for name, value in settings.items() if value is not None}
