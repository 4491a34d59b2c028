"""The forms in which a log is kept, and how each becomes plain text: compressed, in UTF-16, or not readable here. Pure.

What cannot be read is refused with the command that makes it readable. It must never look like a log without a match.
"""

import bz2
import itertools
import lzma
import shlex
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from runner.base.errors import InputError
from runner.base.units import format_bytes

SAMPLE_BYTES = 4096
"""How much of the beginning decides the form."""
LARGEST_UNPACKED = 4 << 30
"""Bytes of text that a compressed log may hold: a few kilobytes can unpack to any length."""
_OUTPUT_BYTES = 1 << 20
# A decoder copies what follows its member. A log may be a hundred thousand short members, so each copy must be short.
_INPUT_BYTES = 1 << 14
# The dictionary of `xz -9` needs 65 MiB to unpack.
_XZ_MEMORY_BYTES = 256 << 20
_CONTROLS = bytes([*range(9), *range(14, 27), *range(28, 32), 127])
_BINARY_SHARE = 0.1
_FEWEST_PAIRS = 4


@dataclass(frozen=True)
class Unreadable:
    """A form that is refused.

    Attributes:
        magic, offset: the bytes that tell it, and where they are.
        what: its name, with an article.
        instead: what to do, with the command that makes it readable; `FILE` is the log, `READER` what reads it.
    """

    magic: bytes
    offset: int
    what: str
    instead: str


