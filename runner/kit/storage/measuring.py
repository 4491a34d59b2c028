"""How long a save blocks a training loop, and what the storage itself can do."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.guards.checkpoint import saving
from runner.kit.budget import Budget, seconds_of, wait_for
from runner.kit.interleaved import Rounds, interleaved
from runner.kit.probe import measured
from runner.kit.storage.formats import CheckpointFormat, State
from runner.kit.storage.reading import drop_from_cache, read_in_order, share_in_cache, write_in_order
from runner.record.model import Measurement

_SAMPLES = 7
# Pages of a file that another process maps, or that are being written, stay.
_COLD = 0.05


def measure_stalls(form: CheckpointFormat, root: Path, state: State, within: Budget) -> Iterator[Measurement]:
    """The stall of a save in each way, taken in turn."""
    device = next(iter(state.values())).device.type
    ways: Mapping[str, Callable[[Path], object]] = {
        "plain": lambda folder: _plain(form, state, folder),
        "flushed": lambda folder: _flushed(form, state, folder),
        "guarded": lambda folder: _guarded(form, state, folder),
        **({"async": lambda folder: _begun(state, folder)} if form.name == "dcp" else {}),
    }

    def timed(way: Callable[[Path], object]) -> Callable[[int], float]:
        def once(_: int) -> float:
            folder, begun = root / "stall", list[Any]()
            with warnings.catch_warnings():
                # DCP warns of a save by one process.
                warnings.simplefilter("ignore")
                seconds = seconds_of(lambda: begun.append(way(folder)), device)
                for one in begun:
                    if one is not None:
                        one.result()
            shutil.rmtree(folder)
            return seconds

        return once

    for way in ways.values():
        timed(way)(0)
    taken = interleaved({name: timed(way) for name, way in ways.items()}, Rounds(_SAMPLES, within, fewest=2))
    for name, samples in taken.items():
        yield measured("save_stall", samples, "median", format=form.name, how=name)
    wait_for(device)


def measure_storage(root: Path, size: int, within: Budget) -> tuple[Sequence[Measurement], str | None]:
    """Rates of a file written and read in order; and why there is no cold reading, if there is none."""
    path = root / "rate"
    resident: list[float | None] = []

    def written(*, flush: bool) -> float:
        path.unlink(missing_ok=True)
        return size / write_in_order(path, size, flush=flush)

    def cold(_: int) -> float:
        drop_from_cache(path)
        resident.append(share_in_cache(path))
        return size / read_in_order(path)

    def warm(_: int) -> float:
        read_in_order(path)
        return size / read_in_order(path)

    taken = interleaved(
        {
            "cached": lambda _: written(flush=False),
            "flushed": lambda _: written(flush=True),
            "cold": cold,
            "warm": warm,
        },
        Rounds(_SAMPLES, within, fewest=2),
    )
    path.unlink()
    most = max((1.0 if one is None else one for one in resident), default=1.0)
    why = None
    if most > _COLD:
        why = f"the page cache kept {most:.0%} of the file after posix_fadvise, as a tmpfs does: no cold reading"
        taken = {name: samples for name, samples in taken.items() if name != "cold"}
    metrics = {"cached": "storage_write_rate", "flushed": "storage_write_rate"}
    return [
        measured(metrics.get(name, "storage_read_rate"), samples, "median", how=name)
        for name, samples in taken.items()
    ], why


def _plain(form: CheckpointFormat, state: State, folder: Path) -> None:
    folder.mkdir()
    form.save(state, folder)


def _flushed(form: CheckpointFormat, state: State, folder: Path) -> None:
    _plain(form, state, folder)
    for one in [*folder.iterdir(), folder]:
        descriptor = os.open(one, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _guarded(form: CheckpointFormat, state: State, folder: Path) -> None:
    with saving(folder) as partial:
        form.save(state, partial)


def _begun(state: State, folder: Path) -> object:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import async_save

    folder.mkdir()
    return async_save(dict(state), storage_writer=FileSystemWriter(folder, thread_count=2), no_dist=True)
