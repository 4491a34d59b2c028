"""`runbook check` by the real program: every fault one line, all in one run, exit status 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from runner.check.commands import command_faults
from tests.test_parse import GOOD

ROOT = Path(__file__).parents[1]


def check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--runbooks", str(folder), "check", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runbooks = tmp_path / "runbooks"
    runbooks.mkdir()
    (runbooks / "good.md").write_text(GOOD, encoding="utf-8")
    return runbooks


def refused(folder: Path) -> list[str]:
    done = check(folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()


def test_a_good_folder_is_counted_and_ends_with_0(folder: Path) -> None:
    done = check(folder)
    assert (done.returncode, done.stdout) == (0, "1 entry with 3 steps, no faults\n"), done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.md:1: empty"),
        (b" \n\n", "bad.md:1: empty"),
        (b"\x7fELF\x00\x01\x02", "bad.md:1: not text: it holds NUL bytes"),
        (b"---\nid: bad\n---\n" + b"x" * 5_000_000, "bad.md:1: larger than 1 MiB"),
        ("---\ntitle: M\u00fcll\n---\n".encode("latin-1"), "bad.md:2: not UTF-8 (byte 0xfc)"),
        (b"---\nid: bad\n\tnumber: 1\n---\n", "bad.md:3: this line is indented with a tab"),
        (
            b"---\na: &a [x]\nb: *a\n---\n",
            "bad.md:3: the front matter is not YAML: YAML aliases are not allowed",
        ),
        (b"---\nid: bad\nnumber: 9\ntitle: x\n---\n\n## Sympton\n", "bad.md:7: unknown section 'Sympton'"),
    ],
)
def test_a_file_that_cannot_be_a_runbook_is_one_clear_line(
    folder: Path, content: bytes, message: str
) -> None:
    (folder / "bad.md").write_bytes(content)
    lines = refused(folder)
    assert any(message in line for line in lines), lines
    assert all(len(line) < 300 for line in lines)


@pytest.mark.parametrize(
    ("prose", "message"),
    [
        ("<details><summary>more</summary>", "<details> is not closed in its section"),
        ("Set <pid> first.", "<pid> is not closed in its section; close it, or write `<pid>` as code"),
        ("It ends. </details>", "</details> closes nothing that its section opens"),
        ("<b>one <i>two</b></i>", "</b> closes nothing that its section opens"),
    ],
)
def test_html_that_would_take_in_the_rest_of_the_page_is_found(
    folder: Path, prose: str, message: str
) -> None:
    text = GOOD.replace("## Root cause\n", f"## Root cause\n\n{prose}\n", 1)
    (folder / "good.md").write_text(text, encoding="utf-8")
    line = text.splitlines().index(prose) + 1
    assert any(f"good.md:{line}: {message}" in one for one in refused(folder))


@pytest.mark.parametrize(
    "prose",
    [
        "<details><summary>more</summary>\n\ntext<br>\n\n</details>",
        "`<pid>` and `</details>`",
        "```text\n</details>\n```",
        "<!-- <details> -->",
        "<https://example.org>",
    ],
)
def test_html_that_ends_where_it_begins_and_code_that_looks_like_it_are_no_fault(
    folder: Path, prose: str
) -> None:
    (folder / "good.md").write_text(
        GOOD.replace("## Root cause\n", f"## Root cause\n\n{prose}\n", 1), encoding="utf-8"
    )
    done = check(folder)
    assert done.returncode == 0, done.stderr


def test_duplicate_numbers_and_dead_links_between_entries_are_found(folder: Path) -> None:
    other = GOOD.replace("id: good\n", "id: other\n").replace(
        "severity: high", "related: [god]\nguide: no/such.md"
    )
    (folder / "other.md").write_text(other, encoding="utf-8")
    lines = refused(folder)
    assert any("other.md:3: number 1 is also that of good.md" in line for line in lines), lines
    assert any("other.md:5: related names no entry 'god' (did you mean 'good'?)" in line for line in lines)
    assert any("other.md:6: the guide 'no/such.md' does not exist under kb/" in line for line in lines)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("if true; then", "59: bash cannot parse this block: syntax error"),
        ("true\necho 'open", "59: bash cannot parse this block"),
        ("cat <<EOF\nnever closed", "bash cannot parse this block"),
        ("$ unset A", "58: a `$ ` prompt"),
        ("true\necho \u201chello\u201d", "59: a typographic"),
        (
            "python -m runner.probes.colectives",
            "58: no module named runner.probes.colectives (did you mean",
        ),
        (
            "python -m runner.probes.topology --form x",
            "58: runner.probes.topology: unrecognized arguments: --form",
        ),
        (
            "true &&\\\n  python3 -m runner.probes.topology \\\n  --board B3000",
            "58: runner.probes.topology: argument --board",
        ),
        (
            "x=$(python -m runner.probes.topology --nope)",
            "58: runner.probes.topology: unrecognized arguments: --nope",
        ),
    ],
)
def test_faults_within_blocks_are_found_with_their_line(folder: Path, block: str, message: str) -> None:
    text = GOOD.replace("unset NCCL_P2P_DISABLE", block)
    (folder / "good.md").write_text(text, encoding="utf-8")
    lines = refused(folder)
    assert any(f"good.md:{message}" in line or message in line for line in lines), lines


def test_commands_in_guides_and_illustrations_are_checked_too(folder: Path) -> None:
    guide = folder.parent / "kb" / "guides"
    guide.mkdir(parents=True)
    (guide / "a.md").write_text("# Guide\n\n```bash\npython -m runner.probes.topology --borad B200\n```\n")
    (line, _) = refused(folder)
    assert "a.md:4" in line
    assert "did you mean '--board'" in line


@pytest.mark.parametrize(
    "block",
    [
        "python -m runner.probes.topology --from - --board B200 | tee out.txt",
        'python -m runner.probes.topology --from "$FILE" --board "$BOARD" > out 2>&1',
        "for f in *.txt; do python -m runner.probes.topology --from $f; done",
        "python -m torch.distributed.run --nproc-per-node 2 x.py",
        "python -m runner.probes.topology --help",
        "echo python -m nothing # python -m runner.probes.nothing",
    ],
)
def test_commands_that_are_right_are_left_alone(block: str) -> None:
    assert list(command_faults(block)) == []


def test_checking_runs_nothing(folder: Path, tmp_path: Path) -> None:
    text = GOOD.replace("unset NCCL_P2P_DISABLE", f"touch {tmp_path}/ran; x=$(touch {tmp_path}/ran)")
    (folder / "good.md").write_text(text, encoding="utf-8")
    assert check(folder).returncode == 0
    assert not (tmp_path / "ran").exists()


def test_a_path_that_is_not_there_and_an_empty_folder_are_one_line(folder: Path, tmp_path: Path) -> None:
    assert check(folder, str(tmp_path / "no.md")).stderr.count("\n") == 1
    (folder / "good.md").unlink()
    done = check(folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.md").write_text(GOOD, encoding="utf-8")
    (folder / "outside.md").symlink_to(tmp_path / "outside.md")
    assert any("a link that leaves the folder" in line for line in refused(folder))


def test_the_entries_of_this_project_have_no_faults() -> None:
    done = check(ROOT / "runbooks")
    assert done.returncode == 0, done.stderr


def test_flags_that_only_the_shell_knows_are_no_fault_but_a_wrong_one_beside_them_is() -> None:
    call = "python -m runner.probes.long_context_validation --plan --model 70b"
    assert not list(command_faults(f"{call} $LONG_CONTEXT_FLAGS"))
    assert not list(command_faults(f"{call} --board $BOARD"))
    [(_, message)] = command_faults(f"{call} $LONG_CONTEXT_FLAGS --bord B200")
    assert "unrecognized arguments: --bord" in message
    assert "did you mean '--board'?" in message


def test_a_headline_that_names_no_step_is_found_with_the_nearest_one(folder: Path) -> None:
    wrong = GOOD.replace("severity: high", "headline: busbww")
    (folder / "good.md").write_text(wrong, encoding="utf-8")
    line, _ = refused(folder)
    assert "good.md:5: headline: unknown step 'busbww' (did you mean 'busbw'?)" in line


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        (
            "proof: []",
            "good.md:1: Verify has steps but the front matter has no proof; name the steps or metrics",
        ),
        ("proof: [agan]", "good.md:6: proof: 'agan' is not a step of Verify (did you mean 'again'?)"),
        ("proof: [busbw]", "good.md:6: proof: 'busbw' is not a step of Verify"),
        ("proof: [again.speed]", "good.md:6: unknown measurement 'speed'"),
        ("proof: [again.]", "good.md:6: 'again.' is not a measurement; write <step id>.<measurement>"),
        (
            "proof: [{metric: again, at: {backend: nccl}}]",
            "good.md:6: 'again' is not a measurement; write <step id>.<measurement>, or only the step id",
        ),
        ("proof: [{metric: again.bus_bandwidth, at: {bytes: 8Gib}}]", "good.md:6: '8Gib'"),
        ("proof: [{metric: again, al: {}}]", "good.md:6: unknown key 'al' (known: at, metric)"),
        ("proof: [{at: {backend: nccl}}]", "good.md:6: proof.0.metric is missing"),
        ("proof: again", "good.md:6: proof: "),
    ],
)
def test_a_proof_that_is_missing_or_names_nothing_is_one_line(folder: Path, proof: str, message: str) -> None:
    (folder / "good.md").write_text(GOOD.replace("proof: [again]", proof), encoding="utf-8")
    line, _ = refused(folder)
    assert message in line


def test_a_proof_may_be_a_step_a_number_or_a_number_with_labels(folder: Path) -> None:
    proof = "proof: [again, again.bus_bandwidth, {metric: again.bus_bandwidth, at: {bytes: 8GiB}}]"
    (folder / "good.md").write_text(GOOD.replace("proof: [again]", proof), encoding="utf-8")
    assert check(folder).returncode == 0


def test_an_entry_whose_verify_has_no_step_needs_no_proof(folder: Path) -> None:
    text = GOOD.replace("proof: [again]\n", "").replace("```bash {#again needs=busbw,undo slow}", "```bash")
    (folder / "good.md").write_text(text, encoding="utf-8")
    assert check(folder).returncode == 0
