import json
import subprocess
import sys
from pathlib import Path

from runner.entry.model import Runbook, Signature
from runner.entry.signatures import LONGEST_LINE, match_lines
from tests.builders import a_runbook
from tests.test_parse import GOOD

ROOT = Path(__file__).parents[1]


def entry(name: str, *signatures: tuple[str, int]) -> Runbook:
    runbook = a_runbook(runbook_id=name)
    head = runbook.head.model_copy(
        update={
            "signatures": tuple(Signature(pattern=pattern, weight=weight) for pattern, weight in signatures)
        }
    )
    return runbook.model_copy(update={"head": head})


def test_entries_are_ranked_by_weight_and_each_signature_counts_three_times_at_most() -> None:
    first, second = entry("often", ("retry", 1)), entry("heavy", ("fatal", 5))
    found = match_lines(["retry"] * 100 + ["fatal"], [first, second])
    assert [(match.runbook_id, match.score) for match in found] == [("heavy", 5), ("often", 3)]


def test_matching_lines_are_kept_with_their_numbers_and_not_all_of_them() -> None:
    (found,) = match_lines(["fine", "fatal one", "fine"] + ["fatal"] * 50, [entry("a", ("fatal", 1))])
    assert (found.hits[0].number, found.hits[0].text) == (2, "fatal one")
    assert len(found.hits) == 5


def test_a_log_that_speaks_of_nothing_matches_nothing() -> None:
    assert match_lines(["all is well"], [entry("a", ("fatal", 1))]) == ()
    assert match_lines(["all is well"], [entry("a")]) == ()


def test_only_the_beginning_of_an_overlong_line_is_looked_at() -> None:
    assert match_lines(["x" * LONGEST_LINE + "fatal"], [entry("a", ("fatal", 1))]) == ()


def match(folder: Path, log: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "good.md").write_text(GOOD, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--runbooks", str(folder), "match", *words, "-"],
        cwd=ROOT,
        capture_output=True,
        input=log,
        check=False,
    )


def test_the_command_prints_id_score_and_line_and_no_escape_codes(tmp_path: Path) -> None:
    done = match(tmp_path, b"\xff\x00junk\nNCCL WARN \x1b[31m a timeout\n" + b"y" * 3_000_000 + b"\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "good\t3\t2: NCCL WARN \u00b7[31m a timeout\n"
    (found,) = json.loads(match(tmp_path, b"NCCL WARN timeout\n", "--json").stdout)
    assert found["runbook_id"] == "good"


def test_a_log_without_a_match_and_a_log_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    assert match(tmp_path, b"nothing\n").returncode == 1
    done = match(tmp_path, b"", str(tmp_path / "no.log"))
    assert done.returncode == 2
