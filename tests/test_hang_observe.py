"""What is seen of the ranks on a node: which processes are ranks, whether they run, and what their recorders hold."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.base.environment import environment_of
from runner.base.processes import stat_of
from runner.hang import asking, observe, spying, watching
from runner.hang.asking import ask_recording
from runner.hang.findings import HangKind
from runner.hang.model import Frame, GpuLoad, ProcessState, Recording, Snapshot, Unseen
from runner.hang.motion import read_motion
from runner.hang.observe import observe as observed
from runner.hang.process_facts import in_slurm_job
from runner.hang.rank_process import RankProcess, told_of
from runner.hang.ranks_here import find_ranks
from runner.hang.spying import StackTaker
from runner.hang.verdict import judge_hang
from tests.cluster import until
from tests.hanging_ranks import LOOKALIKE, HangingJob, hanging_job, lookalike, rank_environment

pytestmark = pytest.mark.host

# A job that nothing else on this host has: its processes are looked for among all of the host. Nothing connects to it.
PORT = 100_000 + os.getpid()
POD = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT)}
START_CHILD = """
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], stdin=subprocess.PIPE,
    stdout=subprocess.PIPE, env={**os.environ, **dict(word.split("=") for word in sys.argv[3:])})
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""
WAIT = "\nsys.stdin.read()"


