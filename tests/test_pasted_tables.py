"""Text that came through a terminal, a log or a ticket: it is read as what was printed."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.base.errors import InputError
from runner.base.pasted import pasted
from runner.hardware.topology_text import parse_topology
from runner.record.tools import text_document

TESTS = Path(__file__).parent
TOPOLOGIES = sorted((TESTS / "topo").glob("*.txt"))
TABLES = sorted((TESTS / "tools").glob("*_table*.txt"))


def each(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "".join(f"{change(line)}\n" for line in text.splitlines())


THROUGH: dict[str, Callable[[str], str]] = {
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "coloured lines": each(lambda line: f"\x1b[38;5;9m{line}\x1b(B\x1b[m"),
    "lines that clear to their end": each(lambda line: f"{line}\x1b[K"),
    "the time of kubectl": each(lambda line: f"2026-11-27T19:00:07.012345678Z {line}"),
    "the time in brackets": each(lambda line: f"[2026-11-27 19:00:07,012] {line}"),
    "the time of mpirun": each(lambda line: f"Fri Nov 27 19:00:07 2026[1,0]<stdout>:{line}"),
    "the rank of srun": each(lambda line: f"0: {line}"),
    "a rank without spaces at line ends": each(lambda line: f"0: {line}".rstrip()),
    "an indented block": each(lambda line: f"    {line}"),
    "a quoted mail": each(lambda line: f"> {line}"),
}


@pytest.mark.parametrize("text", TOPOLOGIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("through", THROUGH)
def test_a_matrix_is_the_same_however_it_was_pasted(text: Path, through: str) -> None:
    plain = text.read_text(encoding="utf-8")

    def read(content: str) -> object:
        try:
            return parse_topology(content)
        except InputError as error:
            return str(error)

    assert read(THROUGH[through](plain)) == read(plain)


@pytest.mark.parametrize("text", TABLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("through", THROUGH)
def test_a_table_is_the_same_however_it_was_pasted(text: Path, through: str) -> None:
    # One table has a launcher's rank before each line; a second rank before it would not be a paste of that table.
    plain = re.sub(r"(?m)^\d: ", "", text.read_text(encoding="utf-8"))
    assert text_document(THROUGH[through](plain), "f") == text_document(plain, "f")


def test_text_without_a_time_before_its_lines_stays_as_it_is() -> None:
    plain = "GPU0\t X \tNV18\nMay 2 x\n12:30 noon\n  2026-11-27 19:00:07\n"
    assert pasted(plain) == plain
