"""A sound checkpoint is damaged as storage and killed copies damage it; does a load say so, and does the guard?"""

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.base.errors import InputError
from runner.guards.checkpoint import verify
from runner.kit.probe import single
from runner.kit.storage.formats import ByteRange, CheckpointFormat, State, loads_as
from runner.kit.storage.saver import save_step
from runner.record.model import Measurement

# The shares of a file that are kept first; later ones are drawn.
_KEPT = (0.3, 0.9999)


@dataclass
class Seen:
    """How often damage was not seen, and soundness not believed, by `load` and by `guard`."""

    unseen: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def measurements(self, fault: str, form: CheckpointFormat, writer: str) -> Iterator[Measurement]:
        """The counts, by what looked."""
        for by, count in self.refused.items():
            labels = {"fault": fault, "format": form.name, "writer": writer, "by": by}
            yield single("intact_refused", count, **labels)
            if by in self.unseen:
                yield single("corruptions_unseen", self.unseen[by], **labels)


def damage_and_look(
    form: CheckpointFormat,
    root: Path,
    states: Sequence[State],
    fault: str,
    repeat: int,
    *,
    guarded: bool,
    seed: int,
) -> Seen:
    """Save one checkpoint, then damage it `repeat` times, each time from sound, and look.

    Args:
        form: the format.
        root: an empty folder on the storage.
        states: what is saved; the second is the older one, whose shard a stale shard is.
        fault: `flip`, `truncate`, `no-metadata`, `stale-shard`; or `none`, where each look is at a new save.
        repeat: how many.
        guarded: the guard writes, and looks too.
        seed: of places and bits.

    Raises:
        InputError: the format cannot have the fault.
    """
    draw, seen = random.Random(seed), Seen()  # noqa: S311 - places of faults are no secret
    if fault in {"no-metadata", "stale-shard"} and form.name != "dcp":
        raise InputError(f"--fault {fault} needs --format dcp: other formats have one file")
    folder = save_step(form, root / "sound", states[0], guarded=guarded)
    older = save_step(form, root / "older", states[1], guarded=False)
    ranges = form.tensor_bytes(folder)
    damages: Mapping[str, Callable[[int], AbstractContextManager[None]]] = {
        "none": lambda _: _again(form, folder, states[0], guarded),
        "flip": lambda _: _flipped(folder, ranges, draw),
        "truncate": lambda number: _truncated(folder, form, number, draw),
        "no-metadata": lambda _: _without(folder / ".metadata"),
        "stale-shard": lambda _: _stale(folder, older, form),
    }
    _look(form, folder, states[0], seen.refused, guarded, count_sound=False)
    for number in range(repeat):
        with damages[fault](number):
            if fault == "none":
                _look(form, folder, states[0], seen.refused, guarded, count_sound=False)
            else:
                _look(form, folder, states[0], seen.unseen, guarded, count_sound=True)
    _look(form, folder, states[0], seen.refused, guarded, count_sound=False)
    return seen


def _look(
    form: CheckpointFormat,
    folder: Path,
    state: State,
    counts: dict[str, int],
    guarded: bool,
    *,
    count_sound: bool,
) -> None:
    """Count by what looks whether the folder is taken for sound, or is not."""
    loads, _ = loads_as(form, folder, [state])
    counts["load"] = counts.get("load", 0) + (loads == count_sound)
    if guarded:
        complete = verify(folder).state == "complete"
        counts["guard"] = counts.get("guard", 0) + (complete == count_sound)


@contextmanager
def _again(form: CheckpointFormat, folder: Path, state: State, guarded: bool) -> Iterator[None]:
    shutil.rmtree(folder)
    save_step(form, folder, state, guarded=guarded)
    yield


@contextmanager
def _flipped(folder: Path, ranges: Sequence[ByteRange], draw: random.Random) -> Iterator[None]:
    (chosen,) = draw.choices(ranges, [one.length for one in ranges])
    place, bit = chosen.start + draw.randrange(chosen.length), 1 << draw.randrange(8)

    def flip() -> None:
        with (folder / chosen.file).open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ bit]))

    flip()
    yield
    flip()


@contextmanager
def _truncated(folder: Path, form: CheckpointFormat, number: int, draw: random.Random) -> Iterator[None]:
    path = form.shards(folder)[-1]
    share = _KEPT[number] if number < len(_KEPT) else draw.random()
    with _replaced(path, path.read_bytes()[: int(path.stat().st_size * share)]):
        yield


@contextmanager
def _without(path: Path) -> Iterator[None]:
    aside = path.with_name("aside")
    path.rename(aside)
    # Beside the folder, where the guard does not see it.
    aside = aside.rename(path.parent.parent / "aside")
    yield
    aside.rename(path)


@contextmanager
def _stale(folder: Path, older: Path, form: CheckpointFormat) -> Iterator[None]:
    path = form.shards(folder)[-1]
    with _replaced(path, (older / path.name).read_bytes()):
        yield


@contextmanager
def _replaced(path: Path, content: bytes) -> Iterator[None]:
    sound = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(sound)
