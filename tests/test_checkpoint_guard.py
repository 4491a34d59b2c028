"""The guard of checkpoint folders: whole or not counted, one bit found, hostile folders end in one-line verdicts."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.guards import checkpoint
from runner.guards.checkpoint import (
    CHUNK,
    MANIFEST,
    MARKER,
    CheckpointError,
    FolderVerdict,
    clean_partial,
    last_complete,
    main,
    saving,
    seal,
    verify,
)

FILE = Path(checkpoint.__file__)


def saved(target: Path, size: int = 1000) -> Path:
    with saving(target) as partial:
        (partial / "state.pt").write_bytes(random.Random(size).randbytes(size))
        (partial / "tokenizer").mkdir()
        (partial / "tokenizer/vocab.json").write_text("{}")
        (partial / ".metadata").write_bytes(b"m")
    return target


def one_line(verdict: FolderVerdict) -> str:
    assert len(str(verdict).splitlines()) == 1
    assert len(str(verdict)) < 500
    return str(verdict)


def test_a_saved_folder_has_its_name_its_files_and_verifies(tmp_path: Path) -> None:
    folder = saved(tmp_path / "step-100")
    assert {one.name for one in tmp_path.iterdir()} == {"step-100"}
    assert {one.name for one in folder.iterdir()} == {"state.pt", "tokenizer", ".metadata", MANIFEST, MARKER}
    verdict = verify(folder)
    assert (verdict.state, verdict.problems, verdict.extra) == ("complete", (), ())
    assert "3 files, 1003 bytes" in verdict.why
    assert verify(folder, deep=False).state == "complete"


def test_a_save_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing was saved"), saving(tmp_path / "nothing") as partial:
        (partial / "folder").mkdir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="nothing was saved"):
        seal(tmp_path / "empty")
    assert verify(forged(tmp_path / "step-9", {})).state == "corrupt"


def test_a_read_that_ends_early_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pread = saved(tmp_path / "step-1"), os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 300), at))
    assert verify(folder).state == "complete"
    assert verify(saved(tmp_path / "step-2")).state == "complete"


def test_bytes_that_storage_does_not_return_are_neither_saved_nor_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pread = saved(tmp_path / "step-1"), os.pread

    def bad_page(file: int, size: int, at: int) -> bytes:
        if at >= 300:
            raise OSError(errno.EIO, "Input/output error")
        return pread(file, min(size, 300 - at), at)

    monkeypatch.setattr(os, "pread", bad_page)
    assert verify(folder).state == "unreadable"
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read back"):
        saved(tmp_path / "step-2")
    assert {one.name for one in tmp_path.iterdir()} == {"step-1"}


@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_is_found_with_its_file_and_chunk(tmp_path: Path, bit: int) -> None:
    folder = saved(tmp_path / "step-1", CHUNK + 1000)
    content = bytearray((folder / "state.pt").read_bytes())
    content[CHUNK + 17] ^= 1 << bit
    (folder / "state.pt").write_bytes(content)
    verdict = verify(folder)
    assert verdict.state == "corrupt"
    (problem,) = verdict.problems
    assert (problem.kind, problem.file) == ("changed", "state.pt")
    assert (problem.start, problem.end) == (CHUNK, CHUNK + 1000)


def test_what_is_missing_truncated_longer_or_extra_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "step-1")
    (folder / "new.txt").write_text("x")
    assert (verify(folder).state, verify(folder).extra) == ("complete", ("new.txt",))
    (folder / "tokenizer/vocab.json").unlink()
    assert verify(folder).state == "incomplete"
    with (folder / ".metadata").open("ab") as file:
        file.write(b"x")
    os.truncate(folder / "state.pt", 10)
    verdict = verify(folder)
    assert verdict.state == "corrupt"
    assert {(one.kind, one.file, one.start, one.end) for one in verdict.problems} == {
        ("missing", "tokenizer/vocab.json", 0, 0),
        ("longer", ".metadata", 1, 2),
        ("truncated", "state.pt", 10, 1000),
    }
    assert {one.kind for one in verify(folder, deep=False).problems} == {"missing", "longer", "truncated"}


def test_a_folder_that_nothing_marked_does_not_count(tmp_path: Path) -> None:
    folder = saved(tmp_path / "step-1")
    (folder / MARKER).unlink()
    assert verify(folder).state == "incomplete"
    (tmp_path / "plain").mkdir()
    assert verify(tmp_path / "plain").state == "incomplete"


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    folder = saved(tmp_path / "step-1")
    before = {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    with pytest.raises(CheckpointError, match="is not overwritten"), saving(folder) as partial:
        partial.touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/state.pt").write_text("of another writer")
    with pytest.raises(CheckpointError, match="is not overwritten"), saving(tmp_path / "foreign"):
        pass
    assert before == {one: one.read_bytes() for one in folder.rglob("*") if one.is_file()}
    assert {one.name for one in tmp_path.iterdir()} == {"step-1", "foreign"}


def test_a_save_killed_between_its_name_and_its_marker_is_moved_aside(tmp_path: Path) -> None:
    folder = saved(tmp_path / "step-1")
    (folder / MARKER).unlink()
    assert verify(saved(folder, 77)).state == "complete"
    assert len(list(tmp_path.iterdir())) == 2
    assert clean_partial(tmp_path) == []
    assert [one.name for one in tmp_path.iterdir()] == ["step-1"]


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError), saving(tmp_path / "step-1") as partial:
        (saved(partial / "half") / "state.pt" / "more").touch()
    assert list(tmp_path.iterdir()) == []


def test_links_and_pipes_are_not_saved_as_if_they_were_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="link or special file"), saving(tmp_path / "step-1") as partial:
        (partial / "link").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="link or special file"), saving(tmp_path / "step-2") as partial:
        os.mkfifo(partial / "pipe")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_writer_can_be_sealed_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3/model.safetensors").write_bytes(b"weights")
    seal(tmp_path / "checkpoint-3")
    assert verify(tmp_path / "checkpoint-3").state == "complete"
    with pytest.raises(CheckpointError, match="sealed already"):
        seal(tmp_path / "checkpoint-3")
    with pytest.raises(CheckpointError, match="is not there; all ranks need the same storage"):
        seal(tmp_path / "absent")


def test_a_folder_that_does_not_exist_is_unreadable_and_not_an_unfinished_save(tmp_path: Path) -> None:
    verdict = verify(tmp_path / "absent")
    assert (verdict.state, verdict.why) == ("unreadable", "no such folder; is its storage mounted?")


def test_the_newest_that_verifies_is_the_one_to_resume_from(tmp_path: Path) -> None:
    assert last_complete(tmp_path) is None
    for step in (9, 10, 100):
        saved(tmp_path / f"step-{step}")
    assert last_complete(tmp_path) == tmp_path / "step-100"
    os.truncate(tmp_path / "step-100/state.pt", 999)
    (tmp_path / "step-200").mkdir()
    assert last_complete(tmp_path) == tmp_path / "step-10"
    with pytest.raises(CheckpointError, match="absent: No such file or directory; is its storage mounted"):
        last_complete(tmp_path / "absent")


SAVE_AND_WAIT = """
import sys
from pathlib import Path
from runner.guards.checkpoint import saving
with saving(Path(sys.argv[1]) / "step-2") as partial:
    (partial / "half").write_text("x")
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_save_left_is_cleaned_and_a_running_one_is_not(tmp_path: Path) -> None:
    saved(tmp_path / "step-1")
    with subprocess.Popen(
        [sys.executable, "-c", SAVE_AND_WAIT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=FILE.parents[2],
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"inside\n"
        (running,) = clean_partial(tmp_path)
        assert (running / "half").exists()
        process.kill()
        process.wait()
    assert clean_partial(tmp_path) == []
    assert [one.name for one in tmp_path.iterdir()] == ["step-1"]
    assert last_complete(tmp_path) == tmp_path / "step-1"


def test_a_save_is_locked_until_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, stayed = checkpoint._flush, []

    def flush_and_clean(path: Path) -> None:
        flush(path)
        stayed.extend(clean_partial(tmp_path))

    monkeypatch.setattr(checkpoint, "_flush", flush_and_clean)
    assert verify(saved(tmp_path / "step-1")).state == "complete"
    assert len(set(stayed)) == 1


def forged(folder: Path, files: object) -> Path:
    """A folder whose marker fits its manifest, written by someone else."""
    folder.mkdir(exist_ok=True)
    text = json.dumps({"chunk": CHUNK, "files": files})
    (folder / MANIFEST).write_text(text)
    (folder / MARKER).write_text(json.dumps({"manifest": hashlib.sha256(text.encode()).hexdigest()}))
    return folder


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/../../secret", "", ".", "a//b", "link", "pipe", "dir"]
)
def test_a_manifest_does_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    folder = forged(tmp_path / "step-1", {name: [1, ["0" * 64]]})
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "dir").mkdir()
    os.mkfifo(folder / "pipe")
    verdict = verify(folder)
    assert verdict.state in {"unreadable", "incomplete"}
    assert {one.kind for one in verdict.problems} <= {"missing", "unreadable"}
    one_line(verdict)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"[" * 100_000, b'{"files": {"a": 1}}', b'{"chunk": 1, "files": {}}', b"\xff\xfe", b"null",
     b'{"chunk": 16777216, "files": {"a": [1e999, []]}}', b'{"chunk": 16777216, "files": {"a\\u0000": [1, ["x"]]}}'],
)  # fmt: skip
def test_a_manifest_of_another_form_is_corrupt_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    (tmp_path / MARKER).write_text(json.dumps({"manifest": hashlib.sha256(content).hexdigest()}))
    assert verify(tmp_path).state == "corrupt"
    one_line(verify(tmp_path))


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_as_marker_and_manifest_end_in_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, marker: bytes, manifest: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / MARKER).write_bytes(marker)
    (folder / MANIFEST).write_bytes(manifest)
    assert verify(folder).state == "corrupt"
    one_line(verify(folder))


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    saved(tmp_path / "step-1")
    os.truncate(tmp_path / "step-1" / MANIFEST, 1 << 40)
    assert "larger than" in one_line(verify(tmp_path / "step-1"))
    assert verify(tmp_path / "step-1").state == "unreadable"


