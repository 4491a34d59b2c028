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
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from runner.errors import InputError
from runner.evidence.record import Measurement
from runner.hardware.boards import BOARDS, board_named
from runner.hardware.machine import look
from runner.models import ModelShape, model_shape
from runner.presets import PRESETS
from runner.probes.contract import (
    Findings,
    NotApplicableError,
    Probe,
    base_parser,
    measured,
    preset_of,
    run_probe,
    say,
    single,
)
from runner.probes.prefill import Prefill, Reached
from runner.sizing import Footprint, Work, board_budget, footprint, kv_cache_bytes, largest_batch
from runner.units import format_value

TINY_LENGTHS = (512, 1024, 2048, 4096)
LONG_LENGTHS = (32768, 65536)
# The share of a device's free memory that a sweep may take.
_USABLE = 0.9
_PLANNED_CHUNK = 2048


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
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="read every prompt once more with activation checkpointing, and compare the peaks",
    )
    parser.add_argument("--plan", action="store_true", help="predict alone, for --board")
    parser.add_argument(
        "--board", choices=[board.name for board in BOARDS], help="the board that --plan is for"
    )
    return parser


@dataclass(frozen=True)
class _Question:
    """What is asked of every length, and on what. `budget` in bytes; None: the device's own end."""

    shape: ModelShape
    lengths: tuple[int, ...]
    work: Work
    budget: int | None
    gpu: bool = False

    @property
    def model(self) -> str:
        """The model's name for a record: of a folder, no more than its last part."""
        return Path(self.shape.name).name

    def at(self, length: int) -> Work:
        return replace(self.work, tokens=length)


def _run(arguments: argparse.Namespace) -> Findings:
    _check_budget(arguments)
    if arguments.plan:
        return _plan(arguments)
    if arguments.board:
        raise InputError("--board is for --plan: a sweep measures the machine that it runs on")
    question = _question(arguments)
    rows = _measure(question, checkpoint=arguments.checkpoint)
    return _report(arguments, question, rows)


def _check_budget(arguments: argparse.Namespace) -> None:
    for name, value in (
        ("--budget-gib", arguments.budget_gib),
        ("--budget-share", arguments.budget_share),
    ):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} {value:g}: give a number above zero")


def _plan(arguments: argparse.Namespace) -> Findings:
    if arguments.budget_share is not None or arguments.checkpoint:
        raise InputError("--budget-share and --checkpoint are for a sweep, which measures; --plan does not")
    board = board_named(arguments.board) if arguments.board else None
    if arguments.budget_gib is not None:
        budget = int(arguments.budget_gib * 2**30)
    elif board is not None:
        budget = board_budget(board)
    else:
        raise InputError("--plan needs --board or --budget-gib: without either there is nothing to fit into")
    shape = model_shape(arguments.model or preset_of(arguments))
    lengths = _lengths(arguments, LONG_LENGTHS)
    question = _Question(shape, lengths, _work(arguments, shape, lengths, element_bytes=2), budget)
    found = {length: footprint(shape, question.at(length)) for length in lengths}
    over = [length for length in lengths if found[length].total > budget]
    measurements: list[Measurement] = []
    for length in lengths:
        batch = largest_batch(shape, question.at(length), budget)
        measurements += [
            single("predicted_memory", found[length].total, tokens=length),
            single("kv_cache", found[length].kv_cache, tokens=length),
            single("largest_batch", batch, tokens=length),
        ]
        say(
            f"{length} tokens: {_parts(found[length])}; budget {format_value(budget, 'B')};"
            f" a batch of up to {batch} fits"
        )
        for name, saved in _remedies(shape, question.at(length)) if length in over else ():
            fits = found[length].total - saved <= budget
            say(f"  {name} saves {format_value(saved, 'B')}{', and then it fits' if fits else ''}")
    measurements.append(single("longest_fitting", max(set(lengths) - set(over), default=0)))
    if not over:
        highest = max(one.total for one in found.values())
        measurements.append(single("memory_headroom", budget - highest))
    return Findings(
        measurements=measurements,
        status="symptom" if over else "ok",
        reason=f"{over[0]} tokens do not fit into {format_value(budget, 'B')}" if over else None,
        requested={"model": question.model, "board": arguments.board, "plan": True},
        effective={"model": question.model, "board": board.name if board else None, "plan": True},
        details={
            "budget_bytes": budget,
            "parts": {str(length): asdict(found[length]) for length in lengths},
            "remedies": {str(length): dict(_remedies(shape, question.at(length))) for length in over},
        },
    )