_PIPE = "| READER"
MATCH = "runbook match -"
"""Reads a log from standard input, where nothing else is said."""
_NO_LOG = "name the text log that was written beside it"
UNREADABLE = (
    Unreadable(b"PK\x03\x04", 0, "a zip archive", f"run `unzip -p FILE {_PIPE}`"),
    Unreadable(b"ustar", 257, "a tar archive", f"run `tar -xOf FILE {_PIPE}`"),
    Unreadable(b"\x28\xb5\x2f\xfd", 0, "compressed with zstd", f"run `zstdcat FILE {_PIPE}`"),
    Unreadable(b"\x04\x22\x4d\x18", 0, "compressed with lz4", f"run `lz4cat FILE {_PIPE}`"),
    Unreadable(b"\x1f\x9d", 0, "compressed with compress (.Z)", f"run `zcat FILE {_PIPE}`"),
    Unreadable(b"LZIP", 0, "compressed with lzip", f"run `lzip -dc FILE {_PIPE}`"),
    Unreadable(b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", f"run `7z x -so FILE {_PIPE}`"),
    Unreadable(b"Rar!\x1a\x07", 0, "a RAR archive", f"run `unrar p -inul FILE {_PIPE}`"),
    Unreadable(b"\xff\xfe\x00\x00", 0, "text in UTF-32", f"run `iconv -f UTF-32 -t UTF-8 FILE {_PIPE}`"),
    Unreadable(b"\x00\x00\xfe\xff", 0, "text in UTF-32", f"run `iconv -f UTF-32 -t UTF-8 FILE {_PIPE}`"),
    Unreadable(b"LPKSHHRH", 0, "a systemd journal", f"run `journalctl --file FILE {_PIPE}`"),
    Unreadable(b"\x7fELF", 0, "a program or a core dump (ELF)", _NO_LOG),
    Unreadable(b"SQLite format 3\x00", 0, "a SQLite database", _NO_LOG),
    Unreadable(b"PERFILE2", 0, "a recording of perf", f"run `perf script -i FILE {_PIPE}`"),
    Unreadable(b"\xa1\xb2\xc3\xd4", 0, "a packet capture (pcap)", _NO_LOG),
    Unreadable(b"\xd4\xc3\xb2\xa1", 0, "a packet capture (pcap)", _NO_LOG),
    Unreadable(b"\x4d\x3c\xb2\xa1", 0, "a packet capture (pcap)", _NO_LOG),
    Unreadable(b"\x0a\x0d\x0d\x0a", 0, "a packet capture (pcapng)", _NO_LOG),
    Unreadable(b"%PDF-", 0, "a PDF document", f"run `pdftotext FILE - {_PIPE}`"),
    Unreadable(b"\x89PNG", 0, "a picture (PNG)", "copy the text of the log into a file"),
    Unreadable(b"\xff\xd8\xff", 0, "a picture (JPEG)", "copy the text of the log into a file"),
)


class _Decoder(Protocol):
    """What `bz2` and `lzma` have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """The same for one member of a gzip file."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


_COMPRESSED: tuple[tuple[bytes, str, Callable[[], _Decoder]], ...] = (
    (b"\x1f\x8b", "gzip", _Gzip),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
)


class Log:
    """A log as plain text, whatever form it is kept in.

    Attributes:
        size: bytes of text read so far.
        binary: the beginning holds many control characters: no match means nothing then.
        incomplete: why the text is not all of the log; what came before was read. Empty where it is all.
    """

    def __init__(
        self,
        name: str,
        chunks: Iterable[bytes],
        *,
        reader: str = MATCH,
        most: int | None = None,
    ) -> None:
        """Take the log's bytes.

        Args:
            name: the file's name as the caller gave it, or `-`.
            chunks: its bytes, in parts of any length.
            reader: the command that reads a log from standard input.
            most: bytes of text that a compressed log may hold; None: `LARGEST_UNPACKED`.
        """
        self.size = 0
        self.binary = False
        self.incomplete = ""
        self._typed = name
        self._name = "standard input" if name == "-" else name
        self._chunks = chunks
        self._reader, self._most = reader, LARGEST_UNPACKED if most is None else most

    def text(self) -> Iterator[bytes]:
        """The text in UTF-8, or in the encoding that it came in if that keeps ASCII.

        Raises:
            InputError: a form that cannot be read, or a compressed log of more than `most`.
        """
        sample, chunks = _sampled(self._chunks)
        self._refuse(sample)
        for magic, form, new in _COMPRESSED:
            if sample.startswith(magic):
                sample, chunks = _sampled(self._unpacked(chunks, form, new))
                self._refuse(sample)
                if any(sample.startswith(one) for one, _, _ in _COMPRESSED):
                    raise InputError(
                        f"{self._name} is compressed twice; decompress it once, then give the result"
                    )
                break
        for chunk in _decoded(chunks, encoding_of(sample)):
            if not self.size:
                beginning = chunk[:SAMPLE_BYTES]
                controls = len(beginning) - len(beginning.translate(None, _CONTROLS))
                self.binary = controls > _BINARY_SHARE * len(beginning)
            self.size += len(chunk)
            yield chunk

    def _refuse(self, sample: bytes) -> None:
        for one in UNREADABLE:
            if sample.startswith(one.magic, one.offset):
                typed = "FILE" if self._typed == "-" else shlex.quote(self._typed)
                instead = one.instead.replace("READER", self._reader).replace("FILE", typed)
                raise InputError(f"{self._name} is {one.what}, not a text log; {instead}")

    def _unpacked(self, chunks: Iterable[bytes], form: str, new: Callable[[], _Decoder]) -> Iterator[bytes]:
        unpacked = 0
        parts = _members(chunks, new)
        while True:
            try:
                part = next(parts)
            except StopIteration as end:
                self.incomplete = f"its {form} data ends early" if end.value else ""
                return
            except _DamagedError as damage:
                self.incomplete = f"its {form} data is damaged: {damage}"
                return
            unpacked += len(part)
            if unpacked > self._most:
                most = format_bytes(self._most)
                raise InputError(
                    f"{self._name} unpacks to more than {most}; unpack it, and give its last part: "
                    f"tail -c {format_bytes(min(self._most, 1 << 30)).removesuffix('iB')} FILE | {self._reader}"
                )
            yield part


class _DamagedError(Exception):
    """Compressed data that cannot be unpacked."""


def _members(chunks: Iterable[bytes], new: Callable[[], _Decoder]) -> Generator[bytes, None, bool]:
    """Unpack files of one form that were appended to each other. Returns whether the last one ended early."""
    decoder = None
    slices = (chunk[at : at + _INPUT_BYTES] for chunk in chunks for at in range(0, len(chunk), _INPUT_BYTES))
    for some in slices:
        data = some
        while data:
            if decoder is None:
                # Padding may follow a member.
                data = data.lstrip(b"\0")
                decoder = new() if data else None
                continue
            yield _decompressed(decoder, data)
            while not decoder.eof and not decoder.needs_input:
                yield _decompressed(decoder, b"")
            data, decoder = (decoder.unused_data, None) if decoder.eof else (b"", decoder)
    return decoder is not None


def _decompressed(decoder: _Decoder, data: bytes) -> bytes:
    try:
        return decoder.decompress(data, _OUTPUT_BYTES)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise _DamagedError(str(error)) from error


def encoding_of(sample: bytes) -> str:
    """`utf-16-le` or `utf-16-be` where the beginning of a text says so, by a mark or by its zeros; else `utf-8`."""
    for mark, encoding in ((BOM_UTF16_LE, "utf-16-le"), (BOM_UTF16_BE, "utf-16-be")):
        if sample.startswith(mark):
            return encoding
    # Every second byte of English in UTF-16 is zero.
    pairs = len(sample) // 2
    first, second = (sample[place : 2 * pairs : 2].count(0) for place in (0, 1))
    if pairs >= _FEWEST_PAIRS and max(first, second) > pairs / 2 and min(first, second) < pairs / 10:
        return "utf-16-le" if second > first else "utf-16-be"
    return "utf-8"


def _decoded(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The chunks in UTF-8 and without a byte order mark; text that is not in UTF-16 stays as it is."""
    if encoding != "utf-8":
        decoder = getincrementaldecoder(encoding)("replace")
        chunks = (
            text.encode("utf-8", "replace")
            for chunk in itertools.chain(chunks, (b"",))
            if (text := decoder.decode(chunk, final=not chunk))
        )
    sample, chunks = _sampled(chunks)
    marked = sample.startswith(BOM_UTF8)
    for chunk in chunks:
        yield chunk[len(BOM_UTF8) :] if marked else chunk
        marked = False


def _sampled(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The beginning, and all of the chunks; none of them is empty, and the first one holds the beginning."""
    rest = filter(None, chunks)
    beginning = b""
    while len(beginning) < SAMPLE_BYTES and (chunk := next(rest, b"")):
        beginning += chunk
    return beginning[:SAMPLE_BYTES], itertools.chain(filter(None, (beginning,)), rest)
