"""What `step_drill --topic data` does: a training process with a fault, and what its meter says."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.base.placed import read_placed
from runner.base.plain import one_line
from runner.guards.step_meter import FEWEST_STEPS
from runner.kit.budget import Budget, budget
from runner.kit.children import Child, ended_by_sigterm, without_launch
from runner.kit.probe import Findings, NotApplicableError, measured, require_torch, say, single
from runner.kit.steps.data.quota import quota_group
from runner.kit.steps.data.worker import REFUSED, DataPlan
from runner.record.model import Measurement

LIMITS: Mapping[str, str] = {
    "none": "none",
    "slow-dataset": "dataset",
    "few-workers": "workers",
    "affinity": "affinity",
    "late-affinity": "affinity",
    "threads": "threads",
    "quota": "quota",
    "wide-quota": "none",
}
"""The limit that the meter should name, by fault. A wide quota gives more cores than there are, and is none."""

_QUOTA_CORES = 0.5
# A training process may be asked for four loaders, and the calibration takes time too.
_PHASES = 6
_DEFAULT_S = 480.0
_MOST_OUTPUT = 1 << 20
# Other work on the host: true where the meter says it, and nothing about the loop.
_OTHERS, _TRIES = "neighbours", 3
_NOT_OF_THE_LOOP = frozenset({"none", "unknown", _OTHERS})
# Below it go names of sockets, which have 107 characters at most.
_LONGEST_FOLDER = 60
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
"""They decide how many threads torch begins with, which is measured: the training process has none of them."""


def run(arguments: argparse.Namespace) -> Findings:
    """Train with the fault, `--repeat` times. The symptom: the meter names a limit.

    Raises:
        InputError: fewer steps than the meter needs.
        NotApplicableError: this host cannot have the fault.
        RunbookError: the training process failed, or did not end.
    """
    if arguments.steps < FEWEST_STEPS:
        raise InputError(
            f"--steps must be at least {FEWEST_STEPS}, not {arguments.steps}: the meter compares parts"
        )
    require_torch()
    within, fault = budget(_DEFAULT_S), arguments.fault
    answers = []
    with ended_by_sigterm():
        for turn in range(arguments.repeat):
            answers.append(_undisturbed(fault, arguments.steps, arguments.seed + turn, within))
            say(answers[-1]["told"])
    found = [answer["report"]["limit"] for answer in answers]
    named = [one for one in found if one not in _NOT_OF_THE_LOOP]
    labels = {"fault": fault, "device": answers[0]["device"]}
    return Findings(
        measurements=_measurements(fault, answers, found, labels),
        status="symptom" if named else "ok",
        reason=answers[found.index(named[0])]["told"] if named else None,
        requested={"topic": "data", "fault": fault, "steps": arguments.steps, "seed": arguments.seed},
        effective={"device": answers[0]["device"], "cores": answers[0]["cores"]},
        details={"reports": [answer["report"] for answer in answers]},
    )


def _measurements(
    fault: str, answers: Sequence[Mapping[str, Any]], found: Sequence[str], labels: Mapping[str, Any]
) -> list[Measurement]:
    right = sum(one == LIMITS[fault] for one in found)
    wrong = sum(one not in {LIMITS[fault], *_NOT_OF_THE_LOOP} for one in found)
    waits = [answer["report"]["wait_share"] for answer in answers]
    shares = [answer["report"]["throttled_share"] for answer in answers]
    cores = _QUOTA_CORES if fault == "quota" else answers[0]["cores"]
    made = [
        measured("data_wait_share", waits, **labels)
        if len(waits) > 1
        else single("data_wait_share", waits[0], **labels),
        single("limit_named", right, **labels),
        single("limit_misnamed", wrong, **labels),
    ]
    # Where it is one without the fault too, a count of one says nothing about what was asked.
    if answers[0]["threads_before"] > 1:
        made.append(single("threads_over_cores", answers[0]["threads"] / cores, **labels))
    if answers[0]["counted"] > 1:
        made.append(single("counted_over_cores", answers[0]["counted"] / cores, **labels))
    known = [share for share in shares if share is not None]
    if known:
        made.append(single("throttled_periods", max(known), **labels))
    if fault == "affinity":
        ratios = [sum(answer["seconds"]["2"]) / sum(answer["seconds"]["1"]) for answer in answers]
        made.append(measured("more_workers_ratio", ratios, **labels))
    return made


def _undisturbed(fault: str, steps: int, seed: int, within: Budget) -> dict[str, Any]:
    """The first drill in which nothing else took the cores, or the last that fits into the time."""
    for _ in range(_TRIES):
        began = within.left
        answer = _drilled(fault, steps, seed, within)
        if answer["report"]["limit"] != _OTHERS or not within.has(began - within.left):
            break
    return answer


def _drilled(fault: str, steps: int, seed: int, within: Budget) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runbook-data-")))
        group = str(stack.enter_context(quota_group(_quota(fault)))) if "quota" in fault else None
        plan = DataPlan(fault, steps, seed, os.getpid(), within.left / _PHASES, group)
        environment = _environment()
        if len(str(folder)) <= _LONGEST_FOLDER:
            # A worker that is killed leaves its folder of sockets.
            environment |= {"TMPDIR": str(folder)}
        if fault == "threads":
            # On a GPU the step would need no threads. Another rank has as many as there are cores, too.
            environment |= {"LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
            stack.enter_context(_process(replace(plan, burn=True), environment, folder / "other"))
        child = stack.enter_context(_process(plan, environment, folder / "output"))
        if not child.wait(within.left):
            raise RunbookError(
                "the training process did not end in time; give the step more, or fewer --steps"
            )
        return _answer(child.status, read_placed(folder / "output", _MOST_OUTPUT).decode(errors="replace"))


def _quota(fault: str) -> float:
    return _QUOTA_CORES if fault == "quota" else 1.0 + (os.cpu_count() or 1)


def _environment() -> dict[str, str]:
    kept = without_launch(os.environ)
    return {name: value for name, value in kept.items() if name not in THREAD_VARIABLES}


@contextlib.contextmanager
def _process(plan: DataPlan, environment: Mapping[str, str], output: Path) -> Iterator[Child]:
    words = [sys.executable, "-m", "runner.kit.steps.data.worker", json.dumps(asdict(plan))]
    with Child(words, environment, output, grace_s=0.0) as child:
        yield child


def _answer(status: int | None, text: str) -> dict[str, Any]:
    lines = [one for one in text.splitlines() if one.strip()]
    last = lines[-1] if lines else ""
    if status == REFUSED:
        raise NotApplicableError(one_line(last))
    if status != 0:
        raise RunbookError(f"the training process ended with status {status}: {one_line(last)[:300]}")
    answer: dict[str, Any] = json.loads(last)
    return answer
