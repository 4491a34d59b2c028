"""Reads the facts about NVLinks of GPUs from a pasted `nvidia-smi nvlink -s`, `-e`, or both. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.base.errors import InputError
from runner.base.pasted import pasted
from runner.base.plain import one_line
from runner.hardware.boards import board_of
from runner.node.gpu.links_facts import LINK_COUNTERS, GpuLinks, LinkFacts, NvLink
from runner.node.gpu.links_reading import STATES
from runner.node.gpu.together import UnreadFact

# Older drivers write what they have to say behind the name, on the same line.
_GPU = re.compile(r"GPU (\d{1,4}): ([^()]{1,80})(?:\(UUID: [^()]{1,80}\).*)?")
_LINK = re.compile(r"Link (\d{1,3}): (.{1,80})")
_SPEED = re.compile(r"\d{1,5}(?:\.\d{1,6})? [GM]B/s")
_COUNT = re.compile(r"(.{1,50}?): (\d{1,19})")
_INACTIVE = re.compile(r"<?inactive>?", re.IGNORECASE)
_KEYS = {one.smi: one.key for one in LINK_COUNTERS}
_MOST_LINKS = 64


@dataclass
class _Gpu:
    name: str
    states: dict[int, bool] = field(default_factory=dict)
    counters: dict[int, dict[str, int]] = field(default_factory=dict)
    supported: bool | None = None
    silent: bool = False


def parse_links(text: str) -> LinkFacts:
    """The facts of all GPUs in the output of `nvidia-smi nvlink`, of NVLink 2 to 5.

    A counter that occurs twice for a link has its last value. The text does not tell what is at the other end.

    Raises:
        InputError: the text is no such output.
    """
    gpus: dict[int, _Gpu] = {}
    here: _Gpu | None = None
    for line in pasted(text).split("\n"):
        line = one_line(line)  # noqa: PLW2901 - the same line
        if header := _GPU.fullmatch(line):
            here = gpus.setdefault(int(header[1]), _Gpu(header[2].strip()))
            _read(here, line)
        elif here is not None:
            _read(here, line)
    told = [
        gpu for gpu in gpus.values() if gpu.states or gpu.counters or gpu.silent or gpu.supported is False
    ]
    if not told:
        raise InputError(
            "the text has no NVLink of a GPU (lines `GPU 0: …` and `Link 0: …`); paste the output of "
            "nvidia-smi nvlink -s"
        )
    return tuple(_facts(number, gpu) for number, gpu in sorted(gpus.items()))


def _read(gpu: _Gpu, line: str) -> None:
    if "all links are inActive" in line:
        gpu.silent = True
    if "not have or support Nvlink" in line:
        gpu.supported = False
    found = _LINK.fullmatch(line)
    if found is None or int(found[1]) >= _MOST_LINKS:
        return
    number, said = int(found[1]), found[2]
    if _SPEED.fullmatch(said):
        gpu.states[number] = True
    elif _INACTIVE.fullmatch(said):
        gpu.states[number] = False
    elif (count := _COUNT.fullmatch(said)) and count[1] in _KEYS:
        gpu.counters.setdefault(number, {})[_KEYS[count[1]]] = int(count[2])


def _facts(number: int, gpu: _Gpu) -> GpuLinks:
    board = board_of(gpu.name)
    numbers = sorted({*gpu.states, *gpu.counters})
    links = [NvLink(link, gpu.states.get(link), counters=gpu.counters.get(link, {})) for link in numbers]
    if gpu.silent and not gpu.states and board is not None:
        # The driver prints one line where all links of a GPU are down.
        links = [NvLink(link, active=False) for link in range(board.nvlinks)]
    return GpuLinks(
        where=f"GPU {number}",
        name=gpu.name,
        board=board,
        links=tuple(links),
        supported=bool(links) or gpu.supported,
        unread=_unread(gpu, links),
    )


def _unread(gpu: _Gpu, links: Sequence[NvLink]) -> tuple[UnreadFact, ...]:
    board = board_of(gpu.name)
    if gpu.supported is False:
        return (UnreadFact(STATES, "unsupported", "the GPU has no NVLink"),)
    if not links and gpu.silent:
        return (UnreadFact(STATES, "unsupported", "all are down, as without a bridge"),)
    if not gpu.states and not gpu.silent:
        return (UnreadFact(STATES, "absent", "they are not in the text: paste nvidia-smi nvlink -s too"),)
    if board is not None and not board.bridged and len(links) < board.nvlinks:
        why = f"the text has {len(links)}, and {board.name} has {board.nvlinks}: paste it whole"
        return (UnreadFact(STATES, "absent", why),)
    return ()
