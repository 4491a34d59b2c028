"""Looks at one rank for some seconds: its stacks, whether it runs, its flight recorder. Reads only."""

import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass

from runner.base.parallel import in_parallel
from runner.hang.activity import Doing, activity_of
from runner.hang.asking import RECORDER, ask_recording
from runner.hang.model import ProcessState, RankLook, Recording, Stack, Unseen
from runner.hang.motion import read_motion
from runner.hang.rank_process import RankProcess
from runner.hang.spying import StackTaker

STACKS = 3
# Time limits of one source, in seconds.
_STACK_S, _NATIVE_S = 2.0, 3.0
# After the begin, or after the observation. Over NCCL, on one H200 with torch 2.11, the first answer of a recorder took
# 5 to 6 s, later ones milliseconds.
_RECORDER_S, _RECORDER_AFTER_S = 7.5, 4.0
_ENDED = frozenset({ProcessState.GONE, ProcessState.ZOMBIE})


@dataclass(frozen=True)
class RankWatch:
    """How to look at the ranks of a node.

    Attributes:
        node: its name.
        began: `time.monotonic()` of the begin, the same for all ranks.
        seconds: length of the observation.
        dump: whether a rank may be asked to write a dump.
        stacks: takes the stacks.
        over: set when the observation is given up.
    """

    node: str
    began: float
    seconds: float
    dump: bool
    stacks: StackTaker
    over: threading.Event

    def look(self, process: RankProcess) -> RankLook:
        """The rank over the seconds of the observation."""
        first = read_motion(process.pid, process.started)
        before = self._asked(process, first.state)
        stacks, unseen = self._stacks(process)
        last = read_motion(process.pid, process.started)
        after = self._asked(process, last.state, before)
        native = self._native(process, stacks, last.state)
        if isinstance(native, Unseen):
            unseen.append(native)
        elif native:
            stacks = refined(stacks, native)
        early, late = (self._answer_of(one) for one in (before, after))
        if isinstance(late, Unseen) and isinstance(early, Recording):
            # Where it stands is known, but not whether it goes on.
            early, late = late, early
        unseen += [late] if isinstance(late, Unseen) else []
        ended = last.state in _ENDED
        return RankLook(
            node=self.node,
            job=process.job,
            rank=process.rank,
            world_size=process.world_size,
            pid=process.pid,
            state=last.state,
            cpu_share=None if ended else first.share_until(last),
            # What it did before it ended is no answer to what it does.
            stacks=() if ended else stacks,
            still=first.still_until(last),
            before=early if isinstance(early, Recording) else None,
            recording=late if isinstance(late, Recording) else None,
            unseen=() if ended else tuple(dict.fromkeys(unseen)),
        )

    def _stacks(self, process: RankProcess) -> tuple[tuple[Stack, ...], list[Unseen]]:
        """Its stacks over the observation, and why there are not more. Lasts as long as the observation."""
        taken: list[Stack] = []
        unseen: list[Unseen] = []
        for turn in range(STACKS):
            self.over.wait(max(0.0, self.began + turn / (STACKS - 1) * self.seconds - time.monotonic()))
            if unseen or self.over.is_set():
                # What failed once takes no more time from others.
                continue
            answer = self.stacks.stack(process.pid, _STACK_S)
            if isinstance(answer, Unseen):
                unseen.append(answer)
            else:
                taken.append(answer)
        return tuple(taken), unseen

    def _asked(
        self,
        process: RankProcess,
        state: ProcessState,
        earlier: "Future[Recording | Unseen] | None" = None,
    ) -> "Future[Recording | Unseen]":
        def ask(_: None) -> Recording | Unseen:
            if state in {*_ENDED, ProcessState.STOPPED}:
                return Unseen(source=RECORDER, reason=f"the process is {state.value}")
            if earlier is not None:
                # Both make the rank write the same file.
                wait((earlier,), self._recorder_left())
            return ask_recording(process, self._recorder_left(), dump=self.dump)

        return in_parallel(ask, (None,), 1)[0]

    def _recorder_left(self) -> float:
        latest = self.began + max(_RECORDER_S, self.seconds + _RECORDER_AFTER_S)
        return max(0.0, latest - time.monotonic())

    def _answer_of(self, future: "Future[Recording | Unseen]") -> Recording | Unseen:
        wait((future,), self._recorder_left())
        if not future.done():
            return Unseen(source=RECORDER, reason="no answer in time")
        return future.result()

    def _native(
        self, process: RankProcess, stacks: tuple[Stack, ...], state: ProcessState
    ) -> Stack | Unseen | None:
        """Native functions where Python's say nothing: the same line each time, which calls into C."""
        if len(stacks) < STACKS or len(set(stacks)) > 1 or state in _ENDED or state is ProcessState.STOPPED:
            return None
        activity = activity_of(stacks[-1])
        if activity is None or activity.doing not in {Doing.ELSEWHERE, Doing.BACKWARD} or self.over.is_set():
            return None
        return self.stacks.native_stack(process.pid, _NATIVE_S)


def refined(stacks: tuple[Stack, ...], native: Stack) -> tuple[Stack, ...]:
    """The stacks with the native functions of one that was taken in the same place."""
    return tuple(native if _python_part(native, stack) == stack else stack for stack in stacks)


def _python_part(native: Stack, stack: Stack) -> Stack:
    known = set(stack)
    return tuple(frame for frame in native if frame in known)
