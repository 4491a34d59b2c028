import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import RunbookError
from runner.hang import ras
from runner.hang.ras import ask_ras, ras_address
from runner.hang.ras_counts import LaunchCounts, RasError, ranks_behind
from runner.hang.ras_json import parse_ras_json
from runner.hang.ras_text import parse_ras_text

SAMPLES = Path(__file__).parent / "ras"
TEXTS = sorted(SAMPLES.glob("*.txt"))
DOCUMENTS = sorted(SAMPLES.glob("*.json"))
LONG = 60.0


def sample(name: str) -> str:
    return (SAMPLES / name).read_text(encoding="utf-8")


# The text


@pytest.mark.parametrize(
    "path", [one for one in TEXTS if one.name.startswith(("healthy", "uneven"))], ids=lambda p: p.stem
)
def test_a_healthy_job_has_no_finding(path: Path) -> None:
    report = parse_ras_text(path.read_text(encoding="utf-8"))
    assert report.healthy
    assert (report.findings, report.silent_ranks, report.behind_ranks) == ((), (), ())
    assert report.world is not None
    assert path.stem.rpartition("_")[2] == report.version.partition("+")[0]


@pytest.mark.parametrize(
    ("name", "silent", "behind", "world"),
    [
        ("late_2.24.3.txt", (), (2,), 4),
        ("silent_and_dead_2.24.3.txt", (5, 11), (), 16),
        # The rank answers and has left the communicator.
        ("left_2.24.3.txt", (), (), 4),
        ("left_2.29.2.txt", (), (), 4),
        ("stopped_2.29.2.txt", (2,), (), 4),
        ("errors_2.27.5.txt", (3,), (0,), 4),
        # Two ranks are ahead: NCCL names these, and the others are behind.
        ("late_majority_2.27.5.txt", (), tuple(rank for rank in range(32) if rank not in {12, 13}), 32),
        # Half of the ranks: NCCL names none.
        ("late_half_2.28.9.txt", (), (), 4),
        # The rank has called all_gather in place of all_reduce: nobody is behind.
        ("other_op_2.27.5.txt", (), (), 8),
        # Rank 6 of eight in a job of sixteen is not rank 6 of the job.
        ("part_of_the_job_2.27.5.txt", (), (), 16),
        ("no_communicators_2.29.2.txt", (), (), None),
    ],
)
def test_a_faulty_job_names_its_ranks(
    name: str, silent: tuple[int, ...], behind: tuple[int, ...], world: int | None
) -> None:
    report = parse_ras_text(sample(name))
    assert not report.healthy
    assert report.findings
    assert (report.silent_ranks, report.behind_ranks, report.world) == (silent, behind, world)


def test_each_error_and_warning_is_a_line_with_its_details() -> None:
    findings = parse_ras_text(sample("errors_2.27.5.txt")).findings
    assert findings[0] == (
        "INCOMPLETE: Missing communicator data from 1 job process; Process 703 on node 10.0.0.11 managing GPU 3"
    )
    assert findings[2].startswith(
        "#0-0 (44e0d1b2c3a49586) ERROR: Asynchronous errors on 2 ranks; Rank 0 reported"
    )
    assert findings[3].startswith("TIMEOUT: Encountered 1 communication timeout")
    # The two differences between the ranks are two findings.
    assert ["status" in one for one in findings[4:]] == [True, False]
    assert "AllReduce operation counts; 2 ranks have launched up to operation 9; Rank 0" in findings[5]


def test_an_aborted_communicator_without_errors_is_not_healthy() -> None:
    text = sample("healthy_2.28.9.txt").replace("RUNNING      OK", "  ABORT      OK", 1)
    report = parse_ras_text(text)
    assert not report.healthy
    assert "ABORT" in report.findings[0]


