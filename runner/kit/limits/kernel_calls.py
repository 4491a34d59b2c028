"""System calls that Python's standard library does not have: a private mount, and a capability given up."""

import ctypes
import os
import struct
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_CAP_IPC_LOCK, _CAPABILITY_VERSION_3 = 14, 0x2008_0522
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def mount_private_shm(size: int) -> None:
    """Put a tmpfs of `size` bytes over /dev/shm, for this process and its children only.

    The mount namespace ends with the last of them, and the tmpfs with it. Without root, a user namespace is made too.

    Raises:
        OSError: the kernel, or the container's seccomp filter, refuses namespaces or the mount.
    """
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWNS):
        _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
        Path("/proc/self/setgroups").write_bytes(b"deny")
        Path("/proc/self/uid_map").write_bytes(b"0 %d 1" % user)
        Path("/proc/self/gid_map").write_bytes(b"0 %d 1" % group)
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")
    _check(_libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=%d,mode=1777" % size), "mount")


def give_up_ipc_lock() -> None:
    """Give up CAP_IPC_LOCK, with which RLIMIT_MEMLOCK does not bind a process.

    Raises:
        OSError: the kernel refuses.
    """
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    # Two sets of effective, permitted and inheritable, of 32 capabilities each.
    data = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, data), "capget")
    sets = list(struct.unpack("<6I", data.raw[:24]))
    sets[:3] = [one & ~(1 << _CAP_IPC_LOCK) for one in sets[:3]]
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    _check(_libc.capset(header, ctypes.create_string_buffer(struct.pack("<6I", *sets))), "capset")


def lock_memory(size: int) -> None:
    """Lock `size` new bytes in memory, as a library does that registers a buffer; they are freed with the process.

    Raises:
        OSError: ENOMEM above RLIMIT_MEMLOCK, EPERM if that is 0.
    """
    buffer = ctypes.create_string_buffer(size)
    _libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _check(_libc.mlock(ctypes.addressof(buffer), size), "mlock")


def name_process(name: str) -> None:
    """Give this process a name of at most 15 bytes, which the kernel writes into its log."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
