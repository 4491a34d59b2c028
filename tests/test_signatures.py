import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.entry.model import Runbook, Signature
from runner.entry.parse import parse
from runner.entry.read import read_all
from runner.entry.signatures import LONGEST_LINE, anchors, match_lines, match_log, portable
from runner.errors import RunbookFaultsError
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


def reference(log: bytes, runbooks: Sequence[Runbook]) -> list[tuple[str, int, list[tuple[int, str, str]]]]:
    """The rules, line by line and without any haste."""
    found: dict[str, tuple[int, list[tuple[int, str, str]]]] = {}
    for runbook in runbooks:
        score, hits = 0, []
        for order, one in enumerate(runbook.head.signatures):
            matched = [
                (number, order, line.rstrip(b"\r"))
                for number, line in enumerate((raw[:LONGEST_LINE] for raw in log.split(b"\n")), start=1)
                if re.search(portable(one.pattern).encode(), line.rstrip(b"\r"))
            ]
            # What follows the last line end is a line only if it has something in it.
            matched = [hit for hit in matched if hit[0] <= log.count(b"\n") or not log.endswith(b"\n")]
            score += one.weight * min(len(matched), 3)
            hits += [
                (number, order, line.decode("utf-8", "replace"), one.pattern)
                for number, order, line in matched
            ]
        if hits:
            kept = sorted(hits)[:5]
            found[runbook.id] = (score, [(number, text, pattern) for number, _, text, pattern in kept])
    return [
        (name, score, hits)
        for name, (score, hits) in sorted(found.items(), key=lambda one: (-one[1][0], one[0]))
    ]


REAL = read_all(ROOT / "runbooks")
SAID = [
    b"NCCL INFO NCCL_P2P_DISABLE set by environment to 1",
    b"NCCL INFO Channel 01/0 : 0[7] -> 1[7] via SHM",
    b"torch.OutOfMemoryError",
    b"SubprocPool unclean exit",
    b"scale\tis nan",
    b"scale \xa0 inf",
    b"falling back to BF16",
    b"using scale of 1.0",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\xff\xfe",
    b"x" * 4090,
    b"all is well",
]


@given(st.lists(st.sampled_from(SAID), max_size=40).map(b"".join), st.integers(1, 4000))
def test_the_fast_way_through_a_log_finds_what_the_plain_way_finds(log: bytes, cut: int) -> None:
    end = log.rfind(b"\n", 0, cut) + 1
    blocks = [block for block in (log[:end], log[end:]) if block]
    found = [
        (match.runbook_id, match.score, [(hit.number, hit.text, hit.pattern) for hit in match.hits])
        for match in match_log(blocks, REAL)
    ]
    assert found == reference(log, REAL)


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("SubprocPool unclean exit", ("SubprocPool unclean exit",)),
        (r"tensor dims? .*divisible|must be even", ("tensor dim", "must be even")),
        (r"abcdef?gh", ("abcde",)),
        (r"(abcd|efgh) ijklm", (" ijklm",)),
        (r"abcd{0,2}efgh", ("efgh",)),
        (r"ab(cdefg)*hi", ()),
        (r"long text|ab", ()),
        (r"a\.bc\[d\]", ("a.bc[d]",)),
        (r"[abcd]+\d\d", ()),
    ],
)
def test_the_text_that_every_match_holds_is_found_in_a_pattern(pattern: str, texts: tuple[str, ...]) -> None:
    assert anchors(pattern) == texts


def test_every_signature_has_a_text_to_look_for_so_that_long_logs_are_quick() -> None:
    assert not [
        one.pattern for runbook in REAL for one in runbook.head.signatures if not anchors(one.pattern)
    ]


@pytest.mark.parametrize(
    ("pattern", "spelt"),
    [
        (r"a\s+b", r"a[ \t\n\r\f\v]+b"),
        (r"[\s,]", r"[ \t\n\r\f\v,]"),
        (r"\S\\s[\\s]", r"[^ \t\n\r\f\v]\\s[\\s]"),
    ],
)
def test_white_space_is_spelt_out_so_that_a_browser_reads_no_more_into_it(pattern: str, spelt: str) -> None:
    assert portable(pattern) == spelt


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", r"a{,3}", "[]a]", r"[^]a]", r"[\Sa]", "é", r"\xe9", r"\u00e9", r"(?<=a)b", "a++"]
)
def test_what_browsers_and_python_read_differently_is_a_fault(pattern: str) -> None:
    text = GOOD.replace('"NCCL WARN .*timeout"', json.dumps(pattern))
    assert text != GOOD
    with pytest.raises(RunbookFaultsError, match="the pattern"):
        parse(text, Path("good.md"))