@contextlib.contextmanager
def without_torch(told: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process of Python with this environment."""
    program = "import sys; print('ready', flush=True)" + WAIT
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **told},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


def found_of(job: str) -> dict[int | None, int]:
    return {one.rank: one.pid for one in find_ranks(None, "here").processes if one.job == job}


def test_ranks_are_found_by_their_environment_and_their_libraries(tmp_path: Path) -> None:
    told = [rank_environment(rank, 2, PORT) | {"API_TOKEN": "hunter2"} for rank in range(2)]
    with (
        lookalike(tmp_path, told[0]) as first,
        lookalike(tmp_path, told[1]) as second,
        without_torch(told[0]),
    ):
        here = find_ranks(None, "here")
        found = [one for one in here.processes if one.job == f"127.0.0.1:{PORT}"]
        assert [(one.rank, one.pid, one.world_size) for one in found] == [
            (0, first.pid, 2),
            (1, second.pid, 2),
        ]
        assert "hunter2" not in repr(here) + "".join(value for one in found for value in one.told.values())


@pytest.mark.parametrize(
    ("own", "child", "who"),
    [
        # A worker of a DataLoader or of the compiler has the environment of its rank.
        (rank_environment(0, 1, PORT), {}, "parent"),
        # torchrun in a pod whose RANK counts nodes: its rank has a place on the node, it has none.
        (POD, {"LOCAL_RANK": "0"}, "child"),
        # A rank that starts another one of its job.
        (rank_environment(0, 2, PORT), {"RANK": "1", "LOCAL_RANK": "1"}, "both"),
        # A launcher that says nothing of itself.
        ({}, rank_environment(0, 1, PORT), "child"),
    ],
)
def test_a_launcher_is_no_rank_and_neither_is_what_a_rank_starts(
    own: Mapping[str, str], child: Mapping[str, str], who: str, tmp_path: Path
) -> None:
    words = [LOOKALIKE + WAIT, *(f"{name}={value}" for name, value in child.items())]
    with lookalike(tmp_path, own, START_CHILD, words) as parent:
        assert parent.stdout
        started = int(parent.stdout.readline())
        expected = {"parent": [parent.pid], "child": [started], "both": [parent.pid, started]}[who]
        assert sorted(found_of(f"127.0.0.1:{PORT}").values()) == sorted(expected)
        named = find_ranks([parent.pid], "here").processes
        assert parent.pid in {one.pid for one in named} or who == "child"
        assert [one.pid for one in named] == expected[: len(named)]
        assert parent.stdin
        parent.stdin.close()
        parent.wait(100)


def test_a_rank_that_its_siblings_expect_and_that_is_not_there_is_gone(tmp_path: Path) -> None:
    told = rank_environment(5, 8, PORT) | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    with lookalike(tmp_path, told) as only:
        gone = [look for look in find_ranks(None, "here").gone if look.job == f"127.0.0.1:{PORT}"]
        assert [(look.rank, look.state) for look in gone] == [(rank, ProcessState.GONE) for rank in (4, 6, 7)]
        assert [look.rank for look in find_ranks([only.pid], "here").gone] == [4, 6, 7]
        with lookalike(tmp_path, told | {"RANK": "4", "LOCAL_RANK": "0"}):
            # It was not asked for, but it is there.
            assert [look.rank for look in find_ranks([only.pid], "here").gone] == [6, 7]


def test_a_rank_that_has_not_loaded_torch_yet_is_a_rank_and_not_gone(tmp_path: Path) -> None:
    told = [rank_environment(rank, 2, PORT) for rank in range(2)]
    with lookalike(tmp_path, told[0]) as ready, without_torch(told[1]) as starting:
        assert found_of(f"127.0.0.1:{PORT}") == {0: ready.pid, 1: starting.pid}
        assert not [look for look in find_ranks(None, "here").gone if look.job == f"127.0.0.1:{PORT}"]
        assert find_ranks([ready.pid], "here").gone == ()


def test_a_named_process_counts_whatever_its_environment_says_and_one_that_has_ended_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    here = find_ranks([os.getpid(), ended.pid], "here")
    assert [one.pid for one in here.processes] == [os.getpid()]
    assert [(look.pid, look.state) for look in here.gone] == [(ended.pid, ProcessState.GONE)]


@pytest.mark.parametrize(
    ("told", "rank", "size", "job"),
    [
        ({"SLURM_PROCID": "3", "WORLD_SIZE": "8", "SLURM_JOB_ID": "17"}, 3, 8, "Slurm job 17"),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, 3, 8, ""),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 1, 2, ""),
        ({"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 2, 4, ""),
        ({"RANK": "-1", "WORLD_SIZE": "x"}, None, None, ""),
        ({"RANK": "²", "WORLD_SIZE": "9" * 5000}, None, None, ""),
        ({"MASTER_ADDR": "a\nb", "MASTER_PORT": "9" * 5000}, None, None, "a b:" + "9" * 196),
    ],
)
def test_each_launcher_numbers_its_ranks_by_its_own_variables(
    told: Mapping[str, str], rank: int | None, size: int | None, job: str
) -> None:
    process = RankProcess(1, 1, told_of(told))
    assert (process.rank, process.world_size, process.job) == (rank, size, job)


def test_ranks_of_a_slurm_job_are_told_from_those_of_another() -> None:
    def rank(**told: str) -> RankProcess:
        return RankProcess(os.getpid(), 1, told)

    is_in = in_slurm_job("17", "n1")
    assert is_in(rank(SLURM_JOB_ID="17", SLURMD_NODENAME="n1"))
    assert not is_in(rank(SLURM_JOB_ID="18", SLURMD_NODENAME="n1"))
    assert not is_in(rank(SLURM_JOB_ID="17", SLURMD_NODENAME="n2"))
    assert not is_in(rank())


def test_a_thread_that_waits_is_still_though_its_stack_is_taken_and_one_that_computes_is_not(
    tmp_path: Path,
) -> None:
    spin = "sys.stdin.readline()\nwhile True: pass"
    with lookalike(tmp_path, {}, spin) as process, StackTaker() as taker:
        stat = stat_of(process.pid)
        assert stat
        until(lambda: read_motion(process.pid, stat.started).state is ProcessState.SLEEPING, "it to wait")
        first = read_motion(process.pid, stat.started)
        for _ in range(3):
            assert not isinstance(taker.stack(process.pid, 60.0), Unseen)
        assert first.still_until(read_motion(process.pid, stat.started))
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: not first.still_until(read_motion(process.pid, stat.started)), "it to run")
        until(lambda: read_motion(process.pid, stat.started).cpu_s > first.cpu_s, "CPU time")
        assert read_motion(process.pid, stat.started + 1).state is ProcessState.GONE


# -- the flight recorder of a live process


DUMP = {
    "version": "2.10",
    "pg_config": {},
    "entries": [
        {
            "record_id": 0,
            "pg_id": 0,
            "process_group": ["0", "default_pg"],
            "collective_seq_id": 7,
            "p2p_seq_id": 0,
            "op_id": 7,
            "profiling_name": "gloo:all_reduce",
            "input_sizes": [[4]],
            "input_dtypes": ["Float"],
            "output_sizes": [[4]],
            "output_dtypes": ["Float"],
            "state": "scheduled",
            "retired": False,
            "is_p2p": False,
            "time_created_ns": 1,
            "timeout_ms": 1000,
            "frames": [],
        }
    ],
}
EMPTY = DUMP | {"entries": []}


def me(**told: str) -> RankProcess:
    """This process, as a rank with such an environment."""
    stat = stat_of(os.getpid())
    assert stat
    return RankProcess(os.getpid(), stat.started, {"RANK": "3", "WORLD_SIZE": "4", **told})


@contextlib.contextmanager
def served(path: Path, answer: Callable[[str, socket.socket], None]) -> Iterator[None]:
    """A server on a Unix socket; `answer` gets the first line of each request."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(8)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = listener.accept()
                    with line, contextlib.suppress(OSError):
                        if asked := line.recv(65536).decode():
                            answer(asked.split("\r\n")[0], line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(100)


def handlers(**answers: object) -> Callable[[str, socket.socket], None]:
    """A server with these handlers, as torch's: the list of them by GET, each of them by POST."""

    def answer(request: str, line: socket.socket) -> None:
        method, path, _ = request.split()
        name = path.removeprefix("/handler/")
        found = (
            list(answers) if method == "GET" and not name else answers.get(name) if method == "POST" else None
        )
        body = json.dumps(found).encode()
        status = "404 Not Found" if found is None else "200 OK"
        line.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return answer


@pytest.mark.parametrize(
    ("answers", "calls"),
    [
        ({"fr_trace_json": DUMP}, 1),
        # A job without NCCL has an empty recorder of NCCL.
        ({"ping": {}, "fr_trace_json": DUMP, "dump_nccl_trace_pickle": EMPTY}, 1),
        ({"fr_trace_json": EMPTY, "dump_nccl_trace_pickle": DUMP}, 1),
        ({"fr_trace_json": EMPTY}, 0),
    ],
)
def test_a_worker_server_is_asked_for_the_recorder_that_has_calls(
    answers: Mapping[str, object], calls: int, tmp_path: Path
) -> None:
    with served(tmp_path / "socket", handlers(**answers)):
        found = ask_recording(me(TORCH_WORKER_SERVER_SOCKET=str(tmp_path / "socket")), 100.0)
    assert isinstance(found, Recording)
    assert len(found.calls) == calls


def silent(_: str, line: socket.socket) -> None:
    line.recv(1)


def endless(_: str, line: socket.socket) -> None:
    line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        line.sendall(b"[" * 65536)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (handlers(ping={}), "has no flight recorder"),
        (handlers(fr_trace_json={"entries": 7}), "the answer of its worker server"),
        (silent, "no answer in time"),
        (endless, "File too large"),
        (lambda _, line: line.sendall(b"220 mail.example ESMTP\r\n"), "does not answer"),
    ],
)
def test_a_server_without_an_answer_is_a_reason(
    answer: Callable[[str, socket.socket], None], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MOST_BYTES", 1 << 20)
    with served(tmp_path / "socket", answer):
        told = me(TORCH_WORKER_SERVER_SOCKET=str(tmp_path / "socket"))
        found = ask_recording(told, 1.0 if answer is silent else 100.0)
    assert isinstance(found, Unseen)
    assert reason in found.reason


def test_the_server_of_another_rank_is_not_asked_for_this_one(tmp_path: Path) -> None:
    with served(tmp_path / "socket", handlers(fr_trace_json=DUMP)), lookalike(tmp_path, {}) as other:
        told = {"TORCH_WORKER_SERVER_SOCKET": str(tmp_path / "socket")}
        found = ask_recording(RankProcess(other.pid, 1, told), 100.0)
    assert isinstance(found, Unseen)
    assert "another process listens there" in found.reason


@pytest.mark.parametrize("kind", ["missing", "file", "pipe", "dead"])
def test_a_path_that_leads_to_no_server_is_a_reason_and_does_not_block(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "socket"
    if kind == "file":
        place.write_text("{}")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "dead":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
    found = ask_recording(me(TORCH_WORKER_SERVER_SOCKET=str(place)), 100.0)
    assert isinstance(found, Unseen)
    assert "does not answer" in found.reason


def test_a_rank_that_is_not_set_up_is_told_what_to_set() -> None:
    found = ask_recording(me(), 100.0)
    assert isinstance(found, Unseen)
    assert "TORCH_NCCL_DEBUG_INFO_PIPE_FILE" in found.reason
    assert "TORCH_WORKER_SERVER_SOCKET" in found.reason


@contextlib.contextmanager
def piped(
    tmp_path: Path, write: Callable[[Path], None], file: Path | None = None, **told: str
) -> Iterator[RankProcess]:
    """A rank with NCCL's pipe: it polls the pipe, and writes its dump for each byte."""
    pipe, file = tmp_path / "fr_3.pipe", file or tmp_path / "dump_3"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    over = threading.Event()

    def poll() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(BlockingIOError):
                if os.read(reader, 128):
                    write(file)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield me(
            TORCH_NCCL_DEBUG_INFO_PIPE_FILE=str(tmp_path / "fr_"),
            **(told or {"TORCH_FR_DUMP_TEMP_FILE": str(tmp_path / "dump_")}),
        )
    finally:
        over.set()
        thread.join(100)
        os.close(reader)


def as_a_pipe(file: Path) -> None:
    if not file.exists():
        os.mkfifo(file)


def in_two_parts(file: Path) -> None:
    text = json.dumps(DUMP)
    with file.open("w") as stream:
        stream.write(text[:100])
        stream.flush()
        time.sleep(0.3)
        stream.write(text[100:])


def test_a_byte_in_nccls_pipe_brings_the_complete_dump(tmp_path: Path) -> None:
    (tmp_path / "dump_3").write_text(json.dumps(EMPTY))
    with piped(tmp_path, in_two_parts) as rank:
        for _ in range(2):
            found = ask_recording(rank, 100.0)
            assert isinstance(found, Recording)
            assert [call.seq for call in found.calls] == [7]


@pytest.mark.parametrize(
    "place",
    [
        ".cache/torch/comm_lib_trace_rank_3",
        ".cache/torch/nccl_trace_rank_3",
        "xdg/torch/comm_lib_trace_rank_3",
    ],
)
def test_a_dump_is_found_where_any_version_of_torch_writes_it_by_default(place: str, tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    with piped(
        tmp_path, in_two_parts, file, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "xdg")
    ) as rank:
        assert isinstance(ask_recording(rank, 100.0), Recording)


def test_a_dump_is_found_by_the_older_name_of_its_prefix_too(tmp_path: Path) -> None:
    names = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
    told = {name: str(tmp_path / f"{number}_") for number, name in enumerate(names)}
    with piped(tmp_path, in_two_parts, tmp_path / "1_3", **told) as rank:
        assert isinstance(ask_recording(rank, 100.0), Recording)


def test_no_dump_is_asked_for_if_the_caller_wants_none(tmp_path: Path) -> None:
    with piped(tmp_path, in_two_parts) as rank:
        found = ask_recording(rank, 100.0, dump=False)
        assert found == Unseen(source="flight recorder", reason="left out by --no-dump")
    assert not (tmp_path / "dump_3").exists()


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda _: None, "wrote no dump in time"),
        (lambda file: file.write_text("{"), "its dump "),
        (as_a_pipe, "wrote no dump in time"),
    ],
)
def test_a_rank_that_writes_no_good_dump_is_a_reason(
    write: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    with piped(tmp_path, write) as rank:
        found = ask_recording(rank, 1.0)
    assert isinstance(found, Unseen)
    assert reason in found.reason


def test_an_old_dump_is_not_taken_for_what_the_rank_does_now(tmp_path: Path) -> None:
    (tmp_path / "dump_3").write_text(json.dumps(DUMP))
    with piped(tmp_path, lambda _: None) as rank:
        assert isinstance(ask_recording(rank, 1.0), Unseen)


@pytest.mark.parametrize("kind", ["missing", "file", "unread"])
def test_a_pipe_without_a_reader_is_a_reason_and_does_not_block(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        (tmp_path / "fr_3.pipe").write_text("")
    elif kind == "unread":
        os.mkfifo(tmp_path / "fr_3.pipe")
    found = ask_recording(me(TORCH_NCCL_DEBUG_INFO_PIPE_FILE=str(tmp_path / "fr_")), 100.0)
    assert isinstance(found, Unseen)
    assert {"missing": "does not exist", "file": "not a pipe", "unread": "no reader"}[kind] in found.reason


# -- a real job


@pytest.fixture(scope="module")
def job() -> Iterator[HangingJob]:
    with hanging_job() as made:
        yield made


def seen(pids: list[int], **options: Any) -> Snapshot:
    return observed(pids, node="here", **{"seconds": 1.0, **options})


def test_a_late_rank_of_a_real_job_is_named_with_all_that_was_seen(job: HangingJob) -> None:
    snapshot = seen(job.pids)
    assert [look.rank for look in snapshot.ranks] == [0, 1, 2]
    for look in snapshot.ranks:
        assert look.state is ProcessState.SLEEPING
        assert len(look.stacks) == watching.STACKS
        assert look.still
        assert look.recording
        assert len(look.recording.calls) == (4 if look.rank == 1 else 5)
        assert look.before
        assert look.unseen == ()
    # Python's stack of rank 1 says nothing of what it waits for.
    native = snapshot.ranks[1].stacks[-1]
    assert native[0].file.endswith(".so.6")
    assert any(frame.function == "hold" for frame in native)
    (verdict,) = judge_hang(snapshot)
    assert (verdict.kind, verdict.culprits, verdict.certain) == (HangKind.LATE, (1,), True)


def test_a_stopped_rank_of_a_real_job_is_named_and_stays_stopped(job: HangingJob) -> None:
    os.kill(job.pids[1], signal.SIGSTOP)
    try:
        until(lambda: (stat := stat_of(job.pids[1])) is not None and stat.state == "T", "it to stop")
        (verdict,) = judge_hang(seen(job.pids))
        assert (verdict.kind, verdict.culprits) == (HangKind.STOPPED, (1,))
        stat = stat_of(job.pids[1])
        assert stat
        assert stat.state == "T"
    finally:
        os.kill(job.pids[1], signal.SIGCONT)


def test_a_source_that_hangs_is_named_and_takes_nothing_from_the_others(
    job: HangingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(observe, "_AFTER_S", 0.5)
    monkeypatch.setattr(observe, "gpu_loads", lambda _: over.wait() and ({}, ()))
    monkeypatch.setattr(observe, "xid_lines", lambda *_: over.wait() and ((), ()))
    monkeypatch.setattr(watching, "ask_recording", lambda *_, **__: over.wait())
    try:
        snapshot = seen(job.pids)
    finally:
        over.set()
    assert {one.source for one in snapshot.unseen} >= {"GPU", "kernel log"}
    assert len(snapshot.ranks) == 3


def test_a_host_without_py_spy_still_tells_who_runs_and_what_was_called(
    job: HangingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spying, "find_py_spy", lambda: None)
    snapshot = seen(job.pids)
    for look in snapshot.ranks:
        assert look.stacks == ()
        assert [one.reason for one in look.unseen] == ["py-spy is not installed; pip install py-spy"]
        assert look.still
        assert look.recording


def test_the_answer_holds_nothing_of_the_environment(job: HangingJob) -> None:
    text = seen(job.pids).model_dump_json()
    # Stacks name files, and a folder of the environment may hold them.
    values = {
        value
        for value in environment_of(job.pids[0]).values()
        if len(value) > 16 and "/python" not in value and not Path(value).is_dir()
    }
    assert not [value for value in values if value in text]


def test_what_gpus_say_is_given_to_the_rank_that_uses_them(
    job: HangingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = GpuLoad(index=5, utilisation=1.0)
    monkeypatch.setattr(observe, "gpu_loads", lambda _: ({job.pids[2]: load}, ()))
    snapshot = seen(job.pids)
    assert [look.gpu for look in snapshot.ranks] == [None, None, load]


def test_native_functions_replace_the_python_stack_of_the_same_place_only() -> None:
    def stack(*functions: str) -> tuple[Frame, ...]:
        return tuple(Frame(function=one, file="train.py", line=3) for one in functions)

    native = (Frame(function="clock_nanosleep", file="libc.so.6", line=0), *stack("load", "main"))
    before, now = stack("step", "main"), stack("load", "main")
    assert watching.refined((before, now, now), native) == (before, native, native)


def test_a_job_goes_on_after_it_was_looked_at() -> None:
    with hanging_job(2) as own:
        seen(own.pids, seconds=0.5)
        assert own.release() == [0, 0]
