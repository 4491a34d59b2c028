"""The measurement of `rendezvous`: one process that joins its group, or waits for ranks that do not exist."""

import argparse
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from runner.base.errors import InputError, LateRankError
from runner.kit.children import ended_by_sigterm
from runner.kit.probe import Findings, require_torch, say, single
from runner.kit.ranks import World

_CHILD = ("-m", "runner.kit.rendezvous_child")
_START_S = 120.0


def rendezvous_findings(arguments: argparse.Namespace) -> Findings:
    """Start one process in this environment and wait up to `--deadline` seconds for it to join its group.

    Raises:
        InputError: the deadline is not above zero.
    """
    if arguments.deadline <= 0:
        raise InputError(f"--deadline must be above zero, not {arguments.deadline:g}")
    require_torch()
    try:
        answer = _joined(arguments.deadline)
    except _StillWaitingError:
        return _findings("waiting", None, _waiting(arguments.deadline))
    if answer is None:
        return _findings("alone", None)
    if answer["failed"]:
        return _findings("failed", None, f"one process cannot join its group: {answer['failed']}")
    return _findings("joined", answer["seconds"])


class _StillWaitingError(Exception):
    """The process had not joined its group by the deadline."""


def _joined(deadline_s: float) -> Mapping[str, Any] | None:
    """The child's result of joining its group; None if no group is configured.

    Raises:
        _StillWaitingError: raised through the child's context, so that the child, which will never answer, is killed
            at once.
    """
    world = World(_CHILD, None, os.environ, time.monotonic() + _START_S + deadline_s)
    with ended_by_sigterm(), world:
        (ready,) = world.ask(None, "loading torch")
        if not ready["group"]:
            return None
        try:
            (answer,) = world.ask({}, "joining its process group", time.monotonic() + deadline_s)
        except LateRankError as late:
            raise _StillWaitingError from late
    return answer


def _findings(ending: str, seconds: float | None, reason: str | None = None) -> Findings:
    say(f"one process in this environment: {ending}")
    return Findings(
        measurements=[] if seconds is None else [single("rendezvous_time", seconds)],
        status="symptom" if reason else "ok",
        reason=reason,
        details={"ending": ending},
    )


def _waiting(deadline_s: float) -> str:
    size = re.fullmatch(r"\d{1,9}", os.environ.get("WORLD_SIZE", ""))
    others = f"{int(size[0]) - 1} other ranks" if size and int(size[0]) > 1 else "other ranks"
    return (
        f"one process was still waiting in rendezvous for {others} after {deadline_s:g} s and was killed;"
        " python -m runner.probes.stale_env --shell prints what to unset"
    )
