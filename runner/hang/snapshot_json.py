"""A snapshot as a JSON document, and several snapshots as one. Pure."""

from collections.abc import Iterable, Sequence

from pydantic import JsonValue, TypeAdapter, ValidationError

from runner.base.errors import InputError
from runner.hang.findings import HangVerdict
from runner.hang.model import RankLook, Recording, Snapshot

# Calls of a recording that a document keeps, the newest: ranks of a job that hangs are at most some calls apart.
_MOST_CALLS, _MOST_CALLS_BEFORE = 500, 16
_VERDICTS = TypeAdapter(tuple[HangVerdict, ...])


def as_document(snapshot: Snapshot, verdicts: Sequence[HangVerdict], status: int) -> dict[str, JsonValue]:
    """What was seen and what follows from it; of each recording the newest calls."""
    shortened = snapshot.model_copy(update={"ranks": tuple(map(_shortened, snapshot.ranks))})
    return {
        "exit_status": status,
        "verdicts": _VERDICTS.dump_python(tuple(verdicts), mode="json"),
        "snapshot": shortened.model_dump(mode="json", exclude_defaults=True),
    }


def snapshot_in(document: object) -> Snapshot:
    """The snapshot of such a document.

    Raises:
        InputError: it holds none.
    """
    try:
        return Snapshot.model_validate(document["snapshot"] if isinstance(document, dict) else document)
    except (ValidationError, KeyError) as error:
        raise InputError("holds no snapshot of `runbook hang --json`") from error


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of several nodes. One report of NCCL's RAS is about the whole job: the first one counts."""
    every = list(snapshots)
    ras = next((one.ras for one in every if one.ras is not None), None)
    return Snapshot(
        seconds=max((one.seconds for one in every), default=0),
        ranks=tuple(look for one in every for look in one.ranks),
        xids=tuple(line for one in every for line in one.xids),
        ras=ras,
        unseen=tuple(why for one in every for why in one.unseen),
    )


def joined_looks(dumps: Iterable[RankLook], stacks: Iterable[RankLook]) -> tuple[RankLook, ...]:
    """What the files of dumps and of stacks say, one look a rank."""
    found = {look.rank: look for look in dumps}
    for look in stacks:
        had = found.get(look.rank)
        found[look.rank] = look if had is None else had.model_copy(update={"stacks": look.stacks})
    return tuple(found[rank] for rank in sorted(found, key=lambda rank: -1 if rank is None else rank))


def _shortened(look: RankLook) -> RankLook:
    return look.model_copy(
        update={
            "before": _newest(look.before, _MOST_CALLS_BEFORE),
            "recording": _newest(look.recording, _MOST_CALLS),
        }
    )


def _newest(recording: Recording | None, most: int) -> Recording | None:
    return recording and recording.model_copy(update={"calls": recording.calls[-most:]})
