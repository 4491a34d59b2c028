"""The sessions, run by the real nox over the project's own noxfile, in the environment that the tests run in."""

import functools
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
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
        "demo",
        "serve",
        "system",
        "check",
        "campaign",
        "refresh",
        "workflows",
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


@functools.cache
def noxfile() -> ModuleType:
    """The project's noxfile; once, since nox warns of sessions that are declared again."""
    spec = importlib.util.spec_from_file_location("projects_noxfile", ROOT / "noxfile.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("outcomes", "ended"),
    [
        (("fix_proved", "not_fixed"), True),
        (("fix_proved", "inconclusive"), True),
        (("fix_proved", "incomplete"), False),
        (("fix_proved", None), False),
        (("fix_proved",), False),
    ],
)
def test_the_demo_forgives_an_inconclusive_entry_and_none_that_broke_or_is_missing(
    tmp_path: Path, outcomes: tuple[str | None, ...], ended: bool
) -> None:
    for place, outcome in enumerate(outcomes):
        (tmp_path / f"{place}.json").write_text(json.dumps({"outcome": outcome}), encoding="utf-8")
    assert noxfile()._came_to_an_end(tmp_path, 2) is ended


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
