"""Whether one process starts in this environment, or waits in rendezvous for ranks that do not exist.

A server written for several GPUs joins a process group if its environment describes one: WORLD_SIZE, RANK,
MASTER_ADDR, MASTER_PORT. With a leftover WORLD_SIZE=8, the single process waits for seven others, by default for ten
minutes or more, without load on CPU or GPU and without a message. This probe runs the same call (`init_process_group`
with gloo) in a child process with a deadline. Do not use it if MASTER_ADDR names a live job: the child would try to
join it.

Output: rendezvous_time (s), if the process joined a group; details.ending: `alone` (no group is configured),
`joined`, `waiting` or `failed`. Symptom: it is still waiting at the deadline, or fails.

Example:
    WORLD_SIZE=8 RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python -m runner.probes.rendezvous --deadline 10
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from runner.base.errors import InputError, LateRankError
from runner.kit.children import ended_by_sigterm
from runner.kit.probe import Findings, Probe, base_parser, require_torch, say, single
from runner.kit.ranks import World
from runner.vocabulary.model import Metric

_CHILD = ("-m", "runner.kit.rendezvous_child")
_START_S = 120.0


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--deadline",
        type=float,
        default=20.0,
        metavar="S",
        help="time limit of joining in seconds, after torch is loaded (default 20)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
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


PROBE = Probe(
    "rendezvous",
    method_version=1,
    summary="Whether one process starts, or waits for ranks that do not exist",
    metrics=(
        Metric(
            "rendezvous_time",
            "s",
            "lower",
            "Seconds from the call that joins a process group until it has joined.",
            label="Rendezvous time",
        ),
    ),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
