"""Stores the records of a campaign in the data folder, and reports the result of every node."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, JsonValue, ValidationError

from runner.base.errors import RecordError, StoreError
from runner.base.placed import PlacedFileError, read_placed
from runner.fleet.campaign import Campaign, CampaignJob, JobProgress
from runner.fleet.folder import Folder
from runner.fleet.script import DIAGNOSIS
from runner.history.campaigns import NodeRow
from runner.history.golden import NodeSettings, hardware_kind
from runner.record.documents import MAX_DOCUMENT_BYTES
from runner.record.model import Outcome, Record
from runner.record.redaction.redact import host_secrets, telling
from runner.record.settings import plain_settings
from runner.record.store import Store

# The states of a row.
DONE, ERROR = "done", "error"


@dataclass(frozen=True)
class Gathered:
    """The gathered results: one row per node, then one per joint job; the records, and their paths.

    `names`: alias → name in Slurm.
    """

    rows: tuple[NodeRow, ...]
    records: tuple[Record, ...]
    paths: tuple[Path, ...]
    names: Mapping[str, str]

    @property
    def exit_status(self) -> int:
        """3 if a row failed or is not finished, or an outcome is unknown; else 1 if an issue was found; else 0."""
        if not self.rows or any(row.state != DONE for row in self.rows):
            return Outcome.INCOMPLETE.exit_status
        return max((o.exit_status for row in self.rows for o in row.outcomes.values()), default=3)


def gather_records(campaign: Campaign, folder: Folder, data: Path) -> Gathered:
    """Store every record of the finished jobs in a data folder; repeating this stores no record twice.

    Node names are redacted as well as the names of this host, regardless of the redaction on the nodes.

    Raises:
        StoreError: the data folder cannot be written.
    """
    found: dict[str, tuple[Record, ...]] = {}
    rows: dict[str, NodeRow] = {}
    taken: dict[Path, CampaignJob] = {}
    home = Store(data, secrets=())
    joint_runs: dict[str, list[str]] = {}
    for job in campaign.jobs:
        records, rubbish = _records(campaign, folder, job, home, taken)
        found[job.tag] = records
        # The first round represents the node; the second only confirms it, unless the first returned nothing.
        rows.setdefault(job.key, _row(job, folder, records, rubbish))
        for record in records if job.joint else ():
            joint_runs.setdefault(record.runbook.id, []).append(record.run_id)
    stored, paths = [], []
    for job in campaign.jobs:
        store = Store(data, (*host_secrets(), *telling(job.nodes)))
        for record in found[job.tag]:
            linked = record
            if not record.members:
                runs = tuple(joint_runs.get(record.runbook.id, ()))
                linked = record.model_copy(update={"joint_runs": runs})
            paths.append(_stored(store, linked))
            stored.append(linked)
    return Gathered(
        tuple(rows.values()),
        tuple(stored),
        tuple(paths),
        {job.key: job.nodes[0] for job in campaign.jobs if not job.joint},
    )


def _row(job: CampaignJob, folder: Folder, records: tuple[Record, ...], rubbish: str | None) -> NodeRow:
    reason = job.reason if job.live else _reason(job, folder, records, rubbish)
    ended = ERROR if reason else DONE
    return NodeRow(
        job.key,
        job.progress.value if job.live else ended,
        reason,
        {record.runbook.id: record.outcome or Outcome.INCOMPLETE for record in records},
        {record.runbook.id: record.unproved for record in records if record.unproved},
    )


def _stored(store: Store, record: Record) -> Path:
    path = store.path_of(record)
    with contextlib.suppress(RecordError):
        if store.load(path) == record:
            return path
    return store.save(record)


def _records(
    campaign: Campaign, folder: Folder, job: CampaignJob, home: Store, taken: dict[Path, CampaignJob]
) -> tuple[tuple[Record, ...], str | None]:
    """The records of a finished job, and the problem with any other file that it returned.

    `taken`: places in the data folder that are already used, by job; the places of these records are added.
    """
    if job.progress is not JobProgress.OVER:
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


def _is_taken(home: Store, record: Record, by: CampaignJob, job: CampaignJob) -> bool:
    """Whether this record would overwrite another job's record, or one that was in the data folder before."""
    if by != job:
        return True
    with contextlib.suppress(RecordError):
        there = home.load(home.path_of(record))
        return (there.campaign, there.node_alias) != (record.campaign, record.node_alias)
    return False


def _foreign(campaign: Campaign, job: CampaignJob, record: Record) -> str | None:
    """In what a record is not of this job; None if it is."""
    sent, ran = campaign.code, record.code
    differences = {
        "is of another campaign": record.campaign != campaign.id,
        "is of another node": record.node_alias != job.aliases[0],
        "is of an entry that was not requested": record.runbook.id not in job.entries,
        "is of different nodes than its job": record.members != (job.aliases if job.joint else ()),
        "was taken with different code than was submitted": (
            (ran.package, ran.entries) != (sent.package, sent.entries)
        ),
    }
    return next((said for said, differs in differences.items() if differs), None)


def _reason(job: CampaignJob, folder: Folder, records: tuple[Record, ...], rubbish: str | None) -> str | None:
    """Why a job that is not live failed, in one line; None if it returned every requested record."""
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


class _Diagnosis(BaseModel):
    """The output of `runbook diagnose --json` on a node, as far as it is used here."""

    exit_status: Literal[0, 1, 3]
    machine_class: str = ""
    settings: JsonValue = None
    entries: tuple[dict[str, JsonValue], ...]


@dataclass(frozen=True)
class NodeDiagnosis:
    """The diagnosis of a node; with the status 3 (unknown) and a reason, and without settings, if there is none."""

    job: CampaignJob
    exit_status: int = 3
    entries: tuple[Mapping[str, JsonValue], ...] = ()
    reason: str | None = None
    settings: NodeSettings | None = None


def gather_diagnoses(campaign: Campaign, folder: Folder) -> tuple[NodeDiagnosis, ...]:
    """The diagnosis of every node, or the reason why there is none."""
    return tuple(_diagnosis(folder, job) for job in campaign.jobs)


def _diagnosis(folder: Folder, job: CampaignJob) -> NodeDiagnosis:
    if job.reason is not None:
        return NodeDiagnosis(job, reason=job.reason)
    try:
        data = read_placed(folder.place(job) / DIAGNOSIS, MAX_DOCUMENT_BYTES, links=False)
        found = _Diagnosis.model_validate_json(data)
    except PlacedFileError as error:
        why = f"returned {DIAGNOSIS}, which {error.why}"
        if error.kind == "missing":
            words = folder.last_words(job)
            why = "returned no diagnosis" + (f"; last output line: {words}" if words else "")
        return NodeDiagnosis(job, reason=why)
    except ValidationError:
        return NodeDiagnosis(job, reason=f"returned {DIAGNOSIS}, which is not a valid diagnosis")
    settings = NodeSettings(job.key, hardware_kind(found.machine_class), plain_settings(found.settings))
    return NodeDiagnosis(job, found.exit_status, found.entries, settings=settings)
