"""What following a campaign needs; Slurm commands are retried while the controller does not answer."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runner.fleet.campaign import CampaignJob
from runner.fleet.commands import ControllerAwayError, Slurm
from runner.fleet.folder import Folder

_Answer = TypeVar("_Answer")

FIRST_POLL_S = 0.1
_LONGEST_POLL_S, _POLL_GROWTH = 5.0, 1.2
_PATIENCE_S = 900.0


class FleetObserver(Protocol):
    """Receives the progress of a campaign."""

    def job_changed(self, job: CampaignJob, said: str) -> None:
        """A job was submitted, started, has a new message, or is over."""

    def trouble(self, message: str) -> None:
        """A problem occurred that does not end the campaign."""


@dataclass(frozen=True)
class Fleet:
    """The folder of a campaign, its Slurm, and who is told. `pause` waits between two polls, in seconds."""

    folder: Folder
    slurm: Slurm
    observer: FleetObserver
    pause: Callable[[float], None] = time.sleep

    def answered(self, ask: Callable[[], _Answer]) -> _Answer:
        """Call `ask` until the controller answers; returns its result.

        Raises:
            ControllerAwayError: the controller has not answered for 15 minutes.
        """
        polls, away_since = poll_intervals(), None
        while True:
            try:
                return ask()
            except ControllerAwayError as error:
                now = time.monotonic()
                if away_since is None:
                    away_since = now
                    self.observer.trouble(
                        f"{error}; waiting for the controller, running jobs are not affected"
                    )
                if now - away_since > _PATIENCE_S:
                    raise
            self.pause(next(polls))


def poll_intervals() -> Iterator[float]:
    """Seconds between two polls, growing to a limit; without end."""
    interval = FIRST_POLL_S
    while True:
        yield interval
        interval = min(_LONGEST_POLL_S, interval * _POLL_GROWTH)
