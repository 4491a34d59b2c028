"""Ranks that go down the ladder together: a rung is taken only if it worked on every rank.

They agree through torchrun's store, not by a collective: a rank that waits for another one's compile sits in no
NCCL or gloo call, so no watchdog can end the job, and every wait has an end.
"""

import itertools
import os
import time
from datetime import timedelta
from typing import Any, Protocol

from runner.errors import RankError

# Beyond a rank's own deadline: starting and ending children on a node that is busy with its neighbours'.
SLACK_S = 90.0
_calls = itertools.count()


class Peers(Protocol):
    """The ranks of one job, this one among them."""

    def agree(self, rung: str, failure: str | None, wait_s: float) -> str | None:
        """Say how a rung went here and hear how it went for all: None where it worked everywhere, else why not.

        Args:
            rung: its name.
            failure: why it did not work on this rank; None where it did.
            wait_s: seconds that the slowest rank may still take for it.
        """


class Alone:
    """A process that has no peers."""

    def agree(self, rung: str, failure: str | None, wait_s: float) -> str | None:
        """What happened here is what happened."""
        del rung, wait_s
        return failure


class Ranks:
    """The ranks of a launch, which talk through a `torch.distributed` store. Rank 0 hears all and decides."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        # Ranks call the guard equally often, so the number of the call names the same call on each.
        self._call = next(_calls)

    def agree(self, rung: str, failure: str | None, wait_s: float) -> str | None:
        """See `Peers.agree`.

        Raises:
            RankError: rank 0 did not decide in time; the job has lost it.
        """
        place = f"llm-runbooks/compile-guard/{self._call}/{rung}"
        self._store.set(f"{place}/{self._rank}", failure or "")
        if self._rank == 0:
            decided = self._decide(place, wait_s + SLACK_S)
            self._store.set(f"{place}/decision", decided)
        else:
            heard = self._wait(f"{place}/decision", wait_s + 2 * SLACK_S)
            if heard is None:
                raise RankError(f"rank 0 did not say how the ranks compile ({rung}); is it alive?")
            decided = heard
        return decided or None

    def _decide(self, place: str, wait_s: float) -> str:
        until, failed = time.monotonic() + wait_s, []
        for rank in range(self._size):
            said = self._wait(f"{place}/{rank}", until - time.monotonic())
            if said is None:
                failed.append(f"rank {rank}: said nothing within {wait_s:.0f} s")
            elif said:
                failed.append(f"rank {rank}: {said}")
        return "; ".join(failed)

    def _wait(self, key: str, seconds: float) -> str | None:
        import torch.distributed as dist

        try:
            self._store.wait([key], timedelta(seconds=max(0.1, seconds)))
        except dist.DistStoreError:
            return None
        return bytes(self._store.get(key)).decode()


def peers() -> Peers:
    """The ranks of the launch that this process belongs to, by torchrun's variables; `Alone` where it is the only one.

    Raises:
        RankError: the variables speak of other ranks and their store cannot be reached.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError as error:
        raise RankError(f"WORLD_SIZE is no number: {os.environ['WORLD_SIZE']!r}") from error
    if size <= 1:
        return Alone()
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=SLACK_S))))
    except (ValueError, RuntimeError) as error:
        raise RankError(
            f"WORLD_SIZE={size} speaks of other ranks, and they cannot be reached ({error}); start all of them, or "
            "unset WORLD_SIZE"
        ) from error
    return Ranks(store, rank, size)
