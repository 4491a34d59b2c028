"""How often a hang's culprit is named: injected faults of real ranks, each found without the knowledge of it.

    python benchmarks/hang_accuracy.py [--repeats 10] [--seeds 2] [--faults skip op …] [--output hang_accuracy]

Every run starts ranks of its own, injects one fault, looks at the ranks as `runbook hang` does, and compares rank and
kind with the injected ones; ranks are ended after the look. `neighbour` and `nan` are found by the steps of the ranks,
`none` is a healthy job in which nothing may be named. Faults take turns, so that a drift of the machine falls on all of
them alike. Both files are written anew after every run: OUTPUT.md, a table, and OUTPUT.json, the conditions and every
run. One run takes 6 to 15 s on two cores, 120 runs about 20 minutes. The exit status is 1 if a wrong rank was named as
certain, or if fewer than 95 % were named.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from pydantic import BaseModel

from runner.base.errors import RunbookError
from runner.base.places import running_package
from runner.hardware.machine import look
from runner.kit.drill.defaults import HANGS
from runner.kit.drill.hanging import drill_hang
from runner.kit.drill.injection import Injection, chosen
from runner.kit.drill.job import JobShape
from runner.kit.drill.stepping import drill_nan, drill_steps
from runner.record.code import code_state

FAULTS = (*HANGS, "neighbour", "nan", "none")
STEPS = 20
WANTED = 0.95


class Result(BaseModel):
    """One run: what was injected, what was answered. `look_s`: of the look; `run_s`: from start to end."""

    fault: str
    seed: int
    ranks: int
    rank: int | None
    step: int | None
    place: str | None
    right: bool = False
    wrong_certain: bool = False
    answer: str = ""
    look_s: float | None = None
    run_s: float = 0.0


class Conditions(BaseModel):
    """Where, when and with what the runs were made. `load`: one-minute load averages at their begin and their end."""

    machine_class: str
    cpu: str | None
    torch: str | None
    python: str
    commit: str | None
    began: str
    load: tuple[float, float]


class Report(BaseModel):
    """All runs, in order."""

    conditions: Conditions
    runs: tuple[Result, ...]


def conditions(began: str, load: float) -> Conditions:
    """The conditions of the runs until now."""
    machine = look()
    commit = code_state(running_package(), Path("runbooks")).commit
    return Conditions(
        machine_class=machine.machine_class,
        cpu=machine.cpu,
        torch=machine.torch,
        python=machine.python,
        commit=commit,
        began=began,
        load=(load, os.getloadavg()[0]),
    )


def judged(shape: JobShape, fault: Injection | None, result: Result) -> None:
    """Run one drill and fill in what it answered."""
    if fault is None or fault.fault == "neighbour":
        steps = drill_steps(shape, fault, STEPS)
        look = steps.look.verdict if steps.look else None
        named = steps.split.slow is not None or bool(look and look.culprits)
        result.right = steps.named if fault else not named
        result.wrong_certain = steps.wrong_certain
        result.answer = f"slow rank: {steps.split.slow}" + (f"; {look.sentence}" if look else "")
    elif fault.fault == "nan":
        census = drill_nan(shape, fault)
        result.right = census.sources == (fault.rank,)
        result.wrong_certain = bool(census.sources) and not result.right
        result.answer = f"not finite before the reduction: {list(census.sources)}"
    else:
        hang = drill_hang(shape, fault, None, to_the_end=False)
        result.right, result.wrong_certain, result.look_s = hang.named, hang.wrong_certain, hang.look_s
        result.answer = f"{hang.verdict.kind}: {hang.verdict.sentence}" if hang.verdict else "no verdict"


def run_once(fault: str, seed: int, ranks: int) -> Result:
    """One fault, once. A run that could not be finished is not right, and its answer is the error."""
    injected = None if fault == "none" else chosen(fault, seed, ranks)
    result = Result(
        fault=fault,
        seed=seed,
        ranks=ranks,
        rank=injected.rank if injected else None,
        step=injected.step if injected else None,
        place=injected.place if injected and fault in HANGS else None,
    )
    began = time.monotonic()
    try:
        judged(JobShape(ranks, "gloo"), injected, result)
    except RunbookError as error:
        result.answer = f"not finished: {error}"
    result.run_s = time.monotonic() - began
    return result


def table(results: Sequence[Result]) -> str:
    """The results by fault and seed, as Markdown."""
    rows = [
        "| fault | ranks | on | runs | right | wrong, as certain | look, s | run, s |",
        "|" + " --- |" * 8,
    ]
    for fault, seed in dict.fromkeys((one.fault, one.seed) for one in results):
        these = [one for one in results if (one.fault, one.seed) == (fault, seed)]
        first = these[0]
        on = "none" if first.rank is None else f"rank {first.rank}{f', {first.place}' if first.place else ''}"
        rows.append(f"| {fault} | {first.ranks} | {on} | {_cells(these)} |")
    rows.append(f"| all | | | {_cells(results)} |")
    return "\n".join(rows) + "\n"


def _cells(these: Sequence[Result]) -> str:
    looks = [one.look_s for one in these if one.look_s is not None]
    look = f"{median(looks):.1f}" if looks else ""
    right, wrong = sum(one.right for one in these), sum(one.wrong_certain for one in these)
    return f"{len(these)} | {right} | {wrong} | {look} | {median(one.run_s for one in these):.1f}"


def main() -> int:
    """Run all, print each and the table; 1 if the faults were not found well enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=[*HANGS, "neighbour"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--ranks", type=int, nargs="+", default=[3, 4], help="the seeds take turns with them")
    parser.add_argument("--output", type=Path, default=Path("hang_accuracy"))
    arguments = parser.parse_args()
    began, load = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"), os.getloadavg()[0]
    results: list[Result] = []
    for _ in range(arguments.repeats):
        for fault in arguments.faults:
            for seed in range(arguments.seeds):
                one = run_once(fault, seed, arguments.ranks[seed % len(arguments.ranks)])
                results.append(one)
                hit = "right" if one.right else "NOT RIGHT"
                print(
                    f"{len(results)}: {fault}, seed {seed}: {hit}, {one.run_s:.1f} s: {one.answer}",
                    flush=True,
                )
                arguments.output.with_suffix(".md").write_text(table(results), encoding="utf-8")
                report = Report(conditions=conditions(began, load), runs=tuple(results))
                arguments.output.with_suffix(".json").write_text(
                    report.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8"
                )
    print(table(results))
    right = sum(one.right for one in results)
    return int(any(one.wrong_certain for one in results) or right < WANTED * len(results))


if __name__ == "__main__":
    sys.exit(main())
