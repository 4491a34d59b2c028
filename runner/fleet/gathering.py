"""Stores the records of a campaign in the data folder, and reports the result of every node."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, JsonValue, ValidationError

from runner.base.errors import RecordError, StoreError
from runner.base.placed import PlacedFileError, read_placed
from runner.fleet.campaign import Campaign, Folder, Job, Progress
from runner.fleet.script import DIAGNOSIS
from runner.history.campaigns import Row
from runner.record.documents import MAX_DOCUMENT_BYTES
from runner.record.model import Outcome, Record
from runner.record.redaction.redact import host_secrets, telling
from runner.record.store import Store

# The states of a row.
DONE, ERROR = "done", "error"


@dataclass(frozen=True)
class Gathered:
    """The gathered results: one row per node, separate rows for joint jobs, the records, and their paths."""

    rows: tuple[Row, ...]
    joint: tuple[Row, ...]
    records: tuple[Record, ...]
    paths: tuple[Path, ...]
    names: Mapping[str, str]

    @property
    def exit_status(self) -> int:
        """3 if a row failed or is not finished, or an outcome is unknown; else 1 if an issue was found; else 0."""
        rows = (*self.rows, *self.joint)
        if not rows or any(row.state != DONE for row in rows):
            return Outcome.INCOMPLETE.exit_status
        return max((o.exit_status for row in rows for o in row.outcomes.values()), default=3)


def gather(campaign: Campaign, folder: Folder, data: Path) -> Gathered:
    """Store every record of the finished jobs in a data folder; repeating this stores no record twice.

    Node names are redacted as well as the names of this host, regardless of the redaction on the nodes.

    Raises:
        StoreError: the data folder cannot be written.
    """
    found: dict[str, tuple[Record, ...]] = {}
    rows: dict[str, tuple[Job, Row]] = {}
    taken: dict[Path, Job] = {}
    for job in campaign.jobs:
        records, rubbish = _records(campaign, folder, job, Store(data, secrets=()), taken)
        found[f"{job.round}-{job.key}"] = records
        row = Row(
            job.key,
            _state(job, folder, records, rubbish),
            _reason(job, folder, records, rubbish),
            {record.runbook.id: record.outcome or Outcome.INCOMPLETE for record in records},
            {record.runbook.id: record.unproved for record in records if record.unproved},
        )
        # The first round represents the node; the second only confirms it, unless the first returned nothing.
        rows.setdefault(job.key, (job, row))
    joint_runs: dict[str, list[str]] = {}
    for job in campaign.jobs:
        for record in found[f"{job.round}-{job.key}"] if job.joint else ():
            joint_runs.setdefault(record.runbook.id, []).append(record.run_id)
    stored, paths = [], []
    for job in campaign.jobs:
        store = Store(data, (*host_secrets(), *telling(job.nodes)))
        for record in found[f"{job.round}-{job.key}"]:
            linked = record
            if not record.members:
                runs = tuple(joint_runs.get(record.runbook.id, ()))
                linked = record.model_copy(update={"joint_runs": runs})
            paths.append(_stored(store, linked))
            stored.append(linked)
    return Gathered(
        tuple(row for job, row in rows.values() if not job.joint),
        tuple(row for job, row in rows.values() if job.joint),
        tuple(stored),
        tuple(paths),
        {job.key: job.nodes[0] for job in campaign.jobs if not job.joint},
    )


def _stored(store: Store, record: Record) -> Path:
    path = store.path_of(record)
    with contextlib.suppress(RecordError):
        if store.load(path) == record:
            return path
    return store.save(record)


def _records(
    campaign: Campaign, folder: Folder, job: Job, home: Store, taken: dict[Path, Job]
) -> tuple[tuple[Record, ...], str | None]:
    """The records of a finished job, and the problem with any other file that it returned.

    `taken`: places in the data folder that are already used, by job; the places of these records are added.
    """
    if job.progress is not Progress.OVER:
        return (), None
    returned = Store(folder.place(job) / "data", secrets=())
    good: list[Record] = []
    wrong = None
    try:
        places, stray = returned.files(), returned.strays()
    except StoreError as error:
        return (), str(error)
    for path in places:
        try:
            record = returned.load(path)
            problem = _foreign(campaign, job, record)
            if problem is None and returned.path_of(record) != path:
                problem = "has the place of another record"
            if problem is None and any(one.runbook.id == record.runbook.id for one in good):
                problem = "is a second record of its entry"
            if problem is None and _is_taken(home, record, taken.setdefault(home.path_of(record), job), job):
                problem = "has the run id of another record"
        except (RecordError, StoreError) as error:
            problem = str(error).removeprefix(f"{path} ").replace(str(path), _shown(path))
        else:
            if problem is None:
                good.append(record)
                continue
        wrong = wrong or f"returned {_shown(path)}, which {problem}"
    if stray:
        wrong = wrong or f"returned {_shown(stray[0].path)}, which {stray[0].message}"
    return tuple(good), wrong


def _shown(path: Path) -> str:
    return path.name if path.name.isprintable() else ascii(path.name)


def _is_taken(home: Store, record: Record, by: Job, job: Job) -> bool:
    """Whether this record would overwrite another job's record, or one that was in the data folder before."""
    if by != job:
        return True
    with contextlib.suppress(RecordError):
        there = home.load(home.path_of(record))
        return (there.campaign, there.node_alias) != (record.campaign, record.node_alias)
    return False


