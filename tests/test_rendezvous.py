import json
import os

import psutil
import pytest

from runner.base.errors import InputError
from runner.kit import rendezvous
from runner.kit.leftovers.variables import leftovers
from runner.kit.probe import OK, SYMPTOM
from runner.probes.rendezvous import PROBE
from tests.cluster import free_ports

main = PROBE.main


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for leftover in leftovers(os.environ, 2):
        monkeypatch.delenv(leftover.name)
    monkeypatch.delenv("RUNBOOK_RESULT", raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    (port,) = free_ports(1)
    for name, value in {
        "WORLD_SIZE": world_size,
        "RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))


def test_a_leftover_world_size_waits_until_the_deadline_and_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(monkeypatch, 8)
    before = set(psutil.Process().children(recursive=True))
    # It is the deadline of joining that ends it, not that of loading torch.
    monkeypatch.setattr(rendezvous, "_START_S", 1e6)
    assert main(["--deadline", "1"]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    assert document["details"]["ending"] == "waiting"
    assert "still waiting in rendezvous for 7 other ranks after 1 s" in document["reason"]
    assert not document["measurements"]
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


def test_a_group_of_one_comes_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    launched(monkeypatch, 1)
    assert main(["--deadline", "400"]) == OK
    document = json.loads(capsys.readouterr().out)
    assert document["details"]["ending"] == "joined"
    assert 0 < document["measurements"][0]["value"] < 400


def test_a_clean_environment_asks_for_no_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == OK
    assert json.loads(capsys.readouterr().out)["details"]["ending"] == "alone"


def test_half_of_a_launch_fails_at_once_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert main(["--deadline", "60"]) == SYMPTOM
    assert "environment variable RANK expected" in json.loads(capsys.readouterr().out)["reason"]


def test_a_deadline_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--deadline", "0"]) == InputError.exit_status
    assert "--deadline must be above zero" in capsys.readouterr().err
