"""The contract of every probe: its arguments, its document, its exit status.

A probe module has a module-level `PROBE`, and imports torch only inside functions, so that its declaration and its
argument parser can be had without torch:

    PROBE = Probe("collectives", method_version=2, summary="…", metrics=(…), labels=(…), parser=_parser, run=_run)

    if __name__ == "__main__":
        sys.exit(PROBE.main())

Messages for people go to standard error. The last line of standard output is one JSON document, also written to
`--output-json FILE` and to the file named by RUNBOOK_RESULT.
Exit status: 0 healthy or measured, 1 symptom (the document has status `symptom`), 2 usage error, 3 measurement
failed, 80 not applicable to this host.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, Protocol, TextIO, cast

from runner.base.errors import InputError, RunbookError
from runner.base.screen import Screen
from runner.base.summaries import SINGLE, STATISTICS
from runner.entry.model import Scalar
from runner.hardware.prerequisites import missing_to_compile
from runner.hardware.visible import INSTALLED_GPUS, USABLE_GPUS
from runner.kit.options import check_numbers
from runner.record.model import Document, Measurement
from runner.sizing.presets import PRESETS, default_preset
from runner.vocabulary import METRICS
from runner.vocabulary.model import Declaration, Metric

OK, SYMPTOM, CRASHED, NOT_APPLICABLE = 0, 1, 3, 80
# Libraries that only probes need: a Python without them is not a bug.
_OPTIONAL = ("torch", "transformers", "safetensors", "torchao")


class NotApplicableError(Exception):
    """The probe does not apply to this machine; the message says why."""


@dataclass(frozen=True)
class Findings:
    """The result of a probe; `run_probe` turns it into the document and the exit status."""

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


@dataclass(frozen=True, kw_only=True)
class Probe(Declaration):
    """A probe: its declaration, its argument parser and its work.

    Attributes:
        shows: lines to print instead of the document, for a finding or none; None for the document.
    """

    parser: Callable[[], argparse.ArgumentParser]
    run: Work
    shows: Callable[[argparse.Namespace, Document], Sequence[str] | None] | None = None

    def arguments(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse its arguments, under the name by which it is called; `--help` and bad arguments end the program."""
        parser = self.parser()
        parser.prog = f"python -m runner.probes.{self.name}"
        return parser.parse_args(argv)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the probe and return its exit status."""
        return run_probe(self, argv)


class _Parser(argparse.ArgumentParser):
    """Reports bad arguments like other bad input: in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.rpartition('.')[2]}: error: {message}; see `{self.prog} --help`\n")


