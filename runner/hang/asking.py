"""Asks a running rank for what its flight recorder holds. Nothing of the job changes.

Two ways are torch's own. A worker server (`torch.distributed.elastic.control_plane`) answers HTTP on a Unix socket,
also while the main thread waits in a collective. ProcessGroupNCCL reads a named pipe, about once a second, and writes
its dump to a file when a byte arrives (torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp, FlightRecorderDetail.hpp).

The paths are the words of another process: they are opened within its own file system, and only if they are a socket, a
pipe and a regular file.
"""

import contextlib
import errno
import http.client
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.base.confined import open_within
from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, placed_file, read_placed
from runner.base.plain import one_line
from runner.base.time_limit import seconds_left
from runner.hang.dumps import read_recording
from runner.hang.model import Recording, Unseen
from runner.hang.plain_json import read_json
from runner.hang.rank_process import RankProcess
from runner.hang.unpickling import MOST_BYTES

RECORDER = "flight recorder"
_PROC = Path("/proc")
_TMP = "/tmp"  # noqa: S108 - torch's own default
_POLL_S = 0.05
_PREFIXES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
# What changes when a file is written; None: no such file.
_State = tuple[int, int, int] | None
# The recorder of NCCL's own process groups, with frames and the members of groups, and that of all other backends.
_NCCL, _OTHERS = "dump_nccl_trace_pickle", "fr_trace_json"
_NOT_SET_UP = (
    "not set up: start the job with TORCH_NCCL_DEBUG_INFO_PIPE_FILE=PREFIX and TORCH_NCCL_TRACE_BUFFER_SIZE=2000 "
    "(NCCL), or with TORCH_WORKER_SERVER_SOCKET=PATH, another for each rank, and torch's worker_main()"
)


def ask_recording(process: RankProcess, seconds: float, *, dump: bool = True) -> Recording | Unseen:
    """What the flight recorder of a rank holds now.

    Args:
        process: the rank.
        seconds: time limit.
        dump: also ask through the pipe, which makes the rank write a file.
    """
    deadline = time.monotonic() + seconds
    answer: Recording | Unseen | None = None
    if process.told.get("TORCH_WORKER_SERVER_SOCKET"):
        answer = _of_server(process, process.told["TORCH_WORKER_SERVER_SOCKET"], deadline)
        if isinstance(answer, Recording):
            return answer
    prefix = process.told.get("TORCH_NCCL_DEBUG_INFO_PIPE_FILE")
    if prefix and process.rank is not None:
        if not dump:
            return answer or Unseen(source=RECORDER, reason="left out by --no-dump")
        return _of_pipe(process, f"{prefix}{process.rank}.pipe", deadline)
    return answer or Unseen(source=RECORDER, reason=_NOT_SET_UP)


def _of_server(process: RankProcess, path: str, deadline: float) -> Recording | Unseen:
    try:
        names = read_json(_get(process, path, "", deadline))
        listed = [name for name in (_NCCL, _OTHERS) if isinstance(names, list) and name in names]
        found: Recording | None = None
        for name in listed:
            found = read_recording(_get(process, path, name, deadline))
            # A job without NCCL has an empty recorder of NCCL.
            if found.calls:
                return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _unseen(f"its worker server does not answer: {_why(error)}")
    except InputError as error:
        return _unseen(f"the answer of its worker server {error}")
    return found or _unseen("its worker server has no flight recorder; that of torch 2.10 and newer has one")


def _get(process: RankProcess, path: str, handler: str, deadline: float) -> bytes:
    connection = http.client.HTTPConnection("localhost", timeout=seconds_left(deadline))
    with _place_of(process, path) as place:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.sock = line
        try:
            line.settimeout(seconds_left(deadline))
            line.connect(f"/proc/self/fd/{place}")
            _demand_own(line, process)
            # Handlers were first reachable by POST only; the list of them by GET only.
            connection.request("POST" if handler else "GET", f"/handler/{handler}")
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise http.client.HTTPException(f"status {response.status}")
            return _read_all(response, line, deadline)
        finally:
            connection.close()


