"""What a flight recorder's dump says, whatever its version. Pure.

The forms of torch's recorder, by the version that the dump names. Before 1.0 the list of entries was the whole dump,
with `pg_id`, `seq_id` and `time_created_us`. 1.0 put it into a dict; 1.4 added `pg_config` by number, with a list of
ranks; 1.5 has `pg_config` by name, with the ranks as a string, and `process_group`, a pair of name and description. 2.x
counts collectives (`collective_seq_id`) apart from sends and receives (`p2p_seq_id`, `is_p2p`), and adds types, times
and names. A key that is missing leaves its field out, and a key that is not known is ignored.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from runner.base.bounds import FACT_CHARACTERS
from runner.base.errors import InputError
from runner.base.plain import visible_line
from runner.base.words import counted
from runner.hang.activity import program_site
from runner.hang.model import MOST_RANKS, CallState, CollectiveCall, Frame, Group, Recording, Unseen
from runner.hang.unpickling import Plain

SOURCE = "flight recorder"
_MOST_CALLS, _MOST_GROUPS, _MOST_TENSORS, _MOST_DIMENSIONS = 100_000, 10_000, 10_000, 64
_LARGEST = 2**53
# The longest that Linux allows for the name of a file, of which frames have whole paths.
_MOST_CHARACTERS = 255
_NEWEST_MAJOR = 2
_STATES = {state.value: state for state in CallState}
# Sources of the frames of C++ that the recorder writes with TORCH_FR_CPP_STACK=1.
_NATIVE = ("??", ".c", ".cc", ".cpp", ".cxx", ".cu", ".h", ".hh", ".hpp", ".cuh")
_OTHER_FOLDER = "name the folder that holds the dumps of torch's flight recorder"


class DumpContent(NamedTuple):
    """A dump that was read.

    Attributes:
        recording: its calls and groups.
        unseen: what of it could not be used.
        newest_ns: when its newest call was made, in ns since 1970; None if it does not say.
    """

    recording: Recording
    unseen: tuple[Unseen, ...] = ()
    newest_ns: int | None = None


def content_of(value: Plain) -> DumpContent:
    """The content of a dump.

    The operations that torch coalesced have one number, and so has the call named `coalesced` that follows them.

    Raises:
        InputError: one line; the value is not a dump of a flight recorder.
    """
    dump: Any = {"entries": value} if isinstance(value, list) else value
    if not isinstance(dump, dict) or not dump.keys() & {"entries", "version", "pg_config"}:
        raise InputError(
            f"is not a dump of a flight recorder: it has no entries and no version; {_OTHER_FOLDER}"
        )
    entries = dump.get("entries", [])
    if not isinstance(entries, list | tuple):
        raise InputError(
            f"is not a dump of a flight recorder: its entries are a {type(entries).__name__}; {_OTHER_FOLDER}"
        )
    reader = _Reader()
    skipped = sum(not reader.read(entry) for entry in entries[-_MOST_CALLS:])
    if entries and not reader.calls:
        raise InputError(
            "is not a dump of a flight recorder: none of its entries names an operation and its number; "
            f"{_OTHER_FOLDER}"
        )
    version = _text(dump.get("version"))
    recording = Recording(
        version=version, calls=tuple(reader.calls), groups=reader.groups(dump.get("pg_config"))
    )
    return DumpContent(recording, _unread(skipped, version), reader.newest_ns or None)


def _unread(skipped: int, version: str) -> tuple[Unseen, ...]:
    reasons = []
    if skipped:
        reasons.append(
            f"{counted(skipped, 'entry', 'entries')} without an operation and a number: not used; a rank may have "
            "made these calls"
        )
    major = version.partition(".")[0]
    if major.isdecimal() and int(major[:9]) > _NEWEST_MAJOR:
        reasons.append(f"its format {version} is newer than {_NEWEST_MAJOR}.x: some of it may be misread")
    return tuple(Unseen(source=SOURCE, reason=reason[:FACT_CHARACTERS]) for reason in reasons)


class _Reader:
    """Reads the entries of one dump; what they share is read once."""

    def __init__(self) -> None:
        self.calls: list[CollectiveCall] = []
        self.newest_ns = 0
        self._descriptions: dict[str, str] = {}
        # By identity: the dump outlives the reader, and torch's pickles share their frames.
        self._frames: dict[int, Frame | None] = {}
        self._ranks: dict[str, tuple[int, ...] | None] = {}

    def read(self, entry: Any) -> bool:
        """Take up a call; False if the entry does not name an operation and its number."""
        if not isinstance(entry, dict):
            return False
        prefix, colon, rest = _text(entry.get("profiling_name")).partition(":")
        backend, op = (prefix, rest) if colon and prefix.isidentifier() else ("", prefix + colon + rest)
        seq = _whole(entry.get("collective_seq_id", entry.get("seq_id")))
        # Before 2.0 there is no is_p2p. NCCL's names are such as `send 0->1`.
        to_one = entry.get("is_p2p") is True or op.partition(" ")[0] in {"send", "recv"}
        if to_one:
            seq = _whole(entry.get("p2p_seq_id", seq))
        if not op or seq is None:
            return False
        group, description = _group(entry)
        self._descriptions.setdefault(group, description)
        self.newest_ns = max(self.newest_ns, _created_ns(entry))
        self.calls.append(
            CollectiveCall(
                group=group,
                seq=seq,
                op=op,
                backend=backend,
                inputs=_sizes(entry.get("input_sizes")),
                outputs=_sizes(entry.get("output_sizes")),
                dtypes=tuple(map(_text, _items(entry.get("input_dtypes"), _MOST_TENSORS))),
                state=_STATES.get(_text(entry.get("state")), CallState.SCHEDULED),
                site=self._site(entry.get("frames")),
                point_to_point=to_one,
            )
        )
        return True

    def groups(self, config: Any) -> dict[str, Group]:
        """The process groups that the dump declares, and those that its calls name."""
        found = {name: Group(name=name, description=text) for name, text in self._descriptions.items()}
        for key, told in list(config.items())[:_MOST_GROUPS] if isinstance(config, dict) else ():
            name = _text(str(key))
            # gloo declares one group, without a name and members.
            if name:
                by_name = told if isinstance(told, dict) else {"ranks": told}
                description = _description(by_name.get("desc")) or self._descriptions.get(name, "")
                ranks = self._members(by_name.get("ranks"))
                found[name] = Group(name=name, description=description, ranks=ranks)
        return found

    def _members(self, ranks: Any) -> tuple[int, ...] | None:
        if not isinstance(ranks, str):
            return _checked_ranks(map(_whole, _items(ranks, MOST_RANKS)))
        if ranks not in self._ranks:
            numbers = ranks.strip("[] ").replace(",", " ").split()
            self._ranks[ranks] = _checked_ranks(
                int(one) if one.isdecimal() and len(one) < len(str(_LARGEST)) else None for one in numbers
            )
        return self._ranks[ranks]

    def _site(self, frames: Any) -> Frame | None:
        for frame in frames if isinstance(frames, list | tuple) else ():
            if id(frame) not in self._frames:
                self._frames[id(frame)] = _program_frame(frame)
            if (found := self._frames[id(frame)]) is not None:
                return found
        return None


def _program_frame(frame: Any) -> Frame | None:
    """The frame, unless it is one of torch, Python or C++."""
    if isinstance(frame, str):
        frame = _written_frame(frame)
    if not isinstance(frame, dict):
        return None
    function, path = _text(frame.get("name")), frame.get("filename")
    # The end of a path tells more than its begin.
    file = _text(path[-_MOST_CHARACTERS:]) if isinstance(path, str) else ""
    if not file or "::" in function or file.endswith(_NATIVE):
        return None
    return program_site((Frame(function=function, file=file, line=_whole(frame.get("line")) or 0),))


def _written_frame(text: str) -> dict[str, Any]:
    """A frame as torch prints it: `#2 step from train.py:15`."""
    place, _, line = text[: 2 * FACT_CHARACTERS].rpartition(":")
    function, _, file = place.partition(" from ")
    number = int(line) if line.isdecimal() and len(line) < len(str(_LARGEST)) else 0
    return {"name": function.rpartition(" ")[2], "filename": file, "line": number}


def _group(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The name and the description of an entry's process group."""
    group = entry.get("process_group")
    name, description = group[:2] if isinstance(group, list | tuple) and len(group) > 1 else (group, "")
    number = _whole(entry.get("pg_id"))
    return _text(name) or ("" if number is None else str(number)), _description(description)


