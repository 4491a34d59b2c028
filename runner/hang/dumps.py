"""Reads the dumps of torch's flight recorder: one file a rank, written by the job that hung.

A dump is a pickle (`TORCH_FR_DUMP_TEMP_FILE`, by default `comm_lib_trace_rank_<rank>`, in older versions
`nccl_trace_rank_<rank>`) or JSON (`/handler/fr_trace_json` of a rank's worker server). Both are files of other people:
nothing in them runs, and they are read within limits.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from runner.base.bounds import FACT_CHARACTERS
from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.plain import visible_line
from runner.base.words import and_more, counted, ranges
from runner.hang.dump_names import DumpFile, DumpSet, dump_files, newest_sets
from runner.hang.model import MOST_RANKS, RankLook, Recording, Unseen
from runner.hang.plain_json import read_json
from runner.hang.recordings import SOURCE, DumpContent, content_of
from runner.hang.unpickling import MOST_BYTES, read_pickle

_MOST_FILES = 2 * MOST_RANKS
_DAY_NS = 86_400 * 10**9
_PICKLE = b"\x80"
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}


def read_recording(data: bytes) -> Recording:
    """A dump of a flight recorder, as a pickle or as JSON.

    A call without an operation or a number is left out; `read_dump` says how many are.

    Raises:
        InputError: one line, without a name: `is truncated: …`. The data is not a dump, is damaged, asks to run
            something, or exceeds a limit.
    """
    return read_dump(data).recording


def read_dump(data: bytes) -> DumpContent:
    """The same, with what could not be used, and the time of its newest call."""
    if not data.strip():
        raise InputError("is empty: its rank ended before it wrote its dump; leave this rank out")
    for magic, name in _COMPRESSED.items():
        if data.startswith(magic):
            raise InputError(f"is compressed ({name}); unpack it")
    if data.startswith(_PICKLE):
        return content_of(read_pickle(data))
    if data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        return content_of(read_json(data))
    raise InputError(
        "is neither a pickle nor JSON; name the folder that holds the dumps of torch's flight recorder"
    )


def read_dumps(folder: Path) -> tuple[tuple[RankLook, ...], tuple[Unseen, ...]]:
    """The ranks whose dumps lie in a folder, in order of rank, and what could not be read.

    The names of the files end in the rank's number, or hold `rank` and the number. Dumps that were taken at several
    times differ in the rest of their names; of such sets, the newest is taken. A rank without a dump has no look.

    Raises:
        InputError: one line; there is no such folder, or no file in it can be used.
    """
    shown = visible_line(str(folder))
    files = dump_files(_names(folder, shown))
    if not files:
        raise InputError(
            f"{shown} holds no dump of a flight recorder: no file name ends in the number of a rank, such as "
            "comm_lib_trace_rank_3; torch writes them to TORCH_FR_DUMP_TEMP_FILE"
        )
    found, unseen = _read_all(folder, files)
    if not found:
        raise InputError(
            f"{shown}: none of {counted(len(files), 'dump')} can be read: {unseen[0].reason}{and_more(len(unseen))}"
        )
    sets, older = newest_sets(found)
    unseen += [_left_out(one) for one in older]
    contents = {file.rank: content for one in sets for file, content in one.contents.items()}
    for rank in _of_another_run(contents):
        unseen.append(
            _unseen(f"the dump of rank {rank} ends more than a day before the others: of another run?")
        )
        del contents[rank]
    size = _world_size(contents.values())
    looks = tuple(_look(rank, content, size) for rank, content in sorted(contents.items()))
    return looks, (*unseen, *_missing(contents, {file.rank for file in files}))


def _names(folder: Path, shown: str) -> list[str]:
    """The names of what lies in a folder."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > _MOST_FILES:
                    raise InputError(
                        f"{shown} holds more than {_MOST_FILES:,} files; name a folder of dumps alone"
                    )
    except NotADirectoryError as error:
        raise InputError(
            f"{shown} is not a folder; name the folder that holds the dumps, one file a rank"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{shown}: no such folder; name the folder that holds the dumps") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{shown} cannot be read: {why}") from error
    if not names:
        raise InputError(
            f"{shown} is empty; torch writes its dumps to TORCH_FR_DUMP_TEMP_FILE, one file a rank"
        )
    return names


