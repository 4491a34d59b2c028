"""What `long_context_validation` does: a plan, or a sweep on this process or on ranks."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.base.units import format_value
from runner.hardware.machine import look_visible as look
from runner.kit.budget import budget
from runner.kit.children import ended_by_sigterm
from runner.kit.long_context.allocator import expand_segments
from runner.kit.long_context.bench import MemoryBench, Runs
from runner.kit.long_context.planning import plan
from runner.kit.long_context.question import Question, planned, swept
from runner.kit.long_context.report import sweep_findings
from runner.kit.long_context.sweep import sweep
from runner.kit.long_context.worker import ranks
from runner.kit.probe import Findings, say

_RANKS_DEADLINE_S = 3000.0
# A comparison shows the saving of each remedy; more rounds than end within this time from the start of the probe only
# narrow its time ratio. On a GPU, importing torch and building the model are part of it.
_ROUNDS_ON_CPU_S, _ROUNDS_ON_GPU_S = 15.0, 45.0


def memory_findings(arguments: argparse.Namespace) -> Findings:
    """The plan for every length, or its measured peak; with the limit and the remedies, if asked.

    Raises:
        InputError: invalid or impossible input.
        NotApplicableError: this host cannot hold the work, or has too few GPUs.
        RankError: a rank died or gave no answer.
    """
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
