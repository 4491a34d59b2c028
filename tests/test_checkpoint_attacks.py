"""Attacks on checkpoint folders: nothing saved, a part saved, two writers, a cleaner, storage that refuses."""

import errno
import os
import pickle
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.guards import checkpoint
from runner.guards.checkpoint import CheckpointError, clean_partial, last_complete, main, saving, seal, verify


def saved(target: Path, size: int = 1000) -> None:
    with saving(target) as partial:
        (partial / "state.pt").write_bytes(random.Random(size).randbytes(size))


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_a_save_of_nothing_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing was saved"), saving(tmp_path / "step-1"):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="nothing was saved"):
        seal(tmp_path / "empty")
    assert last_complete(tmp_path) is None


def test_a_folder_that_cannot_be_listed_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = os.scandir

    def refused(path: str) -> Any:
        if str(path).endswith("inner"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return listing(path)

    def save() -> None:
        with saving(tmp_path / "step-1") as partial:
            (partial / "inner").mkdir()
            for name in ("a", "inner/b"):
                (partial / name).write_bytes(b"x")
            monkeypatch.setattr(os, "scandir", refused)

    with pytest.raises(CheckpointError, match="Input/output error"):
        save()
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_ranks_that_save_elsewhere_make_no_whole_folder(tmp_path: Path) -> None:
    def save(target: Path, *shards: str) -> None:
        with saving(target) as partial:
            (partial / "model").mkdir()
            (partial / "model/.metadata").write_bytes(pickle.dumps(["__0_0.distcp", "__1_0.distcp"]))
            for shard in shards:
                (partial / "model" / shard).write_bytes(b"x")

    with pytest.raises(CheckpointError, match=r"__1_0\.distcp"):
        save(tmp_path / "step-1", "__0_0.distcp")
    save(tmp_path / "step-1", "__0_0.distcp", "__1_0.distcp")
    assert last_complete(tmp_path) == tmp_path / "step-1"


@pytest.mark.parametrize("during", ["rename", "marker"])
def test_a_save_that_ends_is_neither_cleaned_nor_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """A second writer and a cleaner come between the digests and the marker."""
    name = {"rename": "_publish", "marker": "_mark"}[during]
    end, met = getattr(checkpoint, name), []

    def meets_others(*folders: Path) -> None:
        clean_partial(tmp_path)
        if during == "marker":
            with pytest.raises(CheckpointError, match="in use by another save"), saving(tmp_path / "step-1"):
                pass
        met.append(during)
        end(*folders)

    monkeypatch.setattr(checkpoint, name, meets_others)
    with saving(tmp_path / "step-1") as partial:
        (partial / "a").write_bytes(b"x")
    assert (met, str(verify(tmp_path / "step-1").why)) == ([during], "1 files, 1 bytes")
    assert names(tmp_path) == ["step-1"]
    assert "checkpoint.lock" not in names(tmp_path / "step-1")


def test_only_folders_of_killed_saves_are_cleaned(tmp_path: Path) -> None:
    kept = tmp_path / "model.partial-finetune"
    saved(kept)
    saved(tmp_path / "data")
    (tmp_path / "step-1.partial-0123abcd").symlink_to(tmp_path / "data")
    (tmp_path / "step-2.partial-0123abcd").mkdir()
    assert clean_partial(tmp_path) == []
    assert names(tmp_path) == ["data", "model.partial-finetune", "step-1.partial-0123abcd"]
    assert verify(tmp_path / "data").state == verify(kept).state == "complete"
    with pytest.raises(CheckpointError, match="No such file"):
        clean_partial(tmp_path / "absent")


def test_a_folder_that_storage_cannot_flush_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def refuses(number: int) -> Any:
        def fsync(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(number, os.strerror(number))
            flush(file)

        return fsync

    monkeypatch.setattr(os, "fsync", refuses(errno.EINVAL))
    saved(tmp_path / "network")
    monkeypatch.setattr(os, "fsync", refuses(errno.EIO))
    with pytest.raises(CheckpointError, match="Input/output error"):
        saved(tmp_path / "broken")


def test_a_child_that_ends_in_the_block_takes_nothing_along(tmp_path: Path) -> None:
    job = """
import os, sys
from runner.guards.checkpoint import saving
with saving(sys.argv[1]) as partial:
    (partial / "a").write_text("x")
    if not (child := os.fork()):
        raise SystemExit
    os.waitpid(child, 0)
"""
    target = tmp_path / "step-1"
    subprocess.run([sys.executable, "-c", job, str(target)], check=True)
    assert verify(target).state == "complete"


def test_a_read_that_returns_less_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "step-1")
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: read(file, min(size, 7), at))
    assert verify(tmp_path / "step-1").state == "complete"


def test_the_newest_folder_may_have_a_name_that_is_no_text(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    target = Path(os.fsdecode(os.fsencode(tmp_path) + b"/step-\xff7"))
    saved(target)
    assert main(["last", str(tmp_path)]) == 0
    assert capfdbinary.readouterr().out == os.fsencode(target) + b"\n"
