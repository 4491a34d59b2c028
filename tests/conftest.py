"""What every test gets: a node of its own, so that tests and real runs beside them do not wait for each other.

Tests run side by side (`nox -s tests` passes `-n auto` to pytest-xdist), on a machine that may be busy with other
work. So no test may depend on how fast the machine is, nor on a process, port or file of another test.
"""

import functools
import gc
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from runner.run.interrupts import ENDING
from runner.run.lock import PLACE_VARIABLE

ROOT = Path(__file__).parents[1]
# Each worker imports torch and transformers, half a gigabyte, and most of its tests start programs of their own.
MOST_WORKERS = 4

# By default, threads of torch spin while they wait for each other, and other tests lack the cores. Three copies of one
# test, side by side on two cores, took 262 s with this default, and 76 s without it.
os.environ["GOMP_SPINCOUNT"] = "0"

_IMPORTED = pytest.StashKey[int]()

# Hypothesis by default fails an example that takes 200 ms, and a strategy that draws slowly.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker for each core that this process may use, and one for the time that tests wait, up to a bound."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) + 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out single tests, but those of one file together where they share a module's fixture or a host."""
    scheduler = importlib.import_module("xdist.scheduler").LoadScopeScheduling
    by = {"_split_scope": lambda _, name: _kept_together(name.partition("::")[0]) or name}
    return type("Together", (scheduler,), by)(config, log)


@functools.cache
def _kept_together(file: str) -> str | None:
    # The process that hands tests out knows their names alone: the workers have read the files.
    text = (ROOT / file).read_text(encoding="utf-8")
    if "pytest.mark.host" in text:
        return "host"
    return file if 'scope="module"' in text else None


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Keep the collector off what is imported for good: a pass over torch and transformers takes 0.3 s."""
    if item.config.stash.get(_IMPORTED, 0) < len(sys.modules):
        item.config.stash[_IMPORTED] = len(sys.modules)
        gc.collect()
        gc.freeze()


IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A Runner"), ("EMAIL", "runner@example.org"))
}


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output looks the same wherever the tests are started: a dumb terminal and forced colours change it."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _git_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are made by a tester, whoever runs the tests and whatever their git is told."""
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


@pytest.fixture(autouse=True)
def own_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock file that this test's runs share with nobody else."""
    place = tmp_path / "node.lock"
    monkeypatch.setenv(PLACE_VARIABLE, str(place))
    return place


@pytest.fixture(autouse=True, scope="session")
def _interrupts_are_heeded() -> None:
    """A shell has its background ignore Ctrl-C and Ctrl-\\, and nohup has it ignore a hangup; children inherit that."""
    for number in ENDING:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Threads of the small models here only wait for each other, and for long where other work holds the cores."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
