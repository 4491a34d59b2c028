"""Adds new records to a checkout, commits only them, and pushes; others may push at the same time.

Every record is a separate file, so two nodes that publish at once never change the same file: the second one rebases
its commit and tries again. Files from a node are not trusted: each file is read once, and exactly the checked bytes are
written and committed.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.base.errors import InputError, RecordError, StoreError
from runner.base.words import counted
from runner.record.admission import Candidate, admit, remove
from runner.record.checkout import Git, alone, blob_name
from runner.record.commits import History
from runner.record.gate import gate, record_problems
from runner.record.model import Record
from runner.record.store import Problem, Store

TRIES = 10
ARTIFACT = "records-"


@dataclass(frozen=True)
class Incoming:
    """A folder of new records. `machine_class`: the only class allowed in it; None for any."""

    store: Store
    machine_class: str | None = None


@dataclass(frozen=True)
class Published:
    """The result: the records that are now in the data folder, the refused ones, and the commit, if there is one."""

    records: tuple[Record, ...]
    refused: tuple[Problem, ...]
    commit: str | None


def artifacts(folder: Path) -> tuple[Incoming, ...]:
    """The folders `records-CLASS` below this one, as downloaded from the uploads of the nodes.

    Raises:
        InputError: the folder has anything else in it, or nothing.
    """
    found = sorted(folder.iterdir())
    odd = next((one for one in found if not _is_artifact(one)), None)
    if odd is not None:
        raise InputError(
            f"{str(odd)!r:.200} is not a folder {ARTIFACT}CLASS; with --artifacts nothing else is allowed"
        )
    if not found:
        raise InputError(f"{folder} has no folder {ARTIFACT}CLASS; download the uploads of the nodes into it")
    return tuple(Incoming(Store(one), one.name.removeprefix(ARTIFACT)) for one in found)


def _is_artifact(path: Path) -> bool:
    return path.name.startswith(ARTIFACT) and path.is_dir() and not path.is_symlink()


def _take(incoming: Collection[Incoming], store: Store) -> tuple[dict[Path, Candidate], list[Problem]]:
    """The new records of some folders, by their place in the data folder, and the problems of the refused ones.

    A record that the data folder already has, byte for byte, is in neither. Nothing is written.

    Raises:
        StoreError: a folder cannot be listed.
    """
    now, history = datetime.now(UTC), History(store.root)
    wanted: dict[Path, Candidate] = {}
    refused: list[Problem] = []
    for folder in incoming:
        refused += folder.store.strays()
        for path in folder.store.files():
            try:
                record, data = folder.store.examine(path)
                place = store.path_of(record)
            except (RecordError, StoreError) as error:
                refused.append(Problem(path, str(error).removeprefix(f"{path} ")))
                continue
            there = os.path.lexists(place)
            problems = list(record_problems(record, now, store.secrets, history))
            if there and _content(store, place) != data:
                problems.append(
                    f"is in the data folder with different content ({place}); a record is never overwritten"
                )
            if folder.machine_class not in (None, record.machine.machine_class):
                problems.append(
                    f"is of {record.machine.machine_class}, but was uploaded by a node of {folder.machine_class}; "
                    "a node may publish only its own class"
                )
            if place in wanted:
                problems.append(
                    f"is the same run as {wanted[place].source}; a run may be published only once"
                )
            refused += [Problem(path, message) for message in problems]
            if not problems and not there:
                wanted[place] = Candidate(path, record, data)
    return wanted, refused


def _content(store: Store, place: Path) -> bytes | None:
    try:
        return store.examine(place)[1]
    except RecordError:
        return None


def publish_records(
    incoming: Collection[Incoming], store: Store, git: Git, *, remote: str | None, branch: str
) -> Published:
    """Commit the records of some folders that pass the gate to the checkout, and push; refuse the others one by one.

    Args:
        incoming: the folders of new records; they are not changed.
        store: the data folder of the checkout.
        git: runs git in that checkout.
        remote: the remote to push to; None to commit only.
        branch: the branch of the remote.

    Raises:
        InputError: a folder is the data folder itself, or the remote or branch looks like an option of git.
        StoreError: the checkout has other changes, another publish is running in it, the data folder itself does not
            pass the gate, git failed, or others pushed first ten times in a row. The working tree is then unchanged.
    """
    for one in incoming:
        if one.store.root.resolve() == store.root.resolve():
            raise InputError(
                f"{store.root} is the data folder of this checkout; run with --data DIR to record into another folder"
            )
    for word in (remote or "", branch):
        if word.startswith("-"):
            raise InputError(f"{word!r} looks like an option of git; name a remote and a branch")
    with alone(git):
        return _publish(incoming, store, git, remote, branch)


def _publish(
    incoming: Collection[Incoming], store: Store, git: Git, remote: str | None, branch: str
) -> Published:
    changed = git("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise StoreError(
            f"the checkout has uncommitted changes ({changed.splitlines()[0].strip()}); commit them first"
        )
    wanted, refused = _take(incoming, store)
    commit = None
    published: dict[Path, Candidate] = {}
    if wanted:
        start = git("rev-parse", "HEAD")
        try:
            published = admit(wanted, store, refused)
            if published:
                commit = _commit(published, git)
            if commit is not None and remote is not None:
                commit = _push(store, git, remote, branch)
        except BaseException:
            # There were no tracked changes and the paths were free, so this undoes only this publish.
            git("reset", "--hard", "--quiet", start)
            remove(published)
            raise
    records = tuple(published[path].record for path in sorted(published))
    return Published(records, tuple(sorted(refused)), commit)


def _pass_the_gate(store: Store) -> None:
    problems = gate(store)
    if problems:
        raise StoreError(f"the data folder does not pass the gate: {problems[0]}")


def _commit(published: Mapping[Path, Candidate], git: Git) -> str:
    names = {str(path.resolve()): candidate for path, candidate in sorted(published.items())}
    classes = sorted({path.parent.parent.name for path in published})
    git("add", "--", *names)
    message = f"Publish {counted(len(names), 'new record')} of {', '.join(classes)}"
    git("commit", "--quiet", "-m", message, "--", *names)
    stored = sorted(row.split()[:3:2] for row in git("ls-tree", "-r", "HEAD", "--", *names).splitlines())
    expected = (
        sorted(["100644", blob_name(one.data, stored[0][1])] for one in published.values()) if stored else []
    )
    if stored != expected or len(stored) != len(names):
        raise StoreError(
            "git stored other bytes than were checked; a filter or hook of this checkout changes them, disable it"
        )
    return git("rev-parse", "HEAD")


def _push(store: Store, git: Git, remote: str, branch: str) -> str:
    last = ""
    for _ in range(TRIES):
        try:
            git("push", "--quiet", remote, f"HEAD:refs/heads/{branch}")
            return git("rev-parse", "HEAD")
        except StoreError as error:
            last = str(error)
        # Either others pushed first, or the push is not allowed; only in the first case is there something to fetch.
        git("fetch", "--quiet", remote, branch)
        if not git("rev-list", "HEAD..FETCH_HEAD"):
            raise StoreError(last)
        try:
            git("rebase", "--quiet", "FETCH_HEAD")
        except StoreError:
            git("rebase", "--abort")
            raise
        _pass_the_gate(store)
    raise StoreError(f"others pushed first {TRIES} times in a row; run this again ({last})")
