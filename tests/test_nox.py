"""The sessions, run by the real nox over the project's own noxfile, in the environment that the tests run in."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from runner.run.lock import PLACE_VARIABLE, node_lock

ROOT = Path(__file__).parents[1]

# Loads the real noxfile, but lets its sessions use this very environment instead of making one.
WRAPPER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("real_noxfile", {noxfile!r})
real = importlib.util.module_from_spec(spec)
sys.modules["real_noxfile"] = real
spec.loader.exec_module(real)
real._environment = lambda session, name, *extras: pathlib.Path({programs!r})
"""

ENTRY = """\
---
id: nvlink-bandwidth
number: 2
title: A stand-in entry
---

## Symptom

None.

## By hand

```bash
true
```

## Root cause

None.

## Diagnose

```bash {{#look}}
{command}
```

## Fix

Nothing.

## Verify

Nothing.
"""

CRASHING_PROBE = "python -c 'raise SystemError(\"the probe broke\")'"


def nox(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    wrapper = tmp_path / "noxfile.py"
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    runbook = programs / "runbook"
    runbook.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runner.cli.main "$@"\n', encoding="utf-8")
    runbook.chmod(0o755)
    wrapper.write_text(
        WRAPPER.format(noxfile=str(ROOT / "noxfile.py"), programs=str(programs)), encoding="utf-8"
    )
    return subprocess.run(
        [sys.executable, "-m", "nox", "-f", str(wrapper), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        # Not this process's whole environment; but its lock, or a real run on this node would be met.
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            PLACE_VARIABLE: os.environ[PLACE_VARIABLE],
        },
    )


def run_entry(tmp_path: Path, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "runbooks"
    folder.mkdir()
    (folder / "nvlink-bandwidth.md").write_text(ENTRY.format(command=command), encoding="utf-8")
    return nox(
        tmp_path,
        "-s",
        "runbook-2",
        "--",
        "--runbooks",
        str(folder),
        "--data",
        str(tmp_path / "data"),
        *arguments,
    )


def test_every_entry_has_a_session_by_id_and_by_number_with_its_title_as_help(tmp_path: Path) -> None:
    listed = nox(tmp_path, "-l").stdout
    for path in sorted((ROOT / "runbooks").glob("*.md")):
        number = re.search(r"^number:\s*(\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert number
        assert re.search(rf"runbook-{path.stem} -> \S", listed)
        assert re.search(rf"runbook-{number[1]} -> \S", listed)


@pytest.mark.parametrize(
    "session",
    [
        "lint",
        "types",
        "tests",
        "docs",
        "bundle",
        "demo",
        "serve",
        "system",
        "check",
        "campaign",
        "refresh",
        "workflows",
        "hashes",
    ],
)
def test_every_session_says_what_it_does(tmp_path: Path, session: str) -> None:
    assert re.search(rf"\b{session} -> \S", nox(tmp_path, "-l").stdout)


def test_tests_run_side_by_side_but_one_by_one_where_arguments_are_given(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for session, selected in (("tests", ""), ("system", " -m system")):
        assert nox(tmp_path, "-s", session).stdout == f"-m pytest{selected} -n auto\n"
        chosen = nox(tmp_path, "-s", session, "--", "tests/test_nox.py", "-x", "--pdb").stdout
        assert chosen == f"-m pytest{selected} tests/test_nox.py -x --pdb\n"


def noxfile() -> ModuleType:
    """The project's noxfile; once a process, since nox warns of sessions that are declared again."""
    if "projects_noxfile" in sys.modules:
        return sys.modules["projects_noxfile"]
    spec = importlib.util.spec_from_file_location("projects_noxfile", ROOT / "noxfile.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def a_demo(folder: Path, **entries: tuple[str | None, tuple[str, ...]]) -> str:
    """What the demo says of a folder with these entries, each an outcome and its steps' statuses."""
    for entry, (outcome, statuses) in entries.items():
        steps = [{"id": f"s{number}", "status": status} for number, status in enumerate(statuses)]
        record = {"runbook": {"id": entry}, "outcome": outcome, "steps": steps}
        (folder / f"{entry}.json").write_text(json.dumps(record), encoding="utf-8")
    said = noxfile()._unfinished(folder, ["one", "two"])
    assert isinstance(said, str)
    return said


GOOD = ("fix_proved", ("passed", "symptom"))


@pytest.mark.parametrize(
    "other",
    [
        ("not_fixed", ("symptom", "failed")),
        ("drill_passed", ("passed", "skipped")),
        ("inconclusive", ("passed",)),
        ("an_outcome_yet_to_come", ("passed", "skipped")),
        ("not_applicable", ("skipped", "skipped")),
    ],
)
def test_the_demo_ends_well_whatever_a_finished_entry_says_and_whatever_it_had_to_leave_out(
    tmp_path: Path, other: tuple[str, tuple[str, ...]]
) -> None:
    assert a_demo(tmp_path, one=GOOD, two=other) == ""


def test_the_demo_ends_well_where_its_own_limit_of_time_cut_a_step_short(tmp_path: Path) -> None:
    steps = [{"id": "a", "status": "passed"}, {"id": "b", "status": "timeout", "left_out": True}]
    for entry in ("one", "two"):
        record = {"runbook": {"id": entry}, "outcome": "incomplete", "steps": steps}
        (tmp_path / f"{entry}.json").write_text(json.dumps(record), encoding="utf-8")
    assert noxfile()._unfinished(tmp_path, ["one", "two"]) == ""


def test_the_demo_fails_where_a_step_broke_an_entry_has_no_end_or_nothing_ran(tmp_path: Path) -> None:
    broken = a_demo(tmp_path, one=GOOD, two=("incomplete", ("passed", "timeout", "error", "interrupted")))
    assert broken == "could not finish two s1 (timeout), two s2 (error), two s3 (interrupted)"
    assert a_demo(tmp_path, two=(None, ("passed",))) == "no record of two"
    (tmp_path / "two.json").unlink()
    assert a_demo(tmp_path) == "no record of two"
    nothing = ("not_applicable", ("skipped",))
    assert a_demo(tmp_path, one=nothing, two=nothing) == "not one step ran"


class Refused(Exception):  # noqa: N818 - what nox itself raises is no error either
    """A session that ended with a message."""


class Session:
    """As much of a nox session as choosing a Python needs."""

    def error(self, message: str) -> None:
        raise Refused(message)

    def run(self, *words: str, **_: object) -> None:
        subprocess.run(words, check=True, capture_output=True)


def a_python(folder: Path, says: object) -> str:
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{json.dumps(says)}'\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


FACTS = {"version": [3, 12], "cuda": False, "names": [], "missing": []}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (FACTS | {"version": [3, 10]}, "is older than Python 3.11; set RUNBOOK_PYTHON to a newer one"),
        (
            FACTS | {"missing": ["ctypes", "ssl"]},
            r"built without ctypes, ssl; .*apt-get install python3-full",
        ),
        ("no facts", "cannot be run; set it to one of 3.11 or newer"),
    ],
)
def test_a_python_that_will_not_do_is_refused_in_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: object, message: str
) -> None:
    monkeypatch.setenv("RUNBOOK_PYTHON", a_python(tmp_path, facts))
    with pytest.raises(Refused, match=message) as raised:
        noxfile()._base(Session())
    assert "\n" not in str(raised.value)


def test_this_python_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNBOOK_PYTHON", sys.executable)
    assert noxfile()._base(Session()).python == sys.executable


def test_a_python_of_which_no_environment_can_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-f", str(made_of(tmp_path, a_python(tmp_path, FACTS))), "-s", "makes"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if "cannot make a virtual environment" in line]
    assert "apt-get install python3-full" in said


def made_of(tmp_path: Path, python: str) -> Path:
    """A noxfile whose one session makes an environment by the project's own means."""
    path = tmp_path / "noxfile.py"
    session = f"""
import nox
@nox.session(venv_backend="none")
def makes(session):
    real._make(session, {python!r}, pathlib.Path({str(tmp_path / "made")!r}))
"""
    path.write_text(
        WRAPPER.format(noxfile=str(ROOT / "noxfile.py"), programs=str(tmp_path)) + session, encoding="utf-8"
    )
    return path


def test_a_session_in_a_test_does_not_meet_a_real_run_on_this_node(tmp_path: Path, own_node: Path) -> None:
    with node_lock("of-this-test"):
        done = run_entry(tmp_path, "true")
    assert done.returncode == 3
    assert "run of-this-test" in done.stderr
    assert own_node.exists()


def test_a_healthy_entry_ends_nox_with_0(tmp_path: Path) -> None:
    done = run_entry(tmp_path, "true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "healthy" in done.stdout


def test_a_crashing_probe_ends_nox_with_3_and_never_with_1(tmp_path: Path) -> None:
    done = run_entry(tmp_path, CRASHING_PROBE)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "incomplete" in done.stdout


def test_bad_input_ends_nox_with_2(tmp_path: Path) -> None:
    done = run_entry(tmp_path, "true", "--step", "no-such-step")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no-such-step" in done.stderr
