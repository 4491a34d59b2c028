"""The newest round of runs, and what it changed. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from runner.history.verdict_changes import Turn
from runner.pages.evidence import Evidence

# Runs that started within this time before the newest one belong to the same refresh.
ONE_REFRESH = timedelta(days=1)


@dataclass(frozen=True)
class Refresh:
    """The newest round of runs: when its last one started, how many there were, and what they changed.

    Attributes:
        turned: changed verdicts, newest first; a first run is not a change.
        first: the first runs of an entry on a class, newest first.
    """

    when: datetime
    runs: int
    turned: tuple[Turn, ...]
    first: tuple[Turn, ...]


def last_refresh(evidence: Evidence) -> Refresh | None:
    """The newest round of runs, or None."""
    newest = max((one.when for one in evidence.endings), default=None)
    if newest is None:
        return None
    since = newest - ONE_REFRESH
    changes = [turn for turn in reversed(evidence.turns) if turn.later.when > since]
    return Refresh(
        when=newest,
        runs=sum(one.when > since for one in evidence.endings),
        turned=tuple(turn for turn in changes if turn.earlier is not None),
        first=tuple(turn for turn in changes if turn.earlier is None),
    )
