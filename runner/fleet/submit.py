"""Starts a campaign: selects nodes, stores what will run on them, and submits one job per node."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import Field

from runner.base.errors import InputError, StoreError
from runner.fleet.alias import cluster_alias
from runner.fleet.campaign import Campaign, CampaignJob, CampaignSettings, JobProgress, new_campaign_id
from runner.fleet.commands import ControllerAwayError, Slurm, SlurmError
from runner.fleet.folder import CODE, Folder
from runner.fleet.retry import Fleet
from runner.fleet.script import NodeTask, batch_script
from runner.fleet.text import ClusterNode, QueuedJob
from runner.record.stamp import Stamp

_SPARE_MINUTES = 5
_SAVE_EVERY_S = 1.0
# States of a job whose script has not started, or never will.
_NOT_BEGUN = {"PENDING", "CONFIGURING", "CANCELLED"}


class Order(CampaignSettings):
    """A campaign before its nodes are selected. At most one of `count` and `nodelist` is set.

    Attributes:
        longest_s: the longest that the command takes on a node, in seconds.
        archive: the packed code.
        alias_key: the key of the nodes' aliases.
        minutes: time limit of a job; by default it follows from `longest_s`.
        count: how many nodes of the partition.
        nodelist: exactly these nodes, as Slurm writes them.
    """

    longest_s: float
    archive: bytes = Field(repr=False)
    alias_key: bytes = Field(repr=False)
    minutes: int | None = None
    count: int | None = None
    nodelist: str | None = None


def choose_nodes(slurm: Slurm, order: Order) -> tuple[ClusterNode, ...]:
    """The nodes of a campaign: the named ones, or `count` nodes of the partition with idle ones first, or all of it.

    Raises:
        InputError: a node does not exist, or the partition has too few nodes.
    """
    known = slurm.nodes()
    if order.nodelist is not None:
        names = slurm.expand(order.nodelist)
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(f"the cluster has no node {', '.join(missing)}; `sinfo -N` lists its nodes")
        return tuple(known[name] for name in names)
    nodes = [known[name] for name in slurm.partition(order.partition) if name in known]
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


def submit(campaign: Campaign, fleet: Fleet) -> Campaign:
    """Submit the remaining jobs; a job whose node cannot run it is refused at once, with the reason.

    A job that Slurm has already accepted, although the answer was lost or not stored, is not submitted again.

    Raises:
        ControllerAwayError: the controller has not answered for 15 minutes; the jobs submitted so far are stored.
        SlurmError: Slurm does not list its nodes.
    """
    folder, slurm = fleet.folder, fleet.slurm
    archive = (folder.path / CODE).read_bytes()
    known = fleet.answered(slurm.nodes)
    queue = fleet.answered(partial(slurm.queue, campaign.job_name))
    saved = time.monotonic()
    try:
        for job in campaign.jobs:
            if job.job_id is not None or not job.live:
                continue
            done = accepted(job, queue.values())
            if done is None and campaign.shared and folder.exit_status(job) is not None:
                # Slurm no longer knows it.
                done = job.over("UNKNOWN", None)
            done = done or refused_by_node(job, known) or _submitted(campaign, job, fleet, archive)
            campaign = campaign.with_job(done)
            fleet.observer.job_changed(done, "")
            if time.monotonic() - saved > _SAVE_EVERY_S:
                folder.save(campaign)
                saved = time.monotonic()
    finally:
        folder.save(campaign)
    return campaign


def _submitted(campaign: Campaign, job: CampaignJob, fleet: Fleet, archive: bytes) -> CampaignJob:
    script, slurm = _script(campaign, job, fleet.folder, archive), fleet.slurm
    asked = False

    def ask() -> CampaignJob:
        nonlocal asked
        # After a lost answer, only the queue shows whether the job was accepted.
        if asked and (found := accepted(job, slurm.queue(campaign.job_name).values())) is not None:
            return found
        asked = True
        job_id = slurm.submit(
            script, campaign.job_name, job.tag, job.nodes, campaign.wish, whole=campaign.measures
        )
        return job.model_copy(update={"job_id": job_id, "submitted_at": datetime.now(UTC)})

    try:
        return fleet.answered(ask)
    except ControllerAwayError:
        raise
    except SlurmError as error:
        return job.refused(str(error))


def accepted(job: CampaignJob, queue: Iterable[QueuedJob]) -> CampaignJob | None:
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
    return job.model_copy(update={**known, "progress": JobProgress.WAITING, "reason": None})


def _script(campaign: Campaign, job: CampaignJob, folder: Folder, archive: bytes) -> str:
    place = folder.place(job)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir(mode=0o700, exist_ok=True)
    joint = next((one for one in campaign.joint if job.joint and one.entry == job.entries[0]), None)
    steps = [word for step in (joint.steps if joint else ()) for word in ("--step", step)]
    task = NodeTask(
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


def refused_by_node(job: CampaignJob, known: Mapping[str, ClusterNode]) -> CampaignJob | None:
    """The job, refused because of the state of one of its nodes; None if every known node can run it."""
    unfit = next((node for name in job.nodes if (node := known.get(name)) and not node.fit), None)
    if unfit is None:
        return None
    noted = f", {unfit.reason}" if unfit.reason else ""
    return job.refused(f"not started: node state in Slurm is {unfit.state}{noted}")


def _new_campaign(order: Order, nodes: Sequence[ClusterNode]) -> Campaign:
    settings = {name: getattr(order, name) for name in CampaignSettings.model_fields}
    aliases = {node.name: cluster_alias(node.name, order.alias_key) for node in nodes}
    now = datetime.now(UTC)
    return Campaign(
        **settings | {"runbooks": order.runbooks.resolve()},
        id=new_campaign_id(now),
        created_at=now,
        minutes=order.minutes or math.ceil(order.longest_s / 60) + _SPARE_MINUTES,
        jobs=tuple(
            CampaignJob(key=alias, nodes=(name,), aliases=(alias,), entries=order.entries)
            for name, alias in aliases.items()
        ),
    )


def again(campaign: Campaign, suspects: Mapping[str, tuple[str, ...]]) -> Campaign:
    """The campaign with a second round: each suspect (by alias) runs the entries in which it is an outlier again."""
    tried = {job.key for job in campaign.jobs if job.round > 1}
    for job in campaign.jobs:
        if not job.joint and job.round == 1 and job.key in suspects.keys() - tried:
            rerun = CampaignJob(
                key=job.key, nodes=job.nodes, aliases=job.aliases, entries=suspects[job.key], round=2
            )
            campaign = campaign.with_job(rerun)
    return campaign
