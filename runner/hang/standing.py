"""Where each rank of a job stands: the calls that it has made, the one that blocks it, whether it moves. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from runner.hang.activity import Activity, Doing, activity_of
from runner.hang.model import CallState, CollectiveCall, ProcessState, RankLook, Recording

_ENDED = frozenset({ProcessState.GONE, ProcessState.ZOMBIE})
# CPU seconds per second of a process whose thread polls instead of sleeping, on a busy host.
_SPINS = 0.3


@dataclass(frozen=True)
class RankStanding:
    """One rank, as the verdict sees it.

    Attributes:
        rank: its number; every rank of a verdict has one.
        look: what was seen of it.
    """

    rank: int
    look: RankLook

    @cached_property
    def activities(self) -> tuple[Activity, ...]:
        """What its stacks say, in order of time."""
        return tuple(one for one in map(activity_of, self.look.stacks) if one is not None)

    @cached_property
    def calls(self) -> tuple[CollectiveCall, ...]:
        """Its collectives, the oldest first; point-to-point calls are left out."""
        recording = self.look.recording
        return tuple(call for call in recording.calls if not call.point_to_point) if recording else ()

    @cached_property
    def latest(self) -> Mapping[str, CollectiveCall]:
        """The last of them in each group."""
        return {call.group: call for call in self.calls}

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.look.state in _ENDED

    @property
    def stopped(self) -> bool:
        """Whether its process is stopped."""
        return self.look.state is ProcessState.STOPPED

    @property
    def now(self) -> Activity | None:
        """What its last stack says."""
        return self.activities[-1] if self.activities else None

    @property
    def recorded(self) -> bool:
        """Whether its flight recorder was read."""
        return self.look.recording is not None

    @cached_property
    def pending(self) -> CollectiveCall | None:
        """The collective that blocks it, if it is blocked: with NCCL the first that is not complete, else the last."""
        if not self.calls:
            return None
        if self.tells_progress:
            return next((call for call in self.calls if call.state is not CallState.COMPLETED), None)
        return self.calls[-1]

    def reached(self, group: str) -> int:
        """The number of the last call of a group that it has come to; 0 for none.

        With NCCL a program calls on, and what it called after a call that blocks it has to wait as well.
        """
        return self._reached.get(group, 0)

    @cached_property
    def _reached(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        pending, behind = self.pending, False
        for call in self.calls:
            if not behind or call.state is CallState.COMPLETED:
                found[call.group] = max(call.seq, found.get(call.group, 0))
            behind = behind or (self.tells_progress and call is pending)
        return found

    @cached_property
    def tells_progress(self) -> bool:
        """Whether the states of its calls mean something; gloo leaves all of them at `scheduled`."""
        return any(call.state is not CallState.SCHEDULED or call.backend == "nccl" for call in self.calls)

    @cached_property
    def waits(self) -> bool | None:
        """Whether it waits for other ranks; None if unknown."""
        if self.ended or self.stopped:
            return False
        seen = [self._waits_in(activity) for activity in self.activities]
        if seen and all(one is False for one in seen):
            # NCCL runs beside the program: a rank that computes on its CPU may have a collective pending.
            return bool(self.tells_progress and self.pending is not None)
        if seen and all(seen):
            return True
        if self.tells_progress:
            return self.pending is not None
        return None

    def _waits_in(self, activity: Activity) -> bool | None:
        # A line such as `loss.item()` waits for the GPU, and that perhaps for a collective: no Python frame shows it.
        blind = self.look.gpu is not None and not self.recorded
        return None if blind and activity.doing is Doing.ELSEWHERE else activity.doing.waits

    @property
    def woke(self) -> bool:
        """Whether its main thread ran during the observation, though each stack shows it waiting: it left a wait.

        A rank that gloo blocks sleeps. One that waits for its GPU may spin, and so may one whose GPU was not seen.
        """
        share = self.look.cpu_share
        sleeps = self.look.gpu is None and share is not None and share < _SPINS
        return bool(self.waits) and self.look.still is False and sleeps

    @cached_property
    def moved(self) -> bool | None:
        """Whether it made progress during the observation; None if unknown."""
        before, after = self.look.before, self.look.recording
        if before is not None and after is not None:
            if _last(before) != _last(after):
                return True
            if self.look.still is None and not self.activities:
                return False
        if self.look.still:
            return False
        places = {(activity.doing, activity.op) for activity in self.activities}
        if len(places) > 1:
            return True
        return False if before is not None and after is not None and self.waits else None


def standings(looks: Iterable[RankLook]) -> dict[int, RankStanding]:
    """The ranks of one job by number; a look without a number is left out."""
    found = {look.rank: RankStanding(look.rank, look) for look in looks if look.rank is not None}
    return dict(sorted(found.items()))


def world_size(ranks: Mapping[int, RankStanding]) -> int | None:
    """The largest world size that a rank's environment names; None if none does."""
    return max((one.look.world_size for one in ranks.values() if one.look.world_size), default=None)


def members_of(group: str, ranks: Mapping[int, RankStanding]) -> frozenset[int]:
    """The ranks of a process group, those that were not seen included.

    A recorder that does not name the members (gloo) leaves those that have called it; the default group, `0`, has all.
    """
    named: set[int] = set()
    called: set[int] = set()
    for one in ranks.values():
        recording = one.look.recording
        told = recording.groups.get(group) if recording else None
        if told is not None and told.ranks:
            named |= set(told.ranks)
        if group in one.latest:
            called.add(one.rank)
    if named:
        return frozenset(named)
    size = world_size(ranks)
    if group == "0" and size is not None:
        return frozenset(range(size))
    return frozenset(called)


def groups_of(ranks: Mapping[int, RankStanding]) -> tuple[str, ...]:
    """The process groups that any rank has called, in order of name."""
    return tuple(sorted({group for one in ranks.values() for group in one.latest}))


def joining(ranks: Iterable[RankStanding]) -> list[RankStanding]:
    """The ranks that join a process group."""
    return [one for one in ranks if one.now is not None and one.now.doing is Doing.JOINING]


def _last(recording: Recording) -> Sequence[object]:
    return [(call.group, call.seq, call.op, call.state) for call in recording.calls[-8:]]
