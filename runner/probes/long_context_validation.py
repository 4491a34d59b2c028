"""Check whether a long prompt fits, what uses the memory, and the cheapest change that makes it fit.

Physics. Peak memory of a prefill is weights + KV cache + the larger of a block's activations and the logits. Weights do
not depend on the prompt. The KV cache, the activations and, if kept for every position, the logits grow linearly with
its length; the scores of eager attention grow quadratically. A training step holds weights, gradients, optimizer state
and the tensors that the backward needs of every block, but no cache.

    python -m runner.probes.long_context_validation --sequence-lengths 32768 65536 --tensor-parallel-gpus 8
    python -m runner.probes.long_context_validation --budget-share 0.6 --chunk 1024 --find-limit
    python -m runner.probes.long_context_validation --mode training --activation-checkpointing selective
    python -m runner.probes.long_context_validation --plan --model 70b --board B200 --tensor-parallel-gpus 8 \
        --sequence-lengths 65536 --batch-size 4

Output for every length: the predicted and the measured peak (of each rank, if there are several), the KV cache by
formula and by its tensors, to the byte, and the share of the work done. `--budget-gib` (or `--budget-share` of the
predicted peak at the longest length) is enforced: a length that does not fit is the symptom, reported with what held
the memory, and the sweep continues. `--find-limit` fits the growth, predicts the longest prompt and verifies it;
`--compare-remedies` measures the saving and the cost of each remedy. `--plan` only predicts: no device, no torch.
Exit status: 0 all lengths fit, 1 one does not, 2 bad input, 3 measurement failed, 80 not applicable.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.base.units import format_value
from runner.hardware.boards import BOARDS
from runner.hardware.machine import look_visible as look
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.long_context.allocator import expand_segments
from runner.kit.long_context.bench import MemoryBench, Runs
from runner.kit.long_context.metrics import METRICS
from runner.kit.long_context.planning import plan
from runner.kit.long_context.question import Question, planned, swept
from runner.kit.long_context.report import sweep_findings
from runner.kit.long_context.sweep import sweep
from runner.kit.long_context.worker import ranks
from runner.kit.options import BATCH_SIZE, add_choices, add_counts, add_flags, add_model, add_numbers
from runner.kit.probe import Findings, Probe, base_parser, say

_RANKS_DEADLINE_S = 3000.0
# A comparison shows the saving of each remedy; more rounds than end within this time from the start of the probe only
# narrow its time ratio. On a GPU, importing torch and building the model are part of it.
_ROUNDS_ON_CPU_S, _ROUNDS_ON_GPU_S = 15.0, 45.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    _add_work(parser)
    _add_budget(parser)
    find = "predict the longest prompt that fits the budget, and verify it with runs at and above that length"
    add_flags(parser, {"--find-limit": find})
    parser.add_argument(
        "--compare-remedies",
        type=int,
        nargs="?",
        const=5,
        default=0,
        metavar="ROUNDS",
        help="at the longest length that fits, measure the memory saved and the time cost of each remedy (default 5"
        " rounds; fewer if time is short)",
    )
    apply = "if the plan predicts that it does not fit, apply the first remedy that makes it fit"
    add_flags(parser, {"--apply-first-remedy": apply})
    parser.add_argument(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="file for the GPU allocator's memory snapshot when it runs out of memory",
    )
    add_flags(parser, {"--plan": "only predict, for --board or a budget"})
    names = ", ".join(board.name for board in BOARDS)
    parser.add_argument("--board", metavar="NAME", help=f"board for --plan: {names}")
    return parser


def _add_work(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sequence-lengths",
        type=int,
        nargs="+",
        metavar="N",
        help="prompt lengths in tokens (default: by device)",
    )
    add_model(parser, "the preset's, if it fits")
    modes = ("inference", "training")
    add_choices(parser, {"--mode": (modes, "inference", "a prefill (default), or a training step")})
    ranks = "devices to split the model over with torchrun; processes on a host without a GPU"
    add_counts(parser, {**BATCH_SIZE, "--tensor-parallel-gpus": (1, ranks)})
    add_choices(parser, {"--logits": (("all", "last"), "all", "logits to keep (default all)")})
    add_counts(parser, {"--chunk": "prefill in chunks of N positions (default: one chunk)"})
    kv_types = ("auto", "fp8", "bf16", "fp32")
    kernels = "attention kernel: sdpa is fused (default); eager holds all scores in memory"
    kept = "activation checkpointing of each block (default none: keep all activations)"
    states = "optimizer of a training step (default adamw: two states per weight)"
    add_choices(
        parser,
        {
            "--kv-dtype": (kv_types, "auto", "type of the KV cache (default: that of the weights)"),
            "--attention": (("sdpa", "eager"), "sdpa", kernels),
            "--activation-checkpointing": (("none", "full", "selective"), "none", kept),
            "--optimizer": (("adamw", "sgd"), None, states),
        },
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    one_of = parser.add_mutually_exclusive_group()
    enforced = "memory in GiB that the run may use on each device; enforced"
    share = "the same, as a share of the predicted peak at the longest length without remedies"
    add_numbers(one_of, "GIB", {"--budget-gib": enforced})
    add_numbers(one_of, "X", {"--budget-share": share})


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.plan:
        question = planned(arguments, look)
        assert question.budget is not None
        _say_budget(question)
        return plan(question, question.budget)
    question = swept(arguments, look)
    within = budget(_ROUNDS_ON_GPU_S if question.gpu else _ROUNDS_ON_CPU_S)
    _say_budget(question)
    if question.remedy is not None:
        say(f"the plan's first remedy: {question.remedy.name} ({question.remedy.flags})")
    if arguments.snapshot is not None and not question.gpu:
        say("--snapshot needs a GPU; the document lists what held the memory")
    say(f"{question.model}, {question.shape.parameters / 1e9:.3g}B parameters, {arguments.mode}")
    if question.gpu:
        # Also for the ranks: they get this environment.
        expand_segments(os.environ)
    with _runs(question, arguments.snapshot) as runs:
        found = sweep(
            question, runs, within, find_limit=arguments.find_limit, compare_rounds=arguments.compare_remedies
        )
        return sweep_findings(question, found, _asked(arguments, question), runs.allocator)


def _say_budget(question: Question) -> None:
    if question.beyond_device is not None:
        asked = format_value(question.beyond_device, "B")
        say(f"the budget of {asked} is above the GPU's memory; {format_value(question.budget, 'B')} are used")


def _asked(arguments: argparse.Namespace, question: Question) -> dict[str, object]:
    names = ("mode", "batch_size", "logits", "chunk", "kv_dtype", "attention", "activation_checkpointing")
    flags = {
        name: getattr(arguments, name) for name in (*names, "tensor_parallel_gpus", "apply_first_remedy")
    }
    return {"model": question.model if arguments.model else None, **flags}


@contextmanager
def _runs(question: Question, snapshot: Path | None) -> Iterator[Runs]:
    if question.ranks == 1:
        yield MemoryBench(question.shape, question.work, question.budget, gpu=question.gpu, snapshot=snapshot)
        return
    with (
        ended_by_sigterm(),
        ranks(question, snapshot, os.environ, time.monotonic() + _RANKS_DEADLINE_S) as running,
    ):
        yield running


PROBE = Probe(
    "long_context_validation",
    method_version=2,
    summary="Peak memory of long prompts and training steps, predicted and measured, within a budget",
    metrics=METRICS,
    labels=("tokens", "rank", "part", "by", "run", "remedy"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