@pytest.mark.parametrize("status", ["INIT", "FINALIZE"])
def test_communicators_that_begin_or_end_are_no_finding(status: str) -> None:
    text = sample("healthy_2.28.9.txt").replace("RUNNING      OK", f"{status:>7}      OK", 1)
    assert parse_ras_text(text).healthy


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_text_that_ends_early_is_refused(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    whole = parse_ras_text(text)
    # NCCL sends all that follows in one piece, so it is hardly cut within.
    last = text.index("Warnings\n========\n") + len("Warnings\n========\n")
    for length in range(len(text)):
        try:
            part = parse_ras_text(text[:length])
        except RasError:
            continue
        assert length >= last
        assert (part.healthy, part.silent_ranks) == (whole.healthy, whole.silent_ranks)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NCCL version 2.27.5 compiled with CUDA 12.9\n",
        "all is well\n",
        sample("healthy_2.28.9.txt").replace("Warnings", "Remarks"),
        sample("healthy_2.28.9.txt") + "Notes\n=====\n\nthis is new\n",
        sample("healthy_2.28.9.txt").replace("RUNNING      OK", "  2 of 3  RUNNING      OK"),
        sample("healthy_2.28.9.txt").replace("RUNNING      OK", "RUNNING  MISMATCH", 1),
        sample("healthy_2.28.9.txt").replace("RUNNING      OK", "RUNNING      SLOW", 1),
        sample("late_majority_2.27.5.txt").replace("  Rank 13 --", "  #"),
    ],
)
def test_a_text_of_another_form_is_unknown_and_not_healthy(text: str) -> None:
    with pytest.raises(RasError) as raised:
        parse_ras_text(text)
    assert "\n" not in str(raised.value)


def test_an_unknown_line_among_the_errors_is_an_error() -> None:
    text = sample("healthy_2.28.9.txt").replace("Warnings", "FROZEN\n  The clock stands still\n\nWarnings")
    report = parse_ras_text(text)
    assert not report.healthy
    assert report.findings == ("FROZEN: The clock stands still",)


@given(st.text())
def test_any_text_is_refused_or_read(text: str) -> None:
    with pytest.raises(RasError):
        parse_ras_text(text)
    try:
        report = parse_ras_text(sample("healthy_2.28.9.txt").replace("\nWarnings", f"{text}\nWarnings"))
    except RasError:
        return
    assert report.healthy == (not report.findings)


@given(
    size=st.integers(1, 60),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=60),
)
def test_named_ranks_are_right_whichever_sets_nccl_names(size: int, counts: list[int]) -> None:
    by_rank = [counts[rank % len(counts)] for rank in range(size)]
    sets: dict[int, list[int]] = {}
    for rank, count in enumerate(by_rank):
        sets.setdefault(count, []).append(rank)
    if len(sets) == 1:
        return
    lines = []
    # As in NCCL: the largest sets first, and the ranks of sets below half of all are named.
    for count, ranks in sorted(sets.items(), key=lambda one: (-len(one[1]), -one[0])):
        launched = f"launched up to operation {count}" if count else "not launched any operations"
        process = "-- GPU 0 managed by process 7 on node 10.0.0.1"
        if len(ranks) == 1:
            lines.append(f"  Rank {ranks[0]} has {launched} {process}")
            continue
        lines.append(f"  {len(ranks)} ranks have {launched}")
        if len(ranks) < size * 0.5:
            lines += [f"  Rank {rank} {process}" for rank in ranks]
    head, _, _ = sample("healthy_2.28.9.txt").partition("    0         1")
    text = (
        head.replace(
            "      1          4            1          4        4", f"      1  {size}  1  {size}  {size}"
        )
        + f"    0         1         1  {size}  {size}  {size}   RUNNING  MISMATCH\n\nErrors\n======\n\n"
        + "Warnings\n========\n\n#0-0 (7740be12a9cd3306) MISMATCH\n"
        + "  Communicator ranks have different AllReduce operation counts\n"
        + "\n".join(lines)
        + "\n\n"
    )
    report = parse_ras_text(text)
    behind = {rank for rank in range(size) if by_rank[rank] < max(by_rank)}
    unnamed = sum(len(ranks) > 1 and len(ranks) >= size * 0.5 for ranks in sets.values())
    assert set(report.behind_ranks) == behind if unnamed < 2 else set(report.behind_ranks) <= behind


def test_a_rank_whose_counts_are_known_in_part_is_not_called_behind() -> None:
    known, partly = LaunchCounts({0: 5, 1: 4}, 5), LaunchCounts({1: 3}, 3, complete=False)
    assert ranks_behind([known]) == (1,)
    assert ranks_behind([partly, known]) == ()
    assert ranks_behind([]) == ()


# JSON


def test_the_json_of_a_healthy_job_lists_its_processes() -> None:
    report = parse_ras_json(sample("healthy_2.28.9.json").encode())
    assert report.healthy
    assert report.findings == ()
    assert (report.version, report.world, report.pids) == ("2.28.9", 4, (7710, 7711, 7712, 7713))


