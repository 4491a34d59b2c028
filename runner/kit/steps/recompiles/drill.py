"""Runs the causes of recompiles, each from a clean compiler, and reports what the counter found."""

import argparse
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.base.errors import InputError, RunbookError
from runner.guards.recompiles import CompileEvent, RecompileCounter
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.kit.steps.recompiles.cases import CAUSES, WARM, Form, course
from runner.kit.steps.recompiles.declared import AFTER_LIMIT
from runner.record.model import Measurement

_NONE = "none"
_COMPILES = ("compile", "recompile", "backward", "left eager")


@dataclass(frozen=True)
class _Seen:
    """What the counter saw in one drill."""

    after: int
    graphs: int
    given_up: int
    breaks: int
    named: bool
    findings: Sequence[CompileEvent]


def run(arguments: argparse.Namespace) -> Findings:
    """Drill one cause, or the sound form of all of them.

    Raises:
        InputError: too few steps to have any after the warm-up.
        NotApplicableError: nothing is compiled here, or no compiler is installed and the drill needs one.
    """
    with _torch_silent():
        return _drilled(arguments)


@contextlib.contextmanager
def _torch_silent() -> Iterator[None]:
    """Without torch's warnings of what is drilled here on purpose: they hold paths, and the counter says the same."""
    import torch._dynamo  # noqa: F401 - sets the level when it is imported

    log = logging.getLogger("torch._dynamo.convert_frame")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _drilled(arguments: argparse.Namespace) -> Findings:
    if arguments.fault == AFTER_LIMIT:
        from runner.kit.steps.recompiles.after_limit import time_after_limit

        return time_after_limit(arguments.seed)
    if arguments.steps <= WARM:
        raise InputError(f"--steps must be above {WARM}, the steps of the warm-up, not {arguments.steps}")
    device = _device()
    measurements: list[Measurement] = []
    found: list[CompileEvent] = []
    for name, form in _forms(arguments.fault):
        drills = [
            _drill(form, CAUSES[name].names, steps=arguments.steps, seed=seed, device=device)
            for seed in range(arguments.seed, arguments.seed + arguments.repeat)
        ]
        measurements += _measurements(drills, fault=arguments.fault, cause=name)
        found += [event for seen in drills for event in seen.findings]
    for event in found:
        say(_short(event))
    reason = f"{_short(found[0])} ({len(found)} findings)" if found else None
    return Findings(
        measurements=measurements,
        status="symptom" if found else "ok",
        reason=reason,
        requested={"fault": arguments.fault, "steps": arguments.steps, "warm_up": WARM},
        effective={"device": device, "backend": "eager"},
        details={"findings": [_short(event) for event in found[:20]]},
    )


def _forms(fault: str) -> Sequence[tuple[str, Form]]:
    """What to run: the form with this fault, or every form without one."""
    every = [(name, cause.sound if fault == _NONE else cause.broken) for name, cause in CAUSES.items()]
    return [(name, form) for name, form in every if form is not None and fault in (_NONE, name)]


def _drill(form: Form, names: str, *, steps: int, seed: int, device: str) -> _Seen:
    import torch

    torch._dynamo.reset()  # noqa: SLF001 - the documented way to begin anew
    with RecompileCounter() as counter:
        counter.step()
        if counter.events:
            raise RunbookError(
                "torch.compile has records that are not of this drill; run one drill a process"
            )
        counter.steps = 0
        counter.warm_up(steps=WARM)
        on = course(steps, seed, device, counter)
        with form(on) as step:
            for number in range(steps):
                step(number)
                counter.step()
    if not counter.events:
        raise NotApplicableError(
            "torch.compile compiled nothing; unset TORCHDYNAMO_DISABLE and TORCH_COMPILE_DISABLE"
        )
    findings = [
        one
        for one in counter.events
        if one.kind in ("gave up", "graph break") or (one.kind in _COMPILES and not one.expected)
    ]
    return _Seen(
        after=counter.count("compile", "recompile", "backward", "left eager", after_warm_up=True),
        graphs=counter.count("compile", "recompile"),
        given_up=counter.count("gave up"),
        breaks=counter.count("graph break"),
        named=any(names in one.reason and one.place and one.frame for one in findings),
        findings=findings,
    )


def _measurements(drills: Sequence[_Seen], **labels: str) -> list[Measurement]:
    found: list[Any] = [
        single("compiles_after_warm_up", sum(one.after for one in drills), **labels),
        single("compiled_graphs", max(one.graphs for one in drills), **labels),
        single("frames_given_up", sum(one.given_up for one in drills), **labels),
        single("graph_breaks", sum(one.breaks for one in drills), **labels),
    ]
    if labels["fault"] != _NONE:
        found.append(single("cause_named", float(all(one.named for one in drills)), **labels))
    return found


def _short(event: CompileEvent) -> str:
    """The event without folders, which may be named after a user, and without torch's advice."""
    # After the guard, torch's reason has the line of source and its file.
    return str(replace(event, place=Path(event.place).name, reason=event.reason.partition(" # ")[0]))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
