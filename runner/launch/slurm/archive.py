"""Takes archives apart that other machines have made, on every Python that is supported."""

import io
import shutil
import tarfile
from pathlib import Path


def unpack(data: bytes, place: Path) -> None:
    """Unpack the files and folders of a tar archive, compressed or not; links, devices and pipes are left out.

    Python's own filter for this (`filter="data"`) came with 3.11.4.

    Raises:
        tarfile.TarError: no archive, or one with a name that leads out of the folder.
        OSError: the folder cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    home = place.resolve()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
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
