import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from runner.kit import rendezvous_path
from runner.kit.clock import clock_state
from runner.kit.judged import VARIABLE
from runner.kit.probe import NOT_APPLICABLE, OK, SYMPTOM
from runner.kit.rendezvous_path import chosen_interfaces
from runner.probes.rendezvous_path import PROBE

main = PROBE.main
NAMES = (
    "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE",
    "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "RUNBOOK_RESULT", VARIABLE,
)  # fmt: skip
HELD = """
import os, socket, sys
holder = socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"])))
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that is bound, so that no other process takes it, and at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def environment(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def looked(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main([])
    return status, json.loads(capsys.readouterr().out)


def obstacles(document: dict[str, Any]) -> list[str]:
    found: list[str] = document["details"]["obstacles"]
    counts = [one["value"] for one in document["measurements"] if one["name"] == "rendezvous_obstacles"]
    assert counts == [len(found)]
    return found


def test_without_an_address_there_is_nothing_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = looked(capsys)
    assert status == NOT_APPLICABLE
    assert "MASTER_ADDR is not set" in document["reason"]


def test_a_rank_whose_store_listens_here_has_a_free_path_and_the_store_sees_no_connection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    environment(monkeypatch, MASTER_ADDR="localhost", MASTER_PORT=listener.getsockname()[1], RANK=1)
    status, document = looked(capsys)
    assert (status, obstacles(document)) == (OK, [])
    assert f"process {os.getpid()}" in document["details"]["listeners"][0]
    assert "resolve_time" in [one["name"] for one in document["measurements"]]
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_rank_without_a_store_is_told_that_nothing_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, RANK=1)
    status, document = looked(capsys)
    assert status == SYMPTOM
    (said,) = obstacles(document)
    assert said == f"nothing listens at 127.0.0.1 port {free_port} of this host, where rank 0 must"
    # The job has to be started again; the node is sound.
    assert document["details"]["findings"] == [{"action": "restart"}]


def test_rank_0_that_has_not_started_needs_no_listener(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, RANK=0)
    assert looked(capsys)[0] == OK


def test_a_held_port_is_an_obstacle_for_rank_0_and_its_holder_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=0)
    status, document = looked(capsys)
    assert status == SYMPTOM
    (said,) = obstacles(document)
    assert f"port {port} of this host is held by process {os.getpid()}" in said


def test_the_store_of_torchruns_agent_holds_no_port_of_rank_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    environment(
        monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=listener.getsockname()[1], RANK=0,
        TORCHELASTIC_USE_AGENT_STORE="True",
    )  # fmt: skip
    assert looked(capsys)[0] == OK


@contextlib.contextmanager
def rank_0(port: int) -> Iterator[int]:
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", HELD], env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "holds\n"
        yield process.pid
        process.communicate("")


def test_a_named_process_is_checked_by_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    # The fixture's socket does not listen, and Linux lets another bind only when that is closed.
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    with rank_0(port) as pid:
        environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, RANK=1, **{VARIABLE: pid})
        status, document = looked(capsys)
    assert (status, obstacles(document)) == (OK, [])
    assert document["details"]["port"] == str(port)


def test_a_name_that_does_not_resolve_is_told_from_a_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    environment(monkeypatch, MASTER_ADDR="rank-0.invalid", MASTER_PORT=free_port, RANK=1)
    status, document = looked(capsys)
    assert status == SYMPTOM
    (said,) = obstacles(document)
    assert said.startswith("MASTER_ADDR rank-0.invalid does not resolve: ")


@pytest.mark.parametrize("port", ["", "0", "65536", "2950x", "-1", "²"])
def test_what_is_no_port_is_said(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert obstacles(looked(capsys)[1]) == [f"MASTER_PORT is {port!r}, which is not a port"]


def test_rank_0_on_another_host_than_its_address_is_an_obstacle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    monkeypatch.setattr(rendezvous_path, "_own", lambda address: False)
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=listener.getsockname()[1], RANK=0)
    (said,) = obstacles(looked(capsys)[1])
    assert "rank 0 runs here, and MASTER_ADDR 127.0.0.1 (127.0.0.1) is no address of this host" in said


def test_a_port_of_another_host_that_refuses_is_told_from_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    monkeypatch.setattr(rendezvous_path, "_own", lambda address: False)
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, RANK=1)
    (said,) = obstacles(looked(capsys)[1])
    assert "refuses: the host is there, and nothing listens" in said

    def silent(address: object, timeout: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silent)
    (said,) = obstacles(looked(capsys)[1])
    assert "does not answer within 4 s: dropped on the way, or no such host" in said


def test_a_loopback_address_is_an_obstacle_for_several_nodes_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, RANK=0, WORLD_SIZE=16)
    environment(monkeypatch, LOCAL_WORLD_SIZE=8)
    (said,) = obstacles(looked(capsys)[1])
    assert "ranks of other nodes cannot reach rank 0" in said
    environment(monkeypatch, LOCAL_WORLD_SIZE=16)
    assert looked(capsys)[0] == OK


def test_an_interface_that_is_not_there_or_is_down_is_an_obstacle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=listener.getsockname()[1], RANK=1)
    environment(monkeypatch, GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="nowhere")
    (said,) = obstacles(looked(capsys)[1])
    assert said.startswith("NCCL_SOCKET_IFNAME=nowhere: this host has no such interface (")
    down = {name: stat._replace(isup=False) for name, stat in psutil.net_if_stats().items()}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: down)
    environment(monkeypatch, NCCL_SOCKET_IFNAME="lo")
    assert [one.rpartition(": ")[2] for one in obstacles(looked(capsys)[1])] == [
        "lo is down, or has no address"
    ] * 2


@pytest.mark.parametrize(
    ("variable", "given", "names"),
    [
        ("NCCL_SOCKET_IFNAME", "eth", ["eth0", "eth1"]),
        ("NCCL_SOCKET_IFNAME", "=eth0", ["eth0"]),
        ("NCCL_SOCKET_IFNAME", "^eth,lo", ["ib0"]),
        ("NCCL_SOCKET_IFNAME", "^=eth0", ["lo", "eth1", "ib0"]),
        ("NCCL_SOCKET_IFNAME", "ib0:1,eth1", ["eth1", "ib0"]),
        ("GLOO_SOCKET_IFNAME", "eth", []),
        ("GLOO_SOCKET_IFNAME", "eth1,ib0", ["eth1", "ib0"]),
        ("TP_SOCKET_IFNAME", "lo", ["lo"]),
    ],
)
def test_nccls_names_are_prefixes_and_those_of_others_are_whole(
    variable: str, given: str, names: list[str]
) -> None:
    assert chosen_interfaces(variable, given, ["lo", "eth0", "eth1", "ib0"]) == names


def test_listeners_that_cannot_be_listed_are_unknown_and_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    def refused(kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refused)
    environment(monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port, RANK=1)
    status, document = looked(capsys)
    assert (status, obstacles(document)) == (OK, [])
    assert document["details"]["listeners"].startswith("unknown: ")


def test_the_clock_is_read_or_said_to_be_unknown() -> None:
    found = clock_state()
    assert found["state"] in {"synchronised", "not synchronised", "unknown"}
    assert ("max_error_s" in found) == (found["state"] == "synchronised")


@pytest.mark.parametrize("libuv", [True, False])
def test_a_store_goes_on_after_connections_that_are_closed_at_once(libuv: bool) -> None:
    """Another host's port is connected to: a job that is meeting there must not notice."""
    store_of: Any = dist.TCPStore  # type: ignore[attr-defined]
    own = timedelta(seconds=300)
    store = store_of("127.0.0.1", 0, 2, True, own, wait_for_workers=False, use_libuv=libuv)
    for _ in range(3):
        socket.create_connection(("127.0.0.1", store.port)).close()
    store_of("127.0.0.1", store.port, 2, False, own, use_libuv=libuv).set("key", "value")
    assert store.get("key") == b"value"


def test_an_environment_of_nonsense_is_quoted_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment(monkeypatch, MASTER_ADDR="\x1b]0;x\x07\nb", MASTER_PORT=1, GLOO_SOCKET_IFNAME="a\nb")
    assert main([]) == SYMPTOM
    captured = capsys.readouterr()
    found = obstacles(json.loads(captured.out))
    assert len(found) == 2
    assert all(one.isprintable() for one in found)
    # Each obstacle, and the reason at the end.
    assert captured.err.count("\n") == 3


def test_a_world_without_end_is_no_bug_of_the_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    environment(
        monkeypatch, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="9" * 5000, LOCAL_WORLD_SIZE=1
    )
    status, document = looked(capsys)
    assert (status, obstacles(document)) == (OK, [])
