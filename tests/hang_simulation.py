"""A training job in arithmetic: ranks that call collectives in a loop, one of which is faulty, until nothing goes on.

It writes what flight recorders and stacks of such a job would show. Real ranks are the drill's; this one is fast enough
for thousands of jobs with groups of every form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.hang.model import (
    CallState,
    CollectiveCall,
    Frame,
    Group,
    ProcessState,
    RankLook,
    Recording,
    Snapshot,
    Stack,
)

TORCH = "torch/distributed/distributed_c10d.py"


@dataclass(frozen=True)
class Line:
    """A line of the program: which kind of group it calls, the operation, the number of elements."""

    kind: str
    op: str
    elements: int


@dataclass(frozen=True)
class Fault:
    """`name`: skip, op, shape, late, stop or gone; where: rank, step, line."""

    name: str
    rank: int
    step: int
    line: int


@dataclass
class Job:
    """A job of `world` ranks; `inner` is the size of its inner groups (tensor parallel), which divides `world`.

    `ahead` calls beyond the one that blocks it are enqueued by a rank over NCCL, up to the end of its step.

    Groups: `all` (name 0), `inner` (neighbouring ranks) and `outer` (ranks with the same place in their inner group).
    """

    world: int
    inner: int
    program: Sequence[Line]
    fault: Fault | None
    nccl: bool
    sites: bool = True
    ahead: int = 0
    made: dict[int, list[CollectiveCall]] = field(default_factory=dict)
    blocked: set[int] = field(default_factory=set)

    def group_of(self, kind: str, rank: int) -> tuple[str, tuple[int, ...]]:
        """The name and the members of a rank's group."""
        if kind == "all":
            return "0", tuple(range(self.world))
        if kind == "inner":
            first = rank // self.inner * self.inner
            return f"inner{first}", tuple(range(first, first + self.inner))
        return f"outer{rank % self.inner}", tuple(range(rank % self.inner, self.world, self.inner))

    def run(self, steps: int) -> bool:
        """Run until every rank has done its steps or nothing goes on; whether it hangs."""
        places = dict.fromkeys(range(self.world), 0)
        self.made = {rank: [] for rank in places}
        numbers: dict[tuple[str, int], int] = {}
        entered: dict[tuple[str, int], dict[int, tuple[str, int]]] = {}
        waiting: dict[int, tuple[str, int]] = {}
        moved = True
        while moved:
            moved = False
            for rank in places:
                if rank in waiting:
                    key = waiting[rank]
                    _, members = self._members(key[0])
                    there = entered[key]
                    if set(there) == set(members) and len(set(there.values())) == 1:
                        del waiting[rank]
                        self._complete(rank, key)
                        moved = True
                    continue
                step, at = divmod(places[rank], len(self.program))
                if step >= steps:
                    continue
                fault = self._fault_at(rank, step, at)
                if fault in {"late", "stop", "gone"}:
                    continue
                places[rank] += 1
                moved = True
                if fault == "skip":
                    continue
                line = self.program[at]
                name, _ = self.group_of(line.kind, rank)
                numbers[name, rank] = numbers.get((name, rank), 0) + 1
                key = (name, numbers[name, rank])
                op = ("broadcast" if line.op != "broadcast" else "reduce") if fault == "op" else line.op
                elements = line.elements * 2 + 1 if fault == "shape" else line.elements
                entered.setdefault(key, {})[rank] = (op, elements)
                waiting[rank] = key
                self.made[rank].append(self._call(name, key[1], op, elements, at))
        self.blocked = set(waiting)
        for rank in waiting if self.nccl else ():
            self._enqueue(rank, places[rank], numbers)
        return bool(waiting)

    def _enqueue(self, rank: int, place: int, numbers: dict[tuple[str, int], int]) -> None:
        """Call what a rank calls before it waits for its GPU, at the end of a step."""
        for _ in range(self.ahead):
            step, at = divmod(place, len(self.program))
            if at == 0 or self._fault_at(rank, step, at) is not None:
                return
            line, place = self.program[at], place + 1
            name, _ = self.group_of(line.kind, rank)
            numbers[name, rank] = numbers.get((name, rank), 0) + 1
            self.made[rank].append(self._call(name, numbers[name, rank], line.op, line.elements, at))

    def _fault_at(self, rank: int, step: int, at: int) -> str | None:
        fault = self.fault
        here = fault is not None and (fault.rank, fault.step, fault.line) == (rank, step, at)
        return fault.name if fault is not None and here else None

    def _members(self, name: str) -> tuple[str, tuple[int, ...]]:
        if name == "0":
            return self.group_of("all", 0)
        kind, number = name[:5], int(name[5:])
        return self.group_of(kind, number)

    def _complete(self, rank: int, key: tuple[str, int]) -> None:
        if not self.nccl:
            return
        calls = self.made[rank]
        at = next(i for i, call in enumerate(calls) if (call.group, call.seq) == key)
        calls[at] = calls[at].model_copy(update={"state": CallState.COMPLETED})

    def _call(self, group: str, seq: int, op: str, elements: int, at: int) -> CollectiveCall:
        return CollectiveCall(
            group=group,
            seq=seq,
            op=op,
            backend="nccl" if self.nccl else "gloo",
            inputs=((elements,),),
            outputs=((elements,),),
            dtypes=("Float",),
            state=CallState.SCHEDULED,
            site=self.site(at) if self.sites else None,
        )

    def site(self, at: int) -> Frame:
        """The line of the program."""
        return Frame(function="step", file="/job/train.py", line=10 + at)

    def groups(self, rank: int) -> Mapping[str, Group]:
        """What NCCL's recorder says of the groups; gloo's says nothing."""
        if not self.nccl:
            return {}
        found = (self.group_of(kind, rank) for kind in ("all", "inner", "outer"))
        return {name: Group(name=name, ranks=members) for name, members in found}

    def snapshot(self, *, recordings: bool, stacks: bool, of: Sequence[int] | None = None) -> Snapshot:
        """What is seen of these ranks, or of all."""
        shown = range(self.world) if of is None else of
        return Snapshot(seconds=3.0, ranks=tuple(self._look(rank, recordings, stacks) for rank in shown))

    def _look(self, rank: int, recordings: bool, stacks: bool) -> RankLook:
        faulty = self.fault.name if self.fault is not None and self.fault.rank == rank else ""
        at_fault = faulty and rank not in self.blocked
        state = {"stop": ProcessState.STOPPED, "gone": ProcessState.GONE}.get(faulty) if at_fault else None
        silent = state is not None
        seen = None
        if recordings and not silent:
            seen = Recording(version="2.10", calls=tuple(self.made[rank]), groups=self.groups(rank))
        return RankLook(
            node=f"node-{rank // 8}",
            job="job",
            rank=rank,
            world_size=self.world,
            pid=1000 + rank,
            state=state or ProcessState.SLEEPING,
            stacks=(self._stack(rank),) * 3 if stacks and not silent else (),
            still=(rank in self.blocked) if stacks and not silent else None,
            before=seen,
            recording=seen,
        )

    def _stack(self, rank: int) -> Stack:
        if rank in self.blocked:
            call = self.made[rank][-1]
            at = call.site or self.site(0)
            return (Frame(function=call.op, file=TORCH, line=3000), at)
        return (
            Frame(function="__next__", file="torch/utils/data/dataloader.py", line=733),
            Frame(function="main", file="/job/train.py", line=5),
        )
