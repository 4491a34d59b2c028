"""Saves checkpoints so that a torn folder never counts: a writer, a verifier, and the newest folder to resume from.

    with saving(root / "step-100") as partial:        # on every rank, with collective=True, if all write into it
        torch.save(state, partial / "state.pt")       # or dcp.save, save_pretrained
    newest = last_complete(root)

The files go into a folder beside the target. Each is flushed to storage and digested, the digests are written as a
manifest, the folder gets its name, and a marker is written last. Without its marker a folder does not count. Code
that names its folders itself calls `seal(folder)` after its save. Where a rename copies file by file, as on object
stores, marker and digests alone decide. Digests are of what the file system returns after the save, not of what was
in memory. As a command: checkpoint.py verify FOLDER… | last ROOT | clean ROOT; exit status 0 whole, found; 1 not; 2
wrong arguments; 3 the storage refuses.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

MANIFEST, MARKER = "checkpoint.manifest.json", "checkpoint.complete"
CHUNK = 16 << 20
"""Bytes under one digest: how closely the verifier says where a file changed."""

_LARGEST, _MOST_THREADS, _LOCK, _PARTIAL = 256 << 20, 8, "checkpoint.lock", ".partial-"
_OWN = {MANIFEST, MARKER, _LOCK, f"{MANIFEST}.tmp", f"{MARKER}.tmp"}
# Files of DCP by the rank that wrote them. Any other file is flushed by every rank, and digested by one.
_OF_RANK = re.compile(r"(?:.*/)?__(\d{1,6})_\d+\.distcp")
_OF_SAVE = re.compile(rf".+{re.escape(_PARTIAL)}[0-9a-f]{{8}}").fullmatch
State = Literal["complete", "incomplete", "corrupt", "unreadable"]


class CheckpointError(Exception):
    """A folder cannot be saved or listed; the message is one line with the reason."""


@dataclass(frozen=True)
class FileProblem:
    """A file that is not as it was saved. `start`, `end`: the bytes concerned, the end excluded; both 0: all."""

    kind: Literal["missing", "truncated", "longer", "changed", "unreadable"]
    file: str
    start: int = 0
    end: int = 0

    def __str__(self) -> str:
        where = f", bytes {self.start} to {self.end - 1}" if self.end else ""
        return f"{_shown(self.file)} {self.kind}{where}"


@dataclass(frozen=True)
class FolderVerdict:
    """The state of a folder: `incomplete` without its marker or a file, `corrupt` with other bytes than were saved.

    Attributes:
        why: one clause. problems: the files that are not as saved. extra: files that the manifest does not name.
    """

    folder: Path
    state: State
    why: str
    problems: tuple[FileProblem, ...] = ()
    extra: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f"; not in the manifest: {', '.join(map(_shown, self.extra[:3]))}" if self.extra else ""
        return f"{_shown(self.folder)}: {self.state}: {self.why}{more}"


@contextlib.contextmanager
def saving(target: Path | str, *, collective: bool = False) -> Iterator[Path]:
    """Give a folder to write into; when the block ends, it is flushed, digested, named and marked.

    An error in the block leaves no folder, and nothing that exists is overwritten.

    Args:
        target: the folder to make.
        collective: called by every rank of torch.distributed's default group; they write into one folder, on storage
            that all of them see. With NCCL each rank calls torch.cuda.set_device first.

    Raises:
        CheckpointError: the target exists, nothing or a part was saved, the storage refuses, or another rank failed.
    """
    target, owner = Path(target), os.getpid()
    partial: Path = _first(collective, lambda: _begin(target))
    locks: list[int] = []
    try:
        _first(collective, lambda: locks.append(_locked(partial)))
        _together(collective, lambda *_: _seen(partial))
        try:
            yield partial
        except BaseException as error:
            why = f"{type(error).__name__} in the block that saves"
            if collective:
                # The other ranks may be in a collective of the block, where they wait for this one.
                print(
                    f"checkpoint: {why}: {_reason(error)}; telling the other ranks",
                    file=sys.stderr,
                    flush=True,
                )
            with contextlib.suppress(CheckpointError):
                _together(collective, lambda *_: _fail(why))
            raise
        _digest_all(partial, collective)
        _first(collective, lambda: _publish(partial, target))
    except BaseException:
        if os.getpid() == owner:  # not a child that was forked in the block, and ends in it
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        for lock in locks:
            os.close(lock)


def seal(folder: Path | str, *, collective: bool = False) -> None:
    """Flush, digest and mark a folder that something else wrote in its place, as in a callback after a save.

    If several ranks write into the folder, each of them calls this with `collective=True`: it waits for all of them.

    Raises:
        CheckpointError: it is sealed already, is empty, has links or special files, or the storage refuses.
    """
    folder = Path(folder)
    _together(collective, lambda *_: _seen(folder))
    _first(collective, lambda: (folder / MARKER).exists() and _fail(f"{_shown(folder)} is sealed already"))
    _digest_all(folder, collective)
    _first(collective, lambda: _mark(folder))


def verify(folder: Path | str, *, deep: bool = True) -> FolderVerdict:
    """Compare a folder with its manifest: every byte, or with `deep=False` only the marker, the names and the sizes."""
    folder = Path(folder)
    try:
        files = _parse(_content(folder, MARKER), _content(folder, MANIFEST))
        extra = tuple(sorted({name for name, _ in _files(folder)} - {*files}))
        problems = tuple(_problems(folder, files, deep))
    except FileNotFoundError as error:
        if not folder.exists():
            return FolderVerdict(folder, "unreadable", "no such folder; is its storage mounted?")
        why = f"no {_shown(error.filename)}; its save did not end, or something else saved it"
        return FolderVerdict(folder, "incomplete", why)
    except (OSError, CheckpointError) as error:
        return FolderVerdict(folder, "unreadable", _reason(error))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return FolderVerdict(folder, "corrupt", f"{MANIFEST} is not the one that {MARKER} names")
    why = f"{len(files)} files, {sum(size for size, _ in files.values())} bytes" + (
        "" if deep else " by size"
    )
    if not problems:
        return FolderVerdict(folder, "complete", why, (), extra)
    kinds = {one.kind for one in problems}
    state: State = "incomplete" if kinds == {"missing"} else "corrupt"
    state = "unreadable" if kinds == {"unreadable"} else state
    why = str(problems[0]) + (f" (and {len(problems) - 1} more)" if problems[1:] else "")
    return FolderVerdict(folder, state, why, problems, extra)


def last_complete(root: Path | str, *, deep: bool = True) -> Path | None:
    """The newest folder in `root` that verifies, by the last number in its name; None if there is none.

    Raises:
        CheckpointError: the root cannot be listed.
    """
    return next((one.folder for one in _newest_first(Path(root), deep) if one.state == "complete"), None)


def clean_partial(root: Path | str) -> list[Path]:
    """Remove what killed saves left in `root`; a save that runs holds a lock.

    Returns:
        The partial folders that stay: a save is writing them, or the file system has no locks.

    Raises:
        CheckpointError: the root cannot be listed.
    """
    for folder in (found := [one for one in _folders(Path(root), ours=True) if not one.is_symlink()]):
        with contextlib.suppress(OSError, CheckpointError):
            lock = _locked(folder, must=True)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    return [folder for folder in found if folder.exists()]


def _locked(folder: Path, *, must: bool = False) -> int:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if must or isinstance(error, BlockingIOError):
            os.close(descriptor)
            _fail(f"{_shown(folder)} is in use by another save")
    return descriptor


def _together(collective: bool, work: Callable[[int, int], Any]) -> list[Any]:
    """Do the work on every rank, and wait for all: the results by rank. The error of one is an error of all."""
    rank, world = 0, 1
    if collective:
        import torch.distributed as dist

        rank, world = dist.get_rank(), dist.get_world_size()
    try:
        own: tuple[Any, str | None] = (work(rank, world), None)
    except (OSError, CheckpointError) as error:
        own = (None, _reason(error))
    every: list[Any] = [own] * world
    if collective:
        dist.all_gather_object(every, own)
    for number, (_, wrong) in enumerate(every):
        if wrong:
            raise CheckpointError(f"rank {number}: {wrong}" if collective else wrong)
    return [value for value, _ in every]


def _first(collective: bool, work: Callable[[], Any]) -> Any:
    return _together(collective, lambda rank, _: None if rank else work())[0]


def _fail(why: str) -> NoReturn:
    raise CheckpointError(why)


def _seen(folder: Path) -> None:
    if not folder.is_dir():
        _fail(f"{_shown(folder)} is not there; all ranks need the same storage")


def _begin(target: Path) -> Path:
    if (target / MANIFEST).exists() and not (target / MARKER).exists():
        # Killed between its rename and its marker, not locked: it never counted. `clean_partial` removes it.
        os.close(_locked(target))
        target.rename(f"{target}{_PARTIAL}{secrets.token_hex(4)}")
    if target.exists():
        _fail(f"{_shown(target)} exists and is not overwritten; move it away, or save under another name")
    partial = Path(f"{target}{_PARTIAL}{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    return partial


def _digest_all(folder: Path, collective: bool) -> None:
    """Each rank flushes what it wrote and digests its share; rank 0 writes the manifest."""
    _together(collective, lambda *_: None)
    listed: list[tuple[str, int]] = _first(collective, lambda: _whole(folder))

    def share(rank: int, world: int) -> dict[str, Any]:
        loads, sizes = [0] * world, dict[str, int]()
        for name, size in sorted(listed, key=lambda one: (-one[1], one[0])):
            named = _OF_RANK.fullmatch(name)
            writer = int(named[1]) if named and int(named[1]) < world else None
            reader = loads.index(min(loads)) if writer is None else writer
            loads[reader] += size
            if writer in {None, rank}:
                # The dirty pages are on the host that wrote the file.
                with _opened(folder, name) as file:
                    os.fsync(file)
            if reader == rank:
                sizes[name] = size
        found = _digests(folder, sizes)
        unread = next((name for name, digests in found.items() if None in digests), None)
        if unread is not None:
            _fail(f"{_shown(unread)} cannot be read back")
        return {name: [sizes[name], digests] for name, digests in found.items()}

    files = {name: one for part in _together(collective, share) for name, one in part.items()}
    _first(collective, lambda: _write(folder, MANIFEST, {"chunk": CHUNK, "files": files}))


def _whole(folder: Path) -> list[tuple[str, int]]:
    """The files of a save. One that has none wrote elsewhere, as did DCP if not all its files are here."""
    listed = _files(folder, refuse=True)
    if not listed:
        _fail(f"nothing was saved in {_shown(folder)}")
    names = {name for name, _ in listed}
    for path in (Path(name) for name in names if Path(name).name == ".metadata"):
        for shard in set(re.findall(rb"__\d{1,6}_\d+\.distcp", (folder / path).read_bytes())):
            if str(path.with_name(shard.decode())) not in names:
                _fail(f"{shard.decode()} of {_shown(path)} is not there: did ranks save elsewhere?")
    return listed


def _publish(partial: Path, target: Path) -> None:
    for folder, _, _ in os.walk(partial):
        _flush(Path(folder))
    partial.rename(target)
    _flush(target.parent)
    _mark(target)
    with contextlib.suppress(OSError):  # last: unlocked, another save may clean or replace it
        (target / _LOCK).unlink(missing_ok=True)


def _mark(folder: Path) -> None:
    _write(folder, MARKER, {"manifest": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()})


def _write(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    made = folder / f"{name}.tmp"
    made.write_text(json.dumps(value), encoding="ascii")
    _flush(made)
    made.rename(folder / name)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have nothing to flush for a folder, and refuse.
        if error.errno not in {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP} or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _files(folder: Path, *, refuse: bool = False) -> list[tuple[str, int]]:
    found = []
    for place, folders, names in os.walk(folder, onerror=lambda why: _fail(_reason(why)) if refuse else None):
        for path in (Path(place) / one for one in (*folders, *names)):
            name = str(path.relative_to(folder))
            if name in _OWN or path.name.startswith(".nfs"):
                continue
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                state = path.lstat()
                if stat.S_ISREG(state.st_mode):
                    found.append((name, state.st_size))
                elif refuse and not stat.S_ISDIR(state.st_mode):
                    _fail(f"{_shown(name)} is a link or special file, whose content is not kept")
    return found


@contextlib.contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    """A descriptor of a regular file, through no link below the folder, whatever a manifest says."""
    at, parts = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), name.split("/")
    try:
        for number, part in enumerate(parts):
            if part in {"", ".", ".."}:
                _fail(f"{_shown(name)} leads out of the folder")
            kind = os.O_DIRECTORY if number < len(parts) - 1 else os.O_NONBLOCK
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=at)
            os.close(at)
            at = inner
        if not stat.S_ISREG(os.fstat(at).st_mode):
            _fail(f"{_shown(name)} is not a regular file")
        yield at
    finally:
        os.close(at)


def _content(folder: Path, name: str) -> bytes:
    with _opened(folder, name) as file, os.fdopen(os.dup(file), "rb") as opened:
        if os.fstat(file).st_size > _LARGEST:
            _fail(f"{name} is larger than {_LARGEST} bytes")
        return opened.read(_LARGEST)


def _parse(marker: bytes, manifest: bytes) -> dict[str, tuple[int, list[str]]]:
    text = json.loads(manifest)
    files = {name: (int(size), list(digests)) for name, (size, digests) in text["files"].items()}
    named = json.loads(marker)["manifest"] == hashlib.sha256(manifest).hexdigest() and text["chunk"] == CHUNK
    if not named or not files or any(len(parts) != -(-size // CHUNK) for size, parts in files.values()):
        raise ValueError
    return files


def _problems(folder: Path, files: Mapping[str, tuple[int, list[str]]], deep: bool) -> Iterator[FileProblem]:
    there: dict[str, int] = {}
    for name, (size, _) in files.items():
        try:
            with _opened(folder, name) as file:
                there[name] = found = os.fstat(file).st_size
        except (OSError, CheckpointError) as error:
            yield FileProblem("missing" if isinstance(error, FileNotFoundError) else "unreadable", name)
        else:
            if found != size:
                yield FileProblem("truncated" if found < size else "longer", name, *sorted((found, size)))
    sizes = {name: min(size, files[name][0]) for name, size in there.items()} if deep else {}
    for name, digests in _digests(folder, sizes).items():
        for number, (one, saved) in enumerate(zip(digests, files[name][1], strict=False)):
            start, end = number * CHUNK, min((number + 1) * CHUNK, files[name][0])
            if (one is None or one != saved) and end <= there[name]:
                yield FileProblem("changed" if one else "unreadable", name, start, end)


def _digests(folder: Path, sizes: Mapping[str, int]) -> dict[str, list[str | None]]:
    """The SHA-256 of each chunk; None where the storage does not return it. hashlib and pread run without the GIL."""

    def digest(job: tuple[str, int]) -> str | None:
        name, at = job
        end = min(at + CHUNK, sizes[name])
        found = hashlib.sha256()
        try:
            with _opened(folder, name) as file:
                # A read ends early before a page that the storage does not return: the next one then fails.
                while at < end and (part := os.pread(file, end - at, at)):
                    found.update(part)
                    at += len(part)
        except (OSError, CheckpointError):
            return None
        return found.hexdigest() if at == end else None

    jobs = [(name, at) for name, size in sizes.items() for at in range(0, size, CHUNK)]
    every: dict[str, list[str | None]] = {name: [] for name in sizes}
    with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
        for (name, _), one in zip(jobs, pool.map(digest, jobs), strict=True):
            every[name].append(one)
    return every


def _folders(root: Path, *, ours: bool) -> list[Path]:
    try:
        return sorted(one for one in root.iterdir() if ours == bool(_OF_SAVE(one.name)) and one.is_dir())
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        more = "; is its storage mounted? Make it before the first start" if absent else ""
        raise CheckpointError(_reason(error) + more) from error


def _newest_first(root: Path, deep: bool) -> Iterator[FolderVerdict]:
    found = {one: int((re.findall(r"\d{1,18}", one.name) or [-1])[-1]) for one in _folders(root, ours=False)}
    for folder in sorted(found, key=lambda one: (found[one], one.name), reverse=True):
        yield verify(folder, deep=deep)


def _shown(name: object) -> str:
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in str(name))


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{_shown(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return _shown(error)


def main(argv: list[str]) -> int:
    """The command line; returns the exit status."""
    try:
        match argv:
            case ["verify", _, *_]:
                verdicts = [verify(one) for one in argv[1:]]
                print(*verdicts, sep="\n")
                return int(any(one.state != "complete" for one in verdicts))
            case ["last", root]:
                for verdict in _newest_first(Path(root), deep=True):
                    if verdict.state == "complete":
                        os.write(1, os.fsencode(f"{verdict.folder}\n"))  # a name may be no text
                        return 0
                    print(verdict, file=sys.stderr)
                return 1
            case ["clean", root]:
                for one in clean_partial(root):
                    print(f"{_shown(one)} stays: a save is writing it, or the file system has no locks")
                return 0
    except (OSError, CheckpointError) as error:
        print(_reason(error), file=sys.stderr)
        return 3
    print("usage: checkpoint.py verify FOLDER… | last ROOT | clean ROOT", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
