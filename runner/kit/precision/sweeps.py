"""Reads stored power sweeps: from `precision_power_sweep --output-json`, or from a step of a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.base.errors import InputError, RecordError, StoreError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.units import format_value
from runner.kit.precision.product import IN_FP32
from runner.record.documents import MAX_DOCUMENT_BYTES
from runner.record.model import Document, Measurement, Record
from runner.record.reading import parse_record
from runner.record.simulated import was_simulated
from runner.record.store import Store

SWEEP = "precision_power_sweep"
RUNBOOK = "fp8-power-regression"
# What may explain a change, the most likely reason first: in `effective`, a label, or a metric of `_SAME`.
_REASONS = {
    "precision": "effective precision",
    "fp8_share": "FP8 share",
    "implementation": "layers",
    "scales": "scales",
    "compile_mode": "compile mode",
    "batch_size": "batch size",
    "tokens": "tokens",
    "throttled_by": "throttled by",
    "throttled_share": "share of time throttled",
    "sm_clock": "clocks",
    "temperature": "temperature",
    "device": "device",
}
_LABELS = ("batch_size", "tokens")
# The largest difference that explains nothing: clocks as a share, the others in the metric's unit.
_SAME = {"sm_clock": 0.02, "temperature": 5.0, "fp8_share": 0.05, "throttled_share": 0.05}


@dataclass(frozen=True)
class Sweep:
    """One sweep: its source, its metadata, its measurements, and versions."""

    name: str
    effective: Mapping[str, Any]
    measurements: Sequence[Measurement]
    machine_class: str | None = None

    def series(self, metric: str) -> dict[str, tuple[float, ...]]:
        """Samples of a metric by mode."""
        return {mode: one.samples for mode, one in self._of(metric).items() if one.samples}

    def measured(self, metric: str, mode: str) -> Measurement | None:
        """The measurement of a metric for one mode."""
        return self._of(metric).get(mode)

    def label(self, key: str) -> object:
        """A label of the sweep's work: `model`, `batch_size`, `tokens`."""
        return self.measurements[0].labels.get(key)

    def said(self, key: str, mode: str) -> object:
        """The value in `effective` for one mode."""
        value = self.effective.get(key)
        return value.get(mode) if isinstance(value, Mapping) else value

    @property
    def on_cpu(self) -> bool:
        """Whether it ran on a CPU."""
        return self.effective.get("device") == "cpu"

    @property
    def untimed(self) -> frozenset[str]:
        """Modes with accuracy only: a CPU multiplied their FP8 values in fp32."""
        precision = self.effective.get("precision")
        found = precision.items() if isinstance(precision, Mapping) else ()
        return frozenset(mode for mode, ran in found if ran == IN_FP32)

    def _of(self, metric: str) -> dict[str, Measurement]:
        return {
            str(one.labels["mode"]): one
            for one in self.measurements
            if one.name == metric and "mode" in one.labels
        }


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's document, or the last sweep in a record.

    Raises:
        InputError: no such file, or no sweep in it.
    """
    try:
        data = read_placed(path, MAX_DOCUMENT_BYTES)
    except PlacedFileError as error:
        raise InputError(f"cannot read {path}: {error.why}") from error
    try:
        document = Document.model_validate_json(data)
    except ValidationError as error:
        try:
            record = parse_record(data, str(path))
        except RecordError:
            first = error.errors()[0]
            raise InputError(
                f"{path}: not a probe's document ({first['msg']}); write it with --output-json"
            ) from error
        found = _of_record(record, str(path))
        if found is None:
            raise InputError(f"{path}: a record without a finished {SWEEP} step") from None
        return found
    if document.probe != SWEEP:
        raise InputError(f"{path}: written by {document.probe}, not by {SWEEP}")
    if document.simulated:
        raise InputError(f"{path}: simulated, so it measured nothing; sweep on real GPUs")
    if not document.measurements:
        raise InputError(f"{path}: no measurements; sweep modes that can run on this host")
    return Sweep(str(path), document.effective, document.measurements)


def _of_record(record: Record, name: str) -> Sweep | None:
    for step in reversed(record.steps):
        if step.probe == SWEEP and step.counts and step.measurements:
            machine = record.machine
            versions = {"driver": machine.driver, "torch": machine.torch, "cuda": machine.cuda}
            effective = {"versions": versions} | step.effective
            return Sweep(name, effective, step.measurements, machine.machine_class)
    return None


def newest_two(folder: Path) -> tuple[Path, Path]:
    """The newest two sweeps in a folder, the older one first.

    Raises:
        InputError: there are fewer.
    """
    found = sorted(folder.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if len(found) < 2:  # noqa: PLR2004 - a comparison has two sides
        raise InputError(
            f"{folder} holds {len(found)} sweeps; write two with {SWEEP} --output-json, or give their paths"
        )
    return found[-2], found[-1]


def baseline_and_latest(data: Path) -> tuple[Sweep, Sweep]:
    """The first and the last sweep of the same work, of the machine class of the newest record.

    Raises:
        InputError: there are not two.
    """
    try:
        records = sorted(Store(data).records(RUNBOOK), key=lambda record: record.moment)
    except (RecordError, StoreError) as error:
        raise InputError(f"{data}: {error}") from error
    # A simulated run measured nothing.
    real = [one for one in records if not was_simulated(one)]
    found = [sweep for one in real if (sweep := _of_record(one, f"{one.started_at:%Y-%m-%d %H:%M} UTC"))]
    alike = [one for one in found if _same_work(one, found[-1])]
    if len(alike) < 2:  # noqa: PLR2004 - as above
        raise InputError(
            f"{data} holds {len(alike)} sweeps of the same work and machine class; run entry {RUNBOOK} again"
        )
    return alike[0], alike[-1]


def _same_work(one: Sweep, other: Sweep) -> bool:
    keys = ("model", "batch_size", "tokens")
    return one.machine_class == other.machine_class and all(one.label(k) == other.label(k) for k in keys)


def other_work(before: Sweep, after: Sweep, mode: str) -> str | None:
    """Why a mode's numbers are not of the same work, so that a change says nothing of this node; None if they are.

    FP8 layers of another library quantise otherwise (per row, per tensor), and eager quantises in passes of its own.
    What a sweep does not say is taken as equal.
    """
    for name, key in (("layers", "implementation"), ("compile mode", "compile_mode")):
        old, new = before.said(key, mode), after.said(key, mode)
        if old is not None and new is not None and old != new:
            return _differs(name, old, new)
    return None


def explanations(before: Sweep, after: Sweep, mode: str) -> list[str]:
    """What differed for a mode, the most likely reason first."""
    found = [_explained(key, before, after, mode) for key in _REASONS]
    versions = [one.effective.get("versions") for one in (before, after)]
    old, new = (one if isinstance(one, Mapping) else {} for one in versions)
    found += [_differs(key, old[key], new[key]) for key in sorted(old.keys() & new.keys())]
    return [one for one in found if one]


def _explained(key: str, before: Sweep, after: Sweep, mode: str) -> str | None:
    if key not in _SAME:
        return _differs(
            _REASONS[key],
            *(one.label(key) if key in _LABELS else one.said(key, mode) for one in (before, after)),
        )
    old, new = before.measured(key, mode), after.measured(key, mode)
    if old is None or new is None:
        return None
    if abs(new.value - old.value) <= _SAME[key] * (old.value if key == "sm_clock" else 1):
        return None
    return f"{_REASONS[key]} {format_value(old.value, old.unit)} → {format_value(new.value, new.unit)}"


def _differs(name: str, old: object, new: object) -> str | None:
    def shown(value: object) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value)) or "nothing"
        return "unknown" if value is None else str(value)

    return None if old == new else f"{name} {shown(old)} → {shown(new)}"
