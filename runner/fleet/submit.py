"""Starts a campaign: selects nodes, stores what will run on them, and submits one job per node."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from runner.base.errors import InputError, StoreError
from runner.entry.model import Runbook
from runner.fleet.alias import cluster_alias
from runner.fleet.campaign import (
    CODE,
    Campaign,
    Folder,
    Job,
    JointSteps,
    Progress,
    new_campaign_id,
)
from runner.fleet.commands import ControllerAwayError, Slurm, SlurmError, Wish
from runner.fleet.retry import FleetObserver, answered
from runner.fleet.script import Task, batch_script
from runner.fleet.text import ClusterNode, QueuedJob
from runner.record.model import Code
from runner.record.stamp import Stamp

START_WITHIN_S = 3600.0
_SPARE_MINUTES = 5
_SAVE_EVERY_S = 1.0
# States of a job whose script has not started, or never will.
_NOT_BEGUN = {"PENDING", "CONFIGURING", "CANCELLED"}


@dataclass(frozen=True)
class Order:
    """What a campaign will run, and how. At most one of `count` and `nodelist` is set.

    `command` is `run` or `diagnose`, with its `arguments` on each node; `joint` are the steps that need several nodes
    at once.
    """

    runbooks: Path
    entries: tuple[Runbook, ...]
    arguments: tuple[str, ...]
    longest_s: float
    joint: tuple[JointSteps, ...]
    code: Code
    archive: bytes = field(repr=False)
    alias_key: bytes = field(repr=False)
    home_python: str
    command: str = "run"
    wish: Wish = field(default_factory=Wish)
    count: int | None = None
    nodelist: str | None = None
    shared: bool = True
    prefix: str = ""
    python: str | None = None
    start_within_s: float = START_WITHIN_S


def choose_nodes(slurm: Slurm, order: Order) -> tuple[ClusterNode, ...]:
    """The nodes of a campaign: the named ones, or `count` nodes of the partition with idle ones first, or all of it.

    Raises:
        InputError: a node does not exist, or the partition has too few nodes.
    """
    known = {node.name: node for node in slurm.nodes()}
    if order.nodelist is not None:
        names = slurm.expand(order.nodelist)
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(f"the cluster has no node {', '.join(missing)}; `sinfo -N` lists its nodes")
        return tuple(known[name] for name in names)
    nodes = [known[name] for name in slurm.partition(order.wish.partition) if name in known]
    if order.count is None:
        return tuple(nodes)
    if not 1 <= order.count <= len(nodes):
        raise InputError(f"--nodes {order.count}: the partition has only {len(nodes)}")
    best = sorted(nodes, key=lambda node: (not node.fit, not node.idle))[: order.count]
    return tuple(node for node in nodes if node in best)


def prepare(order: Order, base: Path, slurm: Slurm) -> tuple[Folder, Campaign]:
    """Select the nodes and store what will run on them; nothing is submitted yet.

    Raises:
        InputError: nodes do not exist.
        SlurmError: Slurm does not answer.
        StoreError: the campaign's folder cannot be written.
    """
    campaign = _new_campaign(order, choose_nodes(slurm, order))
    folder = Folder(base / campaign.id)
    folder.save(campaign)
    try:
        (folder.path / CODE).write_bytes(order.archive)
    except OSError as error:
        raise StoreError(f"cannot write {folder.path / CODE}: {error.strerror}") from error
    return folder, campaign


def submit(
    campaign: Campaign,
    folder: Folder,
    slurm: Slurm,
    observer: FleetObserver,
    pause: Callable[[float], None] = time.sleep,
) -> Campaign:
    """Submit the remaining jobs; a job whose node cannot run it is refused at once, with the reason.

    A job that Slurm has already accepted, although the answer was lost or not stored, is not submitted again.

    Raises:
        ControllerAwayError: the controller has not answered for 15 minutes; the jobs submitted so far are stored.
        SlurmError: Slurm does not list its nodes.
    """
    archive = (folder.path / CODE).read_bytes()
    known = {node.name: node for node in answered(slurm.nodes, observer, pause)}
    queue = answered(partial(slurm.queue, campaign.job_name), observer, pause)
    saved = time.monotonic()
    try:
        for job in campaign.jobs:
            if job.job_id is not None or not job.live:
                continue
            unfit = [node for name in job.nodes if (node := known.get(name)) and not node.fit]
            if (found := accepted(job, queue.values())) is not None:
                done = found
            elif campaign.shared and folder.exit_status(job) is not None:
                # Slurm no longer knows it.
                done = job.model_copy(update={"progress": Progress.OVER, "state": "UNKNOWN"})
            elif unfit:
                done = refused(job, unfit[0])
            else:
                script = _script(campaign, job, folder, archive)
                done = _submitted(campaign, job, slurm, script, observer, pause)
            campaign = campaign.with_job(done)
            observer.job_changed(done, "")
            if time.monotonic() - saved > _SAVE_EVERY_S:
                folder.save(campaign)
                saved = time.monotonic()
    finally:
        folder.save(campaign)
    return campaign


def _submitted(
    campaign: Campaign,
    job: Job,
    slurm: Slurm,
    script: str,
    observer: FleetObserver,
    pause: Callable[[float], None],
) -> Job:
    asked = False

    def ask() -> Job:
        nonlocal asked
        # After a lost answer, only the queue shows whether the job was accepted.
        if asked and (found := accepted(job, slurm.queue(campaign.job_name).values())) is not None:
            return found
        asked = True
        wish = Wish(campaign.partition, campaign.account, campaign.gpus, campaign.minutes)
        job_id = slurm.submit(script, campaign.job_name, job.tag, job.nodes, wish, whole=campaign.measures)
        return job.model_copy(update={"job_id": job_id, "submitted_at": datetime.now(UTC)})

    try:
        return answered(ask, observer, pause)
    except ControllerAwayError:
        raise
    except SlurmError as error:
        return job.model_copy(update={"progress": Progress.REFUSED, "reason": str(error)})


def accepted(job: Job, queue: Iterable[QueuedJob]) -> Job | None:
    """The job with its id in Slurm; None if Slurm has no such job.

    Of several, the one that started is used: if two ran, there would be two records.
    """
    same = [one for one in queue if one.tag == job.tag]
    begun = [one.job_id for one in same if one.state not in _NOT_BEGUN]
    ids = begun or [one.job_id for one in same]
    if not ids:
        return None
    keeps = not begun and job.job_id in ids
    first = job.job_id if keeps else min(ids, key=lambda job_id: (len(job_id), job_id))
    if first == job.job_id:
        return job
    known = {"job_id": first, "submitted_at": datetime.now(UTC)}
    return job.model_copy(update={**known, "progress": Progress.WAITING, "reason": None})


def _script(campaign: Campaign, job: Job, folder: Folder, archive: bytes) -> str:
    place = folder.place(job)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir(mode=0o700, exist_ok=True)
    joint = next((one for one in campaign.joint if job.joint and one.entry == job.entries[0]), None)
    steps = [word for step in (joint.steps if joint else ()) for word in ("--step", step)]
    task = Task(
        stamp=Stamp(
            campaign=campaign.id,
            node_alias=job.aliases[0],
            code=campaign.code,
            members=job.aliases if job.joint else (),
        ),
        key=job.tag,
        place=str(place.resolve()) if campaign.shared else None,
        code=str((folder.path / CODE).resolve()) if campaign.shared else None,
        archive=archive,
        command=campaign.command,
        arguments=(*(job.entries if campaign.measures else ()), *campaign.arguments, *steps),
        prefix=campaign.prefix,
        python=campaign.python,
        home_python=campaign.home_python,
        joint=job.joint,
    )
    return batch_script(task)


def refused(job: Job, node: ClusterNode) -> Job:
    """The job, refused because of the state of its node."""
    said = f"not started: node state in Slurm is {node.state}" + (f", {node.reason}" if node.reason else "")
    return job.model_copy(update={"progress": Progress.REFUSED, "reason": said})


def _new_campaign(order: Order, nodes: Sequence[ClusterNode]) -> Campaign:
    entries = tuple(runbook.id for runbook in order.entries)
    aliases = {node.name: cluster_alias(node.name, order.alias_key) for node in nodes}
    return Campaign(
        id=new_campaign_id(),
        created_at=datetime.now(UTC),
        command=order.command,
        runbooks=order.runbooks.resolve(),
        entries=entries,
        arguments=order.arguments,
        code=order.code,
        shared=order.shared,
        prefix=order.prefix,
        python=order.python,
        home_python=order.home_python,
        partition=order.wish.partition,
        account=order.wish.account,
        gpus=order.wish.gpus,
        minutes=order.wish.minutes or math.ceil(order.longest_s / 60) + _SPARE_MINUTES,
        start_within_s=order.start_within_s,
        joint=order.joint,
        jobs=tuple(
            Job(key=alias, nodes=(name,), aliases=(alias,), entries=entries)
            for name, alias in aliases.items()
        ),
    )


def again(campaign: Campaign, suspects: dict[str, tuple[str, ...]]) -> Campaign:
    """The campaign with a second round: each suspect (by alias) runs the entries in which it is an outlier again."""
    for job in campaign.jobs:
        if job.joint or job.round != 1 or job.key not in suspects:
            continue
        rerun = Job(key=job.key, nodes=job.nodes, aliases=job.aliases, entries=suspects[job.key], round=2)
        if not any((old.key, old.round) == (job.key, 2) for old in campaign.jobs):
            campaign = campaign.with_job(rerun)
    return campaign
