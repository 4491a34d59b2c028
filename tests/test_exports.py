"""What a block exports is what the next block of its phase starts with, whatever the block does to its shell."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.run.command import CommandResult, run_block

BASE = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def run(command: str, tmp_path: Path, environment: Mapping[str, str] = BASE) -> CommandResult:
    return run_block(command, environment=environment, timeout=400.0, cwd=tmp_path)


def test_exports_and_unsets_are_carried_and_bashs_own_variables_are_not(tmp_path: Path) -> None:
    before = {**BASE, "GOES": "1", "STAYS": "2"}
    result = run("export NEW=$'two\\nlines' && unset GOES; cd /; LOCAL=1", tmp_path, environment=before)
    assert result.environment is not None
    assert result.environment["NEW"] == "two\nlines"
    assert result.environment["STAYS"] == "2"
    assert not {"GOES", "LOCAL", "PWD", "OLDPWD", "SHLVL", "_", "RUNBOOK_STEP_TOKEN"} & set(
        result.environment
    )


@pytest.mark.parametrize(
    "command",
    [
        "export A=1; exit 0",
        "export A=1 # a comment at the end",
        "# a comment first\nexport A=1",
        "trap 'echo bye' EXIT; export A=1",
        "export A=1; cat <<EOF\nhere\nEOF",
        "set -a; A=1",
        "export A=1; PATH=/nonexistent",
        "set -o noclobber; export A=1",
        "readonly IFS; export A=1",
        "set -o posix; readonly IFS; export A=1",
        "enable -n builtin mapfile printf [; export A=1",
        "builtin() { :; }; export A=1",
        "shopt -s expand_aliases; alias builtin=false export=false [=false; A=1\ndeclare -x A",
        "export A=1 \\",
    ],
)
def test_the_environment_is_carried_however_a_block_ends_well(command: str, tmp_path: Path) -> None:
    result = run(command, tmp_path)
    assert result.environment is not None, result.stderr.text
    assert result.environment["A"] == "1"


@pytest.mark.parametrize(
    "command",
    [
        "echo hi",
        "exit 0",
        "LOCAL=1; f() { :; }",
        "cd /; IFS=e; set -f",
        "trap 'echo bye' EXIT; true",
        "readonly IFS",
        "readonly IFS; set -o posix",
        "enable -n builtin mapfile printf [",
        "builtin() { :; }",
        "set -a",
    ],
)
def test_the_environment_of_a_block_that_exports_nothing_is_the_one_it_was_given(
    command: str, tmp_path: Path
) -> None:
    before = {**BASE, "no name of bash's": "1", "LINES": "two\nlines \x01 \udcff", "EMPTY": ""}
    assert run(command, tmp_path, environment=before).environment == before


@pytest.mark.parametrize(
    "command",
    [
        "f() { echo $1; }; export -f f",
        "export LINES=$LINES' '",
        "unset EMPTY",
        "export -n EMPTY",
        "read() { :; }; EMPTY=1",
        "set -a; EMPTY=1",
        "set -a; f() { echo $1; }",
        "set -o posix; EMPTY=1",
        "declare -rx EMPTY=1; readonly IFS",
        "export LINES=$(printf %100000s)",
    ],
)
def test_every_change_of_what_a_block_exports_is_carried(command: str, tmp_path: Path) -> None:
    before = {**BASE, "LINES": "two\nlines", "EMPTY": ""}
    shown = f"{command}\nenv -0 > {tmp_path}/shown"
    given = run(shown, tmp_path, environment=before).environment
    words = (tmp_path / "shown").read_text().split("\0")[:-1]
    expected = {name: value for name, _, value in (word.partition("=") for word in words)}
    assert given is not None
    assert given != before
    assert given == {name: value for name, value in expected.items() if name in given}
    assert set(expected) - set(given) <= {"PWD", "OLDPWD", "SHLVL", "_", "RUNBOOK_STEP_TOKEN"}


@pytest.mark.parametrize("given", [{"POSIXLY_CORRECT": "1"}, {"BASH_ENV": "counts"}, {}])
def test_the_next_block_gets_what_a_program_started_last_would_have_got(
    given: Mapping[str, str], tmp_path: Path
) -> None:
    """In POSIX mode bash does not print the bodies of functions; BASH_ENV may name a file that is not idempotent."""
    (tmp_path / "counts").write_text("export COUNT=$((${COUNT-0} + 1))\n")
    first = run("f() { echo 1; }; export -f f", tmp_path, environment={**BASE, **given}).environment
    assert first is not None
    shown = "f() { echo 2; }; true\nenv -0 > shown; export -p | wc -l > /dev/null"
    second = run(shown, tmp_path, environment=first).environment
    third = run("true; env -0 > shown", tmp_path, environment=second or {}).environment
    words = (tmp_path / "shown").read_text().split("\0")[:-1]
    assert third is not None
    assert "echo 2" in third["BASH_FUNC_f%%"]
    assert third == {
        name: value for name, _, value in (word.partition("=") for word in words) if name in third
    }


@pytest.mark.parametrize("command", ["set -x; echo hi", "set -x; echo hi; exit 0"])
def test_a_block_that_traces_itself_does_not_trace_what_carries_its_environment(
    command: str, tmp_path: Path
) -> None:
    result = run(command, tmp_path, environment={**BASE, "QUIET": "not to be printed"})
    assert result.stdout.text == "hi\n"
    assert result.stderr.text == "".join(f"+ {one}\n" for one in command.split("; ")[1:])


def test_the_traces_and_traps_of_a_block_hold_until_its_own_end(tmp_path: Path) -> None:
    result = run("trap 'echo bye; echo end' EXIT; set -x; true", tmp_path)
    assert result.stderr.text == "+ true\n+ echo bye\n+ echo end\n"
    result = run("trap 'echo bye' EXIT; trap 'echo next' DEBUG; true", tmp_path)
    # Of the two commands, and of the one that writes the environment.
    assert result.stdout.text == "next\nnext\nnext\nbye\n"
