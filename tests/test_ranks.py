import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.base.errors import InputError, RankError
from runner.kit import ranks
from runner.kit.ranks import World
from tests.cluster import free_ports

# Guards against a hang only; nothing is judged by it.
HANG_S = 400
RANK = """
import os, signal
from runner.kit.rank_line import RankLine
{before}
line = RankLine()
{after}
line.send({{"ready": True}})
list(line.commands())
"""
LATE = "if os.environ['RANK'] == '1': signal.pause()"


def world(folder: Path, before: str = "", after: str = "", port: int | None = None) -> World:
    program = folder / "rank.py"
    program.write_text(RANK.format(before=before, after=after), encoding="utf-8")
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return World([str(program)], 2, environment, time.monotonic() + HANG_S, "test", port)


def late(group: World, condition: Callable[[World], bool]) -> None:
    """Let a group hear its ranks until it has come this far, then let its deadline pass."""
    with group:
        while not condition(group):
            group._receive("starting", group._deadline)
        group._deadline = time.monotonic()
        group.ask(None, "meeting")


def test_a_rank_that_never_joins_is_named_at_the_deadline(tmp_path: Path) -> None:
    said = r"^rank 1 never joined \(test\) by the deadline, while meeting"
    with pytest.raises(RankError, match=said):
        late(world(tmp_path, before=LATE), lambda group: 0 in group._members)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (f"{LATE}\nline.mark('in rendezvous'); signal.pause()", "rank 1 never joined"),
        (
            f"line.mark('in rendezvous')\n{LATE}\nline.mark('in all_reduce'); signal.pause()",
            "rank 1 fell behind, last seen in rendezvous",
        ),
    ],
)
def test_a_rank_that_is_behind_the_others_is_named_though_all_are_silent(
    after: str, said: str, tmp_path: Path
) -> None:
    marks = after.count("mark")

    def reached(group: World) -> bool:
        return sorted(len(member.marks) for member in group._members.values()) == [marks - 1, marks]

    with pytest.raises(RankError, match=said):
        late(world(tmp_path, after=after), reached)


def test_an_error_that_comes_together_with_the_greeting_is_no_answer() -> None:
    program = (
        "import os, socket\n"
        "line = socket.socket(socket.AF_UNIX)\n"
        "line.connect(os.environ['RUNBOOK_RANK_LINE'])\n"
        'line.sendall(b\'{"rank": 0, "pid": 1}\\n{"error": "ImportError: no torch"}\\n\')\n'
        "line.recv(1)"
    )
    world = World(["-c", program], None, os.environ, time.monotonic() + 400)
    with world, pytest.raises(RankError, match=r"^rank 0 failed while joining: ImportError: no torch$"):
        world.ask(None, "joining")


def test_a_taken_port_is_named_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on port {port}"):
            world(tmp_path, port=port)


def test_no_port_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="70000 is not a port"):
        world(tmp_path, port=70000)


def test_a_port_taken_after_the_look_ends_the_run_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "refuse_taken", lambda port: None)
    with (
        pytest.raises(RankError, match=r"EADDRINUSE|address already in use"),
        socket.create_server(("", 0)) as taken,
        world(tmp_path, port=taken.getsockname()[1]) as group,
    ):
        group.ask(None, "meeting")


def test_a_given_port_is_met_on(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with world(tmp_path, after="line.mark(os.environ['MASTER_PORT'])", port=port) as group:
        assert [answer["ready"] for answer in group.ask(None, "meeting")] == [True, True]
        assert {member.marks[0] for member in group._members.values()} == {str(port)}
