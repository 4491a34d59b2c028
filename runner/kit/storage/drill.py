"""What `storage_drill` does: one kind of fault on each format, or what saves and the storage take."""

import argparse
import os
import tempfile
from pathlib import Path

from runner.base.errors import InputError
from runner.base.units import format_value, parse_bytes
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.options import require_positive
from runner.kit.probe import Findings, require_torch, say
from runner.kit.storage.damage import damage_and_look
from runner.kit.storage.filling import save_into_full
from runner.kit.storage.formats import FORMATS, CheckpointFormat, State, two_states
from runner.kit.storage.killing import kill_saves
from runner.kit.storage.measuring import measure_stalls, measure_storage
from runner.record.model import Measurement
from runner.vocabulary.sources import DRILL

_KILLS = ("kill", "kill-overwrite")
_ONLY_DCP = {"no-metadata", "stale-shard"}
# Two or three checkpoints at once, and the file that rates are taken of.
_COPIES = 5
_LEAST, _LARGEST = 1 << 16, 1 << 36
_DEFAULT_S = 200.0


def drill_storage(arguments: argparse.Namespace) -> Findings:
    """Run the drill. The symptom: a checkpoint that is not what was saved was taken for good, or none was found.

    Raises:
        InputError: the options do not fit together, or the folder cannot be used.
        RunbookError: a save failed by itself.
    """
    require_torch()
    require_positive(arguments, "--repeat")
    size = parse_bytes(arguments.size)
    if not _LEAST <= size <= _LARGEST:
        raise InputError(f"--size {arguments.size}: must be from 64KiB to 64GiB")
    fault, guarded = arguments.fault, arguments.guarded
    if fault == "kill-overwrite" and guarded:
        raise InputError("--fault kill-overwrite needs a plain writer: the guard overwrites nothing")
    names = [*FORMATS] if arguments.format == "both" else [arguments.format]
    if fault in _ONLY_DCP:
        if arguments.format == "torch":
            raise InputError(f"--fault {fault} needs --format dcp: torch.save writes one file")
        names = ["dcp"]
    found = _Found()
    with ended_by_sigterm(), _scratch(arguments.folder, size * _COPIES) as scratch:
        for name in names:
            place = Path(scratch) / name
            place.mkdir()
            found.add(FORMATS[name], place, size, arguments)
        if fault == "none":
            rates, why = measure_storage(Path(scratch), size, budget(_DEFAULT_S))
            found.measurements += rates
            if why:
                say(why)
                found.details["no_cold_reading"] = why
    reason = found.reason(fault, arguments.repeat)
    return Findings(
        measurements=found.measurements,
        status="symptom" if reason else "ok",
        reason=reason,
        requested={"fault": fault, "format": arguments.format, "size": size, "repeat": arguments.repeat},
        effective={"source": DRILL, "formats": ", ".join(names), "writer": "guarded" if guarded else "plain"},
        details=found.details,
    )


class _Found:
    def __init__(self) -> None:
        self.measurements: list[Measurement] = []
        self.details: dict[str, object] = {}

    def add(self, form: CheckpointFormat, place: Path, size: int, arguments: argparse.Namespace) -> None:
        fault, guarded, seed = arguments.fault, arguments.guarded, arguments.seed
        writer = "guarded" if guarded else "plain"
        if fault in _KILLS:
            kept = "same" if fault == "kill-overwrite" else "new"
            words = (form.name, writer, kept, str(size), str(seed))
            resumes = kill_saves(form, place, two_states(size, seed), words, arguments.repeat)
            self.measurements += resumes.measurements(fault, form, writer)
        elif fault == "full":
            resumes, error, by = save_into_full(form, (form.name, writer, str(size), str(seed), str(place)))
            say(f"{form.name}, small by {by}: {error}")
            self.details[f"last_line_{form.name}"] = error
            self.details["small_by"] = by
            self.measurements += resumes.measurements(fault, form, writer)
        else:
            states = two_states(size, seed)
            seen = damage_and_look(form, place, states, fault, arguments.repeat, guarded=guarded, seed=seed)
            self.measurements += seen.measurements(fault, form, writer)
            if fault == "none":
                self.measurements += measure_stalls(
                    form, place, _on_device(states[0]), budget(_DEFAULT_S / 3)
                )

    def reason(self, fault: str, repeat: int) -> str | None:
        """What is wrong, for the reader; None if nothing is. A guard is judged alone where there is one."""
        by_guard = [one for one in self.measurements if one.labels.get("by") == "guard"]
        told = by_guard or [one for one in self.measurements if "by" in one.labels]
        wrong = [
            f"{one.labels['format']}, {one.labels['by']}: {_SAID[one.name]} {one.value:.0f}"
            for one in told
            if one.value
        ]
        times = 1 if fault == "full" else repeat
        return f"of {times} × {fault}: {'; '.join(wrong)}" if wrong else None


_SAID = {
    "torn_checkpoints_accepted": "torn and taken",
    "checkpoints_lost": "no checkpoint found",
    "corruptions_unseen": "damaged and not seen",
    "intact_refused": "sound and refused",
}


def _on_device(state: State) -> State:
    """The tensors of a job: on its GPU, if there is one."""
    import torch

    return {name: one.cuda() for name, one in state.items()} if torch.cuda.is_available() else state


def _scratch(folder: Path | None, needed: int) -> "tempfile.TemporaryDirectory[str]":
    try:
        made = tempfile.TemporaryDirectory(prefix="runbook-storage-", dir=folder)
    except OSError as error:
        raise InputError(f"--folder {folder}: {error.strerror}; name a folder that can be written") from error
    space = os.statvfs(made.name)
    if space.f_bavail * space.f_frsize < needed:
        left = format_value(space.f_bavail * space.f_frsize, "B")
        made.cleanup()
        raise InputError(
            f"{left} are left there, and the drill needs {format_value(needed, 'B')}; use a smaller --size"
        )
    return made
