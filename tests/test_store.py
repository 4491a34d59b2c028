import errno
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from runner.base.bounds import RECORD_BYTES
from runner.base.errors import RecordError, StoreError
from runner.record.model import SCHEMA_VERSION, Outcome, Record, StepResult, StepStatus
from runner.record.redaction.redact import redact_step
from runner.record.schema import record_schema
from runner.record.store import Problem, Store, latest
from tests.evidence_samples import B200, machine, measurement, record, redacted, step


def problems_of(store: Store) -> list[Problem]:
    """The files that are not readable records."""
    found: list[Problem] = []
    for _ in store.read(found):
        pass
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", secrets=("zaphod",))


def test_a_record_lies_under_its_class_and_runbook_and_comes_back_equal(store: Store) -> None:
    original = record(step("busbw", measurement(3e10, 3e10, 3.1e10, bytes=1)), step("b"))
    path = store.save(original)
    assert path == store.root / "cpu-example-x86_64-2c" / "nvlink" / "20261101T080000Z-a1b2c3d4e5f6.json"
    assert store.load(path) == original


def test_a_file_is_sorted_indented_by_two_and_ends_with_a_newline(store: Store) -> None:
    text = store.save(
        record(step("busbw", measurement(1.0)), step("b", details={"z": [1, {}], "ä": []}))
    ).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_record_without_steps_is_written_alike(store: Store) -> None:
    text = store.save(record()).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_saved_record_holds_to_the_published_schema(store: Store) -> None:
    path = store.save(
        record(step("busbw", measurement(3e10, 3e10, op="x")), step("b", status=StepStatus.SKIPPED))
    )
    schema = record_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(path.read_text())
    jsonschema.Draft202012Validator(schema).validate(content)
    del content["machine"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(content)


def test_what_is_stored_has_been_redacted(store: Store) -> None:
    leak = "zaphod@node /home/bob 10.0.0.5 hf_ZyXwVuTsRqPoNmLkJiHgFeDcBa987654"
    path = store.save(record(step("busbw", stdout_tail=leak), machine=machine(gpu_error=leak)))
    text = path.read_text()
    for private in ("zaphod", "bob", "10.0.0.5", "hf_"):
        assert private not in text
    loaded = store.load(path)
    assert redacted(loaded, ("zaphod",)) == loaded


def test_a_record_saved_again_replaces_its_earlier_state(store: Store) -> None:
    steps: tuple[StepResult, ...] = ()
    for number in range(5):
        steps = (*steps, step(f"s{number}"))
        path = store.save(record(*steps, ended_at=None, outcome=None))
        assert store.load(path).steps == steps
    finished = record(*steps, outcome=Outcome.SYMPTOM)
    assert store.load(store.save(finished)) == finished
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_step_is_redacted_once_however_often_its_record_is_saved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def counting(found: StepResult, secrets: tuple[str, ...]) -> StepResult:
        seen.append(found.id)
        return redact_step(found, secrets)

    monkeypatch.setattr("runner.record.writing.redact_step", counting)
    steps = [step(f"s{number}") for number in range(20)]
    for count in range(21):
        store.save(record(*steps[:count]))
    assert seen == [found.id for found in steps]


def test_a_step_that_was_replaced_is_written_anew(store: Store) -> None:
    store.save(record(step("a"), step("b")))
    path = store.save(record(step("a", stdout_tail="other"), step("b")))
    assert [found.stdout_tail for found in store.load(path).steps] == ["other", ""]


def test_two_runs_do_not_share_steps(store: Store) -> None:
    shared = step("a")
    one = store.save(record(shared, step("b")))
    other = store.save(record(shared, step("c"), run_id="b" * 12))
    assert [found.id for found in store.load(one).steps] == ["a", "b"]
    assert [found.id for found in store.load(other).steps] == ["a", "c"]


def test_a_start_in_another_zone_is_filed_under_utc(store: Store) -> None:
    local = datetime(2026, 11, 1, 10, 0, tzinfo=timezone(timedelta(hours=2)))
    assert store.path_of(record(started_at=local)).name.startswith("20261101T080000Z-")


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", ".hidden"])
def test_an_id_that_would_leave_the_folder_is_refused(store: Store, run_id: str) -> None:
    changed = record(machine=machine(machine_class=run_id))
    with pytest.raises(StoreError, match="cannot name a file"):
        store.save(changed)
    assert not store.root.exists()


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    store = Store(tmp_path / "data")
    with pytest.raises(StoreError, match="cannot write"):
        store.save(record())
    with pytest.raises(StoreError, match="cannot list"):
        list(store.records())
    assert (tmp_path / "data").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_file_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.save(record(step("a")))
    before = path.read_bytes()
    # Linux answers every write to /dev/full as a full disk does.
    monkeypatch.setattr(
        "runner.record.store.tempfile.mkstemp",
        lambda **_: (os.open("/dev/full", os.O_WRONLY), str(path.parent / ".full.tmp")),
    )
    monkeypatch.setattr("runner.record.store.os.fchmod", lambda *_: None)
    with pytest.raises(StoreError, match=os.strerror(errno.ENOSPC)) as raised:
        store.save(record(step("a"), step("b")))
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before


def test_a_file_size_limit_leaves_the_earlier_file_and_no_litter(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from runner.base.errors import StoreError
from runner.record.store import Store
from tests.evidence_samples import record, step
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Path(sys.argv[1]))
path = store.save(record(step("a")))
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    store.save(record(step("a"), step("b", stdout_tail="x" * 50000)))
except StoreError as error:
    print(error)
print(path.read_bytes() == before, len(list(path.parent.iterdir())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    first, second = done.stdout.splitlines()
    assert os.strerror(errno.EFBIG) in first
    assert second == "True 1"


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder of this process's own, without the rights of root over it while the test runs."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        if user == 0:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def test_a_read_only_folder_is_one_line(unprivileged_folder: Path) -> None:
    store = Store(unprivileged_folder)
    path = store.save(record(step("a")))
    path.parent.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        store.save(record(step("a"), step("b")))
    path.parent.chmod(0o700)
    assert len(store.load(path).steps) == 1


def test_a_folder_that_may_not_be_listed_is_one_line(unprivileged_folder: Path) -> None:
    store = Store(unprivileged_folder)
    folder = store.save(record()).parent
    folder.chmod(0o000)
    with pytest.raises(StoreError, match=r"cannot list .*Permission denied"):
        list(store.records())
    folder.chmod(0o700)


def test_a_read_only_file_system_is_one_line() -> None:
    # /proc refuses new folders to everyone, root too.
    with pytest.raises(StoreError, match="cannot write /proc/") as raised:
        Store(Path("/proc/runbook-data")).save(record())
    assert "\n" not in str(raised.value)


def test_a_value_that_json_has_not_is_refused_and_the_earlier_file_stands(store: Store) -> None:
    path = store.save(record(step("a")))
    before = path.read_bytes()
    with pytest.raises(StoreError, match="NaN"):
        store.save(record(step("a").model_copy(update={"duration_s": float("nan")})))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON"),
        (b"hello", "is not JSON"),
        (b'{"schema_version": 1, "run_id": "a', "is truncated"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[]", "is not a record"),
        (b'{"schema_version": 1}', "is not a record: run_id: Field required"),
        (b'{"schema_version": 99, "anything": [1]}', "was written by a newer version"),
        (b'{"schema_version": 1, "load": NaN}', "contains NaN"),
    ],
)
def test_a_bad_record_is_one_line_and_the_rest_still_reads(store: Store, content: bytes, says: str) -> None:
    good = store.save(record(step("a")))
    bad = good.with_name("20261101T080001Z-bad.json")
    bad.write_bytes(content)
    with pytest.raises(RecordError) as raised:
        store.load(bad)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [found.run_id for found in store.records()] == ["a1b2c3d4e5f6"]
    (problem,) = problems_of(store)
    assert problem.path == bad
    assert says in str(problem)


def test_every_truncation_of_a_record_is_refused(store: Store) -> None:
    path = store.save(record(step("a", measurement(1.0, 1.0))))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError):
            store.load(path)


def test_a_newer_schema_says_to_upgrade(store: Store) -> None:
    path = store.save(record())
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 9'))
    with pytest.raises(RecordError, match=r"newer version .*schema 9.*upgrade"):
        store.load(path)


def test_a_missing_record_is_one_line(store: Store) -> None:
    with pytest.raises(RecordError, match="no such file"):
        store.load(store.root / "x.json")


def test_foreign_files_are_reported_and_leftovers_of_a_killed_run_are_not(store: Store) -> None:
    path = store.save(record())
    (path.parent / f".{path.name}.abc.tmp").write_text("{")
    (store.root / ".gitkeep").touch()
    (store.root / "notes.txt").write_text("mine")
    (path.parent / "log.txt").write_text("mine")
    (path.parent / "deeper").mkdir()
    (path.parent / "deeper" / "x.json").write_text("{}")
    assert len(list(store.records())) == 1
    names = [problem.path.name for problem in problems_of(store)]
    assert sorted(names) == ["deeper", "log.txt", "notes.txt"]
    assert "move it elsewhere" in str(problems_of(store)[0])


def test_an_absent_folder_has_no_records_and_no_problems(store: Store) -> None:
    assert list(store.records()) == []
    assert problems_of(store) == []


def test_records_can_be_asked_for_by_runbook_and_class(store: Store) -> None:
    store.save(record())
    on_gpu = record(run_id="b" * 12, machine=machine(*[B200] * 8))
    store.save(on_gpu)
    assert [found.run_id for found in store.records(machine_class="8xB200-180GB")] == ["b" * 12]
    assert len(list(store.records(runbook="nvlink"))) == 2
    assert list(store.records(runbook="other")) == []


def at_minute(
    minute: int, *steps: StepResult, preset: str = "tiny", outcome: Outcome | None = Outcome.HEALTHY
) -> Record:
    base = record(*steps, run_id=f"{minute:012x}", outcome=outcome)
    return base.model_copy(
        update={
            "started_at": datetime(2026, 11, 1, 8, minute, tzinfo=UTC),
            "options": base.options.model_copy(update={"preset": preset}),
        }
    )


def test_latest_is_the_newest_finished_step_of_each_preset() -> None:
    records = [
        at_minute(3, step("a", status=StepStatus.ERROR), step("b", status=StepStatus.SKIPPED)),
        at_minute(2, step("a"), step("b", status=StepStatus.SYMPTOM), outcome=None),
        at_minute(1, step("a"), step("b")),
        at_minute(0, step("a"), preset="8b"),
    ]
    found = {key[2:]: taken.run_id[-1] for key, (taken, _) in latest(records).items()}
    assert found == {("a", "tiny"): "2", ("b", "tiny"): "2", ("a", "8b"): "0"}


def test_a_writer_killed_at_any_moment_leaves_a_whole_record(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from runner.record.store import Store
from tests.evidence_samples import record, step
store = Store(Path(sys.argv[1]))
steps = ()
while True:
    steps = (*steps, step(f"s{len(steps)}", stdout_tail="x" * 2000))[-200:]
    store.save(record(*steps, ended_at=None, outcome=None))
    print(len(steps), flush=True)
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert writer.stdout is not None
    for _ in range(30):
        assert writer.stdout.readline()
    writer.kill()
    writer.communicate()
    (found,) = Store(tmp_path).records()
    assert len(found.steps) >= 30
    assert problems_of(Store(tmp_path)) == []


def _largest_steps() -> list[StepResult]:
    """Steps that print as much as is kept, in the characters that take most room, and measure all that fits."""
    samples = tuple(float(f"1.{number:016}") for number in range(4_000))
    most = "\x00" * (2 * 32 * 1024)
    return [
        step(f"s{number}", measurement(1.0, *samples), stdout_tail=most, stderr_tail=most, reason="é" * 2_000)
        for number in range(6)
    ]


def test_the_largest_record_that_a_run_can_write_is_read_again(store: Store) -> None:
    steps = _largest_steps()
    for count in range(len(steps) + 1):
        path = store.save(record(*steps[:count]))
        assert path.stat().st_size <= RECORD_BYTES
        loaded = store.load(path)
        assert [one.measurements for one in loaded.steps] == [one.measurements for one in steps[:count]]
    last = loaded.steps[-1]
    assert "bytes left out, more than a record holds" in last.stdout_tail
    assert last.stdout_dropped_bytes > 0
    assert redacted(loaded, ("zaphod",)) == loaded


def test_output_of_a_record_that_fits_is_not_shortened(store: Store) -> None:
    steps = [step(f"s{number}", stdout_tail="é\n" * 32_768, stderr_tail="x" * 65_536) for number in range(8)]
    assert store.load(store.save(record(*steps))).steps == tuple(steps)


def test_words_that_redaction_makes_longer_do_not_make_a_record_that_cannot_be_read(store: Store) -> None:
    many = "zaphod " * 300
    labels = {"arm": many[:2_000], "other": "zaphod " * 285}
    one = step("a", measurement(1.0, **labels), reason=("zaphod " * 1_143)[:8_000])
    loaded = store.load(store.save(record(one, machine=machine(cpu=many[:2_000]))))
    assert "zaphod" not in loaded.model_dump_json()


def test_a_record_that_no_file_may_hold_is_refused_in_one_line(store: Store) -> None:
    samples = tuple(1.0 + number / 7 for number in range(5_000))
    before = store.save(record(step("a"))).read_bytes()
    with pytest.raises(StoreError, match="would be larger than 2MiB"):
        store.save(record(step("a"), *(step(f"s{n}", measurement(1.0, *samples)) for n in range(15))))
    (path,) = store.files()
    assert path.read_bytes() == before


def test_half_of_a_character_is_refused_in_one_line(store: Store) -> None:
    with pytest.raises(StoreError, match="a lone surrogate"):
        store.save(record(step("a").model_copy(update={"stdout_tail": "\ud800"})))


def test_a_finished_step_without_a_start_is_no_result() -> None:
    for status, gone in itertools.product(
        ("passed", "symptom", "failed"), ("started_at", "duration_s", "exit_status")
    ):
        with pytest.raises(ValidationError, match="without a start, a duration and an exit status"):
            StepResult.model_validate(step("a").model_dump() | {"status": status, gone: None})
    assert step("a", status=StepStatus.SKIPPED, exit_status=None).started_at is None
