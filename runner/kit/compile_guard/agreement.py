"""Agreement between ranks: a rung is used only if it worked on every rank.

They agree through torchrun's store, not by a collective: a rank that waits for another rank's compile is not in an
NCCL or gloo call, so the watchdog does not end the job, and every wait has a timeout.
"""

import itertools
import os
import time
from datetime import timedelta
from typing import Any

from runner.base.errors import RankError

# Added to a rank's own deadline: time to start and kill children on a busy node.
SLACK_S = 90.0
_calls = itertools.count()


class Peers:
    """The ranks of one launch, connected by a `torch.distributed` store. Rank 0 collects the results and decides.

    Args:
        store: the store; None for a process without other ranks.
        rank, size: of this process.
    """

    def __init__(self, store: Any = None, rank: int = 0, size: int = 1) -> None:
        self._store, self._rank, self.size = store, rank, size
        # All ranks call the guard equally often, so the call number identifies the same call on each.
        self._call = next(_calls)

    def agree(self, rung: str, failure: str | None, wait_s: float) -> str | None:
        """Report the result of a rung on this rank; return None if it worked on every rank, else why not.

        Args:
            rung: its name.
            failure: why it did not work on this rank; None if it did.
            wait_s: seconds that the slowest rank may still need for it.

        Raises:
            RankError: rank 0 did not decide in time.
        """
        if self._store is None:
            return failure
        place = f"llm-runbooks/compile-guard/{self._call}/{rung}"
        self._store.set(f"{place}/{self._rank}", failure or "")
        if self._rank == 0:
            decided = self._decide(place, wait_s + SLACK_S)
            self._store.set(f"{place}/decision", decided)
        else:
            heard = self._wait(f"{place}/decision", wait_s + 2 * SLACK_S)
            if heard is None:
                raise RankError(
                    f"no decision from rank 0 on the compile mode ({rung}); check that rank 0 is alive"
                )
            decided = heard
        return decided or None

    def _decide(self, place: str, wait_s: float) -> str:
        until, failed = time.monotonic() + wait_s, []
        for rank in range(self.size):
            said = self._wait(f"{place}/{rank}", until - time.monotonic())
            if said is None:
                failed.append(f"rank {rank}: no answer within {wait_s:.0f} s")
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
    """The ranks of this process's launch, from torchrun's variables; one if it is alone.

    Raises:
        RankError: the variables name other ranks, but their store cannot be reached.
    """
    try:
        size = int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError as error:
        raise RankError(f"WORLD_SIZE is not a number: {os.environ['WORLD_SIZE']!r}") from error
    if size <= 1:
        return Peers()
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=SLACK_S))))
    except (ValueError, RuntimeError) as error:
        raise RankError(
            f"WORLD_SIZE={size}, but the other ranks cannot be reached ({error}); start all of them, or "
            "unset WORLD_SIZE"
        ) from error
    return Peers(store, rank, size)
