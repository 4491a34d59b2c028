"""One process, a small real training step, one injected fault, and what finds it.

The step is that of a Llama of four layers with random weights, trained by AdamW on random tokens. Each topic injects
faults of its own kind and looks for them as its guard (`runner.guards`) does in a job: --topic chooses it, --fault the
fault, and `none` runs the same steps without one, where a finding is a false alarm. --cost measures what the guard of
the topic costs: the step with it and without it, interleaved.

Output: by topic; with --cost guard_cost (ratio) and bare_step_time (s). Symptom: the fault was found. With `none`:
something was found in healthy steps. With --cost: the guard costs more than its bound.

Example:
    python -m runner.probes.step_drill --topic TOPIC --fault none --steps 1000
    python -m runner.probes.step_drill --topic TOPIC --cost
"""

import argparse
import sys
from dataclasses import replace

from runner.base.errors import InputError
from runner.kit.options import add_counts, add_flags, require_positive
from runner.kit.probe import Findings, Probe, base_parser
from runner.kit.steps.corruption.declared import CORRUPTION
from runner.kit.steps.data.declared import DATA
from runner.kit.steps.nonfinite.declared import NONFINITE
from runner.kit.steps.recompiles.declared import RECOMPILES
from runner.kit.steps.topic import Topic
from runner.vocabulary.model import Compiles, Metric
from runner.vocabulary.sources import DRILL

TOPICS: tuple[Topic, ...] = (NONFINITE, DATA, RECOMPILES, CORRUPTION)

_COST = (
    Metric(
        "guard_cost",
        "1",
        "lower",
        "Time of a training step with the guard ÷ without it; geometric mean of blocks of interleaved steps",
        statistics=("geometric mean",),
        label="Cost of the guard",
    ),
    Metric("bare_step_time", "s", None, "Seconds of the training step without the guard", label="Step time"),
)


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    names = [topic.name for topic in TOPICS]
    parser.add_argument("--topic", choices=names, required=True, help="the kind of fault")
    faults = ["none", *(fault for topic in TOPICS for fault in topic.faults)]
    parser.add_argument("--fault", choices=faults, default="none", help="the fault to inject (default none)")
    add_counts(
        parser,
        {
            "--steps": (20, "steps to run"),
            "--seed": (0, "of weights, tokens and of the place of the fault"),
            "--repeat": (1, "drills, with this seed and those that follow"),
        },
    )
    add_flags(parser, {"--cost": "measure what the guard costs, in place of a drill"})
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    topic = next(one for one in TOPICS if one.name == arguments.topic)
    require_positive(arguments, "--steps", "--repeat")
    if arguments.fault not in ("none", *topic.faults):
        raise InputError(
            f"--fault {arguments.fault} is not of --topic {topic.name}; it has none, {', '.join(topic.faults)}"
        )
    if arguments.cost:
        if topic.most_cost is None:
            raise InputError(f"--topic {topic.name} has no guard whose cost could be measured")
        from runner.kit.steps.cost import guard_cost

        return guard_cost(topic, arguments.seed)
    found = topic.drill(arguments)
    # A topic that judges this node names its own source.
    return replace(found, effective={"source": DRILL, **found.effective})


PROBE = Probe(
    "step_drill",
    method_version=1,
    summary="Whether an injected fault of a training step is found, and what its guard costs",
    metrics=(*_COST, *(metric for topic in TOPICS for metric in topic.metrics)),
    labels=tuple(dict.fromkeys(("guard", *(label for topic in TOPICS for label in topic.labels)))),
    compiles=Compiles(
        unless=(), only_with=tuple(f"--fault={fault}" for topic in TOPICS for fault in topic.compile)
    ),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
