"""Will a long prompt fit, what takes the memory, and what is the cheapest change that makes it fit?

The physics: memory at the peak of a prefill is weights + KV cache + the larger of a block's activations and the
logits. Weights do not grow with the prompt; the KV cache, the activations and, where every position keeps them, the
logits grow in proportion to it. Prefilling in chunks leaves weights and KV cache and takes the rest down to the chunk.

    python -m runner.probes.long_context_validation --sequence-lengths 32768 65536
    python -m runner.probes.long_context_validation --budget-share 0.6 --chunk 1024
    python -m runner.probes.long_context_validation --plan --model 70b --board B200 --tensor-parallel-gpus 8 \
        --sequence-lengths 65536 --batch-size 4

For every length: the predicted and the measured peak, the KV cache against its tensors to the byte, and how far the
prompt came. `--budget-gib` (or `--budget-share` of the naive peak at the longest length) is enforced: a length that
does not fit is the symptom, and the sweep goes on. `--plan` predicts alone: no device, no torch.
Exit status: 0 all lengths fit, 1 one does not, 2 bad input, 3 could not measure, 80 not applicable here.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from runner.errors import InputError
from runner.evidence.record import Measurement
from runner.hardware.boards import BOARDS, board_named
from runner.hardware.machine import look
from runner.models import ModelShape, model_shape
from runner.presets import PRESETS
from runner.probes.contract import Findings, Probe, base_parser, measured, preset_of, run_probe, say, single
from runner.sizing import Footprint, Work, board_budget, footprint, kv_cache_bytes
from runner.units import format_value

TINY_LENGTHS = (512, 1024, 2048, 4096)
LONG_LENGTHS = (32768, 65536)
# A share of the device's memory that a sweep leaves free by itself.
_HEADROOM = 0.9


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--sequence-lengths", type=int, nargs="+", metavar="N", help="prompt lengths in tokens"
    )
    parser.add_argument(
        "--model", help="tiny, 8b, 40b, 70b or a model folder (default: the preset's, if it fits)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="sequences at once (default 1)"
    )
    parser.add_argument(
        "--tensor-parallel-gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share the model; above 1 only with --plan",
    )
    parser.add_argument(
        "--logits", choices=("all", "last"), default="all", help="keep logits of all positions, or the last"
    )
    parser.add_argument("--chunk", type=int, metavar="N", help="prefill that many positions at a time")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--budget-gib", type=float, metavar="GIB", help="memory that the run may take; enforced"
    )
    budget.add_argument(
        "--budget-share",
        type=float,
        metavar="X",
        help="the same as a share of the predicted naive peak at the longest length",
    )
    parser.add_argument("--plan", action="store_true", help="predict alone, for --board")
    parser.add_argument(
        "--board", choices=[board.name for board in BOARDS], help="the board that --plan is for"
    )
    return parser


@dataclass(frozen=True)
class _Question:
    """What is asked of every length. `budget` in bytes; None: the device's own end."""

    shape: ModelShape
    lengths: tuple[int, ...]
    work: Work
    budget: int | None

    def at(self, length: int) -> Work:
        return replace(self.work, tokens=length)


def _run(arguments: argparse.Namespace) -> Findings:
    if arguments.plan:
        return _plan(arguments)
    question = _question(arguments)
    rows = _measure(question)
    return _report(arguments, question, rows)


def _plan(arguments: argparse.Namespace) -> Findings:
    board = board_named(arguments.board) if arguments.board else None
    if board is None and arguments.budget_gib is None:
        raise InputError("--plan needs --board or --budget-gib: without either there is nothing to fit into")
    shape = model_shape(arguments.model or preset_of(arguments))
    lengths = tuple(arguments.sequence_lengths or LONG_LENGTHS)
    work = _work(arguments, shape, lengths, element_bytes=2)
    budget = (
        int(arguments.budget_gib * 2**30)
        if arguments.budget_gib is not None
        else board_budget(board)
        if board
        else 0
    )
    question = _Question(shape, lengths, work, budget)
    measurements: list[Measurement] = []
    over = []
    for length in lengths:
        found = footprint(shape, question.at(length))
        measurements.append(single("predicted_memory", found.total, tokens=length))
        measurements.append(single("kv_cache", found.kv_cache, tokens=length))
        say(f"{length} tokens: {_parts(found)}; budget {format_value(budget, 'B')}")
        if found.total > budget:
            over.append(length)
            for name, saved in _remedies(shape, question.at(length)):
                say(f"  {name} saves {format_value(saved, 'B')}")
    return Findings(
        measurements=measurements,
        status="symptom" if over else "ok",
        reason=f"{over[0]} tokens do not fit into {format_value(budget, 'B')}" if over else None,
        requested={"model": shape.name, "board": arguments.board, "plan": True},
        effective={"model": shape.name, "board": board.name if board else None, "plan": True},
        details={"remedies": {str(n): dict(_remedies(shape, question.at(n))) for n in over}},
    )


