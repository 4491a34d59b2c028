"""The training process of `--topic data`: `python -m runner.kit.steps.data.worker PLAN`, PLAN in JSON.

It pins itself, calibrates the step, then the cost of a sample to the step, enters a control group, and trains with the
meter. Its last line is JSON: `told`, the meter's line; `report`, its fields; `seconds`, of a step by number of workers;
`threads`, of torch under the fault; `threads_before`, of torch in a process without it; `cores`, that it may use;
`counted`, of Python; `device`. Exit status 80: the fault cannot be had here, with the reason. With `burn` in the plan
it multiplies matrices on all cores until it is ended.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.guards.step_meter import FEWEST_STEPS, StepMeter, StepMeterReport
from runner.kit.children import die_with_parent

REFUSED = 80
_STEP_S = 0.03
# Time of a core, or of waiting, that the samples of a batch take, in steps. A core for the step and one for the loader
# are enough for less than 1; on one core they are not.
_HEALTHY, _SHARED, _SLOW = 0.1, 0.8, 3.0
# Threads beyond these do not make the small step faster.
_MOST_THREADS = 8
_MATRIX = 512
_COUNT_THREADS = "import torch; print(torch.get_num_threads())"
_COUNT_THREADS_IN = f"import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); {_COUNT_THREADS}"


@dataclass(frozen=True)
class DataPlan:
    """What the process does: the fault, steps and the seconds after which they end, its parent, the group to enter."""

    fault: str
    steps: int
    seed: int
    parent: int
    seconds: float = 60.0
    group: str | None = None
    burn: bool = False


def main() -> int:
    """Train, and say what the meter said."""
    plan = DataPlan(**json.loads(sys.argv[1]))
    if not die_with_parent(plan.parent):
        return 1
    if plan.burn:
        _burn()
    allowed = sorted(os.sched_getaffinity(0))
    if plan.fault in {"affinity", "late-affinity", "threads"} and len(allowed) == 1:
        print("this process has one core only, so the fault would change nothing", flush=True)
        return REFUSED
    before: int | None = None
    if plan.fault == "affinity":
        before = _threads_of_a_process(_COUNT_THREADS)
        os.sched_setaffinity(0, allowed[:1])
    if plan.fault == "slow-dataset":
        # Where cores are left, more loaders would be the answer.
        os.sched_setaffinity(0, allowed[:2])
    import torch

    threads = torch.get_num_threads()
    before = before or threads
    torch.ones(1 << 20).sum()
    if plan.group is not None:
        threads = _threads_of_a_process(_COUNT_THREADS_IN, f"{plan.group}/cgroup.procs")
    if plan.fault == "late-affinity":
        os.sched_setaffinity(0, allowed[:1])
        threads = torch.get_num_threads()
    elif plan.fault != "threads":
        torch.set_num_threads(max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) - 1)))
    print(json.dumps(_trained(plan) | {"threads": threads, "threads_before": before}), flush=True)
    return 0


def _threads_of_a_process(*words: str) -> int:
    """Threads with which torch begins in a new process."""
    done = subprocess.run([sys.executable, "-c", *words], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def _trained(plan: DataPlan) -> dict[str, Any]:
    from runner.kit.steps.data.samples import CostlySamples, additions_for, loader_of
    from runner.kit.steps.training import SmallTraining

    training = SmallTraining(plan.seed)
    step_s = training.calibrate(_STEP_S)
    each = step_s / training.sequences
    additions, sleep_s = additions_for(each * _cost(plan.fault)), 0.0
    if plan.fault == "few-workers":
        additions, sleep_s = 0, each * _SLOW
    samples = CostlySamples(training.shape.vocab, additions, sleep_s)
    if plan.group is not None:
        (Path(plan.group) / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    seconds: dict[int, list[float]] = {}
    reports: list[StepMeterReport] = []
    for workers in (1, 2, 2, 1) if plan.fault == "affinity" else (1,):
        meter = StepMeter()
        with contextlib.closing(
            meter.batches(loader_of(samples, training.sequences, workers))  # type: ignore[type-var]
        ) as batches:
            # The first batch is not counted, so one more is needed.
            began = time.monotonic()
            for number, tokens in enumerate(batches):
                late = number > FEWEST_STEPS and time.monotonic() - began > plan.seconds
                if number == plan.steps or late:
                    break
                training.learn(tokens.to(training.device))
            reports.append(meter.report())
        seconds.setdefault(workers, []).append(reports[-1].seconds / reports[-1].steps)
    return {
        "told": str(reports[0]),
        "report": asdict(reports[0]),
        "seconds": seconds,
        "cores": len(os.sched_getaffinity(0)),
        "counted": os.cpu_count(),
        "device": training.device,
    }


def _cost(fault: str) -> float:
    return {"slow-dataset": _SLOW, "affinity": _SHARED, "late-affinity": _SHARED}.get(fault, _HEALTHY)


def _burn() -> None:
    import torch

    matrix = torch.rand(_MATRIX, _MATRIX)
    while True:
        matrix = torch.nn.functional.normalize(matrix @ matrix)


if __name__ == "__main__":
    sys.exit(main())
