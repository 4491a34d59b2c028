from pathlib import Path

import pytest

from runner.base.errors import InputError, RunbookFaultsError
from runner.cli.chosen import chosen_entries, decided_by_gpus
from runner.cli.main import main
from runner.entry.attributes import entry_id_fault
from runner.entry.parse import parse
from runner.entry.read import read_all
from tests.builders import a_machine, eight_b200

RUNBOOKS = Path(__file__).parents[1] / "runbooks"


def chosen(*names: str, gpus: bool = False) -> list[int]:
    machine = eight_b200() if gpus else a_machine()
    return [one.head.number for one in chosen_entries((RUNBOOKS,), names, machine)]


def test_all_is_every_entry_by_number_on_a_host_without_gpus() -> None:
    assert chosen("all") == [one.head.number for one in read_all(RUNBOOKS)]


def test_all_begins_with_what_only_this_machines_gpus_decide() -> None:
    decided = [
        decided_by_gpus(one, eight_b200()) for one in chosen_entries((RUNBOOKS,), ["all"], eight_b200())
    ]
    assert decided == sorted(decided, reverse=True)
    assert decided[0] > 0
    assert sorted(chosen("all", gpus=True)) == chosen("all")


def test_nothing_is_decided_by_gpus_that_are_not_there() -> None:
    assert {decided_by_gpus(one, a_machine()) for one in read_all(RUNBOOKS)} == {0}


def test_all_stands_for_the_entries_that_are_not_named() -> None:
    every = chosen("all")
    assert chosen("5", "all") == [5, *(number for number in every if number != 5)]
    assert chosen("all", "1") == [*(number for number in every if number != 1), 1]


def test_an_entry_that_is_named_twice_runs_once() -> None:
    assert chosen("2", "nvlink-bandwidth", "2") == [2]


def test_an_unknown_name_beside_all_is_refused() -> None:
    with pytest.raises(InputError, match="no entry has number 99"):
        chosen("all", "99")


def test_an_entry_cannot_have_the_name_that_stands_for_every_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry_id_fault("all-reduce") is None
    assert "stands for every entry" in str(entry_id_fault("all"))
    assert main(["--runbooks", str(tmp_path), "new", "all"]) == InputError.exit_status
    assert "stands for every entry" in capsys.readouterr().err
    with pytest.raises(RunbookFaultsError, match="stands for every entry"):
        parse("---\nid: all\nnumber: 9\ntitle: A\n---\n", tmp_path / "all.md")
