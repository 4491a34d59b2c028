"""What `memory_bandwidth` measures: copies within a memory, between host and GPU, and between GPUs."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from statistics import median
from typing import TYPE_CHECKING, Any

from runner.base.errors import InputError
from runner.base.stats import FEWEST_FOR_BOOTSTRAP
from runner.base.units import format_bytes, format_value, parse_bytes
from runner.base.words import and_more
from runner.entry.model import Scalar
from runner.hardware.boards import Board, board_of
from runner.kit.budget import budget, seconds_of
from runner.kit.interleaved import Rounds, interval_below, no_time
from runner.kit.probe import Findings, measured, say, single
from runner.kit.usable import usable_gpus
from runner.record.model import Measurement

if TYPE_CHECKING:
    from torch import Tensor

# A pair whose 95 % CI is below this share of the median pair is a fault.
PAIR_FLOOR = 0.7
_WITHIN_FACTOR = 2
_LARGEST = 1 << 40
# Host memory is timed copy by copy, so that a slow host can stop in time, with enough samples for an interval.
_ON_HOST_S = 10.0


@dataclass(frozen=True)
class Copy:
    """One copy to time.

    Attributes:
        kind: `pair`, `host_to_device`, `device_to_host` or `within`.
        source, target: torch devices.
        pinned: whether the host's buffer is page-locked; None if no host memory is copied.
    """

    kind: str
    source: str
    target: str
    pinned: bool | None = None

    @property
    def labels(self) -> dict[str, Scalar]:
        """Labels that identify its measurements."""
        host = {} if self.pinned is None else {"host": "pinned" if self.pinned else "pageable"}
        return {"copy": self.kind, "source": self.source, "target": self.target, **host}

    @property
    def factor(self) -> int:
        """Bytes moved ÷ bytes copied: within one memory each byte is read and written."""
        return _WITHIN_FACTOR if self.kind == "within" else 1


def copies(gpus: int) -> Iterator[Copy]:
    """Every copy on a host with this many GPUs."""
    if not gpus:
        yield Copy("within", "cpu", "cpu")
        return
    devices = [f"cuda:{index}" for index in range(gpus)]
    yield from (Copy("within", device, device) for device in devices)
    for device in devices:
        for pinned in (True, False):
            yield Copy("host_to_device", "cpu", device, pinned)
            yield Copy("device_to_host", device, "cpu", pinned)
    yield from (Copy("pair", source, target) for source, target in permutations(devices, 2))


def peak_of(copy: Copy, board: Board | None) -> float | None:
    """Peak bandwidth of a copy on this board, in bytes per second; None if unknown."""
    if board is None:
        return None
    return {"within": board.memory_bandwidth, "pair": board.nvlinks * board.nvlink_bandwidth}.get(copy.kind)


def weak_pairs(found: Sequence[Measurement]) -> list[str]:
    """Pairs whose 95 % CI is below the floor relative to the median pair, worst first."""
    pairs = [one for one in found if one.name == "copy_bandwidth" and one.labels["copy"] == "pair"]
    if len(pairs) < 2:  # noqa: PLR2004 - one pair cannot be compared
        return []
    middle = median(one.value for one in pairs)
    weak = []
    for one in sorted(pairs, key=lambda one: one.value):
        if interval_below(one, PAIR_FLOOR * middle):
            ends = f"{one.labels['source']} to {one.labels['target']}"
            weak.append(f"{ends}: copy bandwidth is {one.value / middle:.0%} of the median pair")
    return weak


def copy_findings(arguments: argparse.Namespace) -> Findings:
    """Bandwidth and correctness of every copy on this host, and how equal its pairs of GPUs are.

    Raises:
        InputError: a number or the size is out of range.
    """
    import torch

    size = parse_bytes(arguments.size)
    if arguments.iterations < 1 or arguments.warmup < 0 or not 1 << 10 <= size <= _LARGEST:
        raise InputError(
            "--iterations must be above zero, --warmup zero or more, and --size from 1KiB to 1TiB"
        )
    gpus = usable_gpus()
    boards = {board_of(torch.cuda.get_device_name(index)) for index in range(gpus)}
    board = boards.pop() if len(boards) == 1 else None
    found: list[Measurement] = []
    wrong = 0
    # Random bytes: no two pages are equal, so a missing or misplaced page is detected.
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    for copy in copies(gpus):
        one, differing = _measure(copy, data, arguments.iterations, arguments.warmup)
        wrong += differing
        found.append(one)
        peak = peak_of(copy, board)
        if peak:
            share = [sample / peak for sample in one.samples]
            found.append(measured("peak_share", share, **one.labels))
        shown = f", {found[-1].value:.0%} of the board's peak" if peak else ""
        ends = " ".join(str(value) for value in copy.labels.values())
        say(f"{ends}, {format_bytes(size)}: {format_value(one.value, one.unit)}{shown}")
    found.append(single("wrong_elements", wrong))
    found += _over_pairs(found)
    reasons = [f"{wrong:,} elements are wrong after the copy"] if wrong else weak_pairs(found)
    return Findings(
        measurements=found,
        status="symptom" if reasons else "ok",
        reason=f"{reasons[0]}{and_more(len(reasons))}" if reasons else None,
        requested={"size": arguments.size},
        effective={"gpus": gpus, "board": board.name if board else None, "threads": torch.get_num_threads()},
        details={"peer_access": _peer_access(gpus)},
    )


def _over_pairs(found: Sequence[Measurement]) -> list[Measurement]:
    pairs = [one.value for one in found if one.name == "copy_bandwidth" and one.labels["copy"] == "pair"]
    if not pairs:
        return []
    return [single("slowest_pair", min(pairs)), single("pair_spread", min(pairs) / median(pairs))]


def _peer_access(gpus: int) -> dict[str, bool]:
    import torch

    return {f"{a}-{b}": torch.cuda.can_device_access_peer(a, b) for a, b in permutations(range(gpus), 2)}


def _measure(copy: Copy, data: "Tensor", iterations: int, warmup: int) -> tuple[Measurement, int]:
    """Bandwidth of a copy over its iterations, and the number of wrong bytes."""
    import torch

    size = data.numel()
    source = data.pin_memory() if copy.pinned and copy.source == "cpu" else data.to(copy.source, copy=True)
    target = torch.zeros(
        size, dtype=torch.uint8, device=copy.target, pin_memory=bool(copy.pinned) and copy.target == "cpu"
    )
    asynchronous = copy.pinned is not False

    def once() -> None:
        target.copy_(source, non_blocking=asynchronous)

    if "cpu" == copy.source == copy.target:
        seconds = _timed_on_host(once, iterations, warmup)
    else:
        seconds = _timed_on_device(once, copy, iterations, warmup)
    moved = size * copy.factor
    one = measured("copy_bandwidth", [moved / second for second in seconds], **copy.labels, bytes=size)
    return one, int((target != data.to(copy.target)).sum())


def _timed_on_host(once: Callable[[], None], iterations: int, warmup: int) -> list[float]:
    for _ in range(warmup):
        once()
    rounds = Rounds(iterations, budget(_ON_HOST_S), fewest=FEWEST_FOR_BOOTSTRAP, expect=no_time)
    return [seconds_of(once) for _ in rounds]


def _timed_on_device(once: Callable[[], None], copy: Copy, iterations: int, warmup: int) -> list[float]:
    """By events on the copying stream: the source's, or the target's if the source is the host."""
    import torch

    cuda: Any = torch.cuda
    with cuda.device(copy.target if copy.source == "cpu" else copy.source):
        for _ in range(warmup):
            once()
        events = [cuda.Event(enable_timing=True) for _ in range(iterations + 1)]
        events[0].record()
        for event in events[1:]:
            once()
            event.record()
        for device in {copy.source, copy.target} - {"cpu"}:
            cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]
