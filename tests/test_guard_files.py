"""The guards for a job as a reader gets them: from the site and from the command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.main import main
from runner.entry.guard_files import GuardFile, Passage, guard_files
from runner.entry.model import Phase, Step
from runner.pages.render import render, render_folders
from tests.builders import a_runbook
from tests.golden_entry import NOW
from tests.test_pages import TEMPLATES, to_html

ROOT = Path(__file__).parents[1]
TEXT = '''"""Finds <b>late</b> steps of a job, in µs. One file.

    with LateSteps() as late:
        late.check()  # `or` ```not```
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    step: int


class LateSteps:
    pass


def main() -> int:
    return 0
'''
GUARD = GuardFile("late_steps", TEXT)
USER = a_runbook(Step(id="look", phase=Phase.DIAGNOSE, command="cp runner/guards/late_steps.py .", line=1))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that has this guard alone."""
    monkeypatch.setattr("runner.cli.guard.guard_files", lambda: (GUARD,))


def test_a_guard_says_what_it_is_how_long_and_how_it_is_imported() -> None:
    assert GUARD.summary == "Finds <b>late</b> steps of a job, in µs. One file."
    (example,) = GUARD.usage
    assert example == Passage("with LateSteps() as late:\n    late.check()  # `or` ```not```", is_code=True)
    assert GUARD.lines == TEXT.count("\n")
    # What its docstring shows, and not the types that it answers with.
    assert GUARD.imported == "from runner.guards.late_steps import LateSteps"
    assert GUARD.imported_copy == "from late_steps import LateSteps"
    assert GuardFile("a", "def one(): pass\ndef _two(): pass\n").imported == "from runner.guards.a import one"
    assert GuardFile("a", "x = 1\n").imported == "import runner.guards.a"


def test_paragraphs_of_a_guard_are_prose_on_the_site_and_its_examples_are_code() -> None:
    text = '"""Late.\n\nOne `a_file`\nof *two* <b>.\n\n    a()\n\n        b()\n\nThe\nend.\n"""\n'
    guard = GuardFile("late", text)
    assert guard.usage == (
        Passage("One `a_file` of *two* <b>.", is_code=False),
        Passage("a()\n\n    b()", is_code=True),
        Passage("The end.", is_code=False),
    )
    html = to_html(render([USER], [], NOW, TEMPLATES, guards=[guard])["reference/guards.md"].text)
    assert "a_file" in [one.words for one in html.all("code")]
    assert "One a_file of *two* <b>." in html.words


@given(st.from_regex(r"[a-z]+(_[a-z]+)?", fullmatch=True), st.from_regex(r"[a-z]+(_[a-z]+)?", fullmatch=True))
def test_an_entry_uses_the_guards_that_it_names_and_no_other(named: str, other: str) -> None:
    for command in (f"python -c 'import runner.guards.{named}'", f"cat runner/guards/{named}.py"):
        entry = a_runbook(Step(id="look", phase=Phase.DIAGNOSE, command=command, line=1))
        assert GuardFile(named, "").entries([entry]) == (entry,)
        assert GuardFile(other, "").entries([entry]) == ((entry,) if other == named else ())


@pytest.mark.parametrize("guard", guard_files(), ids=lambda guard: guard.name)
def test_every_guard_of_the_package_can_be_imported_by_the_line_that_the_site_gives(guard: GuardFile) -> None:
    assert guard.summary
    # What it offers is there; torch is imported within its functions.
    done = subprocess.run(
        [sys.executable, "-c", guard.imported],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_site_has_each_guard_as_a_file_and_a_page_that_names_it_with_its_entry() -> None:
    pages = render([USER], [], NOW, TEMPLATES, guards=[GUARD])
    assert pages["guards/late_steps.py"].text == TEXT
    html = to_html(pages["reference/guards.md"].text)
    (link,) = [one for one in html.all("a") if one.attributes.get("href", "").endswith(".py")]
    assert link.attributes["href"] == "../guards/late_steps.py"
    assert "Finds <b>late</b> steps" in html.words
    assert f"{GUARD.lines} lines" in html.words
    assert "7. An entry" in html.words
    # Its usage stays code, whatever backquotes it holds.
    assert "# `or` ```not```" in [one.words for one in html.all("span")]
    assert "`guards/late_steps.py`" in pages["reference/guards.md.txt"].text
    assert "reference/guards.md" in pages["llms.txt"].text


def test_a_version_without_guards_says_so() -> None:
    assert "This version has none." in render([USER], [], NOW, TEMPLATES)["reference/guards.md"].text


def test_the_pages_of_this_package_have_all_of_its_guards() -> None:
    pages = render_folders(ROOT / "runbooks", ROOT / "site_data", ROOT / "kb", {})
    there = {
        path.name: path.read_text(encoding="utf-8") for path in (ROOT / "runner" / "guards").glob("*.py")
    }
    del there["__init__.py"]
    assert {path: page.text for path, page in pages.items() if path.startswith("guards/")} == {
        f"guards/{name}": text for name, text in there.items()
    }


@pytest.mark.usefixtures("own")
def test_the_command_lists_them_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guard"]) == 0
    listed, *_ = capsys.readouterr().out.splitlines()
    assert listed.split("  ")[0] == "late_steps"
    assert main(["guard", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["lines"], found["import"]) == ("late_steps", GUARD.lines, GUARD.imported)


@pytest.mark.usefixtures("own")
def test_an_unknown_name_is_bad_input_and_names_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["guard", "late_step"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no guard 'late_step' (did you mean 'late_steps'?); use one of late_steps" in err
    assert main(["guard", "../late_steps"]) == 2


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose package has one more guard, longer than a pipe holds."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "runner", folder / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "runbooks", folder / "runbooks")
    long = TEXT + "# a long line of a comment\n" * 10_000
    (folder / "runner" / "guards" / "late_steps.py").write_text(long, encoding="utf-8")
    return folder


def start(package: Path, out: int, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner.cli.main", "guard", "late_steps"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package), **environment},
        stdout=out,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_what_it_prints_is_the_file_byte_for_byte_in_any_locale(package: Path, encoding: str) -> None:
    out, err = start(package, subprocess.PIPE, PYTHONIOENCODING=encoding).communicate(timeout=120)
    assert out == (package / "runner" / "guards" / "late_steps.py").read_bytes()
    assert err == b""


def test_a_reader_that_left_gets_no_traceback(package: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    printing = start(package, writer)
    os.close(writer)
    _, err = printing.communicate(timeout=120)
    assert (printing.returncode, err) == (141, b"")