def _read_all(response: http.client.HTTPResponse, line: socket.socket, deadline: float) -> bytes:
    taken = bytearray()
    while len(taken) <= MOST_BYTES:
        line.settimeout(seconds_left(deadline))
        more = response.read1(1 << 16)
        if not more:
            return bytes(taken)
        taken += more
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _demand_own(line: socket.socket, process: RankProcess) -> None:
    """Ranks that were given one path have one server: that of the rank that came last."""
    owner, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if owner != process.pid:
        raise OSError(errno.EADDRINUSE, "another process listens there; each rank needs a path of its own")


def _of_pipe(process: RankProcess, pipe: str, deadline: float) -> Recording | Unseen:
    try:
        files = [_absolute(process, file) for file in _dump_files(process)]
        before = {file: _written(process, file) for file in files}
        with _place_of(process, pipe) as place:
            if not stat.S_ISFIFO(os.fstat(place).st_mode):
                return _unseen("its TORCH_NCCL_DEBUG_INFO_PIPE_FILE is not a pipe")
            # Without a reader, opening fails at once.
            descriptor = os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # A full pipe has been asked already.
            with contextlib.suppress(BlockingIOError):
                os.write(descriptor, b"1")
        finally:
            os.close(descriptor)
    except OSError as error:
        why = {
            errno.ENXIO: "its pipe has no reader: its NCCL process group has ended",
            errno.ENOENT: "its pipe does not exist: it has no NCCL process group yet, or its "
            "TORCH_NCCL_TRACE_BUFFER_SIZE is 0, the default up to torch 2.10",
        }
        return _unseen(why.get(error.errno or 0, f"its pipe cannot be opened: {_why(error)}"))
    return _awaited(process, before, deadline)


def _awaited(process: RankProcess, before: Mapping[Path, _State], deadline: float) -> Recording | Unseen:
    """The dump, once it is complete: torch writes it in one go, but not at once."""
    last = dict(before)
    problem = "asked through its pipe, it wrote no dump in time"
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        for file in before:
            now = _written(process, file)
            same, last[file] = now == last[file], now
            if now is None or now == before[file] or not same:
                continue
            try:
                return read_recording(read_placed(file, MOST_BYTES, root=_root(process)))
            except PlacedFileError as error:
                problem = f"its dump cannot be read: it {error.why}"
            except InputError as error:
                problem = f"its dump {error}"
    return _unseen(problem)


def _written(process: RankProcess, file: Path) -> _State:
    """What changes when the file is written."""
    try:
        with placed_file(file, root=_root(process)) as descriptor:
            found = os.fstat(descriptor)
            return found.st_ino, found.st_mtime_ns, found.st_size
    except PlacedFileError:
        return None


def _dump_files(process: RankProcess) -> list[str]:
    """Where it may write: torch's DebugInfoWriter::getWriter, which has the prefix of the environment or a default.

    Up to torch 2.7 the first name is not read. The default has been in /tmp up to 2.6, and had another name up to 2.8.
    """
    told = process.told
    prefixes = [told[name] for name in _PREFIXES if told.get(name)]
    if not prefixes:
        caches = [told.get("XDG_CACHE_HOME"), f"{told.get('HOME', _TMP)}/.cache"]
        prefixes = [f"{cache}/torch/comm_lib_trace_rank_" for cache in caches if cache]
        prefixes += [f"{caches[1]}/torch/nccl_trace_rank_", f"{_TMP}/nccl_trace_rank_"]
    return list(dict.fromkeys(f"{prefix}{process.rank}" for prefix in prefixes))


@contextlib.contextmanager
def _place_of(process: RankProcess, path: str) -> Iterator[int]:
    """A descriptor of what the process calls by this path."""
    place = open_within(_root(process), _absolute(process, path))
    try:
        yield place
    finally:
        os.close(place)


def _absolute(process: RankProcess, path: str) -> Path:
    if "\0" in path:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    if path.startswith("/"):
        return Path(path)
    # As the kernel shows it in this process's view, which is the other's own where both have one root.
    return (_PROC / str(process.pid) / "cwd").readlink() / path


def _root(process: RankProcess) -> Path:
    return _PROC / str(process.pid) / "root"


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text)[:200] or type(error).__name__


def _unseen(reason: str) -> Unseen:
    return Unseen(source=RECORDER, reason=reason)
