import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import RunbookFaultsError
from runner.entry.anchors import anchors
from runner.entry.by_hand import by_hand_block
from runner.entry.log_lines import OVERLAP, WINDOW
from runner.entry.model import Runbook, Signature
from runner.entry.parse import parse
from runner.entry.read import read_all
from runner.entry.signatures import match_log, portable
from tests.builders import a_runbook
from tests.logs import log_of
from tests.test_parse import GOOD

ROOT = Path(__file__).parents[1]
REAL = read_all(ROOT / "runbooks")


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
    found = match_log(log_of(["retry"] * 100 + ["fatal"]), [first, second])
    assert [(match.runbook_id, match.score) for match in found] == [("heavy", 5), ("often", 3)]


XID_79 = "NVRM: Xid (PCI:0000:3b:00): 79, pid=4711, name=python3, GPU has fallen off the bus."
CAUSES = {
    "xid-triage": XID_79,
    "gpu-memory-ecc": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "container-limits": "RuntimeError: DataLoader worker (pid 418) is killed by signal: Bus error.",
    "rdma-path-degraded": "NCCL WARN NET/IB: Got completion from peer 10.0.0.7<51161> with status=12 opcode=0 len=0",
    "fabric-not-ready": "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
}
TIMEOUT = [
    "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=44124, OpType=ALLREDUCE, NumelIn=1,",
    "Received a dump signal due to a collective timeout from this local rank",
    "Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels",
]


@pytest.mark.parametrize("name", CAUSES)
def test_one_line_that_names_a_cause_comes_before_the_timeouts_of_all_ranks(name: str) -> None:
    found = match_log(log_of([CAUSES[name], *TIMEOUT * 8]), REAL)
    assert found[0].runbook_id == name
    assert any(match.runbook_id == "nccl-collective-timeout" for match in found)
    assert match_log(log_of(TIMEOUT * 8), REAL)[0].runbook_id == "nccl-collective-timeout"


def test_a_lost_gpu_comes_before_the_links_that_its_peers_lose() -> None:
    peers = [f"NVRM: Xid (PCI:0000:{bus}b:00): 74, pid=1, name=python3, NVLink: fatal error" for bus in "456"]
    assert match_log(log_of([XID_79, *peers]), REAL)[0].runbook_id == "xid-triage"
    assert match_log(log_of(peers), REAL)[0].runbook_id == "nvlink-link-errors"


def test_a_weak_hint_beside_the_timeouts_does_not_come_first() -> None:
    hint = "NCCL INFO NET/Socket : Using [0]eth0:10.0.0.7<0>"
    assert match_log(log_of([hint, *TIMEOUT * 8]), REAL)[0].runbook_id == "nccl-collective-timeout"


def test_matching_lines_are_kept_with_their_numbers_and_not_all_of_them() -> None:
    (found,) = match_log(log_of(["fine", "fatal one", "fine"] + ["fatal"] * 50), [entry("a", ("fatal", 1))])
    assert (found.hits[0].number, found.hits[0].text) == (2, "fatal one")
    assert len(found.hits) == 5


def test_a_log_that_speaks_of_nothing_matches_nothing() -> None:
    assert match_log(log_of(["all is well"]), [entry("a", ("fatal", 1))]) == ()
    assert match_log(log_of(["all is well"]), [entry("a")]) == ()


def test_a_text_that_begins_late_in_a_line_is_found_and_the_hit_says_where() -> None:
    (found,) = match_log(log_of(["fine", "x" * 100_000 + " fatal é"]), [entry("a", ("fatal", 1))])
    (hit,) = found.hits
    assert (hit.number, hit.text[hit.start : hit.end]) == (2, "fatal")
    assert len(hit.text) <= WINDOW


def test_a_message_after_a_progress_bar_is_matched_and_keeps_the_number_of_its_line() -> None:
    bar = "".join(f"\r{done:3d} %|{'#' * 60}|" for done in range(1000))
    (found,) = match_log(log_of(["fine", f"{bar}\rfatal error\r", "fatal"]), [entry("a", ("^fatal", 1))])
    assert [(hit.number, hit.text) for hit in found.hits] == [(2, "fatal error"), (3, "fatal")]


