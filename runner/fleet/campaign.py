"""The state of a campaign on disk: what was started on which node, so that any shell can continue it."""

import contextlib
import fcntl
import io
import os
import secrets
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from runner.base.errors import BusyError, InputError, StoreError
from runner.base.placed import PlacedFileError, read_placed
from runner.record.last_words import last_words_in
from runner.record.model import Code
from runner.record.redaction.redact import host_secrets

_FILE, _LOCK, CODE = "campaign.json", ".lock", "code.tar.gz"
# The guides that entries link to.
_GUIDES = "kb/guides"
# The state of thousands of nodes takes a few megabytes.
_MOST_CAMPAIGN_BYTES, _MOST_NOTE_BYTES = 64 << 20, 4096
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Progress(StrEnum):
    """The state of a task. `refused`: it never became a job. `over`: its job ended, with any result."""

    WAITING = "waiting"
    RUNNING = "running"
    OVER = "over"
    REFUSED = "refused"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Model):
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
    progress: Progress = Progress.WAITING
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
        return self.progress in {Progress.WAITING, Progress.RUNNING}


class JointSteps(_Model):
    """Steps of one entry that need several nodes at once, and the minimum number of nodes."""

    entry: str
    steps: tuple[str, ...]
    nodes: int


class Campaign(_Model):
    """The settings of a campaign, and the states of its jobs."""

    id: str
    created_at: AwareDatetime
    command: str
    runbooks: Path
    entries: tuple[str, ...]
    arguments: tuple[str, ...]
    code: Code
    shared: bool
    prefix: str
    python: str | None
    home_python: str
    partition: str | None
    account: str | None
    gpus: int | None
    minutes: int
    start_within_s: float
    joint: tuple[JointSteps, ...]
    jobs: tuple[Job, ...]

    @property
    def job_name(self) -> str:
        """The Slurm job name that all of its jobs have, and no others."""
        return f"runbook-{self.id}"

    @property
    def measures(self) -> bool:
        """Whether its jobs run entries, which need exclusive nodes; `diagnose` only reads."""
        return self.command == "run"

    def with_job(self, job: Job) -> "Campaign":
        """A copy in which this job replaces the one with its key and round, or is appended."""
        same = [j for j, old in enumerate(self.jobs) if (old.key, old.round) == (job.key, job.round)]
        jobs = list(self.jobs)
        jobs[same[0] if same else len(jobs) :] = [job, *(jobs[same[0] + 1 :] if same else [])]
        return self.model_copy(update={"jobs": tuple(jobs)})


class _End(_Model):
    """The note that a job's script writes when `runbook` has ended."""

    exit_status: int = Field(ge=0, le=255, strict=True)


class Folder:
    """The folder of one campaign. It must be private, because its content is run and cancelled in this user's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def demand_own(self) -> None:
        """Refuse a folder that another user created or can write to.

        Raises:
            InputError: it is such a folder, or a link.
            OSError: it does not exist.
        """
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise InputError(
                f"{self.path} is a link or not a folder; name the folder itself with --campaigns"
            )
        if found.st_uid != os.geteuid():
            raise InputError(
                f"{self.path} belongs to user id {found.st_uid}; only that user can continue this campaign"
            )
        if found.st_mode & _OTHERS:
            raise InputError(
                f"other users can write to {self.path}, and so change what runs in your name; run chmod go-w on it"
            )

    @property
    def own(self) -> bool:
        """Whether `demand_own` accepts it."""
        try:
            self.demand_own()
        except (InputError, OSError):
            return False
        return True

    def save(self, campaign: Campaign) -> None:
        """Write the campaign, replacing its earlier state.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.demand_own()
            descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=self.path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(campaign.model_dump_json(indent=1) + "\n")
            Path(name).replace(self.path / _FILE)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}; the campaign cannot continue"
            ) from error

    def load(self) -> Campaign:
        """Read the campaign.

        Raises:
            InputError: there is no campaign that this version can read, or it belongs to another user.
        """
        try:
            self.demand_own()
            data = read_placed(self.path / _FILE, _MOST_CAMPAIGN_BYTES, links=False)
            return Campaign.model_validate_json(data)
        except OSError as error:
            raise InputError(f"cannot read {self.path / _FILE}: {error.strerror}") from error
        except PlacedFileError as error:
            raise InputError(f"cannot read {error}") from error
        except ValidationError as error:
            raise InputError(
                f"{self.path / _FILE} is not a campaign of this version; collect it with the version that started it"
            ) from error

    def place(self, job: Job) -> Path:
        """The folder for the results of a job."""
        return self.path / "jobs" / job.tag

    def exit_status(self, job: Job) -> int | None:
        """The exit status of `runbook run` on the node; None if it left no note of its end."""
        try:
            note = read_placed(self.place(job) / "end.json", _MOST_NOTE_BYTES, links=False)
            return _End.model_validate_json(note).exit_status
        except (PlacedFileError, ValidationError):
            return None

    def last_words(self, job: Job) -> str:
        """The last line that the run printed on its node; empty if there is none."""
        output = self.place(job) / "output.txt"
        if output.is_symlink() or not output.is_file():
            return ""
        return last_words_in(output, host_secrets()) or ""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock this campaign against changes by others.

        Raises:
            BusyError: another process follows or collects it.
            StoreError: the lock cannot be opened.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.path / _LOCK, flags, 0o600)
        except OSError as error:
            raise StoreError(f"cannot open {self.path / _LOCK}: {error.strerror}; remove it") from error
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"another shell follows or collects {self.path.name}; wait for it, or stop it with Ctrl-C"
                ) from error
            yield


def find_folder(campaigns: Path, name: str | None) -> Folder:
    """The folder of the campaign with this id, or of the newest one.

    Raises:
        InputError: there is none.
    """
    known = sorted(path.parent.name for path in campaigns.glob(f"*/{_FILE}"))
    if name is None:
        # In a shared folder, campaigns of other users are ignored.
        known = [one for one in known if Folder(campaigns / one).own]
        if known:
            return Folder(campaigns / known[-1])
    elif name in known:
        return Folder(campaigns / name)
    there = (
        f"the newest are {', '.join(known[-5:])}"
        if known
        else "name their folder with --campaigns, or start one with `runbook run ID --on slurm`"
    )
    raise InputError(f"no campaign {name or ''} in {campaigns}; {there}".replace("  ", " "))


def new_campaign_id(now: datetime | None = None) -> str:
    """A new id such as `20261125-083000-1f3a`; ids sort by creation time."""
    return f"{(now or datetime.now(UTC)).strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def pack_code(package: Path, *runbooks: Path) -> bytes:
    """A packed copy of the current code: jobs that start hours later run the code that was submitted.

    Args:
        package: the folder that contains `runner/`.
        runbooks: the folders of the entries; a file of a later one replaces that of an earlier one.
    """
    taken = io.BytesIO()

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        hidden = "__pycache__" in info.name or info.name.endswith(".pyc")
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return None if hidden else info

    with tarfile.open(fileobj=taken, mode="w:gz", compresslevel=6) as archive:
        archive.add(package / "runner", "runner", filter=wanted)
        # Of two members with one name, the later one is what remains unpacked.
        for folder in (package, *(folder.resolve().parent for folder in runbooks)):
            if (folder / _GUIDES).is_dir():
                archive.add(folder / _GUIDES, _GUIDES, filter=wanted)
        for folder in runbooks:
            archive.add(folder.resolve(), "runbooks", filter=wanted)
    return taken.getvalue()
