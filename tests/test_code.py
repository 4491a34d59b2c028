import re
import subprocess
from pathlib import Path

import pytest

from runner.evidence import code
from runner.evidence.code import code_state, new_run_id, node_alias
from runner.evidence.redact import redact_text


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for folder in ("runner", "runbooks", "docs"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.txt").write_text(folder)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def test_a_clean_checkout_names_its_commit(checkout: Path) -> None:
    state = code_state(checkout)
    assert state.commit == git(checkout, "rev-parse", "HEAD")
    assert state.dirty is False
    assert re.fullmatch(r"[0-9a-f]{16}", state.digest)


@pytest.mark.parametrize("name", ["runner/a.txt", "runbooks/new.md"])
def test_a_change_in_runner_or_runbooks_is_dirty_and_changes_the_digest(checkout: Path, name: str) -> None:
    before = code_state(checkout)
    (checkout / name).write_text("changed")
    after = code_state(checkout)
    assert after.dirty is True
    assert after.digest != before.digest
    assert after.commit == before.commit


def test_a_change_elsewhere_does_not_count(checkout: Path) -> None:
    before = code_state(checkout)
    (checkout / "docs" / "a.txt").write_text("changed")
    (checkout / "site_data").mkdir()
    (checkout / "site_data" / "x.json").write_text("{}")
    assert code_state(checkout) == before


def test_compiled_files_do_not_change_the_digest(checkout: Path) -> None:
    before = code_state(checkout).digest
    (checkout / "runner" / "__pycache__").mkdir()
    (checkout / "runner" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    assert code_state(checkout).digest == before


def test_a_renamed_file_changes_the_digest(checkout: Path) -> None:
    before = code_state(checkout).digest
    (checkout / "runner" / "a.txt").rename(checkout / "runner" / "b.txt")
    assert code_state(checkout).digest != before


def test_without_a_checkout_there_is_a_digest_and_no_commit(checkout: Path) -> None:
    digest = code_state(checkout).digest
    (checkout / ".git").rename(checkout.parent / "gone")
    state = code_state(checkout)
    assert (state.commit, state.dirty, state.digest) == (None, None, digest)


def test_a_copy_inside_another_repository_does_not_take_its_commit(checkout: Path) -> None:
    inner = checkout / "installed"
    (inner / "runner").mkdir(parents=True)
    assert code_state(inner).commit is None


def test_a_repository_without_a_commit_names_none(tmp_path: Path) -> None:
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "a.py").touch()
    git(tmp_path, "init", "-q")
    state = code_state(tmp_path)
    assert (state.commit, state.dirty) == (None, True)


def test_the_callers_git_variables_do_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_state(checkout)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert code_state(checkout) == before


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert code_state(checkout).commit is None


def test_an_alias_is_stable_and_does_not_show_the_machine_id(tmp_path: Path) -> None:
    identity = tmp_path / "machine-id"
    identity.write_text("0123456789abcdef0123456789abcdef\n")
    alias = node_alias(identity)
    assert re.fullmatch(r"node-[0-9a-f]{6}", alias)
    assert alias.removeprefix("node-") not in identity.read_text()
    node_alias.cache_clear()
    assert node_alias(identity) == alias
    other = tmp_path / "other-id"
    other.write_text("f" * 32)
    assert node_alias(other) != alias


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_without_a_machine_id_a_random_one_is_kept(tmp_path: Path, content: str | None) -> None:
    identity = tmp_path / "machine-id"
    if content is not None:
        identity.write_text(content)
    alias = node_alias(identity, tmp_path / "cache")
    node_alias.cache_clear()
    assert node_alias(identity, tmp_path / "cache") == alias
    node_alias.cache_clear()
    assert node_alias(identity, tmp_path / "another") != alias


def test_where_nothing_can_be_kept_the_alias_lasts_the_process(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    first = node_alias(tmp_path / "no-id", tmp_path / "cache" / "x")
    assert node_alias(tmp_path / "no-id", tmp_path / "cache" / "x") == first


def test_the_users_cache_folder_is_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    node_alias.cache_clear()
    node_alias(tmp_path / "no-id")
    assert (tmp_path / "llm-runbooks" / "node-id").is_file()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    node_alias.cache_clear()
    node_alias(tmp_path / "no-id")
    assert (tmp_path / "home" / ".cache" / "llm-runbooks" / "node-id").is_file()


def test_run_ids_differ_and_survive_redaction() -> None:
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(redact_text(found) == found and re.fullmatch(r"[0-9a-f]{12}", found) for found in ids)


def test_the_state_of_this_project_has_a_digest() -> None:
    assert code.code_digest(Path(__file__).parents[1]) != code.code_digest(Path("/nonexistent"))
