"""A run as it is written down: what is on disk at which moment, and what becomes of it when the disk fails."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import BusyError, RunbookError, StoreError
from runner.entry.model import Phase, Safety, Step
from runner.entry.plan import Request, make_plan
from runner.hardware.machine import Machine
from runner.record import store as store_module
from runner.record.model import Code, Outcome, Record, StepResult, StepStatus
from runner.record.store import Problem, Store
from runner.run.lock import node_lock
from runner.run.pace import TimeSlot
from runner.run.recording import Kept, RunSetting, run_and_record
from tests.builders import a_machine, a_runbook, eight_b200

FULL = OSError(28, "No space left on device")


@dataclass
class Watcher:
    """An observer that keeps what it is told, and looks into the data folder each time."""

    store: Store
    begun: list[tuple[str, int]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    at_end_of_step: Callable[[StepResult], None] = lambda _result: None

    def step_begins(self, step: Step, slot: TimeSlot) -> None:
        records = list(self.store.records())
        self.begun.append((step.id, len(records[0].steps) if records else -1))

    def step_ended(self, result: StepResult) -> None:
        self.ended.append(result.id)
        self.at_end_of_step(result)

    def trouble(self, message: str) -> None:
        assert "\n" not in message
        self.troubles.append(message)


def a_step(step_id: str, command: str = "true", phase: Phase = Phase.DIAGNOSE, **fields: Any) -> Step:
    return Step(id=step_id, phase=phase, command=command, line=1, **fields)


class House:
    """A data folder, a watcher, and a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "data")
        self.watcher = Watcher(Store(folder / "data"))

    def run(self, *steps: Step, machine: Machine | None = None, request: Request | None = None) -> Kept:
        here, asked = machine or a_machine(), request or Request()
        setting = RunSetting(
            here,
            self.store,
            self.folder,
            dict(os.environ),
            Code(commit=None, dirty=None, package="0" * 64, entries="0" * 64),
        )
        return run_and_record(make_plan(a_runbook(*steps), here, asked), asked, setting, self.watcher)

    def records(self) -> list[Record]:
        problems: list[Problem] = []
        found = list(self.store.read(problems))
        assert not problems
        return found

    def dumps(self) -> list[object]:
        return [record.model_dump(mode="json") for record in self.records()]

    def everything(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "data").rglob("*") if path.is_file())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return House(tmp_path)


def fails_on(monkeypatch: pytest.MonkeyPatch, calls: Callable[[int], bool], under: Path) -> None:
    """Writes below a folder fail as on a full disk, at the calls named (the first is 1)."""
    write, count = store_module._replace, 0

    def replace(path: Path, text: bytes, *, sync: bool) -> None:
        nonlocal count
        if path.is_relative_to(under):
            count += 1
            if calls(count):
                raise FULL
        write(path, text, sync=sync)

    monkeypatch.setattr(store_module, "_replace", replace)


def test_a_finished_step_is_on_disk_before_the_next_one_begins(house: House) -> None:
    kept = house.run(a_step("a"), a_step("gpu", gpus=1), a_step("b"), a_step("c", phase=Phase.VERIFY))
    assert house.watcher.begun == [("a", 0), ("b", 2), ("c", 3)]
    assert house.watcher.ended == ["a", "gpu", "b", "c"]
    assert house.dumps() == [kept.record.model_dump(mode="json")]
    assert kept.stored
    assert kept.path.parent.parent.parent == house.store.root
    assert not house.watcher.troubles


def test_a_record_says_what_was_asked_and_when_it_began_and_ended(house: House) -> None:
    request = Request(phases=(Phase.FIX,), reproduce=True, slow=False, allow=("busy",))
    record = house.run(a_step("a", phase=Phase.FIX), request=request).record
    assert (record.options.phases, record.options.allow) == ((Phase.FIX,), ("busy",))
    assert (record.options.reproduce, record.options.slow) == (True, False)
    assert record.ended_at is not None
    (result,) = record.steps
    assert result.started_at is not None
    assert record.started_at <= result.started_at <= record.ended_at


def test_a_data_folder_that_is_full_from_the_start_lets_nothing_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_on(monkeypatch, lambda _call: True, house.store.root)
    with pytest.raises(StoreError, match="No space left on device"):
        house.run(a_step("a", "touch ran"))
    assert not (house.folder / "ran").exists()