def _remedies(shape: ModelShape, work: Work) -> list[tuple[str, int]]:
    """Changes that lower the peak, the largest saving first, in bytes."""
    now = footprint(shape, work).total
    chunks = f"chunks of {_PLANNED_CHUNK}" + (" and last-token logits" if work.all_logits else "")
    changes = {
        "last-token logits": replace(work, all_logits=False),
        chunks: replace(work, chunk=_PLANNED_CHUNK, all_logits=False),
        "FP8 KV cache": replace(work, kv_bytes=1),
    }
    if work.batch > 1:
        changes["half the batch"] = replace(work, batch=work.batch // 2)
    if shape.heads % (2 * work.tensor_parallel) == 0:
        changes["twice the tensor parallelism"] = replace(work, tensor_parallel=2 * work.tensor_parallel)
    saved = [(name, now - footprint(shape, change).total) for name, change in changes.items()]
    return sorted([one for one in saved if one[1] > 0], key=lambda one: -one[1])


def _parts(found: Footprint) -> str:
    said = ", ".join(f"{name} {format_value(value, 'B')}" for name, value in asdict(found).items())
    said = said.replace("kv_cache", "KV cache")
    return f"{format_value(found.total, 'B')} predicted ({said})"


def _lengths(arguments: argparse.Namespace, default: tuple[int, ...]) -> tuple[int, ...]:
    """Each length once, in the order given."""
    return tuple(dict.fromkeys(arguments.sequence_lengths or default))


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
    lengths = _lengths(arguments, LONG_LENGTHS if gpus else TINY_LENGTHS)
    work = _work(arguments, shape, lengths, element_bytes)
    naive = replace(work, all_logits=True, chunk=None)
    budget = None
    if arguments.budget_gib is not None:
        budget = int(arguments.budget_gib * 2**30)
    elif arguments.budget_share is not None:
        budget = int(arguments.budget_share * footprint(shape, naive).total)
    found = footprint(shape, work)
    if budget is not None and budget < found.weights:
        raise InputError(
            f"the budget of {format_value(budget, 'B')} is below the weights of {shape.name},"
            f" {format_value(found.weights, 'B')}; give more, or a smaller --model"
        )
    # On a GPU running out of memory is a result. A CPU host would be brought down, so it has to hold all of it, or
    # the budget and the allocation that goes over it.
    need = found.weights if gpus else found.total
    if budget is not None:
        need = min(need, budget + max(found.activations, found.logits))
    if need > memory * _USABLE:
        raise NotApplicableError(
            f"{shape.name} would take {format_value(need, 'B')} at {max(lengths)} tokens, this host has"
            f" {format_value(memory, 'B')}; choose a smaller --model, --batch-size or --sequence-lengths"
        )
    return _Question(shape, lengths, work, budget, gpu=bool(gpus))


def _shape(arguments: argparse.Namespace, memory: int, element_bytes: int) -> ModelShape:
    """The model asked for, or the largest up to the preset's whose weights take at most half of the memory."""
    if arguments.model:
        return model_shape(arguments.model)
    preset = preset_of(arguments)
    for name in reversed(PRESETS[: PRESETS.index(preset) + 1]):
        shape = model_shape(name)
        if shape.parameters * element_bytes <= memory * _USABLE / 2:
            return shape
    raise NotApplicableError(f"not even the tiny model fits into {format_value(memory, 'B')} of free memory")


@dataclass(frozen=True)
class _Row:
    """One length, measured; `checkpointed` is the same prompt with activation checkpointing."""

    tokens: int
    reached: Reached
    checkpointed: Reached | None = None


def _measure(question: _Question, *, checkpoint: bool) -> list[_Row]:
    prefill = Prefill(question.shape, question.work, question.budget, gpu=question.gpu)
    say(f"{question.model}, {question.shape.parameters / 1e9:.3g}B parameters, on {prefill.device}")
    rows = []
    for length in question.lengths:
        reached = prefill.run(length)
        said = f"stopped at {reached.done:.0%}: {reached.over}" if reached.over else "fits"
        predicted = _parts(footprint(question.shape, question.at(length)))
        say(f"{length} tokens: peak {format_value(reached.peak, 'B')}, {predicted}; {said}")
        again = prefill.run(length, checkpoint=True) if checkpoint and reached.over is None else None
        if again is not None:
            say(f"{length} tokens: peak {format_value(again.peak, 'B')} with activation checkpointing")
        rows.append(_Row(length, reached, again))
    return rows


def _report(arguments: argparse.Namespace, question: _Question, rows: Sequence[_Row]) -> Findings:
    measurements = [measurement for row in rows for measurement in _measurements(question, row)]
    over = [row for row in rows if row.reached.over is not None]
    fitting = [row.tokens for row in rows if row.reached.over is None]
    measurements.append(single("longest_fitting", max(fitting, default=0)))
    if over:
        measurements.append(single("smallest_prompt_done", min(row.reached.done for row in over)))
    elif question.budget is not None:
        highest = max(row.reached.peak for row in rows)
        measurements.append(single("memory_headroom", question.budget - highest))
    flags = {"logits": arguments.logits, "chunk": arguments.chunk, "checkpoint": arguments.checkpoint}
    return Findings(
        measurements=measurements,
        status="symptom" if over else "ok",
        reason=_ran_out(over[0]) if over else None,
        requested={"model": question.model if arguments.model else None, **flags},
        effective={"model": question.model, **flags},
        details={
            "budget_bytes": question.budget,
            "parts": {str(n): asdict(footprint(question.shape, question.at(n))) for n in question.lengths},
        },
    )


def _measurements(question: _Question, row: _Row) -> list[Measurement]:
    tokens, reached, work = row.tokens, row.reached, question.at(row.tokens)
    predicted = footprint(question.shape, work).total
    found = [
        single("predicted_memory", predicted, tokens=tokens),
        single("peak_memory", reached.peak, tokens=tokens),
        single("prompt_done", reached.done, tokens=tokens),
    ]
    if reached.over is None:
        difference = reached.kv - kv_cache_bytes(question.shape, work)
        found += [
            single("prediction_ratio", predicted / reached.peak, tokens=tokens),
            single("kv_cache", reached.kv, tokens=tokens),
            single("kv_cache_difference", difference, tokens=tokens),
            measured("prefill_time", [reached.seconds], tokens=tokens),
        ]
    if row.checkpointed is not None and row.checkpointed.over is None:
        found.append(single("checkpoint_ratio", row.checkpointed.peak / reached.peak, tokens=tokens))
    return found


def _ran_out(row: _Row) -> str:
    return (
        f"{row.tokens} tokens ran out of memory at {row.reached.done:.0%} of the prompt: {row.reached.over}"
    )


PROBE = Probe("long_context_validation", parser=_parser, run=_run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the probe."""
    return run_probe(PROBE, argv)


if __name__ == "__main__":
    sys.exit(main())
