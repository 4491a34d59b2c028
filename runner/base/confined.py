"""Opens a path as seen by a process with another root directory, for example in a container.

Below `/proc/PID/root` the kernel would resolve an absolute link in the reader's own file system, and `..` could leave
the folder. The container controls both. Here links are resolved one by one within the root, as that process would.
"""

import errno
import os
import stat
from pathlib import Path

_MOST_LINKS = 40
_FLAGS = os.O_PATH | os.O_CLOEXEC


def open_within(root: Path, path: Path) -> int:
    """Open an absolute path relative to `root`; returns an O_PATH descriptor that the caller closes.

    Raises:
        OSError: the path does not exist, this user has no access, or its links form a loop.
    """
    # The folders on the path, the root first: `..` goes back one of them, and never above the root.
    trail = [os.open(root, _FLAGS | os.O_DIRECTORY)]
    try:
        return _walk(trail, path)
    finally:
        for descriptor in trail:
            os.close(descriptor)


def _walk(trail: list[int], path: Path) -> int:
    parts, links = [*reversed(path.parts)], 0
    while parts:
        part = parts.pop()
        if part.startswith("/"):
            _cut(trail, 1)
        elif part == "..":
            _cut(trail, max(1, len(trail) - 1))
        else:
            found = os.open(part, _FLAGS | os.O_NOFOLLOW, dir_fd=trail[-1])
            trail.append(found)
            mode = os.fstat(found).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                parts += reversed(Path(os.readlink("", dir_fd=found)).parts)
                _cut(trail, len(trail) - 1)
            elif parts and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return os.dup(trail[-1])


def _cut(trail: list[int], length: int) -> None:
    while len(trail) > length:
        os.close(trail.pop())
