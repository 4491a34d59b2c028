import re
from pathlib import Path

import pytest

from runner.record.code import new_run_id, node_alias
from runner.record.redaction.redact import redact_text


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