def test_a_line_counts_once_however_often_it_matches() -> None:
    (found,) = match_log(log_of(["fatal " * 5000 + "\rfatal\rfatal"]), [entry("a", ("fatal", 1))])
    assert (found.score, len(found.hits)) == (1, 1)


def test_the_beginning_of_a_window_is_not_the_beginning_of_a_line() -> None:
    padding = "x" * (WINDOW - OVERLAP)
    assert (
        match_log(log_of([padding + "fatal" + padding * 2]), [entry("a", ("^fatal", 1), (r"\bfatal", 1))])
        == ()
    )
    assert match_log(log_of([padding + "-fatal" + padding * 2]), [entry("a", (r"\bfatal", 1))])


def match(folder: Path, log: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    text = GOOD.replace("    weight: 3\n", "    weight: 3\n    means: a peer did not answer\n")
    (folder / "good.md").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--runbooks", str(folder), "match", *words, "-"],
        cwd=ROOT,
        capture_output=True,
        input=log,
        check=False,
    )


def test_the_command_prints_the_line_its_meaning_and_what_to_type_and_no_escape_codes(tmp_path: Path) -> None:
    done = match(tmp_path, b"\xff\x00junk\nNCCL WARN \x1b[31m a timeout\n" + b"y" * 3_000_000 + b"\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines() == [
        "1. good (score 3): A good entry",
        "   a peer did not answer:",
        "   line 2: NCCL WARN \u00b7[31m a timeout",
        "",
        "By hand, for good:",
        "",
        "nvidia-smi",
        "",
        "Next: runbook show good    the whole entry",
        "      runbook diagnose     whether this node has the issue; only reads",
    ]
    (found,) = json.loads(match(tmp_path, b"NCCL WARN timeout\n", "--json").stdout)
    assert found["runbook_id"] == "good"
    assert found["hits"][0]["means"] == "a peer did not answer"


@pytest.mark.parametrize("info", ["sh", "bash", "shell", "console"])
def test_the_block_by_hand_is_printed_whichever_shell_its_fence_names(info: str) -> None:
    runbook = parse(GOOD.replace("```bash\nnvidia-smi", f"```{info}\nnvidia-smi"), Path("good.md"))
    assert by_hand_block(runbook) == "nvidia-smi"


def test_a_long_line_is_shown_around_what_matched(tmp_path: Path) -> None:
    log = (
        b'{"fields": "'
        + b"f" * 9_000
        + b'", "message": "NCCL WARN timeout", "more": "'
        + b"m" * 900
        + b'"}\n'
    )
    (line,) = [one for one in match(tmp_path, log).stdout.decode().splitlines() if "line 1:" in one]
    assert "NCCL WARN timeout" in line
    assert (line[11], line[-1]) == ("…", "…")
    assert len(line) < 230


@pytest.mark.parametrize(
    ("log", "status", "said"),
    [
        (b"nothing\n", 1, "no entry's signature is in this log; `runbook diagnose` checks this node"),
        (b"", 2, "standard input is empty"),
        (bytes(1000), 2, "standard input is not a text log"),
        (
            gzip.compress(b"nothing\n" * 999, mtime=0)[:-1],
            2,
            "standard input was read only in part, without a match",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            2,
            "is compressed with zstd, not a text log; run `zstdcat FILE | runbook match -`",
        ),
    ],
)
def test_only_a_text_that_was_read_whole_can_be_without_a_match(
    tmp_path: Path, log: bytes, status: int, said: str
) -> None:
    done = match(tmp_path, log)
    assert (done.returncode, done.stdout) == (status, b"")
    assert said in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_a_log_that_is_cut_short_is_matched_with_a_warning(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(50_000).hex().encode()
    done = match(tmp_path, gzip.compress(b"NCCL WARN timeout\n" + noise, mtime=0)[:-100])
    assert done.returncode == 0
    assert b"line 1: NCCL WARN timeout" in done.stdout
    assert done.stderr == b"runbook: standard input was read only in part: its gzip data ends early\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("- <&-", "standard input is closed; name a log file"),
        ("''", "cannot read '': is a folder, not a regular file; name a log file, or - for standard input"),
    ],
)
def test_a_closed_standard_input_and_a_name_from_an_unset_variable_are_bad_input(
    words: str, said: str
) -> None:
    command = f'exec "$1" -m runner.cli.main match {words}'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, f"runbook: {said}\n")


