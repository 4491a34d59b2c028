"""The contract of every probe: its arguments, its document, its exit status.

A probe module has a module-level `PROBE`, and imports torch only inside functions, so that its declaration and its
argument parser can be had without torch:

    PROBE = Probe("collectives", method_version=2, summary="…", metrics=(…), labels=(…), parser=_parser, run=_run)

    if __name__ == "__main__":
        sys.exit(PROBE.main())

Every command that reads entries imports it for its declaration: what is slow to import is imported inside functions
too. `runner.kit.running` runs it.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, Protocol

from runner.base.plain import visible_line
from runner.base.summaries import SINGLE, STATISTICS
from runner.entry.model import Scalar
from runner.record.model import Document, Measurement
from runner.sizing.presets import PRESETS, default_preset
from runner.vocabulary import METRICS
from runner.vocabulary.model import Declaration, Metric

OK, SYMPTOM, CRASHED, NOT_APPLICABLE = 0, 1, 3, 80


class NotApplicableError(Exception):
    """The probe does not apply to this machine; the message says why."""


@dataclass(frozen=True)
class Findings:
    """The result of a probe; `runner.kit.running` turns it into the document and the exit status.

    `simulated`: the hardware that it read is not there. A marked stand-in for NVML needs no mention here.
    """

    measurements: Sequence[Measurement] = ()
    status: Literal["ok", "symptom", "not_applicable"] = "ok"
    reason: str | None = None
    requested: Mapping[str, object] = field(default_factory=dict)
    effective: Mapping[str, object] = field(default_factory=dict)
    fallback_reason: str | None = None
    fallback_asked: bool = False
    details: Mapping[str, object] = field(default_factory=dict)
    simulated: bool = False


class ProbeBody(Protocol):
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
    run: ProbeBody
    shows: Callable[[argparse.Namespace, Document], Sequence[str] | None] | None = None

    def arguments(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse its arguments, under the name by which it is called; `--help` and bad arguments end the program."""
        parser = self.parser()
        parser.prog = f"python -m runner.probes.{self.name}"
        arguments = parser.parse_args(argv)
        # argparse checks the words of a command, and not a default.
        if arguments.preset and arguments.preset not in PRESETS:
            parser.error(
                f"RUNBOOK_PRESET is {arguments.preset!r} (choose from {', '.join(map(repr, PRESETS))})"
            )
        return arguments

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the probe and return its exit status."""
        from runner.kit.running import run_probe

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
def reporting(probe: Probe) -> Iterator[None]:
    """While this probe runs, `measured` and `single` look up its own metrics first."""
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
    """Print one line to standard error; what a file, a device or a caller put into it cannot end or hide the line."""
    print(visible_line(message), file=sys.stderr, flush=True)