def _remedies(shape: ModelShape, work: Work) -> list[tuple[str, int]]:
    """Changes that lower the peak, the largest saving first, in bytes."""
    now = footprint(shape, work).total
    changes = {
        "last-token logits": replace(work, all_logits=False),
        "chunked prefill (2048)": replace(work, chunk=2048, all_logits=False),
        "FP8 KV cache": replace(work, kv_bytes=1),
    }
    if work.batch > 1:
        changes["half the batch"] = replace(work, batch=work.batch // 2)
    if shape.heads % (2 * work.tensor_parallel) == 0:
        changes["twice the tensor parallelism"] = replace(work, tensor_parallel=2 * work.tensor_parallel)
    saved = [(name, now - footprint(shape, change).total) for name, change in changes.items()]
    return sorted([one for one in saved if one[1] > 0], key=lambda one: -one[1])


def _parts(found: Footprint) -> str:
    parts = {
        "weights": found.weights,
        "KV cache": found.kv_cache,
        "activations": found.activations,
        "logits": found.logits,
    }
    said = ", ".join(f"{name} {format_value(value, 'B')}" for name, value in parts.items())
    return f"{format_value(found.total, 'B')} predicted ({said})"


def _work(
    arguments: argparse.Namespace, shape: ModelShape, lengths: Sequence[int], element_bytes: int
) -> Work:
    for name, value in (
        ("--batch-size", arguments.batch_size),
        ("--tensor-parallel-gpus", arguments.tensor_parallel_gpus),
    ):
        if value < 1:
            raise InputError(f"{name} {value}: give a whole number of 1 or more")
    if arguments.chunk is not None and arguments.chunk < 1:
        raise InputError(f"--chunk {arguments.chunk}: give a whole number of 1 or more")
    for length in lengths:
        if not 1 <= length <= shape.max_positions:
            raise InputError(
                f"--sequence-lengths {length}: {shape.name} takes 1 to {shape.max_positions} tokens"
            )
    if shape.heads % arguments.tensor_parallel_gpus:
        raise InputError(
            f"--tensor-parallel-gpus {arguments.tensor_parallel_gpus} does not divide {shape.heads} heads"
        )
    return Work(
        tokens=max(lengths),
        batch=arguments.batch_size,
        weight_bytes=element_bytes,
        kv_bytes=element_bytes,
        all_logits=arguments.logits == "all",
        chunk=arguments.chunk,
        tensor_parallel=arguments.tensor_parallel_gpus,
    )


def _question(arguments: argparse.Namespace) -> _Question:
    machine = look()
    gpus = len(machine.gpus)
    if arguments.tensor_parallel_gpus > 1:
        raise InputError(
            f"--tensor-parallel-gpus {arguments.tensor_parallel_gpus}: a sweep measures one device"
            f" (this host has {gpus} GPUs); use --plan --board to predict more"
        )
    memory = machine.gpus[0].memory_bytes if gpus else psutil.virtual_memory().available
    # A CPU host computes in fp32: half precision there is emulated and slow.
    element_bytes = 2 if gpus else 4
    shape = _shape(arguments, memory, element_bytes)
    lengths = tuple(arguments.sequence_lengths or (LONG_LENGTHS if gpus else TINY_LENGTHS))
    work = _work(arguments, shape, lengths, element_bytes)
    naive = replace(work, tokens=max(lengths), all_logits=True, chunk=None)
    budget = None
    if arguments.budget_gib is not None:
        budget = int(arguments.budget_gib * 2**30)
    elif arguments.budget_share is not None:
        budget = int(arguments.budget_share * footprint(shape, naive).total)
    question = _Question(shape, lengths, work, budget)
    weights = footprint(shape, work).weights
    if budget is not None and budget < weights:
        raise InputError(
            f"the budget of {format_value(budget, 'B')} is below the weights of {shape.name},"
            f" {format_value(weights, 'B')}; give more, or a smaller --model"
        )
    return question


def _shape(arguments: argparse.Namespace, memory: int, element_bytes: int) -> ModelShape:
    """The model asked for, or the largest up to the preset's whose weights take at most half of the memory."""
    if arguments.model:
        return model_shape(arguments.model)
    preset = preset_of(arguments)
    for name in reversed(PRESETS[: PRESETS.index(preset) + 1]):
        shape = model_shape(name)
        if shape.parameters * element_bytes <= memory * _HEADROOM / 2:
            return shape
    raise InputError(f"not even the tiny model fits into {format_value(memory, 'B')} of free memory")


@dataclass(frozen=True)
class _Row:
    """One length, measured. `peak` in bytes up to where it came; `done` is the share of the prompt that was read."""

    tokens: int
    peak: int
    kv: int
    seconds: float
    done: float
    over: str | None


def _measure(question: _Question) -> list[_Row]:
    from runner.probes.prefill import Prefill

    prefill = Prefill(question.shape, question.work, question.budget)
    say(f"{question.shape.name}, {question.shape.parameters / 1e9:.3g}B parameters, on {prefill.device}")
    rows = []
    for length in question.lengths:
        reached = prefill.run(length)
        row = _Row(length, reached.peak, reached.kv, reached.seconds, reached.done, reached.over)
        said = f"stopped at {row.done:.0%}: {row.over}" if row.over else "fits"
        predicted = _parts(footprint(question.shape, question.at(length)))
        say(f"{length} tokens: peak {format_value(row.peak, 'B')}, {predicted}; {said}")
        rows.append(row)
    return rows


def _report(arguments: argparse.Namespace, question: _Question, rows: Sequence[_Row]) -> Findings:
    measurements: list[Measurement] = []
    for row in rows:
        work = question.at(row.tokens)
        predicted = footprint(question.shape, work).total
        measurements += [
            single("predicted_memory", predicted, tokens=row.tokens),
            single("peak_memory", row.peak, tokens=row.tokens),
            single("prompt_done", row.done, tokens=row.tokens),
        ]
        if row.over is None:
            measurements += [
                single("prediction_ratio", predicted / row.peak, tokens=row.tokens),
                single("kv_cache", row.kv, tokens=row.tokens),
                single(
                    "kv_cache_difference", row.kv - kv_cache_bytes(question.shape, work), tokens=row.tokens
                ),
                measured("prefill_time", [row.seconds], tokens=row.tokens),
            ]
    fitting = [row.tokens for row in rows if row.over is None]
    over = [row for row in rows if row.over is not None]
    measurements.append(single("longest_fitting", max(fitting, default=0)))
    if over:
        measurements.append(single("smallest_prompt_done", min(row.done for row in over)))
    elif question.budget is not None:
        measurements.append(single("memory_headroom", question.budget - max(row.peak for row in rows)))
    return Findings(
        measurements=measurements,
        status="symptom" if over else "ok",
        reason=_ran_out(over[0]) if over else None,
        requested={"model": arguments.model, "logits": arguments.logits, "chunk": arguments.chunk},
        effective={"model": question.shape.name, "logits": arguments.logits, "chunk": arguments.chunk},
        details={
            "budget_bytes": question.budget,
            "parts": {str(n): _as_json(footprint(question.shape, question.at(n))) for n in question.lengths},
        },
    )


def _ran_out(row: _Row) -> str:
    return f"{row.tokens} tokens ran out of memory at {row.done:.0%} of the prompt: {row.over}"


def _as_json(found: Footprint) -> dict[str, int]:
    return {
        "weights": found.weights,
        "kv_cache": found.kv_cache,
        "activations": found.activations,
        "logits": found.logits,
    }


PROBE = Probe("long_context_validation", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