@pytest.mark.parametrize(
    ("name", "silent", "behind", "words"),
    [
        (
            "late_half_2.28.9.json",
            (),
            (1, 3),
            ["AllReduce operation counts: ranks 0, 2 up to operation 4821"],
        ),
        ("stopped_2.28.9.json", (2,), (), ["TIMEOUT", "INCOMPLETE: no answer from rank 2 (process 7712"]),
        ("other_op_2.28.9.json", (), (), ["AllGather", "AllReduce"]),
        (
            "errors_2.28.9.json",
            (3,),
            (0,),
            [
                "dead: rank 3",
                "Unhandled CUDA error on rank 0",
                "Remote process",
                "no longer",
                "1 rank ABORT",
                "AllReduce",
            ],
        ),
    ],
)
def test_the_json_of_a_faulty_job_names_its_ranks(
    name: str, silent: tuple[int, ...], behind: tuple[int, ...], words: list[str]
) -> None:
    report = parse_ras_json(sample(name).encode())
    assert not report.healthy
    assert (report.silent_ranks, report.behind_ranks, report.world) == (silent, behind, 4)
    assert len(report.findings) == len(words)
    for word, finding in zip(words, report.findings, strict=True):
        assert word in finding


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_that_ends_early_is_refused(path: Path) -> None:
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 7):
        with pytest.raises(RasError):
            parse_ras_json(data[:length])


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"\xff\xfe", b'{"nccl_version": "2.28.9"}', b"[" * 100_000, b'{"nccl_version": 1e999}'],
)
def test_other_json_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(RasError) as raised:
        parse_ras_json(data)
    assert "\n" not in str(raised.value)


def test_json_without_communicators_says_nothing_about_health() -> None:
    report = parse_ras_json(b'{"nccl_version": "2.28.9", "communicators": [], "ras": {"timeouts_count": 0}}')
    assert not report.healthy
    assert report.world is None


def test_many_findings_are_counted() -> None:
    block = "#0-0 (44e0d1b2c3a49586) STRANGE\n  a thing\n\n"
    report = parse_ras_text(sample("healthy_2.28.9.txt") + block * 500)
    assert len(report.findings) == 101
    assert report.findings[-1].startswith("400 further findings")


# The address


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("localhost", 28028)),
        ({"NCCL_RAS_ADDR": ""}, ("localhost", 28028)),
        ({"NCCL_RAS_ADDR": "10.0.0.1:4000", "NCCL_RAS_ENABLE": "1"}, ("10.0.0.1", 4000)),
        ({"NCCL_RAS_ADDR": "node-a_1.example:28029"}, ("node-a_1.example", 28029)),
        ({"NCCL_RAS_ADDR": "[::1]:28030", "NCCL_RAS_ENABLE": "yes"}, ("::1", 28030)),
        ({"NCCL_RAS_ADDR": "[fe80::1%ib0]:1"}, ("fe80::1%ib0", 1)),
    ],
)
def test_the_address_is_that_of_the_job_or_the_default(
    environment: dict[str, str], expected: tuple[str, int]
) -> None:
    assert ras_address(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"NCCL_RAS_ADDR": "localhost"},
        {"NCCL_RAS_ADDR": ":28028"},
        {"NCCL_RAS_ADDR": "a:1,b:2"},
        {"NCCL_RAS_ADDR": "a:99999"},
        {"NCCL_RAS_ADDR": "a:0"},
        {"NCCL_RAS_ADDR": "\x1b[31mred:1"},
        {"NCCL_RAS_ENABLE": "0"},
        {"NCCL_RAS_ENABLE": " 0x0", "NCCL_RAS_ADDR": "a:1"},
    ],
)
def test_where_nccl_listens_nowhere_no_other_job_is_asked_instead(environment: dict[str, str]) -> None:
    with pytest.raises(RasError) as raised:
        ras_address(environment)
    assert "NCCL_RAS_" in str(raised.value)
    assert str(raised.value).isprintable()


# The conversation. NCCL's RAS answers only for a job with GPUs; the stub speaks the protocol of NCCL's sources.

Serve = Callable[[socket.socket], None]
GREETED = b"SERVER PROTOCOL 2\nOK\n"


