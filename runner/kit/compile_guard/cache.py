"""A compile cache as a folder: its size, and how to copy it to another process.

The whole folder is copied. `torch.compiler.save_cache_artifacts()` omits the shared objects of Inductor's C++ kernels,
so on a CPU a start from it is a cache hit that still runs the C++ compiler; the folder contains them.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder; files that disappear meanwhile are not counted."""
    return sum(file_sizes(folder))


def file_sizes(folder: Path) -> Iterator[int]:
    """The size of each file below a folder, and 0 for each folder. A generator, so that the caller may stop early."""
    for parent, _, names in os.walk(folder):
        yield 0
        for name in names:
            with contextlib.suppress(OSError):
                yield os.stat(f"{parent}/{name}", follow_symlinks=False).st_size  # noqa: PTH116 - a hot loop


def merge(source: Path, target: Path) -> int:
    """Copy the files of one cache into another that may be in use; return the number of new files.

    An existing file is kept: names are digests of contents, and another process may have it mapped. A new file appears
    atomically, by a rename.

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