def _foreign(campaign: Campaign, job: Job, record: Record) -> str | None:
    if record.campaign != campaign.id:
        return "is of another campaign"
    if record.node_alias != job.aliases[0]:
        return "is of another node"
    if record.runbook.id not in job.entries:
        return "is of an entry that was not requested"
    if record.members != (job.aliases if job.joint else ()):
        return "is of different nodes than its job"
    ours = (campaign.code.package, campaign.code.entries)
    if (record.code.package, record.code.entries) != ours:
        return "was taken with different code than was submitted"
    return None


def _state(job: Job, folder: Folder, records: tuple[Record, ...], rubbish: str | None) -> str:
    if job.live:
        return job.progress.value
    return ERROR if _reason(job, folder, records, rubbish) else DONE


def _reason(job: Job, folder: Folder, records: tuple[Record, ...], rubbish: str | None) -> str | None:
    """Why the job failed, in one line; None if it returned every requested record."""
    if job.live:
        return job.reason
    if job.reason is not None:
        return job.reason + _so_far(records)
    if rubbish is not None:
        return rubbish
    finished = {record.runbook.id for record in records if record.outcome is not None}
    missing = [entry for entry in job.entries if entry not in finished]
    if not missing:
        return None
    words, status = folder.last_words(job), folder.exit_status(job)
    said = f"returned no record of {', '.join(missing)}"
    if words:
        return f"{said}; last output line: {words}"
    ended = "" if status is None else f", and its exit status was {status}"
    return f"{said}; it could not write output{ended}: check whether the disk for its results is full"


def _so_far(records: tuple[Record, ...]) -> str:
    ended = sum(record.outcome is not None for record in records)
    cut = [record for record in records if record.outcome is None]
    if not records:
        return ""
    steps = f", {len(cut[0].steps)} steps of {cut[0].runbook.id}" if cut else ""
    return f"; {ended} finished records{steps} are stored"


class NodeDiagnosis(BaseModel):
    """The output of `runbook diagnose --json` on a node, as far as it is used here."""

    exit_status: Literal[0, 1, 3]
    entries: tuple[dict[str, JsonValue], ...]


def gather_diagnoses(
    campaign: Campaign, folder: Folder
) -> tuple[tuple[Job, NodeDiagnosis | None, str | None], ...]:
    """The diagnosis of every node, or the reason why there is none."""
    return tuple((job, *_diagnosis(folder, job)) for job in campaign.jobs)


def _diagnosis(folder: Folder, job: Job) -> tuple[NodeDiagnosis | None, str | None]:
    if job.reason is not None:
        return None, job.reason
    try:
        data = read_placed(folder.place(job) / DIAGNOSIS, MAX_DOCUMENT_BYTES, links=False)
        return NodeDiagnosis.model_validate_json(data), None
    except PlacedFileError as error:
        if error.kind != "missing":
            return None, f"returned {DIAGNOSIS}, which {error.why}"
        words = folder.last_words(job)
        return None, "returned no diagnosis" + (f"; last output line: {words}" if words else "")
    except ValidationError:
        return None, f"returned {DIAGNOSIS}, which is not a valid diagnosis"
