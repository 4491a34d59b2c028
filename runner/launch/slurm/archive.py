"""Takes archives apart that other machines have made, on every Python that is supported."""

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path

from runner.units import format_bytes

# What a node returns is records of some tens of KiB, what its steps printed, and bundles for bug reports.
MOST_PACKED_BYTES, MOST_BYTES, MOST_MEMBERS = 64 << 20, 256 << 20, 10_000


def unpack(data: bytes, place: Path, most: int = MOST_BYTES, members: int = MOST_MEMBERS) -> None:
    """Unpack the files and folders of a gzipped tar archive; links, devices and pipes are left out.

    Python's own filter for this (`filter="data"`) came with 3.11.4, and has no limits.

    Args:
        data: the archive.
        place: the folder; it is made.
        most: bytes, unpacked, that an archive may have.
        members: files and folders that it may have.

    Raises:
        tarfile.TarError: no archive, a larger one, or one with a name that leads out of the folder.
        OSError: the folder cannot be written.
    """
    if len(data) > MOST_PACKED_BYTES:
        raise tarfile.ReadError(f"more than {format_bytes(MOST_PACKED_BYTES)} packed")
    try:
        # Whole and bounded before it is looked into: tarfile itself reads headers of any length.
        with gzip.open(io.BytesIO(data)) as packed:
            plain = packed.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise tarfile.ReadError(f"no archive: {error}") from error
    if len(plain) > most:
        raise tarfile.ReadError(f"more than {format_bytes(most)} unpacked")
    try:
        _unpack(plain, place, most, members)
    except (ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # What tarfile lets through where a header was made to mislead it.
        raise tarfile.ReadError(f"no archive: {type(error).__name__}") from error


def _unpack(plain: bytes, place: Path, most: int, members: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    home = place.resolve()
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
        for number, member in enumerate(archive):
            # A sparse file claims any size in a few bytes, and a negative one leads tarfile back to the start.
            most -= member.size if member.isreg() else 0
            if number >= members or most < 0 or member.size < 0:
                raise tarfile.ReadError("more, or larger, files than a node returns")
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