def test_a_data_folder_that_fills_up_loses_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_on(monkeypatch, lambda call: call > 2, house.store.root)
    kept = house.run(a_step("a"), a_step("b", "echo hello"), a_step("c"))
    assert not kept.stored
    assert not kept.path.is_relative_to(house.store.root)
    elsewhere = Record.model_validate_json(kept.path.read_bytes())
    assert [step.id for step in elsewhere.steps] == ["a", "b", "c"]
    assert elsewhere.outcome == Outcome.HEALTHY
    # The last state that the folder took stands; no half of a file lies about.
    assert [len(record.steps) for record in house.records()] == [1]
    assert len(house.everything()) == 1
    during, after = house.watcher.troubles
    assert "the run goes on" in during
    assert str(kept.path) in after


def test_what_is_kept_elsewhere_is_redacted_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_on(monkeypatch, lambda call: call > 1, house.store.root)
    kept = house.run(a_step("a", "echo mail me@example.org"))
    assert "me@example.org" not in kept.path.read_text(encoding="utf-8")


def test_a_data_folder_that_recovers_gets_the_whole_record(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_on(monkeypatch, lambda call: call in {2, 3}, house.store.root)
    kept = house.run(a_step("a"), a_step("b"), a_step("c"))
    assert kept.stored
    assert house.dumps() == [kept.record.model_dump(mode="json")]
    assert len(house.watcher.troubles) == 1


def test_where_nothing_takes_the_record_the_run_ends_all_the_same_and_says_what_is_left(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_on(monkeypatch, lambda call: call > 2, Path("/"))
    kept = house.run(a_step("a"), a_step("b"))
    assert not kept.stored
    assert [step.status for step in kept.record.steps] == ["passed", "passed"]
    assert [len(record.steps) for record in house.records()] == [1]
    assert "the last state that was saved" in house.watcher.troubles[-1]


def test_foreign_files_in_the_data_folder_are_left_as_they_are(house: House) -> None:
    foreign = {"notes.txt": b"mine", "x/y/z.json": b"{", "an-entry/data.bin": b"\xff\x00"}
    for name, content in foreign.items():
        path = house.store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    kept = house.run(a_step("a"))
    assert kept.stored
    assert {name: (house.store.root / name).read_bytes() for name in foreign} == foreign
    assert [record.run_id for record in house.store.records()] == [kept.record.run_id]


def test_a_file_where_the_class_folder_should_be_stops_the_run_and_is_kept(house: House) -> None:
    house.store.root.mkdir()
    blocking = house.store.root / a_machine().machine_class
    blocking.write_text("mine", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot write"):
        house.run(a_step("a", "touch ran"))
    assert blocking.read_text(encoding="utf-8") == "mine"
    assert not (house.folder / "ran").exists()


def test_a_busy_node_runs_nothing_and_records_nothing(house: House) -> None:
    with node_lock("other"), pytest.raises(BusyError, match="run other"):
        house.run(a_step("a", "touch ran"))
    assert not (house.folder / "ran").exists()
    assert not house.store.root.exists()


def test_without_room_for_temporary_files_nothing_runs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise FULL

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(RunbookError, match="cannot create a temporary folder: No space left"):
        house.run(a_step("a", "touch ran"))
    assert not (house.folder / "ran").exists()


def test_ctrl_c_between_two_steps_leaves_a_readable_record_and_a_free_node(house: House) -> None:
    def interrupt(result: StepResult) -> None:
        if result.id == "b":
            raise KeyboardInterrupt

    house.watcher.at_end_of_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        house.run(a_step("a"), a_step("b"), a_step("c", "touch ran"))
    (record,) = house.records()
    assert [step.id for step in record.steps] == ["a"]
    assert record.outcome is None
    assert not (house.folder / "ran").exists()
    with node_lock("next"):
        pass


@pytest.mark.parametrize(("allow", "status"), [((), StepStatus.SKIPPED), (("busy",), StepStatus.PASSED)])
def test_a_step_that_loads_gpus_runs_on_busy_ones_only_where_that_is_allowed(
    allow: tuple[str, ...], status: StepStatus, house: House
) -> None:
    loads = a_step("loads", "touch ran", gpus=8, safety=Safety.LOADS_DEVICE)
    record = house.run(loads, machine=eight_b200(busy=(5,)), request=Request(allow=allow)).record
    assert record.steps[0].status == status
    assert (house.folder / "ran").exists() == bool(allow)
    assert record.outcome == (Outcome.HEALTHY if allow else Outcome.NOT_APPLICABLE)
