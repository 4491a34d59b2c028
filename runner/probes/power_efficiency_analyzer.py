"""Did efficiency change between two sweeps, by how much, and is that more than noise?

Each mode is compared by its ratio to BF16 within its own sweep: the two were interleaved there, so that a machine that
is slower today slows both. Where both sweeps read energy the ratio is of tokens per joule, else of speed. The change is
the ratio of the two medians with a 95 % bootstrap interval; it is called a regression or an improvement only where the
whole interval lies beyond the tolerance, and "inconclusive" where it reaches over it.

    python -m runner.probes.power_efficiency_analyzer before.json after.json
    python -m runner.probes.power_efficiency_analyzer            # the newest two of artifacts/power

Both files are what `precision_power_sweep --output-json` wrote.
Exit status: 0 no regression shown, 1 regression, 2 bad input.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from runner.errors import InputError
from runner.evidence.record import Document, Measurement
from runner.probes.contract import Findings, Probe, base_parser, run_probe, say, single
from runner.stats import ratio_interval

FOLDER = Path("artifacts/power")
_SWEEP = "precision_power_sweep"
_SAME_WORK = ("model", "batch_size", "tokens")


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "sweeps", nargs="*", type=Path, metavar="FILE", help="the sweep before, and the one after"
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help=f"where the newest two are taken from (default {FOLDER})"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.05, metavar="X", help="a change that is none yet (default 0.05)"
    )
    return parser


@dataclass(frozen=True)
class _Change:
    """Change of one mode: `ratio` of medians after ÷ before of `metric`, its interval, and what it means."""

    mode: str
    metric: str
    ratio: float
    low: float
    high: float
    verdict: str


def _run(arguments: argparse.Namespace) -> Findings:
    if not 0 <= arguments.tolerance < 1:
        raise InputError("--tolerance must be a share from 0 to below 1")
    paths = arguments.sweeps or _newest_two(arguments.folder)
    if len(paths) != 2:  # noqa: PLR2004 - a comparison has two sides
        raise InputError(f"give two sweeps, the one before and the one after, not {len(paths)}")
    before, after = map(_read, paths)
    _check_same_work(before, after, paths)
    changes = [
        _judge(mode, before, after, arguments.tolerance) for mode in _modes(before) if mode in _modes(after)
    ]
    if not changes:
        raise InputError(
            f"{paths[0]} and {paths[1]} have no mode in common besides bf16; sweep the same --modes"
        )
    for one in changes:
        said = f"{one.mode}: {one.metric.replace('_', ' ')} to bf16 × {one.ratio:.3f}"
        say(f"{said} ({one.low:.3f} to {one.high:.3f}): {one.verdict}")
    explained = _differences(before, after)
    if explained:
        say(f"also different: {', '.join(explained)}")
    worse = [one for one in changes if one.verdict == "regression"]
    because = f" (also different: {', '.join(explained)})" if explained else ""
    return Findings(
        measurements=[
            single("efficiency_change", one.ratio, mode=one.mode, of=one.metric) for one in changes
        ],
        status="symptom" if worse else "ok",
        reason=_worse(worse) + because if worse else None,
        requested={"tolerance": arguments.tolerance},
        effective={"tolerance": arguments.tolerance},
        details={"verdicts": {one.mode: one.verdict for one in changes}, "also_different": explained},
    )


def _worse(changes: Sequence[_Change]) -> str:
    return ", ".join(
        f"{one.mode} lost {1 - one.ratio:.0%} of its {one.metric.replace('_', ' ')}" for one in changes
    )


def _newest_two(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if len(found) < 2:  # noqa: PLR2004 - as above
        raise InputError(
            f"{folder} holds {len(found)} sweeps; write two with {_SWEEP} --output-json, or name them"
        )
    return found[-2:]


def _read(path: Path) -> Document:
    try:
        document = Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path}: not what a probe writes ({first['msg']}); write it with --output-json"
        ) from error
    if document.probe != _SWEEP:
        raise InputError(f"{path}: written by {document.probe}, not by {_SWEEP}")
    if not _modes(document):
        raise InputError(f"{path}: has no ratio to bf16; sweep bf16 and another mode")
    return document


def _ratios(document: Document, name: str) -> dict[str, Measurement]:
    return {str(one.labels["mode"]): one for one in document.measurements if one.name == name}


def _modes(document: Document) -> dict[str, Measurement]:
    return _ratios(document, "speed_ratio")


def _check_same_work(before: Document, after: Document, paths: Sequence[Path]) -> None:
    labels: list[Mapping[str, object]] = [next(iter(_modes(one).values())).labels for one in (before, after)]
    for key in _SAME_WORK:
        if labels[0].get(key) != labels[1].get(key):
            raise InputError(
                f"{paths[0]} and {paths[1]} did different work: {key} {labels[0].get(key)} and {labels[1].get(key)}"
            )


def _judge(mode: str, before: Document, after: Document, tolerance: float) -> _Change:
    metric = (
        "energy_ratio"
        if all(mode in _ratios(one, "energy_ratio") for one in (before, after))
        else "speed_ratio"
    )
    old, new = (_ratios(one, metric)[mode] for one in (before, after))
    ratio = new.value / old.value
    interval = ratio_interval(new.samples, old.samples)
    if interval is None or new.samples == old.samples:
        low, high = (ratio, ratio) if new.samples == old.samples else (0.0, float("inf"))
    else:
        low, high = interval.low, interval.high
    if high < 1 - tolerance:
        verdict = "regression"
    elif low > 1 + tolerance:
        verdict = "improvement"
    else:
        verdict = "no change" if low >= 1 - tolerance and high <= 1 + tolerance else "inconclusive"
    return _Change(mode, metric, ratio, low, high, verdict)


def _differences(before: Document, after: Document) -> list[str]:
    """Settings that were not the same, for a reader who asks why."""
    keys = sorted(before.effective.keys() | after.effective.keys())
    return [
        f"{key} {before.effective.get(key)} → {after.effective.get(key)}"
        for key in keys
        if before.effective.get(key) != after.effective.get(key)
    ]


PROBE = Probe("power_efficiency_analyzer", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe and return its exit status."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
