"""Retries Slurm commands while the controller does not answer."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from runner.fleet.campaign import Job
from runner.fleet.commands import ControllerAwayError

_Answer = TypeVar("_Answer")

FIRST_POLL_S, LONGEST_POLL_S, POLL_GROWTH = 0.1, 5.0, 1.2
_PATIENCE_S = 900.0


class FleetObserver(Protocol):
    """Receives the progress of a campaign."""

    def job_changed(self, job: Job, said: str) -> None:
        """A job was submitted, started, has a new message, or is over."""

    def trouble(self, message: str) -> None:
        """A problem occurred that does not end the campaign."""


def answered(
    ask: Callable[[], _Answer], observer: FleetObserver, pause: Callable[[float], None] = time.sleep
) -> _Answer:
    """Call `ask` until the controller answers; returns its result.

    Raises:
        ControllerAwayError: the controller has not answered for 15 minutes.
    """
    poll, away_since = FIRST_POLL_S, None
    while True:
        try:
            return ask()
        except ControllerAwayError as error:
            now = time.monotonic()
            if away_since is None:
                away_since = now
                observer.trouble(f"{error}; waiting for the controller, running jobs are not affected")
            if now - away_since > _PATIENCE_S:
                raise
        pause(poll)
        poll = min(LONGEST_POLL_S, poll * POLL_GROWTH)