@pytest.mark.parametrize("runbook", read_all(ROOT / "runbooks"), ids=lambda one: one.id)
def test_no_signature_looks_through_the_rest_of_a_line_from_each_place_at_which_it_begins(
    runbook: Runbook,
) -> None:
    # From n beginnings in a window, `.*` takes n times the window: seconds for each megabyte of a dumped tensor index.
    repeat = re.compile(r"(?<!\\)\.(?:[*+]|\{\d+,\})")
    assert [one.pattern for one in runbook.head.signatures if repeat.search(one.pattern)] == []


def test_a_log_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    done = match(tmp_path, b"", str(tmp_path / "no.log"))
    assert done.returncode == 2


def texts_of(line: bytes) -> Iterator[tuple[bytes, int]]:
    """What patterns are matched against in a line, and from where: its pieces, long ones in overlapping windows."""
    for piece in line.split(b"\r"):
        for place in range(0, max(1, len(piece) - OVERLAP), WINDOW - OVERLAP):
            context = int(place > 0)
            if piece:
                yield piece[place - context : place + WINDOW], context


def reference(log: bytes, runbooks: Sequence[Runbook]) -> list[tuple[str, int, list[tuple[int, str, str]]]]:
    """The rules, line by line and without any haste."""
    found: dict[str, tuple[int, list[tuple[int, str, str]]]] = {}
    causes, consequences = set(), set()
    for runbook in runbooks:
        score, hits, seen = 0, [], []
        for order, one in enumerate(runbook.head.signatures):
            pattern = re.compile(portable(one.pattern).encode())
            matched = [
                (number, order, text)
                for number, line in enumerate(log.split(b"\n"), start=1)
                for text in [t[at:] for t, at in texts_of(line) if pattern.search(t, at)][:1]
            ]
            score += one.weight * min(len(matched), 3)
            seen += [one] * bool(matched)
            hits += [
                (number, order, line.decode("utf-8", "replace"), one.pattern)
                for number, order, line in matched
            ]
        if hits:
            kept = sorted(hits)[:5]
            found[runbook.id] = (score, [(number, text, pattern) for number, _, text, pattern in kept])
            if all(one.consequence for one in seen):
                consequences.add(runbook.id)
            if any(one.weight >= 8 and not one.consequence for one in seen):
                causes.add(runbook.id)
    for name in consequences if causes else ():
        score, shown = found[name]
        found[name] = (min(score, *(found[cause][0] for cause in causes), score), shown)
    return [
        (name, score, hits)
        for name, (score, hits) in sorted(
            found.items(), key=lambda one: (-one[1][0], one[0] in consequences, one[0])
        )
    ]


SAID = [
    b"Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12345,",
    b"NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
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
    b"y" * 2030,
    b"z" * 70_000,
    b"all is well",
]


@given(st.lists(st.sampled_from(SAID), max_size=40).map(b"".join), st.integers(50, 300_000))
def test_the_fast_way_through_a_log_finds_what_the_plain_way_finds(log: bytes, cut: int) -> None:
    chunks = [log[at : at + cut] for at in range(0, len(log), cut)]
    found = [
        (match.runbook_id, match.score, [(hit.number, hit.text, hit.pattern) for hit in match.hits])
        for match in match_log(chunks, REAL)
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
