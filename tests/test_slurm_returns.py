"""What a node returns, or another user puts into a campaign's folder, is bounded, and believed only where it fits."""

import contextlib
import gzip
import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.base.errors import InputError, StoreError
from runner.fleet import commands
from runner.fleet.alias import alias_key
from runner.fleet.archive import unpack
from runner.fleet.campaign import Campaign, CampaignJob
from runner.fleet.commands import Done, SlurmError, run_command
from runner.fleet.folder import Folder, find_folder
from runner.fleet.follow import refresh
from runner.fleet.gathering import gather_diagnoses, gather_records
from runner.fleet.retry import Fleet
from runner.fleet.script import MEANINGS, NOT_OURS
from runner.record.model import Code
from runner.record.store import Store
from tests.test_campaign import Notes, Play, a_return, over, started

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to play other users")
BLOCK = 512


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header alone: what follows it is up to who made it."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(words: bytes) -> bytes:
    return header("p", len(words), tarfile.XHDTYPE) + words.ljust(-(-len(words) // BLOCK) * BLOCK, b"\0")


def packed(*members: tuple[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return held.getvalue()


SPARSE = b"".join(
    f"{len(word) + 4} {word}\n".encode()
    for word in (
        "GNU.sparse.major=0",
        "GNU.sparse.minor=1",
        "GNU.sparse.map=9,1",
        "GNU.sparse.size=9000000000",
    )
)
HOSTILE = {
    "a file of zeros that is larger than allowed": header("a", 1 << 21) + bytes(1 << 21),
    "a sparse file that claims 9 GB": pax(SPARSE) + header("a", 0) + bytes(2 * BLOCK),
    "a header that claims 8 EB": header("a", (1 << 63) - 1) + bytes(2 * BLOCK),
    "a file of a negative size": header("a", -BLOCK) + bytes(2 * BLOCK),
    "an extended header of 8 EB": header("a", (1 << 63) - 1, tarfile.XHDTYPE) + bytes(2 * BLOCK),
    "an extended header of a negative size": header("a", -BLOCK, tarfile.XHDTYPE) + bytes(2 * BLOCK),
    "a name of 1 MB": header("a", 1 << 20, tarfile.GNUTYPE_LONGNAME) + bytes(1 << 20),
    "two thousand extended headers in a row": pax(b"") * 2000 + bytes(2 * BLOCK),
    "a name with a NUL": pax(b"12 path=a\0b\n") + header("a", 0) + bytes(2 * BLOCK),
    "a thousand files": packed(*((f"f{number}", b"") for number in range(1000))),
    "a file below a file": packed(("a", b""), ("a/b", b"")),
    "not an archive": b"rubbish" * BLOCK,
}


def unpack_small(data: bytes, place: Path) -> None:
    unpack(data, place, most=1 << 20, members=100)


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_was_made_to_fill_or_confuse_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises((tarfile.TarError, OSError)):
        unpack_small(gzip.compress(HOSTILE[what]), tmp_path / "node")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1 << 21


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    once = gzip.compress(bytes(1 << 20))
    with pytest.raises(tarfile.TarError, match="more than 256MiB unpacked"):
        unpack(once * 300, tmp_path / "node")
    with pytest.raises(tarfile.TarError, match="more than 64MiB packed"):
        unpack(bytes((64 << 20) + 1), tmp_path / "node")
    assert not (tmp_path / "node").exists()


def test_an_archive_of_devices_pipes_and_links_leaves_its_files_alone(tmp_path: Path) -> None:
    kinds = (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
    special = b"".join(header(f"s{number}", 0, kind) for number, kind in enumerate(kinds))
    unpack_small(gzip.compress(special + packed(("data/a.json", b"{}"))), tmp_path / "node")
    assert [path.name for path in (tmp_path / "node").rglob("*") if not path.is_dir()] == ["a.json"]


SOUND = packed(("data/c/e/one.json", b"{}" * 300), ("end.json", b'{"exit_status": 0}'))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_a_spoiled_archive_is_unpacked_in_its_folder_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    spoiled = bytearray(SOUND)
    for place, byte in changes:
        spoiled[place] = byte
    with contextlib.suppress(tarfile.TarError, OSError):
        unpack_small(gzip.compress(bytes(spoiled), compresslevel=1), tmp_path / "node")
    assert {path.name for path in tmp_path.iterdir()} <= {"node"}


# What a command prints.


def test_a_command_that_prints_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_MOST_BYTES", 1 << 20)
    for stream in ("1", "2"):
        with pytest.raises(SlurmError, match="printed more than 1MiB"):
            run_command(["bash", "-c", f"cat /dev/zero >&{stream}"], stdin=b"", timeout=100)


def test_a_command_is_given_its_input_and_answers_with_its_status_and_both_streams() -> None:
    words = ["bash", "-c", "cat; echo said >&2; exit 7"]
    assert run_command(words, stdin=b"x" * (1 << 20), timeout=100) == Done(7, b"x" * (1 << 20), "said\n")
    assert run_command(["true"], stdin=b"x" * (1 << 20), timeout=100) == Done(0, b"", "")


def test_a_command_that_leaves_others_behind_is_ended_with_them_at_its_deadline() -> None:
    began = time.monotonic()
    with pytest.raises(commands.ControllerAwayError, match="gave no answer within"):
        run_command(["bash", "-c", "sleep 300 & wait"], stdin=b"", timeout=0.2)
    assert time.monotonic() - began < 100


# Without shared files: what the fetching job says.


class Bringing(Play):
    """Answers the fetching job with what it was given."""

    def __init__(self, answer: Done) -> None:
        super().__init__(n1="IDLE")
        self.answer = answer

    def _answer(self, words: list[str], stdin: bytes) -> Done:
        return self.answer if words[0] == "srun" else super()._answer(words, stdin)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Done(NOT_OURS, b"", "srun: error: n1: task 0: Exited with exit code 74\n"), MEANINGS[NOT_OURS]),
        (Done(2, b"", "srun: error: n1: task 0: Exited with exit code 2\n"), "Exited with exit code 2"),
        (Done(0, b"AAAA", ""), "not an archive"),
        (Done(0, b"", ""), "empty file"),
    ],
)
def test_results_that_cannot_be_believed_are_one_row_with_its_reason(
    tmp_path: Path, answer: Done, said: str
) -> None:
    play, notes = Bringing(answer), Notes()
    folder, campaign, slurm = started(tmp_path, play, notes, shared=False)
    play.end("1", "COMPLETED")
    campaign = refresh(campaign, Fleet(folder, slurm, notes))
    assert said in (campaign.jobs[0].reason or "")
    assert "\n" not in (campaign.jobs[0].reason or "")


# What stands in a job's folder.


@pytest.mark.parametrize(
    "note",
    [b'{"exit_status": true}', b'{"exit_status": -1}', b'{"exit_status": 1e3}', b'{"exit_status": 256}', b"[" * 4000,
     b'{"exit_status": 0, "more": 1}', b'{"exit_status": "0"}', b" " * 5000 + b'{"exit_status": 0}'],
)  # fmt: skip
def test_a_note_of_an_end_that_is_no_exit_status_is_none(tmp_path: Path, note: bytes) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    (folder.place(campaign.jobs[0]) / "end.json").write_bytes(note)
    assert folder.exit_status(campaign.jobs[0]) is None
    (folder.place(campaign.jobs[0]) / "end.json").write_bytes(b'{"exit_status": 3}\n')
    assert folder.exit_status(campaign.jobs[0]) == 3


@pytest.mark.parametrize("name", ["end.json", "diagnosis.json", "output.txt"])
@pytest.mark.parametrize("what", ["pipe", "zero", "link", "folder"])
def test_what_is_no_regular_file_is_not_waited_for_and_not_followed(
    tmp_path: Path, name: str, what: str
) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    (job,) = over(campaign).jobs
    place = folder.place(job) / name
    (tmp_path / "elsewhere").write_text('{"exit_status": 0, "entries": []}')
    if what == "pipe":
        os.mkfifo(place)
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero" if what == "zero" else tmp_path / "elsewhere")
    assert (folder.exit_status(job), folder.last_words(job)) == (None, "")
    (found,) = gather_diagnoses(over(campaign), folder)
    assert found.exit_status == 3
    assert found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    "text",
    [
        '{"exit_status": 0}',
        '{"exit_status": 7, "entries": []}',
        '{"exit_status": 0, "entries": [1]}',
        "[" * 9000,
    ],
)
def test_a_diagnosis_of_another_shape_is_none(tmp_path: Path, text: str) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    place = folder.place(campaign.jobs[0]) / "diagnosis.json"
    place.write_text(text)
    (found,) = gather_diagnoses(over(campaign), folder)
    assert (found.exit_status, found.entries) == (3, ())
    assert found.reason == "returned diagnosis.json, which is not a valid diagnosis"
    place.write_text('{"exit_status": 1, "entries": [], "more": 1}')
    (found,) = gather_diagnoses(over(campaign), folder)
    assert (found.exit_status, found.reason) == (1, None)


@pytest.mark.parametrize("settings", ["7", "[1]", '{"driver": 7}', '{"driver": {"a": 1}}'])
def test_settings_of_another_shape_are_none_and_cost_no_finding(tmp_path: Path, settings: str) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    place = folder.place(campaign.jobs[0]) / "diagnosis.json"
    place.write_text(f'{{"exit_status": 1, "entries": [], "machine_class": "x", "settings": {settings}}}')
    (found,) = gather_diagnoses(over(campaign), folder)
    assert (found.exit_status, found.reason) == (1, None)
    assert found.settings is not None
    assert found.settings.settings == {}


def two_nodes(tmp_path: Path) -> tuple[Folder, Campaign]:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE", n2="IDLE"))
    return folder, over(campaign)


def test_a_node_cannot_put_its_record_in_the_place_of_another_nodes(tmp_path: Path) -> None:
    folder, campaign = two_nodes(tmp_path)
    for job in campaign.jobs:
        a_return(folder, campaign, job, run_id="same")
    found = gather_records(campaign, folder, tmp_path / "data")
    assert [row.reason for row in found.rows] == [None, found.rows[1].reason]
    assert "has the run id of another record" in (found.rows[1].reason or "")
    assert [one.node_alias for one in found.records] == [campaign.jobs[0].key]
    assert gather_records(campaign, folder, tmp_path / "data") == found


def test_a_node_cannot_put_its_record_in_the_place_of_one_that_was_there_before(tmp_path: Path) -> None:
    folder, campaign = two_nodes(tmp_path)
    old = a_return(folder, campaign, campaign.jobs[0]).model_copy(update={"campaign": None})
    path = Store(tmp_path / "data", ()).save(old)
    before = path.read_bytes()
    found = gather_records(campaign, folder, tmp_path / "data")
    assert "has the run id of another record" in (found.rows[0].reason or "")
    assert path.read_bytes() == before


def test_a_node_that_returns_an_entry_twice_has_one_record_of_it(tmp_path: Path) -> None:
    folder, campaign = two_nodes(tmp_path)
    for number in range(30):
        a_return(folder, campaign, campaign.jobs[0], run_id=f"run{number:02}")
    found = gather_records(campaign, folder, tmp_path / "data")
    assert [one.run_id for one in found.records] == ["run00"]
    assert "is a second record of its entry" in (found.rows[0].reason or "")


def test_a_record_of_other_code_than_was_submitted_is_rubbish(tmp_path: Path) -> None:
    folder, campaign = two_nodes(tmp_path)
    other = Code(commit=None, dirty=None, package="f" * 64, entries=campaign.code.entries)
    a_return(folder, campaign, campaign.jobs[0], code=other)
    found = gather_records(campaign, folder, tmp_path / "data")
    assert "was taken with different code than was submitted" in (found.rows[0].reason or "")
    assert found.records == ()


def test_a_name_with_a_line_end_is_shown_on_one_line(tmp_path: Path) -> None:
    folder, campaign = two_nodes(tmp_path)
    place = folder.place(campaign.jobs[0]) / "data" / "c" / "e"
    place.mkdir(parents=True)
    for name in ("x\n[2026] done.json", "y\x1b[2J"):
        (place / name).write_text("{}")
        reason = gather_records(campaign, folder, tmp_path / "data").rows[0].reason or ""
        assert reason.isprintable()
        (place / name).unlink()


# The campaign's own folder.


def test_a_campaigns_folder_is_open_to_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
        with folder.held():
            pass
    finally:
        os.umask(before)
    for path in (
        folder.path,
        folder.place(campaign.jobs[0]),
        folder.path / "campaign.json",
        folder.path / ".lock",
    ):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_campaign_that_others_can_write_to_or_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder, _, _ = started(tmp_path, Play(n1="IDLE"))
    for mode in (0o777, 0o770, 0o702):
        folder.path.chmod(mode)
        with pytest.raises(InputError, match="chmod go-w"):
            folder.load()
        with pytest.raises(InputError, match="or start one with"):
            find_folder(folder.path.parent, None)
    folder.path.chmod(0o755)
    assert folder.load().id == folder.path.name
    link = folder.path.with_name("99990101-000000-aaaa")
    link.symlink_to(folder.path)
    with pytest.raises(InputError, match="is a link"):
        Folder(link).load()
    assert find_folder(folder.path.parent, None).path == folder.path


@pytest.mark.parametrize("what", ["link", "pipe", "endless"])
def test_a_campaign_or_lock_that_is_no_regular_file_is_refused(tmp_path: Path, what: str) -> None:
    folder, _, _ = started(tmp_path, Play(n1="IDLE"))
    target = tmp_path / "target"
    target.write_text("kept")
    for name in ("campaign.json", ".lock"):
        path = folder.path / name
        path.unlink(missing_ok=True)
        if what == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero" if what == "endless" else target)
    with pytest.raises(InputError):
        folder.load()
    if what != "pipe":
        with pytest.raises(StoreError, match="cannot open"), folder.held():
            pass
    assert target.read_text() == "kept"


@pytest.mark.system
@as_root
def test_a_campaign_that_another_user_planted_is_neither_read_nor_the_newest(tmp_path: Path) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    planted = Folder(folder.path.with_name("99990101-000000-aaaa"))
    planted.save(campaign.model_copy(update={"id": planted.path.name, "prefix": "touch /tmp/PWN;"}))
    for path in (planted.path, planted.path / "campaign.json"):
        os.chown(path, 65534, 65534)
    assert find_folder(folder.path.parent, None).path == folder.path
    with pytest.raises(InputError, match="belongs to user id 65534"):
        find_folder(folder.path.parent, planted.path.name).load()


# The key of aliases.


def test_a_key_of_aliases_is_whole_or_refused(tmp_path: Path) -> None:
    key = alias_key(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["alias-key"]
    for content in (b"", key[:-1], key + b"x"):
        (tmp_path / "alias-key").write_bytes(content)
        with pytest.raises(StoreError, match="remove it to create a new key"):
            alias_key(tmp_path)
    (tmp_path / "alias-key").unlink()
    os.mkfifo(tmp_path / "alias-key")
    with pytest.raises(StoreError, match="not a regular file"):
        alias_key(tmp_path)


def test_a_job_has_no_more_than_one_note(tmp_path: Path) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    job: CampaignJob = campaign.jobs[0]
    (folder.place(job) / "end.json").write_text(json.dumps({"exit_status": 0}) * 2)
    assert folder.exit_status(job) is None
