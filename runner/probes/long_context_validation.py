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
import sys
from pathlib import Path

from runner.kit.long_context.metrics import METRICS
from runner.kit.options import BATCH_SIZE, add_choices, add_counts, add_flags, add_model, add_numbers
from runner.kit.probe import Findings, Probe, base_parser


def _parser() -> argparse.ArgumentParser:
    from runner.hardware.boards import BOARDS

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
    from runner.kit.long_context.validation import memory_findings

    return memory_findings(arguments)


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