def _description(value: Any) -> str:
    found = _text(value)
    return "" if found == "undefined" else found


def _created_ns(entry: Mapping[str, Any]) -> int:
    nanoseconds = _whole(entry.get("time_created_ns"), 2**63)
    return nanoseconds or (_whole(entry.get("time_created_us")) or 0) * 1000


def _checked_ranks(ranks: Iterable[int | None]) -> tuple[int, ...] | None:
    """None if no ranks are named, or one of them cannot be a rank."""
    found = []
    for rank in ranks:
        if rank is None or rank >= MOST_RANKS:
            return None
        found.append(rank)
    return tuple(found[:MOST_RANKS]) or None


def _sizes(sizes: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(_whole(size) or 0 for size in _items(one, _MOST_DIMENSIONS))
        for one in _items(sizes, _MOST_TENSORS)
    )


def _items(value: Any, most: int) -> Iterable[Any]:
    return value[:most] if isinstance(value, list | tuple) else ()


def _whole(value: Any, largest: int = _LARGEST) -> int | None:
    return value if type(value) is int and 0 <= value <= largest else None


def _text(value: Any) -> str:
    """A string, short enough for a sentence and without control characters; empty for anything else."""
    if not isinstance(value, str):
        return ""
    short = value[:_MOST_CHARACTERS]
    return short if short.isprintable() else visible_line(short)[:_MOST_CHARACTERS]
