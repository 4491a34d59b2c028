"""Digests of code: of a folder on disk, and of the same folder in a commit.

The digest uses file content, not `git status`: that omits ignored files and files marked as unchanged, and Python
imports both. A digest cannot detect a program that falsifies its own digest, and does not cover other packages such as
torch; their versions are recorded.
"""

import hashlib
import importlib.util
import marshal
import os
import re
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.base.programs import run_program

PACKAGE, ENTRIES = "runner", "runbooks"
# Python creates these files; `compiled_as_written` checks their content.
_COMPILED = re.compile(rb"(?:.*/)?__pycache__/[^/]*\.pyc", re.DOTALL)
_HEADER = 16
_GIT_DEADLINE_S = 30.0
# The repository, and so its settings, may be untrusted (that of a data folder from elsewhere), and some settings name
# programs. These options override them. GIT_ALLOW_PROTOCOL is for versions of git without GIT_NO_LAZY_FETCH.
_SETTINGS = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
_VARIABLES = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}


@dataclass(frozen=True)
class CommitDigests:
    """The digests of a commit's `runner/` and `runbooks/`.

    Attributes:
        package, entries: as computed by `folder_digest`.
        both: the single digest over both in records of schemas 1 and 2.
    """

    package: str
    entries: str
    both: str


@dataclass(frozen=True)
class CodeFile:
    """A file by its name below a folder, as in git. `kind` is `file`, or another kind of directory entry."""

    name: bytes
    content: bytes
    kind: bytes = b"file"


def folder_digest(*folders: Path) -> str:
    """SHA-256 over names, kinds and contents of everything below the folder, 64 hexadecimal digits.

    Of several folders, a file of a later one replaces the file of that name in an earlier one. A symbolic link counts
    by its target path and is not followed. Compiled files of Python do not count.
    """
    files = (file for folder in folders for file in _on_disk(os.fsencode(folder), b""))
    return _digest({file.name: file for file in files}.values())


def commit_digests(repository: Path, commit: str) -> CommitDigests | None:
    """The digests of a commit's code; None in the same cases as for `commit_files`."""
    files = commit_files(repository, commit)
    return None if files is None else digests_of(files)


def commit_files(repository: Path, commit: str) -> tuple[CodeFile, ...] | None:
    """All files of a commit's `runner/` and `runbooks/`, read from git objects; nothing is checked out or fetched.

    Args:
        repository: any folder in it.
        commit: its full hexadecimal name.

    Returns:
        None if the repository does not have the commit with all of its files (a shallow or partial clone), or git
        fails.
    """
    listed = git(repository, "ls-tree", "-r", "-z", "--full-tree", f"{commit}^{{commit}}", PACKAGE, ENTRIES)
    if listed is None:
        return None
    rows = [row.partition(b"\t") for row in listed.split(b"\0") if row]
    described = [(head.split(b" "), name) for head, _, name in rows]
    contents = _blobs(repository, [oid for (_, kind, oid), _ in described if kind == b"blob"])
    if contents is None:
        return None
    kinds = {b"100644": b"file", b"100755": b"file", b"120000": b"link"}
    return tuple(
        CodeFile(name, contents.get(oid, oid), kinds.get(mode, mode)) for (mode, _, oid), name in described
    )


def digests_of(files: Iterable[CodeFile]) -> CommitDigests:
    """The digests of a commit from its files."""
    files = tuple(files)
    return CommitDigests(
        _digest(_below(files, PACKAGE)), _digest(_below(files, ENTRIES)), _digest_of_both(files)
    )


def compiled_as_written(package: Path) -> bool:
    """Whether each compiled file that this Python would load equals the compiled source."""
    return all(_same_code(source, level) for source in package.rglob("*.py") for level in (0, 1, 2))


