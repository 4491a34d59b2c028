"""The process that `limits_drill` starts: it sets a limit on itself, then does the work.

`python -m runner.kit.limits.worker LIMIT SIZE WORK PARENT`; SIZE 0 is the same work without it. For `memory`, WORK is
the folder of the control group that limits it. PARENT is the pid of the process with which it ends. Exit status: 0
done, 10 failed, with the error as the last line; 80 the limit cannot be set here, with the reason. A signal of the
kernel may end it too.
"""

import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.kit.children import die_with_parent
from runner.kit.limits.kernel_calls import give_up_ipc_lock, lock_memory, mount_private_shm, name_process
from runner.node.kernel.events import DRILL_PROGRAM

FAILED, REFUSED = 10, 80
_MIB = 1 << 20
# What each piece of work needs, in bytes: a limit above is enough, one below is not.
# Locking needs less than systemd's default of 8 MiB, so that the work can be done on most hosts.
SHM_BYTES, LOCKED_BYTES, HELD_BYTES, OPEN_FILES = 96 * _MIB, 4 * _MIB, 192 * _MIB, 128
_AMPLE_SHM = 512 * _MIB
_BATCHES = 24


def main() -> int:
    """Set the limit, work, and say how it ended."""
    limit, size, work, parent = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    # It may have ended before this process asked to end with it.
    if not die_with_parent(parent):
        return FAILED
    name_process(DRILL_PROGRAM)
    # Slow imports come before a limit that would make them fail.
    do = _WORKS[limit](size, work)
    try:
        _LIMITS[limit](size, work)
    except (OSError, ValueError) as error:
        print(f"the limit cannot be set here: {error}", flush=True)
        return REFUSED
    try:
        do()
    except (RuntimeError, OSError, MemoryError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        last = lines[-1].strip() if lines else ""
        own = type(error).__name__
        print(last if last.startswith(own) else f"{own}: {last}", flush=True)
        return FAILED
    return 0


def _limit_shm(size: int, work: str) -> None:
    del work
    mount_private_shm(size or _AMPLE_SHM)


def _limit_files(size: int, work: str) -> None:
    del work
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (size or hard, hard))


def _limit_locked(size: int, work: str) -> None:
    del work
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if size:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, max(size, hard) if hard >= 0 else hard))
        give_up_ipc_lock()
    else:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _limit_memory(size: int, work: str) -> None:
    if size:
        (Path(work) / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    # As `free` shows it, from within the control group.
    print(Path("/proc/meminfo").read_text(encoding="ascii").partition("\n")[0], flush=True)


def _loader(samples: int, floats: int) -> Callable[[], None]:
    """Two workers of a DataLoader move tensors to this process, which keeps them."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class _Samples(Dataset[Any]):
        def __len__(self) -> int:
            return samples

        def __getitem__(self, index: int) -> Any:
            return torch.full((floats,), float(index))

    def move() -> None:
        kept = list(DataLoader(_Samples(), batch_size=1, num_workers=2, multiprocessing_context="fork"))
        assert len(kept) == samples

    return move


def _shm_work(size: int, work: str) -> Callable[[], None]:
    del size
    if work == "loader":
        return _loader(_BATCHES, SHM_BYTES // _BATCHES // 4)

    def write() -> None:
        from multiprocessing.shared_memory import SharedMemory

        segment = SharedMemory(create=True, size=SHM_BYTES)
        # A page that finds no space ends the process with a bus error.
        assert segment.buf is not None
        segment.buf[:] = b"x" * SHM_BYTES
        segment.close()
        segment.unlink()

    return write


def _file_work(size: int, work: str) -> Callable[[], None]:
    del size
    if work == "loader":
        return _loader(OPEN_FILES, 1024)

    def open_many() -> None:
        for one in [os.open(os.devnull, os.O_RDONLY) for _ in range(OPEN_FILES)]:
            os.close(one)

    return open_many


def _lock_work(size: int, work: str) -> Callable[[], None]:
    del size, work
    return lambda: lock_memory(LOCKED_BYTES)


def _memory_work(size: int, work: str) -> Callable[[], None]:
    del size, work

    def hold() -> None:
        # Written, since untouched memory is not charged.
        held = [bytearray(b"x" * _MIB) for _ in range(HELD_BYTES // _MIB)]
        assert len(held) * _MIB == HELD_BYTES

    return hold


_LIMITS: Mapping[str, Callable[[int, str], None]] = {
    "shm": _limit_shm,
    "nofile": _limit_files,
    "memlock": _limit_locked,
    "memory": _limit_memory,
}
_WORKS: Mapping[str, Callable[[int, str], Callable[[], None]]] = {
    "shm": _shm_work,
    "nofile": _file_work,
    "memlock": _lock_work,
    "memory": _memory_work,
}


if __name__ == "__main__":
    sys.exit(main())