@contextmanager
def a_server(serve: Serve) -> Iterator[int]:
    """A server on loopback that serves each connection in a thread of its own; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

        def attend(connection: socket.socket) -> None:
            # Whatever the client does, as closing in the middle, ends the conversation.
            try:
                serve(connection)
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            # Wakes the thread in accept, which closing alone does not.
            listener.shutdown(socket.SHUT_RDWR)
            for connection in taken:
                connection.close()


def nccl(text: str, document: str | None = None, heard: list[str] | None = None) -> Serve:
    """As NCCL answers; `document`: its JSON, None for a version that has none."""

    def serve(connection: socket.socket) -> None:
        body = text
        with connection, connection.makefile("rw", encoding="utf-8", newline="\n") as file:
            for line in file:
                command = line.rstrip("\r\n").lower()
                if heard is not None:
                    heard.append(command)
                if command.startswith("client protocol "):
                    file.write("SERVER PROTOCOL 2\n")
                elif command.startswith("timeout "):
                    valid = command.removeprefix("timeout ").isdigit()
                    file.write("OK\n" if valid else f"ERROR: Invalid timeout value {command}\n")
                elif command == "set format json" and document is not None:
                    body = document
                    file.write("OK\n")
                elif command in {"status", "verbose status"}:
                    file.write(body)
                    return
                else:
                    file.write(f"ERROR: Unknown command {command}\n")
                file.flush()

    return serve


def says(*parts: bytes) -> Serve:
    """Sends these bytes, whatever it is told, and nothing more."""

    def serve(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass

    return serve


def closes_after(said: bytes) -> Serve:
    """Sends these bytes, and closes without reading."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(said)

    return serve


def refusal(serve: Serve, seconds: float = LONG) -> str:
    with a_server(serve) as port, pytest.raises(RasError) as raised:
        ask_ras("127.0.0.1", port, seconds)
    assert isinstance(raised.value, RunbookError)
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_an_older_nccl_is_asked_for_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    heard: list[str] = []
    with a_server(nccl(text, heard=heard)) as port:
        assert ask_ras("127.0.0.1", port, LONG) == parse_ras_text(text)
    # NCCL waits for silent processes for half of the time.
    assert 1 <= int(heard.pop(1).removeprefix("timeout ")) <= LONG / 2
    assert heard[:2] == ["client protocol 2", "verbose status"]


def test_a_newer_nccl_names_the_ranks_that_its_text_leaves_out() -> None:
    with a_server(nccl(sample("late_half_2.28.9.txt"), sample("late_half_2.28.9.json"))) as port:
        report = ask_ras("localhost", port, LONG)
    assert report.behind_ranks == (1, 3)
    assert report.pids == (7710, 7711, 7712, 7713)


def test_a_dead_process_outside_of_communicators_is_not_lost_with_the_text() -> None:
    dead = "DEAD\n  1 job process is considered dead (unreachable via the RAS network)\n\n"
    text = sample("healthy_2.28.9.txt").replace("Warnings", f"{dead}Warnings")
    with a_server(nccl(text, sample("healthy_2.28.9.json"))) as port:
        report = ask_ras("127.0.0.1", port, LONG)
    assert not report.healthy
    assert report.findings == ("DEAD: 1 job process is considered dead (unreachable via the RAS network)",)


def test_a_communication_timeout_is_told_once() -> None:
    text = sample("stopped_2.29.2.txt")
    with a_server(nccl(text, sample("stopped_2.28.9.json"))) as port:
        report = ask_ras("127.0.0.1", port, LONG)
    assert [one.split(":")[0] for one in report.findings] == [
        "INCOMPLETE",
        "TIMEOUT",
        "communicator 0x7740be12a9cd3306 of 4 ranks",
    ]
    assert report.silent_ranks == (2,)


def test_a_running_job_whose_ranks_differ_for_a_moment_stays_healthy() -> None:
    with a_server(nccl(sample("healthy_2.28.9.txt"), sample("late_half_2.28.9.json"))) as port:
        report = ask_ras("127.0.0.1", port, LONG)
    assert report.healthy
    assert report.behind_ranks == ()
    assert report.pids == (7710, 7711, 7712, 7713)


@pytest.mark.parametrize(
    "document", ["", "{", sample("healthy_2.28.9.json").replace('"size": 4', '"size": 9')]
)
def test_where_the_json_is_of_no_use_the_text_is_the_answer(document: str) -> None:
    text = sample("late_2.24.3.txt")
    with a_server(nccl(text, document)) as port:
        assert ask_ras("127.0.0.1", port, LONG) == parse_ras_text(text)


def test_a_large_job_is_not_asked_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ras, "_MOST_JSON_RANKS", 3)
    heard: list[str] = []
    with a_server(nccl(sample("healthy_2.28.9.txt"), sample("healthy_2.28.9.json"), heard)) as port:
        assert ask_ras("127.0.0.1", port, LONG).pids == ()
    assert "set format json" not in heard