def git(folder: Path, *words: str, given: bytes = b"") -> bytes | None:
    """The output of git; None if it fails. Nothing is written or fetched, and no program from its settings runs."""
    # Ignore a repository named by the environment, for example inside a hook.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = run_program(
            ["git", *_SETTINGS, "-C", str(folder), *words],
            env=environment | _VARIABLES,
            given=given,
            timeout=_GIT_DEADLINE_S,
        )
        done.check_returncode()
    except (OSError, subprocess.SubprocessError):
        return None
    return bytes(done.stdout)


def _digest(files: Iterable[CodeFile]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        if file.kind == b"file" and _COMPILED.fullmatch(file.name):
            continue
        digest.update(b"\0".join((file.kind, file.name, b"%d" % len(file.content), file.content)))
    return digest.hexdigest()


def _digest_of_both(files: Iterable[CodeFile]) -> str:
    """The digest of schemas 1 and 2: 16 digits, sorted by path components, without any compiled files."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: (not file.name.startswith(b"runner/"), file.name.split(b"/"))):
        if b"__pycache__" in file.name.split(b"/") or file.name.endswith(b".pyc"):
            continue
        digest.update(file.name + b"\0%d\0" % len(file.content) + file.content)
    return digest.hexdigest()[:16]


def _below(files: Iterable[CodeFile], folder: str) -> Iterator[CodeFile]:
    prefix = f"{folder}/".encode()
    return (
        CodeFile(file.name.removeprefix(prefix), file.content, file.kind)
        for file in files
        if file.name.startswith(prefix)
    )


def _on_disk(folder: bytes, below: bytes) -> Iterator[CodeFile]:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        yield CodeFile(below, b"", b"unreadable")
        return
    for entry in entries:
        name = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _on_disk(entry.path, name + b"/")
        else:
            yield _read(entry, name)


def _read(entry: "os.DirEntry[bytes]", name: bytes) -> CodeFile:
    try:
        if entry.is_symlink():
            return CodeFile(name, os.readlink(entry.path), b"link")  # noqa: PTH115 - Path would normalise the target
        if entry.is_file(follow_symlinks=False):
            if _COMPILED.fullmatch(name):
                return CodeFile(name, b"")
            with open(entry.path, "rb") as file:  # noqa: PTH123 - making a Path takes as long as reading
                return CodeFile(name, file.read())
    except OSError:
        return CodeFile(name, b"", b"unreadable")
    return CodeFile(name, b"", b"special")


def _blobs(repository: Path, names: list[bytes]) -> dict[bytes, bytes] | None:
    """Contents by object name; None if one is missing. Parses the output of `git cat-file --batch`."""
    told = git(repository, "cat-file", "--batch", given=b"".join(name + b"\n" for name in names))
    if told is None:
        return None
    found: dict[bytes, bytes] = {}
    at = 0
    for name in names:
        line = told[at : told.index(b"\n", at)]
        words = line.split(b" ")
        if words[1:2] != [b"blob"]:
            return None
        begin = at + len(line) + 1
        at = begin + int(words[2]) + 1
        found[name] = told[begin : at - 1]
    return found


def _same_code(source: Path, level: int) -> bool:
    try:
        compiled = Path(importlib.util.cache_from_source(str(source), optimization=level or "")).read_bytes()
    except OSError:
        return True
    try:
        text = source.read_bytes()
        if not _would_load(compiled, source, text):
            return True
        written = compile(text, str(source), "exec", dont_inherit=True, optimize=level)
        return bool(marshal.loads(compiled[_HEADER:]) == written)  # noqa: S302 - Python itself would load it
    except (OSError, ValueError, EOFError, TypeError, SyntaxError):
        return False


def _would_load(compiled: bytes, source: Path, text: bytes) -> bool:
    """Whether Python would load the compiled file for this source (PEP 552)."""
    flags, check = int.from_bytes(compiled[4:8], "little"), compiled[8:_HEADER]
    if compiled[:4] != importlib.util.MAGIC_NUMBER:
        return False
    if flags & 1:
        return not flags & 2 or check == importlib.util.source_hash(text)
    stat = source.stat()
    return check == struct.pack("<LL", int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
