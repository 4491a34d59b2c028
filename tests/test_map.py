"""What README.md and the page "Where things are" say of the folders is true of the folders."""

import re
import subprocess
from pathlib import Path

import pytest

from runner.entry.read import read_all
from tests.test_laws import ROOMS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "kb" / "reference" / "map-of-the-code.md"
README = ROOT / "README.md"
ROOMS_IN_ORDER = [room for level in ROOMS for room in level]


def rows_of(text: str, heading: str) -> list[str]:
    """The folders in the first column of the first table below a heading, in order."""
    table = text.partition(f"\n## {heading}\n")[2].partition("| --- |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([a-z_]+)/` \|", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "heading"),
    [(README, "Where is what"), (PAGE, "Which way the arrows point")],
    ids=["the readme", "the page"],
)
def test_each_table_lists_the_folders_of_the_package_in_the_order_of_the_arrows(
    path: Path, heading: str
) -> None:
    assert rows_of(path.read_text(encoding="utf-8"), heading) == ROOMS_IN_ORDER
    there = {folder.parent.name for folder in (ROOT / "runner").glob("*/__init__.py")}
    assert there == set(ROOMS_IN_ORDER)


def test_the_diagram_has_a_line_for_each_level_of_the_plan() -> None:
    diagram = PAGE.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    assert [tuple(line.split()) for line in diagram.splitlines()] == list(ROOMS)


def test_the_entries_in_the_readme_have_the_numbers_that_it_gives_them() -> None:
    listed = re.findall(
        r"^(\d+)\. \[.+\]\((runbooks/.+\.md)\)$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    entries = {f"runbooks/{one.id}.md": str(one.head.number) for one in read_all(ROOT / "runbooks")}
    assert listed
    assert listed == [(entries.get(path), path) for _, path in listed]


@pytest.mark.parametrize("path", [README, PAGE, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_file_and_folder_that_is_named_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:runner|runbooks|kb|tests|benchmarks|bundle|site_data)/[\w./-]*)`", text))
    assert named
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing


def test_nothing_lies_beside_the_folders_by_accident() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {name for name in done.stdout.splitlines() if "/" not in name}
    assert files
    # A redirection such as `2>5` makes a file without a suffix.
    assert {name for name in files if not Path(name).suffix and not name.startswith(".")} <= {"LICENSE"}
