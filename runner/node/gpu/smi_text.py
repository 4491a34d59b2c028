"""Reads the text of `nvidia-smi -q` that somebody pasted: sections and values of each GPU. Pure.

Only the words count, not the indentation, which tickets and chats lose.
"""

import re
from dataclasses import dataclass

from runner.base.errors import InputError
from runner.base.pasted import pasted
from runner.base.plain import one_line
from runner.node.gpu.asking import kernel_bus_id

_GPU = re.compile(r"GPU ([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])")
_MOST_GPUS = 1024
# Sections that hold sections with equal names.
_OUTER = {"Volatile", "Aggregate"}
_UNKNOWN = {"", "N/A", "[N/A]", "Not Supported", "Unknown Error"}


@dataclass(frozen=True)
class SmiGpu:
    """One GPU's part of the text.

    Attributes:
        where: `GPU 3` if the text has all GPUs of the node, else its bus id.
        values: by section and name, as in `("Remapped Rows", "Pending")`; of values that occur twice, the first.
    """

    where: str
    values: dict[tuple[str, str], str]

    def text(self, section: str, name: str) -> str | None:
        """A value; None if the text does not hold it. Old and new drivers nest some values differently."""
        return self.values.get((section, name))

    def anywhere(self, name: str) -> str | None:
        """A value whose name is unique in the output, whatever section it follows."""
        return next((value for (_, found), value in self.values.items() if found == name), None)

    def number(self, section: str, name: str) -> int | None:
        """A whole number; None if it is not there, or `N/A`."""
        found = re.match(r"\d{1,18}(?!\S)", self.text(section, name) or "")
        return int(found[0]) if found else None

    def flag(self, section: str, name: str) -> bool | None:
        """A `Yes` or `No`, `Enabled` or `Disabled`; None if it is something else."""
        value = self.text(section, name)
        return {"yes": True, "no": False, "enabled": True, "disabled": False}.get((value or "").lower())

    def has(self, section: str) -> bool:
        """Whether the text has this section, or says that the GPU does not."""
        return any(section in pair for pair in self.values)


def smi_gpus(text: str) -> tuple[SmiGpu, ...]:
    """The GPUs in the output of `nvidia-smi -q`, whole or of some sections (`-d ECC,ROW_REMAPPER`).

    Raises:
        InputError: the text has no GPU of such an output.
    """
    blocks: list[tuple[str, dict[tuple[str, str], str]]] = []
    attached, section, outer = 0, "", ""
    for line in pasted(text).split("\n"):
        line = one_line(line)  # noqa: PLW2901 - the same line
        if header := _GPU.fullmatch(line):
            blocks.append((header[1], {}))
            section = outer = ""
            continue
        name, colon, value = (part.strip() for part in line.partition(" :"))
        if not blocks:
            if name == "Attached GPUs" and value.isdigit():
                attached = int(value[:6])
            continue
        if colon:
            blocks[-1][1].setdefault((section, name), value)
        elif line:
            outer = line if line in _OUTER else outer
            section = f"{outer} {line}" if outer and line in {"Single Bit", "Double Bit"} else line
    if not blocks:
        raise InputError(
            "the text has no GPU of nvidia-smi -q (a line such as `GPU 00000000:1B:00.0`); paste it whole"
        )
    if len(blocks) > _MOST_GPUS:
        raise InputError(f"the text has {len(blocks)} GPUs; give the output of one node")
    whole = attached == len(blocks)
    return tuple(
        SmiGpu(f"GPU {place}" if whole else f"GPU {kernel_bus_id(bus)}", values)
        for place, (bus, values) in enumerate(blocks)
    )


def is_known(value: str | None) -> bool:
    """Whether a value says something: not `N/A`, and not missing."""
    return value is not None and value not in _UNKNOWN
