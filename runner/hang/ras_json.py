"""Reads the status of NCCL's RAS as JSON, which NCCL 2.28.7 and later write after `SET FORMAT json`.

It lists every rank with its process and its counts, where the text names some; what is an error is decided here by the
same rules as in NCCL's text (`rasClientRunComms` in `src/ras/client_support.cc` of its sources).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from runner.base.bounds import Count, Integer, Name
from runner.base.words import counted
from runner.hang.model import RasReport
from runner.hang.ras_counts import LaunchCounts, RasError, as_findings, ranks_behind

# ncclResult_t
_SUCCESS, _IN_PROGRESS = 0, 7
_RESULTS = {
    1: "Unhandled CUDA error",
    2: "System error",
    3: "Internal error",
    4: "Invalid argument",
    5: "Invalid usage",
    6: "Remote process error",
}
_NAMED_RANKS = 10
_MOST_COMMUNICATORS = 100_000


class _Status(BaseModel):
    init_state: Integer
    async_error: Integer
    finalize_called: bool
    destroy_flag: bool
    abort_flag: bool

    @property
    def word(self) -> str:
        if self.abort_flag:
            return "ABORT"
        if self.finalize_called or self.destroy_flag:
            return "FINALIZE"
        return "RUNNING" if self.init_state == _SUCCESS else "INIT"


class _Place(BaseModel):
    rank: Count
    host: Name
    pid: Integer
    cuda_dev: Integer

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on node {self.host}, GPU {self.cuda_dev})"


class _Member(_Place):
    status: _Status
    collective_counts: dict[Name, Count]


class _Absence(BaseModel):
    unresponsive: bool
    considered_dead: bool


class _Missing(_Place):
    status: _Absence


class _Communicator(BaseModel):
    hash: Name
    size: Count
    ranks: tuple[_Member, ...]
    missing_ranks: tuple[_Missing, ...]

    @property
    def places(self) -> tuple[_Place, ...]:
        return (*self.ranks, *self.missing_ranks)

    def __str__(self) -> str:
        return f"communicator {self.hash} of {counted(self.size, 'rank')}"


class _Collection(BaseModel):
    timeouts_count: Count


class _Answer(BaseModel):
    nccl_version: Name
    communicators: Annotated[tuple[_Communicator, ...], Field(max_length=_MOST_COMMUNICATORS)]
    ras: _Collection


def parse_ras_json(data: bytes) -> RasReport:
    """The report in the answer to `STATUS` after `SET FORMAT json`.

    Raises:
        RasError: the data is of another form, or ends before its end.
    """
    try:
        answer = _Answer.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise RasError(
            f"NCCL's RAS answers with JSON of an unknown form ({where}: {first['msg']})"
        ) from error
    gpus = {(one.host, one.pid, one.cuda_dev) for group in answer.communicators for one in group.places}
    world = len(gpus) if any(group.size == len(gpus) for group in answer.communicators) else None
    spanning = [group for group in answer.communicators if group.size == world]
    findings = list(_findings(answer))
    silent = {one.rank for group in spanning for one in group.missing_ranks if one.status.unresponsive}
    return RasReport(
        version=answer.nccl_version,
        healthy=not findings,
        findings=as_findings(findings),
        silent_ranks=tuple(sorted(silent)),
        behind_ranks=ranks_behind([one for group in spanning for _, one in _differences(group)]),
        world=world,
        pids=tuple(sorted({pid for _, pid, _ in gpus if pid > 0})),
    )


def _findings(answer: _Answer) -> Iterator[str]:
    if not answer.communicators:
        yield "no communicator data collected"
    if count := answer.ras.timeouts_count:
        yield f"TIMEOUT: {counted(count, 'communication timeout')} while gathering communicator data"
    for group in answer.communicators:
        for finding in _of(group):
            yield f"{group}: {finding}"


def _of(group: _Communicator) -> Iterator[str]:
    dead = [one for one in group.missing_ranks if one.status.considered_dead]
    silent = [
        one for one in group.missing_ranks if one.status.unresponsive and not one.status.considered_dead
    ]
    left = [one for one in group.missing_ranks if not (one.status.unresponsive or one.status.considered_dead)]
    if silent:
        yield f"INCOMPLETE: no answer from {_named(silent)}"
    if dead:
        yield f"INCOMPLETE: considered dead: {_named(dead)}"
    yield from _errors("initialization", [(one, one.status.init_state) for one in group.ranks])
    yield from _errors("asynchronous", [(one, one.status.async_error) for one in group.ranks])
    words = Counter(one.status.word for one in group.ranks)
    if left:
        yield f"MISMATCH: no longer in the communicator: {_named(left)}"
    if len(words) > 1:
        usual = words.most_common(1)[0][0]
        others = [one for one in group.ranks if one.status.word != usual]
        counts = ", ".join(f"{counted(count, 'rank')} {word}" for word, count in words.most_common())
        yield f"MISMATCH: ranks have different status ({counts}): {_named(others)}"
    elif set(words) == {"ABORT"}:
        yield "all ranks have status ABORT"
    for kind, launches in _differences(group):
        yield f"MISMATCH: ranks have different {kind} operation counts: {_spread(launches.by_rank)}"


def _errors(what: str, states: Sequence[tuple[_Member, int]]) -> Iterator[str]:
    for code in sorted({state for _, state in states} - {_SUCCESS, _IN_PROGRESS}):
        ranks = [one for one, state in states if state == code]
        yield f"ERROR: {what} error {_RESULTS.get(code, f'number {code}')} on {_named(ranks)}"


def _differences(group: _Communicator) -> Iterator[tuple[str, LaunchCounts]]:
    """The kinds of collectives of which the ranks have launched different numbers."""
    for kind in dict.fromkeys(kind for one in group.ranks for kind in one.collective_counts):
        by_rank = {one.rank: one.collective_counts.get(kind, 0) for one in group.ranks}
        if len(set(by_rank.values())) > 1:
            yield kind, LaunchCounts(by_rank, max(by_rank.values()))


def _spread(by_rank: Mapping[int, int]) -> str:
    sets: dict[int, list[int]] = {}
    for rank, count in sorted(by_rank.items()):
        sets.setdefault(count, []).append(rank)
    order = sorted(sets.items(), key=lambda one: (-len(one[1]), -one[0]))
    return "; ".join(f"{_numbers(ranks)} up to operation {count}" for count, ranks in order)


def _numbers(ranks: Sequence[int]) -> str:
    if len(ranks) > _NAMED_RANKS:
        return counted(len(ranks), "rank")
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _named(places: Sequence[_Place]) -> str:
    named = ", ".join(map(str, places[:_NAMED_RANKS]))
    more = len(places) - _NAMED_RANKS
    return f"{named} and {more} more" if more > 0 else named
