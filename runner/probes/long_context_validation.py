"""Will a long prompt fit, what takes the memory, and what is the cheapest change that makes it fit?

The physics: memory at the peak of a prefill is weights + KV cache + the larger of a block's activations and the
logits. Weights do not grow with the prompt; the KV cache, the activations and, where every position keeps them, the
logits grow in proportion to it; the scores of eager attention grow with its square. A training step holds gradients and
optimizer state beside the weights, no cache, and what the backward needs of every block.

    python -m runner.probes.long_context_validation --sequence-lengths 32768 65536 --tensor-parallel-gpus 8
    python -m runner.probes.long_context_validation --budget-share 0.6 --chunk 1024 --find-limit
    python -m runner.probes.long_context_validation --mode training --activation-checkpointing selective
    python -m runner.probes.long_context_validation --plan --model 70b --board B200 --tensor-parallel-gpus 8 \
        --sequence-lengths 65536 --batch-size 4

For every length: the predicted and the measured peak (of each rank, where there are several), the KV cache against its
tensors to the byte, and how far the work came. `--budget-gib` (or `--budget-share` of the naive peak at the longest
length) is enforced: a length that does not fit is the symptom, with what held the memory, and the sweep goes on.
`--find-limit` fits the growth, predicts the longest prompt and verifies it; `--compare-remedies` measures what each
remedy saves and costs. `--plan` predicts alone: no device, no torch.
Exit status: 0 all lengths fit, 1 one does not, 2 bad input, 3 could not measure, 80 not applicable here.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runner.hardware.machine import look
from runner.probes.budget import budget
from runner.probes.contract import Findings, Probe, base_parser, run_probe, say
from runner.probes.long_context.bench import Bench, Runs
from runner.probes.long_context.planning import plan
from runner.probes.long_context.question import Question, planned, swept
from runner.probes.long_context.report import report
from runner.probes.long_context.sweep import sweep
from runner.probes.long_context.worker import ranks
from runner.probes.ranks import ended_by_sigterm

_RANKS_DEADLINE_S = 3000.0
# On a CPU a comparison shows what each remedy saves; more rounds than fit into this only narrow its time ratio.
_ROUNDS_ON_CPU_S = 15.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    _add_work(parser)
    _add_budget(parser)
    parser.add_argument(
        "--find-limit",
        action="store_true",
        help="predict the longest prompt that fits the budget, and verify it by a run there and one beyond",
    )
    parser.add_argument(
        "--compare-remedies",
        type=int,
        nargs="?",
        const=5,
        default=0,
        metavar="ROUNDS",
        help="at the longest length that fits: what each remedy saves, and costs in time (default 5 rounds; fewer where"
        " the time ends)",
    )
    parser.add_argument(
        "--apply-first-remedy",
        action="store_true",
        help="where the plan says that it does not fit, make the first change of its list that makes it fit",
    )
    parser.add_argument(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="where a GPU's allocator writes what it held when it ran out",
    )
    parser.add_argument("--plan", action="store_true", help="predict alone, for --board or within the budget")
    parser.add_argument("--board", metavar="NAME", help="the board that --plan is for: B200, H200, H100")
    return parser


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sequence-lengths", type=int, nargs="+", metavar="N", help="prompt lengths in tokens")
    add("--model", help="tiny, 8b, 40b, 70b or a model folder (default: the preset's, if it fits)")
    add(
        "--mode", choices=("inference", "training"), default="inference", help="a prefill, or a training step"
    )
    add("--batch-size", type=int, default=1, metavar="N", help="sequences at once (default 1)")
    add(
        "--tensor-parallel-gpus",
        type=int,
        default=1,
        metavar="N",
        help="devices that share the model, under torchrun; processes on a host without a GPU",
    )
    add("--logits", choices=("all", "last"), default="all", help="keep logits of all positions, or the last")
    add("--chunk", type=int, metavar="N", help="prefill that many positions at a time")
    add(
        "--kv-dtype",
        choices=("auto", "fp8", "bf16", "fp32"),
        default="auto",
        help="type of the KV cache (default: of the weights)",
    )
    add(
        "--attention",
        choices=("sdpa", "eager"),
        default="sdpa",
        help="fused, or with all scores in memory (default sdpa)",
    )
    add(
        "--activation-checkpointing",
        choices=("none", "full", "selective"),
        default="none",
        help="what a block keeps for the backward (default none: keep all)",
    )
    add(
        "--optimizer",
        choices=("adamw", "sgd"),
        help="of a training step (default adamw: two states a weight)",
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--budget-gib",
        type=float,
        metavar="GIB",
        help="memory of each device that the run may take; enforced",
    )
    budget.add_argument(
        "--budget-share",
        type=float,
        metavar="X",
        help="the same as a share of the predicted naive peak at the longest length",
    )


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.plan:
        question = planned(arguments, look)
        assert question.budget is not None
        return plan(question, question.budget)
    question = swept(arguments, look)
    within = budget(math.inf if question.gpu else _ROUNDS_ON_CPU_S)
    if question.remedy is not None:
        say(f"the plan's first remedy: {question.remedy.name} ({question.remedy.flags})")
    if arguments.snapshot is not None and not question.gpu:
        say(
            "--snapshot: no GPU here whose allocator could write one; what held the memory is in the document"
        )
    say(f"{question.model}, {question.shape.parameters / 1e9:.3g}B parameters, {arguments.mode}")
    with _runs(question, arguments.snapshot) as runs:
        found = sweep(
            question,
            runs,
            within,
            find_limit=arguments.find_limit,
            compare_rounds=arguments.compare_remedies,
        )
    return report(question, found, _asked(arguments, question))


def _asked(arguments: argparse.Namespace, question: Question) -> dict[str, object]:
    names = ("mode", "batch_size", "logits", "chunk", "kv_dtype", "attention", "activation_checkpointing")
    flags = {
        name: getattr(arguments, name) for name in (*names, "tensor_parallel_gpus", "apply_first_remedy")
    }
    return {"model": question.model if arguments.model else None, **flags}


@contextmanager
def _runs(question: Question, snapshot: Path | None) -> Iterator[Runs]:
    if question.ranks == 1:
        yield Bench(question.shape, question.work, question.budget, gpu=question.gpu, snapshot=snapshot)
        return
    with (
        ended_by_sigterm(),
        ranks(question, snapshot, os.environ, time.monotonic() + _RANKS_DEADLINE_S) as running,
    ):
        yield running


PROBE = Probe("long_context_validation", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
