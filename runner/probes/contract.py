"""What every probe promises: its arguments, its document, its exit status.

A probe module has a `PROBE` at its top and a `main()` of one line, and imports torch only inside functions, so
that its argument parser can be had on a laptop without torch:

    PROBE = Probe("collectives", parser=_parser, run=_run)

    def main(argv: Sequence[str] | None = None) -> int:
        return run_probe(PROBE, argv)

Human lines go to standard error. The last line of standard output is one JSON document, also written to
`--output-json FILE` and to the file that RUNBOOK_RESULT names.
Exit status: 0 healthy or measured, 1 symptom (with a document that says so), 2 bad usage, 3 could not
measure, 80 not applicable here.
"""

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TextIO, cast

from runner.catalogue import METRICS, PROBES
from runner.entry.model import Scalar
from runner.errors import InputError, RunbookError
from runner.evidence.record import Document, Measurement
from runner.prerequisites import missing_to_compile
from runner.presets import PRESETS, default_preset
from runner.screen import Screen
from runner.summaries import SINGLE, STATISTICS

OK, SYMPTOM, CRASHED, NOT_APPLICABLE = 0, 1, 3, 80
# What only probes need: a Python without it is no bug.
_OPTIONAL = ("torch", "transformers", "safetensors", "torchao")


class NotApplicableError(Exception):
    """The question does not arise on this machine; the message says why."""


@dataclass(frozen=True)
class Findings:
    """What a probe found out; `run_probe` turns it into the document and the exit status."""

    measurements: Sequence[Measurement] = ()
    status: Literal["ok", "symptom", "not_applicable"] = "ok"
    reason: str | None = None
    requested: Mapping[str, object] = field(default_factory=dict)
    effective: Mapping[str, object] = field(default_factory=dict)
    fallback_reason: str | None = None
    fallback_asked: bool = False
    details: Mapping[str, object] = field(default_factory=dict)


class Work(Protocol):
    """The body of a probe."""

    def __call__(self, arguments: argparse.Namespace) -> Findings:
        """Measure, or raise InputError (exit 2), another RunbookError (3) or NotApplicableError (80)."""


@dataclass(frozen=True)
class Probe:
    """A probe: its name in the catalogue, its argument parser and its work."""

    name: str
    parser: Callable[[], argparse.ArgumentParser]
    run: Work


def base_parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that every probe has: `--preset` and `--output-json`.

    Args:
        description: the probe module's docstring; its first line becomes the description.
    """
    parser = argparse.ArgumentParser(
        description=(description or "").strip().partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=os.environ.get("RUNBOOK_PRESET"),
        help="scale of the work (default: RUNBOOK_PRESET, else tiny without a GPU, 8b with one, 70b with eight)",
    )
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="also write the document to FILE")
    return parser


def preset_of(arguments: argparse.Namespace) -> str:
    """The preset asked for, or the device's own."""
    from runner.hardware.machine import gpu_count

    return str(arguments.preset or default_preset(gpu_count()))


def measured(
    name: str, samples: Sequence[float], statistic: str = "median", /, **labels: Scalar
) -> Measurement:
    """A measurement from raw samples: the unit is the catalogue's, the value their median (or other statistic).

    Raises:
        KeyError: the metric or the statistic is not known.
        ValueError: no samples.
    """
    return Measurement(
        name=name,
        labels=dict(labels),
        value=STATISTICS[statistic](samples),
        unit=METRICS[name].unit,
        statistic=statistic,
        samples=tuple(samples),
    )


def single(name: str, value: float, /, **labels: Scalar) -> Measurement:
    """A measurement that is one reading and has no samples beneath it."""
    return Measurement(name=name, labels=dict(labels), value=value, unit=METRICS[name].unit, statistic=SINGLE)


def say(message: str) -> None:
    """One line for a human, on standard error."""
    print(message, file=sys.stderr, flush=True)