def test_a_stopped_process_is_passed_over_for_another_one_of_the_job() -> None:
    answer, calls = nccl(sample("healthy_2.24.3.txt")), iter(range(100))
    over = threading.Event()

    def one_is_stopped(connection: socket.socket) -> None:
        if next(calls) == 0:
            over.wait()
        else:
            answer(connection)

    with a_server(one_is_stopped) as port:
        assert ask_ras("127.0.0.1", port, LONG / 3).healthy
    over.set()


def test_an_answer_in_many_small_parts_is_put_together() -> None:
    text = sample("late_majority_2.27.5.txt").encode()
    parts = [b"SERV", b"ER PROTOCOL 2\r\nO", b"K\n", *[text[at : at + 3] for at in range(0, len(text), 3)]]
    with a_server(says(*parts)) as port:
        assert ask_ras("127.0.0.1", port, LONG).world == 32


def test_a_port_at_which_nothing_listens_is_named_with_what_that_means() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(RasError, match=f"nothing listens at 127.0.0.1:{port}.*2.24"):
        ask_ras("127.0.0.1", port, LONG)


@pytest.mark.parametrize(
    "address", ["", "a" * 300, "no-such-host.invalid", "\x00", "::ffff:1:2:3:4:5:6:7:8:9"]
)
def test_an_address_of_nobody_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(RasError) as raised:
        ask_ras(address, 1, LONG)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x01\x7f\xff\x1b[2J\n",
        b"SERVER PROTOCOL two\n",
        b"x" * 10_000,
    ],
    ids=["http", "ssh", "binary", "no number", "no line"],
)
def test_another_program_at_that_port_is_not_nccl(said: bytes) -> None:
    assert "another program" in refusal(says(said))


def test_an_older_protocol_is_named() -> None:
    assert "protocol 1, older than 2" in refusal(says(b"SERVER PROTOCOL 1\n"))


def test_a_newer_protocol_is_tried() -> None:
    text = sample("healthy_2.24.3.txt").encode()
    with a_server(says(b"SERVER PROTOCOL 3\nOK\n", text)) as port:
        assert ask_ras("127.0.0.1", port, LONG).healthy


def test_a_refused_command_is_quoted() -> None:
    said = refusal(says(b"SERVER PROTOCOL 2\nERROR: Unknown command TIMEOUT\n"))
    assert "refuses 'TIMEOUT " in said
    assert "Unknown command" in said


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SERVER PROTOCOL 2\n",
        b"SERVER PROTOCOL 2\nOK\n",
        b"SERVER PROTOCOL 2\nOK\nNCCL version 2.27.5 compiled with",
    ],
    ids=["at once", "after the greeting", "before the status", "in the status"],
)
def test_a_connection_that_is_closed_early_is_no_answer(said: bytes) -> None:
    for serve in (says(said), closes_after(said)):
        message = refusal(serve)
        assert "closes the connection" in message or "unknown form" in message


def test_a_silent_program_costs_the_time_limit_and_no_more() -> None:
    over = threading.Event()

    def wait(_: socket.socket) -> None:
        over.wait()

    assert "does not answer within 0.4 s" in refusal(wait, 0.4)
    over.set()


def test_a_program_that_drips_costs_the_time_limit_and_no_more() -> None:
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(GREETED)
        while not over.wait(0.01):
            connection.sendall(b"N")

    assert "does not answer within 0.5 s" in refusal(drip, 0.5)
    over.set()


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ras, "_MOST_BYTES", 2**20)

    def pour(connection: socket.socket) -> None:
        connection.sendall(GREETED)
        while True:
            connection.sendall(b"x" * 65536)

    assert "more than 1MiB" in refusal(pour)


@pytest.mark.parametrize("form", ["txt", "json"])
@pytest.mark.parametrize(
    ("name", "world", "healthy", "behind"),
    [("running_2.28.9", 1, True, ()), ("skip_2.31.2", 3, False, (1,)), ("late_2.31.2", 3, False, (1,))],
)
def test_what_nccl_itself_answered_is_read(
    name: str, world: int, behind: tuple[int, ...], form: str, *, healthy: bool
) -> None:
    path = SAMPLES / f"real_{name}.{form}"
    report = parse_ras_text(path.read_text()) if form == "txt" else parse_ras_json(path.read_bytes())
    assert (report.world, report.healthy, report.behind_ranks) == (world, healthy, behind)
