"""Reads and writes files in order, with what the page cache holds of them: for checkpoints and for weights alike."""

import ctypes
import mmap
import os
import time
from pathlib import Path

_BLOCK = 8 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def write_in_order(path: Path, size: int, *, flush: bool) -> float:
    """Write a new file of `size` bytes that no file system compresses or leaves out; returns the seconds.

    Args:
        path: the file.
        size: in bytes.
        flush: until fsync returns, or only until write does.
    """
    block = os.urandom(min(_BLOCK, size))
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        if flush:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def read_in_order(path: Path) -> float:
    """Read a file to its end into one buffer; returns the seconds."""
    buffer = bytearray(_BLOCK)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


def drop_from_cache(path: Path) -> None:
    """Flush a file, and ask the kernel to forget its pages; `share_in_cache` tells whether it did."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def share_in_cache(path: Path) -> float | None:
    """The share of a file's pages that are in memory, by mincore(2); None for an empty file or if it is not told."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return None
        pages = -(-size // mmap.PAGESIZE)
        told = (ctypes.c_ubyte * pages)()
        # A private mapping, because ctypes needs one that it may write; nothing is written.
        with mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
            first = (ctypes.c_char * size).from_buffer(mapped)
            failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), told)
            del first
    return None if failed else sum(one & 1 for one in told) / pages
