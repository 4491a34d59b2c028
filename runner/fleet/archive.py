"""Packs the code for the nodes, and unpacks untrusted archives from them, on every supported Python."""

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path

from runner.base.units import format_bytes

# The guides that entries link to.
_GUIDES = "kb/guides"
# A node returns records of some tens of KiB, step output, and bundles for bug reports.
MOST_PACKED_BYTES, MOST_BYTES, MOST_MEMBERS = 64 << 20, 256 << 20, 10_000


def pack_code(package: Path, *runbooks: Path) -> bytes:
    """A packed copy of the current code: jobs that start hours later run the code that was submitted.

    Args:
        package: the folder that contains `runner/`.
        runbooks: the folders of the entries; a file of a later one replaces that of an earlier one.
    """
    taken = io.BytesIO()

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        hidden = "__pycache__" in info.name or info.name.endswith(".pyc")
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return None if hidden else info

    with tarfile.open(fileobj=taken, mode="w:gz", compresslevel=6) as archive:
        archive.add(package / "runner", "runner", filter=wanted)
        # Of two members with one name, the later one is what remains unpacked.
        for folder in (package, *(folder.resolve().parent for folder in runbooks)):
            if (folder / _GUIDES).is_dir():
                archive.add(folder / _GUIDES, _GUIDES, filter=wanted)
        for folder in runbooks:
            archive.add(folder.resolve(), "runbooks", filter=wanted)
    return taken.getvalue()


def unpack(data: bytes, place: Path, most: int = MOST_BYTES, members: int = MOST_MEMBERS) -> None:
    """Unpack the files and folders of a gzipped tar archive; links, devices and pipes are skipped.

    Python's filter for this (`filter="data"`) needs 3.11.4, and has no size limits.

    Args:
        data: the archive.
        place: the target folder; it is created.
        most: maximum unpacked size, in bytes.
        members: maximum number of files and folders.

    Raises:
        tarfile.TarError: not an archive, too large, or with a name that leads out of the folder.
        OSError: the folder cannot be written.
    """
    if len(data) > MOST_PACKED_BYTES:
        raise tarfile.ReadError(f"more than {format_bytes(MOST_PACKED_BYTES)} packed")
    try:
        # Decompressed with a limit before it is parsed: tarfile itself reads headers of any length.
        with gzip.open(io.BytesIO(data)) as packed:
            plain = packed.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise tarfile.ReadError(f"not an archive: {error}") from error
    if len(plain) > most:
        raise tarfile.ReadError(f"more than {format_bytes(most)} unpacked")
    try:
        _unpack(plain, place, most, members)
    except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # Other exceptions that tarfile raises for a malicious header.
        raise tarfile.ReadError(f"not an archive: {type(error).__name__}") from error


def _unpack(plain: bytes, place: Path, most: int, members: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    home = place.resolve()
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
        for number, member in enumerate(archive):
            # A sparse file can claim any size in a few bytes, and a negative size makes tarfile seek back to the start.
            most -= member.size if member.isreg() else 0
            if number >= members or most < 0 or member.size < 0:
                raise tarfile.ReadError("too many or too large files")
            target = (home / member.name).resolve()
            if not target.is_relative_to(home):
                raise tarfile.ExtractError(f"{member.name!r} leads out of the folder")
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member) if member.isreg() else None
            if source is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file)
