"""Brings new records into a checkout, commits them and nothing else, and pushes; others may push meanwhile.

Every record is a file of its own, so two nodes that publish at once never touch the same file: whoever comes second
puts its commit on top of the other's and tries again.
"""

import os
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.entry.words import counted
from runner.errors import InputError, RecordError, StoreError
from runner.evidence.gate import gate, record_problems
from runner.evidence.history import History
from runner.evidence.record import Record
from runner.evidence.redact import host_secrets, redact_text
from runner.evidence.store import Problem, Store
from runner.plain import one_line

TRIES = 10
_DEADLINE_S = 300.0
_OTHER_REPOSITORY = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"}
)

Git = Callable[..., str]


@dataclass(frozen=True)
class Published:
    """What came of it: the records that are now in the data folder, those refused, and the commit, if there is one."""

    records: tuple[Record, ...]
    refused: tuple[Problem, ...]
    commit: str | None


def git_in(folder: Path) -> Git:
    """A `git` that works in this folder and returns its standard output.

    Raises (when called):
        StoreError: git failed; the message has the last line that it said.
    """

    def git(*words: str) -> str:
        # A repository named by the environment (inside a hook, say) is not the one that is meant.
        environment = {name: value for name, value in os.environ.items() if name not in _OTHER_REPOSITORY}
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words],
                env=environment | {"GIT_TERMINAL_PROMPT": "0"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_DEADLINE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StoreError(f"git {words[0]} could not run in {folder}: {error}") from error
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            # A remote's address may hold who pushes and with what.
            clean = one_line(redact_text(said, host_secrets()))
            raise StoreError(f"git {words[0]} failed in {folder}: {clean}")
        return done.stdout.strip()

    return git


def take(
    incoming: Store, store: Store, now: datetime | None = None
) -> tuple[dict[Path, bytes], list[Problem]]:
    """The new records of a folder, by their place in the data folder, and those that may not be published.

    A record that is there already, byte for byte, is neither. Nothing is written.

    Raises:
        StoreError: a folder cannot be listed or a file not be read.
    """
    now = now or datetime.now(UTC)
    history = History(store.root)
    wanted: dict[Path, bytes] = {}
    refused: list[Problem] = []
    for path in incoming.files():
        try:
            record = incoming.load(path)
            place = store.path_of(record)
            data = path.read_bytes()
        except (RecordError, StoreError) as error:
            refused.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        problems = list(record_problems(record, now, store.secrets, history))
        if place.exists() and place.read_bytes() != data:
            problems.append(
                f"is in the data folder with another content ({place}); a record is never rewritten"
            )
        refused += [Problem(path, message) for message in problems]
        if not problems and not place.exists():
            wanted[place] = data
    return wanted, refused


def publish(incoming: Store, store: Store, git: Git, *, remote: str | None, branch: str) -> Published:
    """Commit the fit records of a folder to the checkout, and push them.

    Args:
        incoming: where the new records are; it stays as it is.
        store: the checkout's own data folder.
        git: works in that checkout.
        remote: where to push; None to commit only.
        branch: of the remote.

    Raises:
        InputError: the folder is the data folder itself.
        StoreError: the checkout has other changes, the data folder would not pass the gate, git failed, or others
            pushed first ten times in a row. The working tree then is as it was.
    """
    if incoming.root.resolve() == store.root.resolve():
        raise InputError(f"{store.root} is the data folder itself; measure into another one, with --data DIR")
    changed = git("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise StoreError(
            f"the checkout has changes of its own ({changed.splitlines()[0].strip()}); commit them first"
        )
    wanted, refused = take(incoming, store)
    commit = None
    if wanted:
        start = git("rev-parse", "HEAD")
        try:
            _write(wanted)
            _pass_the_gate(store)
            commit = _commit(wanted, git)
            if remote is not None:
                commit = _push(store, git, remote, branch)
        except StoreError:
            # Nothing tracked had changes, and the paths were free: only what was done here is undone.
            git("reset", "--hard", "--quiet", start)
            for path in wanted:
                path.unlink(missing_ok=True)
            raise
    return Published(tuple(store.load(path) for path in sorted(wanted)), tuple(sorted(refused)), commit)


def _write(wanted: dict[Path, bytes]) -> None:
    for path, data in wanted.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Exclusive: a record is never rewritten.
            with path.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; nothing was committed") from error


def _pass_the_gate(store: Store) -> None:
    problems = gate(store)
    if problems:
        raise StoreError(f"the data folder would not pass the gate: {problems[0]}")


def _commit(paths: Collection[Path], git: Git) -> str:
    names = [str(path.resolve()) for path in sorted(paths)]
    classes = sorted({path.parent.parent.name for path in paths})
    git("add", "--", *names)
    message = f"Publish {counted(len(names), 'new record')} of {', '.join(classes)}"
    git("commit", "--quiet", "-m", message, "--", *names)
    return git("rev-parse", "HEAD")


def _push(store: Store, git: Git, remote: str, branch: str) -> str:
    last = ""
    for _ in range(TRIES):
        try:
            git("push", "--quiet", remote, f"HEAD:refs/heads/{branch}")
            return git("rev-parse", "HEAD")
        except StoreError as error:
            last = str(error)
        # Somebody was quicker, or the push is not allowed: only the first leaves something new to fetch.
        git("fetch", "--quiet", remote, branch)
        if not git("rev-list", "HEAD..FETCH_HEAD"):
            raise StoreError(last)
        try:
            git("rebase", "--quiet", "FETCH_HEAD")
        except StoreError:
            git("rebase", "--abort")
            raise
        _pass_the_gate(store)
    raise StoreError(f"others pushed first {TRIES} times in a row; run it again ({last})")
