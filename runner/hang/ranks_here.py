"""The ranks of training jobs on this node, found by what their processes were started with. Reads only.

A rank starts many processes that share its environment: workers of a DataLoader, of the compiler, of a logger. They are
told from ranks by descent: a rank has no ancestor that is the same rank of the same job.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.base.processes import Stat, descendants_of, every, is_own, stat_of
from runner.hang.model import ProcessState, RankLook, Unseen
from runner.hang.process_facts import RANKS, environments_of, has_torch, is_launcher
from runner.hang.rank_process import RankProcess

# More ranks than run on one node: a larger LOCAL_WORLD_SIZE says nothing about which ranks are missing.
_MOST_ON_A_NODE = 1024


@dataclass(frozen=True)
class RanksHere:
    """The ranks of this node.

    Attributes:
        processes: one a rank, ordered by job and rank.
        gone: ranks that their siblings' environment names, and that have no process any more.
        unseen: why a process could not be judged.
    """

    processes: tuple[RankProcess, ...]
    gone: tuple[RankLook, ...] = ()
    unseen: tuple[Unseen, ...] = ()


def find_ranks(
    pids: Sequence[int] | None, node: str, among: Callable[[RankProcess], bool] | None = None
) -> RanksHere:
    """The ranks on this node.

    Args:
        pids: these processes, whatever their environment says; the pid of a launcher stands for its ranks. None: every
            rank of this user, as root of every user.
        node: the name of this node, for ranks that are gone.
        among: without `pids`, only ranks for which this is true, such as `in_slurm_job`.
    """
    if pids is not None:
        return _named(pids, node)
    found = _scan(every(), among)
    ranks, twice = _main_ranks(found.with_torch)
    ranks += _starting(ranks, found)
    gone = () if found.unseen else _gone(ranks, ranks, node)
    return RanksHere(_ordered(ranks), gone, (*found.unseen, *twice))


@dataclass(frozen=True)
class _Found:
    """Processes that may be ranks by their environment, workers of ranks included.

    Attributes:
        python: those whose program seems to be Python.
        with_torch: those that have loaded torch.
        unseen: why others could not be judged.
    """

    python: Mapping[int, RankProcess]
    with_torch: Mapping[int, RankProcess]
    unseen: tuple[Unseen, ...]


def _named(pids: Sequence[int], node: str) -> RanksHere:
    stats_of = {pid: stat_of(pid) for pid in pids}
    given = {pid: stat for pid, stat in stats_of.items() if stat is not None and stat.lives}
    dead = [pid for pid in stats_of if pid not in given]
    ranks: dict[int, RankProcess] = {}
    unseen: list[Unseen] = []
    for pid, stat in given.items():
        stats = [stat, *filter(None, map(stat_of, descendants_of(pid)))]
        told, refused = environments_of(stats)
        # Only the process itself matters here: children that cannot be read were not asked for.
        unseen += refused.get(pid, ())
        own = told.pop(pid, RankProcess(pid, stat.started))
        below = {one.pid: one for one in told.values() if _may_be_rank(one)}
        started = [one for one in below.values() if not _same(one, own)] if _starts_ranks(own, below) else []
        main, _ = _main_ranks({one.pid: one for one in started})
        ranks |= {one.pid: one for one in main} or {pid: own}
    gone = _gone_of_named(list(ranks.values()), node)
    # A process that has ended is named by its siblings' environment, or else by its pid alone.
    lost = dead[len(gone) :] if len(gone) < len(dead) else []
    gone += tuple(RankLook(node=node, rank=None, pid=pid, state=ProcessState.GONE) for pid in lost)
    return RanksHere(_ordered(ranks.values()), gone, tuple(dict.fromkeys(unseen)))


def _gone_of_named(ranks: Sequence[RankProcess], node: str) -> tuple[RankLook, ...]:
    if not _gone(ranks, ranks, node):
        return ()
    # The caller may have named some ranks of the node only.
    found = _scan(every(), None)
    alive = [*ranks, *found.python.values(), *found.with_torch.values()]
    return () if found.unseen else _gone(ranks, alive, node)


def _starts_ranks(own: RankProcess, below: Mapping[int, RankProcess]) -> bool:
    return bool(below) and (own.rank is None or _launches(own, below.values()) or is_launcher(own.pid))


def _scan(stats: Iterable[Stat], among: Callable[[RankProcess], bool] | None) -> _Found:
    root, here = os.geteuid() == 0, os.getpid()
    own = [stat for stat in stats if stat.lives and stat.pid != here and (root or is_own(stat.pid))]
    told, refused = environments_of(own)
    python = {stat.pid for stat in own if _looks_like_python(stat.name)}
    blind = {one for pid, why in refused.items() if pid in python for one in why}
    numbered = {
        one.pid: one
        for one in told.values()
        if one.rank is not None and one.world_size and (among is None or among(one))
    }
    return _Found(
        {pid: one for pid, one in numbered.items() if pid in python},
        {pid: one for pid, one in numbered.items() if has_torch(pid)},
        tuple(sorted(blind, key=str)),
    )


def _starting(ranks: Sequence[RankProcess], found: _Found) -> list[RankProcess]:
    """Ranks that have not loaded torch yet, or hang before that: their siblings' environment expects them."""
    missing = {(look.job, look.rank) for look in _gone(ranks, ranks, "")}
    first: dict[tuple[str, int | None], RankProcess] = {}
    for one in sorted(found.python.values(), key=lambda one: one.started):
        if (one.job, one.rank) in missing and not is_launcher(one.pid):
            first.setdefault((one.job, one.rank), one)
    return list(first.values())


