"""A compile cache as a folder: its size, and how one process hands it to another.

The whole folder is handed over. `torch.compiler.save_cache_artifacts()` leaves the shared objects of Inductor's C++
kernels out, so on a CPU a start from it is a hit that runs the C++ compiler all over again; the folder has them.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; files that vanish while it counts are not counted."""
    return sum(file_sizes(folder))


def file_sizes(folder: Path) -> Iterator[int]:
    """The size of each file below a folder, and 0 for each folder, one by one: the caller may stop."""
    for parent, _, names in os.walk(folder):
        yield 0
        for name in names:
            with contextlib.suppress(OSError):
                yield os.stat(f"{parent}/{name}", follow_symlinks=False).st_size  # noqa: PTH116 - a hot loop


def merge(source: Path, target: Path) -> int:
    """Copy the files of one cache into another that may be in use, and return how many were new there.

    A file that exists is left alone: names are digests of contents, and another process may have it mapped. A new one
    appears whole, by a rename.

    Raises:
        OSError: the target cannot be written.
    """
    copied = 0
    for parent, _, names in os.walk(source):
        place = target / Path(parent).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not name.endswith(".lock") and not (place / name).exists():
                part = place / f".{name}.{uuid.uuid4().hex}"
                shutil.copy2(Path(parent) / name, part)
                part.replace(place / name)
                copied += 1
    return copied
