"""Brings new records into a checkout, commits them and nothing else, and pushes; others may push meanwhile.

Every record is a file of its own, so two nodes that publish at once never touch the same file: whoever comes second
puts its commit on top of the other's and tries again. What comes from a node is not trusted: each file is read once,
and the bytes that were checked are those that are written and those that git has in the end.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.entry.words import counted
from runner.errors import InputError, RecordError, StoreError
from runner.evidence.admission import Candidate, admit, remove
from runner.evidence.checkout import Git, alone, blob_name
from runner.evidence.gate import gate, record_problems
from runner.evidence.history import History
from runner.evidence.record import Record
from runner.evidence.store import Problem, Store

TRIES = 10
ARTIFACT = "records-"


@dataclass(frozen=True)
class Incoming:
    """A folder of new records. `machine_class`: the only one that they may be of; None for any."""

    store: Store
    machine_class: str | None = None


@dataclass(frozen=True)
class Published:
    """What came of it: the records that are now in the data folder, those refused, and the commit, if there is one."""

    records: tuple[Record, ...]
    refused: tuple[Problem, ...]
    commit: str | None


def artifacts(folder: Path) -> tuple[Incoming, ...]:
    """The folders `records-CLASS` below this one, as the refresh downloads what its nodes have uploaded.

    Raises:
        InputError: something else stands there, or nothing.
    """
    found = sorted(folder.iterdir())
    odd = next((one for one in found if not _is_artifact(one)), None)
    if odd is not None:
        raise InputError(
            f"{odd!r:.200} is no folder {ARTIFACT}CLASS; with --artifacts nothing else may stand there"
        )
    if not found:
        raise InputError(
            f"{folder} holds no folder {ARTIFACT}CLASS; download what the nodes have uploaded into it"
        )
    return tuple(Incoming(Store(one), one.name.removeprefix(ARTIFACT)) for one in found)


def _is_artifact(path: Path) -> bool:
    return path.name.startswith(ARTIFACT) and path.is_dir() and not path.is_symlink()


def take(
    incoming: Incoming, store: Store, now: datetime | None = None
) -> tuple[dict[Path, Candidate], list[Problem]]:
    """The new records of a folder, by their place in the data folder, and what may not be published.

    A record that is there already, byte for byte, is neither. Nothing is written.

    Raises:
        StoreError: a folder cannot be listed.
    """
    now = now or datetime.now(UTC)
    history = History(store.root)
    wanted: dict[Path, Candidate] = {}
    refused = list(incoming.store.strays())
    for path in incoming.store.files():
        try:
            record, data = incoming.store.examine(path)
            place = store.path_of(record)
        except (RecordError, StoreError) as error:
            refused.append(Problem(path, str(error).removeprefix(f"{path} ")))
            continue
        problems = list(record_problems(record, now, store.secrets, history))
        there = os.path.lexists(place)
        if there and _content(store, place) != data:
            problems.append(
                f"is in the data folder with another content ({place}); a record is never rewritten"
            )
        if incoming.machine_class not in (None, record.machine.machine_class):
            problems.append(
                f"is of {record.machine.machine_class}, and came from a node of {incoming.machine_class}; "
                "a node publishes its own class alone"
            )
        if place in wanted:
            problems.append(f"is the same run as {wanted[place].source}; a run is published once")
        refused += [Problem(path, message) for message in problems]
        if not problems and not there:
            wanted[place] = Candidate(path, record, data)
    return wanted, refused


def _content(store: Store, place: Path) -> bytes | None:
    try:
        return store.examine(place)[1]
    except RecordError:
        return None


def publish(
    incoming: Collection[Incoming], store: Store, git: Git, *, remote: str | None, branch: str
) -> Published:
    """Commit the fit records of some folders to the checkout, and push them; the others are refused one by one.

    Args:
        incoming: where the new records are; it stays as it is.
        store: the checkout's own data folder.
        git: works in that checkout.
        remote: where to push; None to commit only.
        branch: of the remote.

    Raises:
        InputError: a folder is the data folder itself, or git would take the remote or branch for an option.
        StoreError: the checkout has other changes, another publish works in it, the data folder itself does not pass
            the gate, git failed, or others pushed first ten times in a row. The working tree then is as it was.
    """
    for one in incoming:
        if one.store.root.resolve() == store.root.resolve():
            raise InputError(
                f"{store.root} is the data folder itself; measure into another one, with --data DIR"
            )
    for word in (remote or "", branch):
        if word.startswith("-"):
            raise InputError(f"{word!r} would be an option of git; name a remote and a branch")
    with alone(git):
        return _publish(incoming, store, git, remote, branch)


def _publish(
    incoming: Collection[Incoming], store: Store, git: Git, remote: str | None, branch: str
) -> Published:
    changed = git("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise StoreError(
            f"the checkout has changes of its own ({changed.splitlines()[0].strip()}); commit them first"
        )
    wanted, refused = _take_all(incoming, store)
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
            # Nothing tracked had changes, and the paths were free: only what was done here is undone.
            git("reset", "--hard", "--quiet", start)
            remove(published)
            raise
    records = tuple(published[path].record for path in sorted(published))
    return Published(records, tuple(sorted(refused)), commit)


def _take_all(incoming: Collection[Incoming], store: Store) -> tuple[dict[Path, Candidate], list[Problem]]:
    wanted: dict[Path, Candidate] = {}
    refused: list[Problem] = []
    for one in incoming:
        found, problems = take(one, store)
        refused += problems
        for place, candidate in found.items():
            first = wanted.setdefault(place, candidate)
            if first is not candidate:
                message = f"is the same run as {first.source}; a run is published once"
                refused.append(Problem(candidate.source, message))
    return wanted, refused


def _pass_the_gate(store: Store) -> None:
    problems = gate(store)
    if problems:
        raise StoreError(f"the data folder would not pass the gate: {problems[0]}")


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
            "git stored other bytes than were checked; a filter or a hook of this checkout changes them, turn it off"
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