def test_marker_and_manifest_that_are_links_or_pipes_do_not_count(tmp_path: Path) -> None:
    for number, name in enumerate((MARKER, MANIFEST)):
        folder = saved(tmp_path / f"step-{number}")
        (folder / name).rename(tmp_path / f"kept-{number}")
        (folder / name).symlink_to(tmp_path / f"kept-{number}")
        assert verify(folder).state == "unreadable"
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert verify(folder).state == "unreadable"
        one_line(verify(folder))


def test_a_file_that_this_user_may_not_read_is_unreadable_not_corrupt(tmp_path: Path) -> None:
    folder = saved(tmp_path / "step-1")
    if os.geteuid() == 0:
        # Root reads everything: a folder in the place of the file refuses it too.
        (folder / "state.pt").unlink()
        (folder / "state.pt").mkdir()
    else:
        (folder / "state.pt").chmod(0)
    verdict = verify(folder)
    assert verdict.state == "unreadable"
    assert [one.kind for one in verdict.problems] == ["unreadable"]


def test_names_that_end_a_line_or_hide_text_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "step\n\x1b[2K-1"
    with saving(folder) as partial:
        (partial / "a\nb").write_text("x")
        (partial / os.fsdecode(b"\xff")).write_text("x")
    assert verify(folder).state == "complete"
    (folder / "a\nb").unlink()
    shown = one_line(verify(folder))
    assert "\x1b" not in shown
    assert "a\\x0ab missing" in shown
    shown.encode()


def test_the_command_line_says_which_folder_is_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        saved(tmp_path / f"step-{step}")
    assert main(["verify", str(tmp_path / "step-1"), str(tmp_path / "step-2")]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 2
    (tmp_path / "step-2/state.pt").unlink()
    assert main(["verify", str(tmp_path / "step-1"), str(tmp_path / "step-2")]) == 1
    assert "step-2: incomplete: state.pt missing" in capfd.readouterr().out
    assert main(["last", str(tmp_path)]) == 0
    told = capfd.readouterr()
    assert told.out == f"{tmp_path / 'step-1'}\n"
    assert "step-2: incomplete" in told.err
    assert main(["clean", str(tmp_path)]) == 0
    (tmp_path / "empty").mkdir()
    assert main(["last", str(tmp_path / "empty")]) == 1
    assert main(["last", str(tmp_path / "absent")]) == 3
    assert main([]) == main(["verify"]) == main(["else"]) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_the_file_alone_is_a_program(tmp_path: Path) -> None:
    saved(tmp_path / "step-1")
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere/checkpoint.py"
    copy.write_bytes(FILE.read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", str(copy), "verify", str(tmp_path / "step-1")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete: 3 files" in done.stdout