def run_probe(probe: Probe, argv: Sequence[str] | None = None) -> int:
    """Parse, work, report. A crash is 3, could not measure: it must never look like a symptom."""
    with _lasting_streams() as out:
        status = _run(probe, argv)
        out.flush()
        if status == OK and out.lost is not None:
            say(f"{probe.name}: could not write the document to standard output: {out.lost.strerror}")
            return CRASHED
    return status


@contextlib.contextmanager
def _lasting_streams() -> Iterator[Screen]:
    """Standard output and error whose loss changes no finding, also where they were closed from the start."""
    before = sys.stdout, sys.stderr
    out, err = (Screen(stream or Path(os.devnull).open("w", encoding="utf-8")) for stream in before)  # noqa: SIM115 - open as long as the process
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before


def _run(probe: Probe, argv: Sequence[str] | None) -> int:
    arguments = probe.parser().parse_args(argv)
    try:
        try:
            _require_compiler(probe, sys.argv[1:] if argv is None else argv)
            findings = probe.run(arguments)
        except NotApplicableError as error:
            findings = Findings(status="not_applicable", reason=str(error))
        publish(_document(probe, findings), arguments.output_json)
    except RunbookError as error:
        say(f"{probe.name}: {error}")
        return error.exit_status
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _OPTIONAL:
            return _crashed(probe, error)
        say(
            f"{probe.name}: {library} is not installed for {sys.executable}; install it there, or use nox -s runbook-ID"
        )
        return CRASHED
    except Exception as error:  # noqa: BLE001 - Python would end with 1, a symptom
        return _crashed(probe, error)
    if findings.reason:
        say(f"{probe.name}: {findings.reason}")
    return {"ok": OK, "symptom": SYMPTOM, "not_applicable": NOT_APPLICABLE}[findings.status]


def _crashed(probe: Probe, error: Exception) -> int:
    traceback.print_exception(error)
    say(f"{probe.name}: a bug in this probe: {type(error).__name__}: {error}; its traceback is above")
    return CRASHED


def _require_compiler(probe: Probe, words: Sequence[str]) -> None:
    """Stop before work begins where this call compiles and this host cannot.

    Raises:
        NotApplicableError: something that a compile needs is not installed.
    """
    from runner.hardware.machine import gpu_count

    compiles = PROBES[probe.name].compiles
    if compiles is None or not compiles.by(words, gpu=True):
        return
    gpu = gpu_count() > 0
    missing = missing_to_compile(gpu=gpu) if compiles.by(words, gpu=gpu) else None
    if missing is not None:
        raise NotApplicableError(missing.reason)


def _document(probe: Probe, findings: Findings) -> Document:
    info = PROBES[probe.name]
    for measurement in findings.measurements:
        if measurement.name not in info.emits:
            raise ValueError(
                f"{probe.name} reports {measurement.name}, which the catalogue does not list for it"
            )
        undeclared = set(measurement.labels) - set(info.labels)
        if undeclared:
            raise ValueError(
                f"{probe.name} labels {measurement.name} by {min(undeclared)}, which the catalogue does not list for it"
            )
        if measurement.statistic not in METRICS[measurement.name].statistics:
            raise ValueError(
                f"{measurement.name} is no {measurement.statistic}; list that under its statistics in the catalogue"
            )
    return Document.model_validate(
        {
            "probe": probe.name,
            "method_version": info.method_version,
            "status": findings.status,
            "reason": findings.reason,
            "requested": dict(findings.requested),
            "effective": dict(findings.effective),
            "fallback_reason": findings.fallback_reason,
            "fallback_asked": findings.fallback_asked,
            "details": dict(findings.details),
            "measurements": tuple(findings.measurements),
        }
    )


def publish(document: Document, output: Path | None) -> None:
    """Write the document to `--output-json` and RUNBOOK_RESULT, then print it as the last line of output.

    Raises:
        InputError: `--output-json` cannot be written.
    """
    text = json.dumps(document.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    # What an environment holds may be no text; a document holds text only.
    line = json.dumps(json.loads(text.encode("utf-8", "replace")), sort_keys=True)
    result = os.environ.get("RUNBOOK_RESULT")
    for path in filter(None, (output, Path(result) if result else None)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
    sys.stderr.flush()
    print(line, flush=True)
