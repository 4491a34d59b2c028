"""Runs git in a checkout, and computes git object names."""

import contextlib
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.base.errors import StoreError
from runner.base.plain import one_line
from runner.base.programs import run_program
from runner.record.redaction.redact import host_secrets, redact_text

_DEADLINE_S = 300.0
# Ignore a repository named by the environment, for example inside a hook. The caller's authentication and
# configuration (GIT_SSH_COMMAND, GIT_CONFIG_*) are kept.
_OTHER_REPOSITORY = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"}
    | {"GIT_NAMESPACE", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH"}
    | {"GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"}
)
_OURS = {"GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1", "GIT_NO_REPLACE_OBJECTS": "1"}
_SHA256_DIGITS = 64

Git = Callable[..., str]


def git_in(folder: Path) -> Git:
    """A `git` that works in this folder and returns its standard output.

    Raises (when called):
        StoreError: git failed; the message has the last line that it printed.
    """

    def git(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in _OTHER_REPOSITORY}
        try:
            done = run_program(
                ["git", "-C", str(folder), *words],
                env=environment | _OURS,
                text=True,
                timeout=_DEADLINE_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StoreError(f"git {words[0]} could not run in {folder}: {error}") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            # A remote's URL may contain a user name and a password.
            clean = one_line(redact_text(said, host_secrets()))
            raise StoreError(f"git {words[0]} failed in {folder}: {clean}")
        return str(done.stdout).strip()

    return git


@contextlib.contextmanager
def alone(git: Git) -> Iterator[None]:
    """Lock this checkout against other `publish` commands: undoing a commit could undo theirs as well.

    Raises:
        StoreError: another `publish` is running, or the lock cannot be created.
    """
    place = Path(git("rev-parse", "--absolute-git-dir")) / "runbook-publish.lock"
    with contextlib.ExitStack() as held:
        try:
            lock = held.enter_context(place.open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another publish is running in this checkout ({place}); run this again when it has finished"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot lock this checkout with {place}: {error.strerror}") from error
        yield


def blob_name(data: bytes, alike: str) -> str:
    """The git object name of this content, in a repository with the same hash format as `alike`."""
    kind = hashlib.sha256 if len(alike) == _SHA256_DIGITS else hashlib.sha1
    return kind(b"blob %d\0" % len(data) + data).hexdigest()
