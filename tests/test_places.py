"""Where entries, records and steps are: in a checkout, in an installed package, and beside a folder of one's own."""

import argparse
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import NoReturn

import pytest

from runner.base.errors import InputError, RunbookFaultsError
from runner.base.places import PROJECT, SHIPPED, Places, find_places
from runner.cli import check as check_command
from runner.cli import new
from runner.cli.main import main
from runner.entry.read import find, read_all
from runner.record.source import folder_digest
from runner.run.programs import with_our_programs
from tests.test_cli import step, write_entry

ROOT = Path(__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a package that was installed with its entries, and no checkout around it."""
    shipped = tmp_path / "site-packages" / SHIPPED
    write_entry_in(shipped / "runbooks", "built-in", 1)
    write_entry_in(shipped / "runbooks", "other", 2)
    (tmp_path / "site-packages" / "runner").mkdir()
    return tmp_path / "site-packages" / "runner"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return folder


def write_entry_in(folder: Path, entry_id: str, number: int, command: str = "true") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_entry(folder, step("look", command), entry_id=entry_id, number=number)


def a_checkout(folder: Path, name: str = PROJECT) -> Path:
    write_entry_in(folder / "runbooks", "of-the-checkout", 7)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return folder


def ids(places: Places) -> list[str]:
    return [runbook.id for runbook in read_all(places.entries)]


def test_in_a_checkout_entries_and_records_are_those_of_the_checkout(tmp_path: Path) -> None:
    places = find_places(cwd=tmp_path)
    assert (places.entries, places.data, places.root()) == ((ROOT / "runbooks",), ROOT / "site_data", ROOT)


def test_an_installed_package_has_its_entries_with_it_and_keeps_records_in_the_users_data_folder(
    package: Path, home: Path, tmp_path: Path
) -> None:
    places = find_places(package=package, cwd=tmp_path)
    assert ids(places) == ["built-in", "other"]
    kept = home / ".local" / "share" / PROJECT
    assert places.data == kept / "records"
    assert not kept.exists(), "looking for the places makes none of them"
    assert places.root() == kept / "work"
    assert places.work.stat().st_mode & 0o777 == 0o700


def test_xdg_data_home_is_respected(
    package: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert find_places(package=package, cwd=tmp_path).data == tmp_path / "data" / PROJECT / "records"


def test_a_folder_that_happens_to_hold_runbooks_is_no_checkout(
    package: Path, home: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    write_entry_in(stranger / "runbooks", "evil", 1)
    assert ids(find_places(package=package, cwd=stranger)) == ["built-in", "other"]
    a_checkout(stranger, name="something-else")
    assert find_places(package=package, cwd=stranger).checkout is None
    (stranger / "pyproject.toml").write_text("this is [not TOML")
    assert find_places(package=package, cwd=stranger).checkout is None


def test_the_projects_checkout_is_used_where_an_installed_runbook_is_started_in_it(
    package: Path, home: Path, tmp_path: Path
) -> None:
    checkout = a_checkout(tmp_path / "checkout")
    places = find_places(package=package, cwd=checkout)
    assert (places.checkout, places.data) == (checkout, checkout / "site_data")
    assert ids(places) == ["of-the-checkout"]


def test_a_checkout_that_others_can_write_to_does_not_decide_what_is_run(
    package: Path, home: Path, tmp_path: Path
) -> None:
    checkout = a_checkout(tmp_path / "checkout")
    checkout.chmod(0o777)
    assert find_places(package=package, cwd=checkout).checkout is None


def test_entries_of_a_folder_are_added_to_the_built_in_ones_and_the_same_id_replaces_one(
    package: Path, home: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    write_entry_in(own, "mine", 3)
    write_entry_in(own, "other", 2, command="echo replaced")
    places = find_places(own, package=package, cwd=tmp_path)
    assert ids(places) == ["built-in", "other", "mine"]
    assert find(places.entries, "other").path == own / "other.md"
    assert find(places.entries, "2").steps[0].command.strip() == "echo replaced"


def test_a_number_of_a_built_in_entry_under_another_id_is_one_fault_that_names_both(
    package: Path, home: Path, tmp_path: Path
) -> None:
    write_entry_in(tmp_path / "own", "mine", 2)
    places = find_places(tmp_path / "own", package=package, cwd=tmp_path)
    for ask in (lambda: read_all(places.entries), lambda: find(places.entries, "2")):
        with pytest.raises(RunbookFaultsError) as raised:
            ask()
        (fault,) = raised.value.faults
        assert "number 2 is also that of " in fault.message
        assert {"mine.md", "other.md"} <= {Path(word).name for word in re.split(r"[\s:;]+", str(fault))}


def test_a_number_of_a_built_in_entry_is_the_fault_of_ones_own_entry_whichever_name_comes_first(
    package: Path, home: Path, tmp_path: Path
) -> None:
    for name in ("a-first", "z-last"):
        own = write_entry_in(tmp_path / name, name, 2)
        places = find_places(tmp_path / name, package=package, cwd=tmp_path)
        with pytest.raises(RunbookFaultsError) as raised:
            read_all(places.entries)
        (fault,) = raised.value.faults
        assert fault.path == own
        assert fault.message.endswith("other.md; choose another")


def test_a_new_entry_of_an_installed_runbook_is_checked_and_run_with_what_is_installed(
    package: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = find_places(tmp_path / "my own", package=package, cwd=tmp_path)
    assert new.run(Namespace(id="mine", title=None, places=places, runbooks=places.entries)) == 0
    said = capsys.readouterr().out
    assert "nox" not in said
    commands = [line.split(". ", 1)[1] for line in said.splitlines() if "--runbooks" in line]
    words = [shlex.split(command) for command in commands]
    assert [one[:2] for one in words] == [["runbook", "check"], ["runbook", "run"]]
    assert main(words[0][1:]) == 0


def test_an_added_entry_is_checked_without_the_built_in_guides(
    package: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = package.parent / SHIPPED / "kb" / "guides" / "a.md"
    guide.parent.mkdir(parents=True)
    guide.write_text('# A\n\n{{ measured("other", "gone.bus_bandwidth") }}\n', encoding="utf-8")
    own = write_entry_in(tmp_path / "own", "other", 2).parent
    built_in = package.parent / SHIPPED / "runbooks"
    for folders, status in (((built_in,), 2), ((built_in, own), 0)):
        asked = argparse.Namespace(paths=[], runbooks=folders, data=tmp_path / "records")
        assert check_command.run(asked) == status, capsys.readouterr().err


def test_a_digest_of_several_folders_is_that_of_one_folder_with_what_remains(tmp_path: Path) -> None:
    write_entry_in(tmp_path / "first", "a", 1)
    write_entry_in(tmp_path / "first", "b", 2)
    write_entry_in(tmp_path / "second", "b", 2, command="echo replaced")
    shutil.copytree(tmp_path / "first", tmp_path / "both")
    shutil.copytree(tmp_path / "second", tmp_path / "both", dirs_exist_ok=True)
    both = folder_digest(tmp_path / "both")
    assert folder_digest(tmp_path / "first", tmp_path / "second") == both
    assert folder_digest(tmp_path / "second", tmp_path / "first") != both


@pytest.mark.parametrize("variable", ["", "relative/home"])
def test_without_a_home_folder_reading_works_and_writing_names_the_option(
    variable: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", variable)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    places = find_places(package=package, cwd=tmp_path)
    assert places.data.is_absolute()
    assert not places.data.exists()
    named = find_places(data=tmp_path / "kept", package=package, cwd=tmp_path)
    assert named.root() == tmp_path / "kept" / ".work"


def test_an_empty_home_makes_nothing_also_where_root_could(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(InputError, match="no home folder; name a folder for records with --data DIR"):
        find_places(package=package, cwd=tmp_path).root()
    assert not Path("/nonexistent").exists()


def test_a_user_id_without_an_account_and_a_home_folder_reads_and_is_told_to_name_a_folder(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_account(uid: int) -> NoReturn:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_account)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    places = find_places(package=package, cwd=tmp_path)
    assert ids(places) == ["built-in", "other"]
    with pytest.raises(InputError, match="no home folder; name a folder for records with --data DIR"):
        places.root()


def test_root_keeps_its_records_in_its_own_home_folder_where_home_is_another_users(
    package: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(home, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    places = find_places(package=package, cwd=tmp_path)
    kept = Path(pwd.getpwuid(0).pw_dir) / ".local" / "share" / PROJECT
    assert (places.data, places.work) == (kept / "records", kept / "work")


def test_a_home_folder_that_takes_nothing_is_one_line_that_names_the_option(
    package: Path, home: Path, tmp_path: Path
) -> None:
    (home / ".local").write_text("a file where a folder should be")
    with pytest.raises(InputError) as raised:
        find_places(package=package, cwd=tmp_path).root()
    assert "--data DIR" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_steps_do_not_run_in_a_folder_that_others_can_write_to(
    package: Path, home: Path, tmp_path: Path
) -> None:
    places = find_places(package=package, cwd=tmp_path)
    places.root().chmod(0o777)
    with pytest.raises(InputError, match="only this user can write to"):
        places.root()


def test_an_installation_without_entries_says_what_to_name(tmp_path: Path, home: Path) -> None:
    (tmp_path / "bare" / "runner").mkdir(parents=True)
    places = find_places(package=tmp_path / "bare" / "runner", cwd=tmp_path)
    with pytest.raises(
        InputError, match="this installation has no entries; name a folder of entries with --runbooks DIR"
    ):
        read_all(places.entries)


def test_options_for_places_may_be_given_before_and_after_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_entry_in(tmp_path / "runbooks", "small", 1)
    words = ["--runbooks", str(tmp_path / "runbooks"), "--data", str(tmp_path / "data")]
    printed = []
    for order in (
        [*words, "list", "--json"],
        ["list", "--json", *words],
        [*words[:2], "list", *words[2:], "--json"],
    ):
        assert main(order) == 0
        printed.append(capsys.readouterr().out)
    assert '"small"' in printed[0]
    assert len(set(printed)) == 1


def test_the_help_says_where_entries_and_records_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Entries here: {ROOT / 'runbooks'}. Records here: {ROOT / 'site_data'}." in said
    assert "an entry with a built-in id replaces it" in said


def test_the_version_names_the_commit_of_the_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert capsys.readouterr().out.startswith(f"runbook 0.1.0 (commit {done.stdout.strip()}")


def test_a_step_finds_python_also_where_the_system_has_only_python3(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    found = with_our_programs({"PATH": "/nowhere"}, tmp_path / "scratch", programs / "python3")
    again = with_our_programs({"PATH": "/nowhere"}, tmp_path / "scratch", programs / "python3")
    assert found == again
    assert found["PATH"].endswith(f"{os.pathsep}{programs}{os.pathsep}/nowhere")
    done = subprocess.run(
        ["python", "-c", "print(42)"], env=found, capture_output=True, text=True, check=True
    )
    assert done.stdout == "42\n"
    assert shutil.which("python", path=found["PATH"]) == str(tmp_path / "scratch" / "programs" / "python")


def test_a_package_on_pythonpath_does_not_replace_this_programs_own_in_a_step(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name / "runner").mkdir(parents=True)
        (tmp_path / name / "runner" / "__init__.py").write_text(f"WHOSE = {name!r}\n")
    (tmp_path / "theirs" / "more.py").write_text("WHOSE = 'theirs'\n")
    given = {"PATH": os.defpath, "PYTHONPATH": str(tmp_path / "theirs")}
    scratch, python = tmp_path / "scratch", Path(sys.executable)
    program = ["python", "-c", "import more, runner; print(runner.WHOSE, more.WHOSE)"]
    found = with_our_programs(given, scratch, python, tmp_path / "ours")
    said = subprocess.check_output(program, env=found, cwd=tmp_path, text=True)
    assert said == "ours theirs\n"
    assert "PYTHONPATH" not in with_our_programs({"PATH": os.defpath}, scratch, python, tmp_path / "ours")


def test_the_torch_of_the_callers_pythonpath_stays_before_one_beside_this_program(tmp_path: Path) -> None:
    (tmp_path / "ours" / "torch").mkdir(parents=True)
    given = {"PATH": os.defpath, "PYTHONPATH": "/opt/torch-nightly"}
    found = with_our_programs(given, tmp_path / "scratch", Path(sys.executable), tmp_path / "ours")
    assert found["PYTHONPATH"] == "/opt/torch-nightly"
