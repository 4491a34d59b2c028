"""A campaign on disk, so that any shell can continue it."""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.base.errors import BusyError, InputError, StoreError
from runner.base.placed import PlacedFileError, read_placed
from runner.fleet.campaign import Campaign, CampaignJob
from runner.record.last_words import last_words_in
from runner.record.redaction.redact import host_secrets

_FILE, _LOCK, CODE = "campaign.json", ".lock", "code.tar.gz"
# The state of thousands of nodes takes a few megabytes.
_MOST_CAMPAIGN_BYTES, _MOST_NOTE_BYTES = 64 << 20, 4096
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class _End(BaseModel):
    """The note that a job's script writes when `runbook` has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def place(self, job: CampaignJob) -> Path:
        """The folder for the results of a job."""
        return self.path / "jobs" / job.tag

    def exit_status(self, job: CampaignJob) -> int | None:
        """The exit status of `runbook run` on the node; None if it left no note of its end."""
        try:
            note = read_placed(self.place(job) / "end.json", _MOST_NOTE_BYTES, links=False)
            return _End.model_validate_json(note).exit_status
        except (PlacedFileError, ValidationError):
            return None

    def last_words(self, job: CampaignJob) -> str:
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