def _looks_like_python(name: str) -> bool:
    # torch names the main thread of a rank `pt_main_thread`, and vLLM its processes `VLLM::…`.
    return name.startswith(("python", "pt_", "VLLM"))


def _may_be_rank(one: RankProcess) -> bool:
    return one.rank is not None and has_torch(one.pid)


def _main_ranks(found: Mapping[int, RankProcess]) -> tuple[list[RankProcess], tuple[Unseen, ...]]:
    """One process a rank: without launchers, without what ranks have started."""
    above = {pid: _ancestors(pid, found) for pid in found}
    launchers = {pid for pid in found if is_launcher(pid)}
    launchers |= {
        pid
        for pid, one in found.items()
        if _launches(one, (found[child] for child, over in above.items() if pid in over))
    }
    main: dict[tuple[str, int | None], RankProcess] = {}
    twice: list[Unseen] = []
    for one in sorted(found.values(), key=lambda one: one.started):
        over = [found[pid] for pid in above[one.pid] if pid not in launchers]
        if one.pid in launchers or any(_same(one, other) for other in over):
            continue
        first = main.setdefault((one.job, one.rank), one)
        if first is not one:
            reason = (
                f"rank {one.rank} of {one.job or 'a job'} exists more than once; looked at pid {first.pid}, "
                f"not at pid {one.pid}: --pid {one.pid} does"
            )
            twice.append(Unseen(source=RANKS, reason=reason))
    return list(main.values()), tuple(twice)


def _ancestors(pid: int, found: Mapping[int, RankProcess]) -> list[int]:
    """Those of its ancestors that were found, the nearest first."""
    over: list[int] = []
    seen: set[int] = set()
    stat = stat_of(pid)
    while stat is not None and stat.parent > 1 and stat.parent not in seen:
        seen.add(stat.parent)
        over += [stat.parent] if stat.parent in found else []
        stat = stat_of(stat.parent)
    return over


def _launches(one: RankProcess, below: Iterable[RankProcess]) -> bool:
    """Whether it gave others their place on the node: it may have been started with a RANK that counts nodes."""
    return one.local_rank is None and any(child.local_rank is not None for child in below)


def _same(one: RankProcess, other: RankProcess) -> bool:
    return (one.job, one.rank, one.local_rank) == (other.job, other.rank, other.local_rank)


def _gone(of: Sequence[RankProcess], alive: Sequence[RankProcess], node: str) -> tuple[RankLook, ...]:
    """Ranks of this node that should exist by the environment of their siblings.

    torchrun numbers the ranks of a node in a row, so that RANK - LOCAL_RANK is the same for all of them.
    """
    there = {(one.job, one.rank) for one in alive}
    gone: dict[tuple[str, int], RankLook] = {}
    for one in of:
        size, rank, local = one.number("LOCAL_WORLD_SIZE"), one.rank, one.local_rank
        if size is None or rank is None or local is None or not local <= rank or local >= size:
            continue
        if size > _MOST_ON_A_NODE:
            continue
        for number in range(rank - local, min(rank - local + size, one.world_size or 0)):
            if (one.job, number) not in there:
                gone[one.job, number] = RankLook(
                    node=node,
                    job=one.job,
                    rank=number,
                    world_size=one.world_size,
                    state=ProcessState.GONE,
                )
    return tuple(gone.values())


def _ordered(ranks: Iterable[RankProcess]) -> tuple[RankProcess, ...]:
    return tuple(sorted(ranks, key=lambda one: (one.job, -1 if one.rank is None else one.rank, one.pid)))
