"""From a solved incident to a page: the skeleton of an entry, and the pages as plain files."""

import html
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.entry.read import read_all
from runner.pages.render import render

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "kb" / "_templates"


@pytest.fixture
def runbooks(tmp_path: Path) -> Path:
    folder = tmp_path / "runbooks"
    shutil.copytree(ROOT / "runbooks", folder)
    (tmp_path / "kb").symlink_to(ROOT / "kb")
    return folder


def new(folder: Path, *words: str) -> int:
    return main(["--runbooks", str(folder), "new", *words])


@pytest.mark.parametrize(
    "title",
    [
        None,
        "A link flaps",
        "C: 100 % of <b>GPUs</b>",
        'It says "no"',
        "2026",
        "on",
        "*stars* and `ticks`",
        "[a](b)",
    ],
)
def test_a_new_entry_is_accepted_and_has_a_page(runbooks: Path, title: str | None) -> None:
    assert new(runbooks, "link-flaps", *([] if title is None else ["--title", title])) == 0
    assert main(["--runbooks", str(runbooks), "check"]) == 0
    entries = read_all(runbooks)
    fresh = next(entry for entry in entries if entry.id == "link-flaps")
    assert fresh.head.number == max(entry.head.number for entry in entries)
    assert fresh.head.title == (title or "Link flaps")
    page = render(entries, [], datetime.now(UTC), TEMPLATES)["entries/link-flaps.md"].text
    assert "cat /proc/driver/nvidia/version" in page
    assert "unmeasured" in page


def test_the_first_entry_of_an_empty_folder_is_number_1(tmp_path: Path) -> None:
    assert new(tmp_path / "mine", "first") == 0
    assert main(["--runbooks", str(tmp_path / "mine"), "check"]) == 0


def test_a_new_entry_runs_as_it_stands(runbooks: Path, tmp_path: Path) -> None:
    new(runbooks, "link-flaps")
    words = ["--runbooks", str(runbooks), "--data", str(tmp_path / "data"), "run", "link-flaps", "--json"]
    assert main(words) in {0, 3}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["No_Id"], "is not a valid id; use lower-case letters"),
        (["../up"], "is not a valid id"),
        (["nvlink-bandwidth"], "already exists"),
        (["x1", "--title", "two\nlines"], "a title must be one line"),
        (["x1", "--title", "ends in #"], "is not a plain heading"),
    ],
)
def test_what_cannot_be_an_entry_is_refused_in_one_line(
    runbooks: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    before = {path: path.read_bytes() for path in runbooks.iterdir()}
    assert new(runbooks, *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in runbooks.iterdir()} == before


def test_the_pages_come_as_plain_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["pages", "--out", str(out)]) == 0
    for entry in read_all(ROOT / "runbooks"):
        text = (out / "entries" / f"{entry.id}.md").read_text(encoding="utf-8")
        assert f"# {entry.head.title}\n" in html.unescape(text)
    assert (out / "guides" / "add-an-entry.md").exists()
    assert not list(out.rglob("*.j2"))
    # The guards are files of the site.
    assert {path.parent.name for path in out.rglob("*.py")} == {"guards"}
    assert main(["pages", "--out", str(out)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
