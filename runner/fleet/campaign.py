"""The state of a campaign: what was started on which node."""

import secrets
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict

from runner.fleet import START_WITHIN_S
from runner.fleet.commands import Wish
from runner.record.model import Code


class JobProgress(StrEnum):
    """The state of a task. `refused`: it never became a job. `over`: its job ended, with any result."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"
    REFUSED = "refused"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CampaignJob(_Model):
    """One task of a campaign: one node's entries, or one entry's joint steps over several nodes.

    Attributes:
        key: name of its folder: the node's alias, or `joint-<entry>`.
        nodes: Slurm names of its nodes.
        entries: ids of its entries.
        submitted_at: when it was submitted to Slurm, by this host's clock.
        state: the last Slurm state of the job.
        reason: why it returned no result, in one line; None if it ended by itself.
        fetched: its results are in its folder on this host.
    """

    key: str
    nodes: tuple[str, ...]
    aliases: tuple[str, ...]
    entries: tuple[str, ...]
    round: int = 1
    joint: bool = False
    job_id: str | None = None
    submitted_at: AwareDatetime | None = None
    progress: JobProgress = JobProgress.WAITING
    state: str | None = None
    reason: str | None = None
    fetched: bool = False

    @property
    def tag(self) -> str:
        """Its unique tag within the campaign: the name of its folder and the comment of its job."""
        return f"{self.round}-{self.key}"

    @property
    def live(self) -> bool:
        """Whether its state may still change."""
        return self.progress in {JobProgress.WAITING, JobProgress.RUNNING}

    def refused(self, reason: str) -> "CampaignJob":
        """A copy that will never become a job, for this reason."""
        return self.model_copy(update={"progress": JobProgress.REFUSED, "reason": reason})

    def over(self, state: str, reason: str | None) -> "CampaignJob":
        """A copy that ended in this Slurm state; `reason`: why it returned no result."""
        return self.model_copy(update={"progress": JobProgress.OVER, "state": state, "reason": reason})


class JointSteps(_Model):
    """Steps of one entry that need several nodes at once, and the minimum number of nodes."""

    entry: str
    steps: tuple[str, ...]
    nodes: int


class CampaignSettings(_Model):
    """What a campaign runs on its nodes, and how.

    Attributes:
        command: `run` or `diagnose`.
        runbooks: the folder of the entries.
        entries: ids of the entries.
        arguments: of the command on each node.
        code: the state of the code that runs.
        shared: whether the nodes share the campaign's folder.
        prefix: words before Python, for example a container launcher.
        python: the only Python to use; None to choose one on each node.
        home_python: the Python that started the campaign.
        gpus: GPUs to request on each node.
        start_within_s: a job that is pending for longer, in seconds, is cancelled.
        joint: steps that need several nodes at once.
    """

    command: str = "run"
    runbooks: Path
    entries: tuple[str, ...]
    arguments: tuple[str, ...]
    code: Code
    shared: bool = True
    prefix: str = ""
    python: str | None = None
    home_python: str
    partition: str | None = None
    account: str | None = None
    gpus: int | None = None
    start_within_s: float = START_WITHIN_S
    joint: tuple[JointSteps, ...] = ()


class Campaign(CampaignSettings):
    """A campaign and the states of its jobs. `minutes`: time limit of a job."""

    id: str
    created_at: AwareDatetime
    minutes: int
    jobs: tuple[CampaignJob, ...]

    @property
    def job_name(self) -> str:
        """The Slurm job name that all of its jobs have, and no others."""
        return f"runbook-{self.id}"

    @property
    def measures(self) -> bool:
        """Whether its jobs run entries, which need exclusive nodes; `diagnose` only reads."""
        return self.command == "run"

    @property
    def wish(self) -> Wish:
        """What each of its jobs requests besides its nodes."""
        return Wish(self.partition, self.account, self.gpus, self.minutes)

    def with_job(self, job: CampaignJob) -> "Campaign":
        """A copy in which this job replaces the one with its key and round, or is appended."""
        jobs = {(old.key, old.round): old for old in self.jobs} | {(job.key, job.round): job}
        return self.model_copy(update={"jobs": tuple(jobs.values())})


def new_campaign_id(now: datetime) -> str:
    """A new id such as `20261125-083000-1f3a`; ids sort by creation time."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