def _read_all(folder: Path, files: Iterable[DumpFile]) -> tuple[list[DumpSet], list[Unseen]]:
    sets: dict[str, DumpSet] = {}
    unseen: list[Unseen] = []
    for file in files:
        path = folder / file.name
        try:
            # A link may lead out of a folder that was copied from another machine.
            content = read_dump(read_placed(path, MOST_BYTES, links=False))
        except PlacedFileError as error:
            unseen.append(_unread(file, error.why))
        except InputError as error:
            unseen.append(_unread(file, str(error)))
        else:
            one = sets.setdefault(file.pattern, DumpSet(file.pattern, {}, {}))
            one.contents[file] = content
            one.written_ns[file] = _written_ns(path)
    return list(sets.values()), unseen


def _written_ns(path: Path) -> int:
    """When the file was last changed, in ns since 1970; 0 if it is gone."""
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _unread(file: DumpFile, why: str) -> Unseen:
    return _unseen(f"the dump of rank {file.rank}, {visible_line(file.name)}, {why}")


def _left_out(one: DumpSet) -> Unseen:
    names = visible_line(one.pattern)
    ranks = ranges(file.rank for file in one.contents)
    return _unseen(
        f"{counted(len(one.contents), 'dump')} named {names}, of rank {ranks}: not used, others of the same ranks are "
        "newer or say more"
    )


def _unseen(reason: str) -> Unseen:
    return Unseen(source=SOURCE, reason=reason[:FACT_CHARACTERS])


def _of_another_run(contents: Mapping[int, DumpContent]) -> list[int]:
    """Ranks whose newest call is far older than those of others: in a hang, all ranks make their last call together."""
    times = {rank: content.newest_ns for rank, content in contents.items() if content.newest_ns}
    newest = max(times.values(), default=0)
    return [rank for rank, time in times.items() if newest - time > _DAY_NS]


def _world_size(contents: Iterable[DumpContent]) -> int | None:
    """The number of ranks of the default group, if a dump names its members."""
    groups = [group for content in contents for group in content.recording.groups.values()]
    default = [group.ranks for group in groups if group.name == "0" or group.description == "default_pg"]
    return max((max(ranks) + 1 for ranks in default if ranks), default=None)


def _look(rank: int, content: DumpContent, size: int | None) -> RankLook:
    why = _not_comparable(content.recording)
    return RankLook(
        node="",
        rank=rank,
        world_size=size,
        recording=None if why else content.recording,
        unseen=(*content.unseen, *([_unseen(f"the dump of rank {rank} {why}")] if why else [])),
    )


def _not_comparable(recording: Recording) -> str | None:
    """Why the calls cannot be compared with those of other ranks."""
    if not recording.calls:
        # An empty recorder and one that was off write the same: the rank need not be behind.
        return "holds no call: either it made none, or its recorder was off (TORCH_FR_BUFFER_SIZE)"
    old = recording.version.partition(".")[0] in {"", "1"}
    if old and any(call.point_to_point for call in recording.calls):
        return (
            "is of a version that counts sends and receives among the collectives: its numbers do not compare"
        )
    return None


def _missing(contents: Mapping[int, DumpContent], there: set[int]) -> Sequence[Unseen]:
    """The ranks without a file, as far as the numbers and the members of process groups tell."""
    groups = [group for content in contents.values() for group in content.recording.groups.values()]
    last = max(chain(contents, *(group.ranks for group in groups if group.ranks)))
    absent = set(range(last + 1)) - there
    if not absent:
        return ()
    return [_unseen(f"no dump of rank {ranges(absent)}: it wrote none, or its file is elsewhere")]