def base_parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options of every probe: `--preset` and `--output-json`.

    Args:
        description: the probe module's docstring; its first line becomes the description.
    """
    parser = _Parser(description=(description or "").strip().partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default=os.environ.get("RUNBOOK_PRESET"),
        help="size of the workload (default: RUNBOOK_PRESET, else tiny without a GPU, 8b with one GPU, 70b with eight)",
    )
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="also write the document to FILE")
    return parser


def preset_of(arguments: argparse.Namespace) -> str:
    """The requested preset, or the default for the GPUs that this process can use."""
    from runner.hardware.gpus import visible_count

    return str(arguments.preset or default_preset(visible_count()))


def measured(
    name: str, samples: Sequence[float], statistic: str = "median", /, **labels: Scalar
) -> Measurement:
    """A measurement from raw samples, in the metric's unit; its value is their median (or another statistic).

    Raises:
        KeyError: unknown metric or statistic.
        ValueError: no samples.
    """
    return Measurement(
        name=name,
        labels=dict(labels),
        value=STATISTICS[statistic](samples),
        unit=_metric(name).unit,
        statistic=statistic,
        samples=tuple(samples),
    )


def single(name: str, value: float, /, **labels: Scalar) -> Measurement:
    """A measurement that is one reading, without samples."""
    return Measurement(name=name, labels=dict(labels), value=value, unit=_metric(name).unit, statistic=SINGLE)


# The probe that runs in this process: its own metrics are looked up without an import of the other probes.
_running: Probe | None = None


@contextlib.contextmanager
def _reporting(probe: Probe) -> Iterator[None]:
    global _running  # noqa: PLW0603 - a process runs one probe at a time
    before, _running = _running, probe
    try:
        yield
    finally:
        _running = before


def _metric(name: str) -> Metric:
    own = _running.metric(name) if _running else None
    return own or METRICS[name]


def require_torch() -> None:
    """Refuse to start processes that would all fail at their import of torch.

    Raises:
        ModuleNotFoundError: torch is not installed; `run_probe` reports that in one line.
    """
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def say(message: str) -> None:
    """Print one line to standard error."""
    print(message, file=sys.stderr, flush=True)


def run_probe(probe: Probe, argv: Sequence[str] | None = None) -> int:
    """Parse, run, report. A crash exits with 3 (measurement failed), never with 1 (symptom)."""
    with _lasting_streams() as out:
        status = _run(probe, argv)
        out.flush()
        if status == OK and out.lost is not None:
            say(f"{probe.name}: cannot write the document to standard output: {out.lost.strerror}")
            return CRASHED
    return status


@contextlib.contextmanager
def _lasting_streams() -> Iterator[Screen]:
    """Standard output and error whose loss does not change the result, even if they were closed from the start."""
    before = sys.stdout, sys.stderr
    out, err = (Screen(stream or Path(os.devnull).open("w", encoding="utf-8")) for stream in before)  # noqa: SIM115 - open as long as the process
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before


def _run(probe: Probe, argv: Sequence[str] | None) -> int:
    try:
        arguments = probe.arguments(argv)
        try:
            check_numbers(arguments)
            _require_compiler(probe, sys.argv[1:] if argv is None else argv)
            with _reporting(probe):
                findings = probe.run(arguments)
        except NotApplicableError as error:
            findings = Findings(status="not_applicable", reason=str(error))
        document = _document(probe, findings)
        shown = probe.shows(arguments, document) if probe.shows else None
        publish(document, arguments.output_json, shown)
        if shown is not None:
            return OK
    except RunbookError as error:
        say(f"{probe.name}: {error}")
        return error.exit_status
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _OPTIONAL:
            return _crashed(probe, error)
        say(
            f"{probe.name}: {library} is not installed; start runbook with a Python that has it, or in a checkout "
            "use nox -s runbook-ID"
        )
        return CRASHED
    except Exception as error:  # noqa: BLE001 - Python would exit with 1, a symptom
        return _crashed(probe, error)
    if findings.reason:
        say(f"{probe.name}: {findings.reason}")
    return {"ok": OK, "symptom": SYMPTOM, "not_applicable": NOT_APPLICABLE}[findings.status]


def _crashed(probe: Probe, error: Exception) -> int:
    traceback.print_exception(error)
    say(f"{probe.name}: bug in this probe: {type(error).__name__}: {error}; traceback above")
    return CRASHED


def _require_compiler(probe: Probe, words: Sequence[str]) -> None:
    """Fail early if this call compiles and this host cannot.

    Raises:
        NotApplicableError: a prerequisite of a compile is not installed.
    """
    from runner.hardware.gpus import visible_count

    compiles = probe.compiles
    if compiles is None or not compiles.by(words, gpu=True):
        return
    gpu = visible_count() > 0
    missing = missing_to_compile(gpu=gpu) if compiles.by(words, gpu=gpu) else None
    if missing is not None:
        raise NotApplicableError(missing.reason)


def _document(probe: Probe, findings: Findings) -> Document:
    for measurement in findings.measurements:
        metric = probe.metric(measurement.name)
        if metric is None:
            raise ValueError(f"{probe.name} reports {measurement.name}, which it does not declare")
        undeclared = set(measurement.labels) - set(probe.labels)
        if undeclared:
            raise ValueError(
                f"{probe.name} gives {measurement.name} the label {min(undeclared)}, which it does not declare"
            )
        if measurement.statistic not in metric.statistics:
            raise ValueError(
                f"{measurement.name} cannot be a {measurement.statistic}; add it to the statistics of the metric"
            )
    return Document.model_validate(
        {
            "probe": probe.name,
            "method_version": probe.method_version,
            "status": findings.status,
            "reason": findings.reason,
            "requested": dict(findings.requested),
            "effective": {**findings.effective, **_some_gpus_only()},
            "fallback_reason": findings.fallback_reason,
            "fallback_asked": findings.fallback_asked,
            "details": dict(findings.details),
            "measurements": tuple(findings.measurements),
        }
    )


def _some_gpus_only() -> dict[str, int]:
    """How many GPUs the run could use, and of how many, if these differ: a record names its node by the latter."""
    usable, installed = (os.environ.get(name, "") for name in (USABLE_GPUS, INSTALLED_GPUS))
    if usable == installed or not (usable.isdecimal() and installed.isdecimal()):
        return {}
    return {"gpus_usable": int(usable), "gpus_installed": int(installed)}


def publish(document: Document, output: Path | None, shown: Sequence[str] | None = None) -> None:
    """Write the document to `--output-json` and RUNBOOK_RESULT, then print it as the last line of output.

    Args:
        document: the result.
        output: the file of `--output-json`.
        shown: lines to print instead of the document.

    Raises:
        InputError: `--output-json` cannot be written.
    """
    text = json.dumps(document.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    # Environment variables may hold invalid UTF-8; a document holds text only.
    line = json.dumps(json.loads(text.encode("utf-8", "replace")), sort_keys=True)
    result = os.environ.get("RUNBOOK_RESULT")
    for path in filter(None, (output, Path(result) if result else None)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
    sys.stderr.flush()
    for one in [line] if shown is None else shown:
        print(one, flush=True)
