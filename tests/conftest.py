"""What every test gets: a node of its own, so that tests and real runs beside them do not wait for each other."""

import signal
from pathlib import Path

import pytest

from runner.launch.lock import PLACE_VARIABLE


@pytest.fixture(autouse=True)
def own_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock file that this test's runs share with nobody else."""
    place = tmp_path / "node.lock"
    monkeypatch.setenv(PLACE_VARIABLE, str(place))
    return place


@pytest.fixture(autouse=True, scope="session")
def _interrupts_are_heeded() -> None:
    """A shell has its background ignore Ctrl-C, and nohup has it ignore a hangup; children inherit both."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
