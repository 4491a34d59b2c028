import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cli.main import main
from runner.entry.model import Phase, Safety, Step
from runner.hardware.gpus import Gpu
from runner.record.ceilings import ceiling
from runner.record.gate import gate
from runner.record.gate.entry import _may_be_skipped
from runner.record.model import Code, Measurement, Options, Record, RunbookRef
from runner.record.redaction.leaks import leaks
from runner.record.store import Store
from tests.evidence_samples import B200, machine, measurement, record, redacted, step

NOW = datetime(2026, 11, 2, tzinfo=UTC)
EIGHT = machine(*[B200] * 8).model_copy(update={"cuda": "13.0"})
SMALL = Gpu(index=0, name=B200, memory_bytes=16 * 10**9)


def one_second(value: float, *samples: float) -> Measurement:
    found = measurement(value, *samples, name="compile_time")
    return found.model_copy(update={"unit": "s"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", secrets=())


def messages(store: Store) -> list[str]:
    return [problem.message for problem in gate(store, NOW)]


def write(store: Store, found: Record) -> Path:
    """Put a record down as it is, past what `save` would do to it."""
    path = store.path_of(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.model_dump_json(), encoding="utf-8")
    return path


def test_good_records_pass(store: Store) -> None:
    store.save(record(step("busbw", measurement(3e10, 3e10, bytes=1))))
    store.save(record(step("busbw", measurement(838e9, 838e9)), run_id="b" * 12, machine=EIGHT))
    assert messages(store) == []


def test_a_step_may_be_skipped_if_its_run_could_not_use_the_gpus_that_it_needs() -> None:
    needing = Step(
        id="pairs", phase=Phase.DIAGNOSE, command="true", line=1, gpus=2, safety=Safety.LOADS_DEVICE
    )
    seen = record(machine=EIGHT)
    hidden = "needs 2 GPUs, this run can use 1 of 8 (CUDA_VISIBLE_DEVICES)"
    assert _may_be_skipped(seen, needing, hidden, ())
    assert not _may_be_skipped(seen, needing, hidden.replace("8", "4"), ())
    assert not _may_be_skipped(seen, needing, None, ())
    # Another step of the same run used more.
    assert not _may_be_skipped(seen, needing, hidden, (), used=8)


def test_an_empty_folder_has_nothing_to_publish(store: Store) -> None:
    assert messages(store) == ["has no records; run an entry first, there is nothing to publish"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"simulated": True}, "was simulated"),
        ({"machine": machine(simulated=True)}, "was simulated"),
        ({"outcome": None}, "has no outcome"),
        ({"ended_at": None}, "has no outcome"),
        (
            {"code": Code(commit="c" * 40, digest="d", dirty=True)},
            "changes in runner/ or runbooks/ that are not",
        ),
        ({"code": Code(commit=None, digest="d", dirty=None)}, "names no commit"),
        ({"ended_at": datetime(2026, 11, 1, 7, tzinfo=UTC)}, "ended before it started"),
        ({"ended_at": datetime(2026, 11, 9, tzinfo=UTC)}, "is in the future"),
        ({"machine": machine(cpu=None, os="")}, "lacks facts about its machine: cpu, os"),
        ({"machine": machine(memory_bytes=0)}, "lacks facts about its machine: memory_bytes"),
        ({"machine": machine(B200, driver=None)}, "lacks facts about its machine: driver"),
        ({"machine": machine(machine_class="8xB200-180GB")}, "detected cpu-example-x86_64-2c"),
        ({"machine": machine(cpu_level="v4")}, "detected cpu-example-x86_64-v4-2c"),
        ({"machine": machine(cpu="Intel(R) Xeon(R)")}, "detected cpu-intel-xeon-x86_64-2c"),
        (
            {"machine": machine(machine_class="cpu-x86_64-2c")},
            "machine_class is cpu-x86_64-2c, detected",
        ),
        ({"machine": machine(gpu_error="NVML: no")}, "could not be read (NVML: no)"),
        ({"machine": machine(gpu_error="NVML: no")}, "repair the node first"),
        (
            {"campaign": "at 10.0.0.5"},
            "campaign contains text that redaction would remove (ip); run the entry again",
        ),
        ({"runbook": RunbookRef(id="nvlink", number=2, title="on dgx-07")}, "runbook.title contains text"),
        ({"node_alias": "dgx-07"}, "has a node alias of an invalid form"),
        ({"code": Code(commit="c" * 40, digest="d", dirty=None)}, "does not say whether its code"),
        ({"code": Code(commit="main", digest="d", dirty=False)}, "names 'main' as its commit"),
        ({"started_at": datetime(1970, 1, 1, tzinfo=UTC)}, "starts in 1970"),
        (
            {"machine": machine("NVIDIA B200").model_copy(update={"gpus": (SMALL,)})},
            "names GPU 0 a B200, but it has",
        ),
    ],
)
def test_each_fault_of_a_record_is_named(store: Store, changes: dict[str, Any], says: str) -> None:
    write(store, record(step("a"), **changes))
    found = messages(store)
    assert any(says in message for message in found), found
    assert all("\n" not in message and "; " in message for message in found), "each says what to do"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"duration_s": -1.0}, "step a has a duration below 0"),
        ({"duration_s": 3600.0}, "step a took longer than the whole run"),
        ({"started_at": datetime(2026, 11, 1, 7, 59, tzinfo=UTC)}, "step a started outside its run"),
        ({"started_at": datetime(2026, 11, 1, 8, 2, tzinfo=UTC)}, "step a started outside its run"),
        (
            {"stdout_tail": "on dgx-07"},
            "steps[0].stdout_tail contains text that redaction would remove (host)",
        ),
        ({"details": {"api_key": "hunter2"}}, "steps[0].details.api_key contains text that redaction"),
        ({"measurements": (one_second(-1.0),)}, "compile_time is -1.00 s, below zero"),
        ({"measurements": (one_second(9.0, 1.0, 2.0),)}, "its median is outside its samples"),
        ({"measurements": (one_second(1.0), one_second(2.0))}, "measured compile_time twice"),
    ],
)
def test_each_fault_of_a_step_is_named(store: Store, changes: dict[str, Any], says: str) -> None:
    write(store, record(step("a", **changes)))
    found = messages(store)
    assert any(says in message for message in found), found
    assert not any("hunter2" in message or "dgx-07" in message for message in found)


def test_a_run_that_was_cut_off_is_refused_for_that_alone(store: Store) -> None:
    later = datetime(2026, 11, 1, 8, 2, tzinfo=UTC)
    write(store, record(step("a", started_at=later), outcome=None, ended_at=None))
    (message,) = messages(store)
    assert message == "has no outcome: its run was cut off; run the entry again"


def test_this_hosts_own_name_is_found_wherever_it_stands_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", secrets=("heart-of-gold",))
    write(store, record(step("a", stdout_tail="rank 3 on Heart-of-Gold hung")))
    assert messages(store) == [
        (
            "steps[0].stdout_tail contains text that redaction would remove (redacted); "
            "run the entry again with this version"
        )
    ]


def test_a_step_that_appears_twice_is_named(store: Store) -> None:
    write(store, record(step("a"), step("a")))
    assert messages(store) == ["has a duplicate step a; run the entry again"]


def test_a_copy_under_another_run_id_is_named(store: Store) -> None:
    first = store.save(record(step("a")))
    store.save(record(step("a"), run_id="b" * 12))
    assert messages(store) == [
        f"has node, entry and start of {first}; a run may be published only once, delete one"
    ]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"torch": None}, "torch"),
        ({"nccl": None}, "cuda, nccl"),
    ],
)
def test_a_bandwidth_without_the_versions_that_made_it_is_refused(
    store: Store, changes: dict[str, Any], missing: str
) -> None:
    write(store, record(step("busbw", measurement(1e9, backend="nccl")), machine=machine(**changes)))
    assert any(message.startswith("lacks facts about its machine: ") for message in messages(store))
    assert any(missing in message for message in messages(store))


@given(
    st.sampled_from(
        [
            "10.1.2.3",
            "hf_" + "a1B2" * 8,
            "GPU-8a1c9d2e-44b0-9f3a-1b2c-3d4e5f607182",
            "dgx-07",
            "/home/zaphod/x",
        ]
    ),
    st.sampled_from(
        ["campaign", "stdout_tail", "stderr_tail", "reason", "command", "details", "labels", "os"]
    ),
    st.text("abc .:\n", max_size=20),
)
@settings(deadline=None, max_examples=60)
def test_a_leak_is_found_in_whatever_text_it_stands(leak: str, place: str, before: str) -> None:
    text = f"{before} {leak}"
    elsewhere: dict[str, Any] = {
        "details": {"details": {"deep": [{"x": text}]}},
        "labels": {"measurements": (measurement(1.0, path=text),)},
    }
    changes: dict[str, Any] = elsewhere.get(place, {place: text})
    if place == "campaign":
        found = record(step("a"), campaign=text)
    elif place == "os":
        found = record(step("a"), machine=machine(os=text))
    else:
        found = record(step("a", **changes))
    assert leaks(found), text
    assert not any(leak in where + kinds for where, kinds in leaks(found))
    assert leaks(redacted(found)) == ()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(store: Store, number: str) -> None:
    path = store.save(record(step("a", measurement(12345.0))))
    path.write_text(path.read_text().replace("12345.0", number))
    (message,) = messages(store)
    assert number in message


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            measurement(1.0).model_copy(update={"unit": "s"}),
            "bus_bandwidth is in s, but its stored unit is B/s; a number in another unit needs another name",
        ),
        (
            measurement(1.0, name="made_up"),
            "made_up is not a known metric; declare it in the module of its probe",
        ),
        (
            measurement(2e12, 1e9, 2e12, 2e12),
            "bus_bandwidth is 2,000 GB/s, above the physical limit of 1,800 GB/s; correct the measurement",
        ),
    ],
)
def test_each_fault_of_a_measurement_is_named(store: Store, found: Measurement, says: str) -> None:
    write(store, record(step("busbw", found), machine=EIGHT))
    assert messages(store) == [f"step busbw: {says}"]


def measured_in(unit: str, name: str, **labels: str) -> Measurement:
    return Measurement(name=name, labels=labels, value=1.0, unit=unit, statistic="single")


@pytest.mark.parametrize(
    ("found", "gpus_used", "highest"),
    [
        (measured_in("FLOP/s", "matmul_rate", dtype="bf16"), 1, 2250e12),
        (measured_in("FLOP/s", "matmul_rate", dtype="fp8"), 2, 9000e12),
        (measured_in("FLOP/s", "matmul_rate"), 0, 8 * 4500e12),
        (measured_in("B/s", "memory_bandwidth"), 1, 7680 / 8 * 3996e6 * 2),
        (measured_in("B/s", "bus_bandwidth"), 8, 1800e9),
        (measured_in("token/s", "tokens_per_second"), 8, None),
        (measured_in("1", "nvlinks_per_pair"), 8, 18),
        (measured_in("W", "power"), 2, 2100.0),
        (measured_in("1", "fp8_share"), 1, 1.0),
        (measured_in("B", "peak_memory"), 1, 8 * 180e9),
    ],
)
def test_a_ceiling_follows_from_the_board(found: Measurement, gpus_used: int, highest: float | None) -> None:
    assert ceiling(found, EIGHT, step(gpus_used=gpus_used)) == highest


@pytest.mark.parametrize("names", [[], ["NVIDIA Unknown 9000"], [B200, "NVIDIA Unknown 9000"]])
def test_an_unknown_board_has_no_ceiling(names: list[str]) -> None:
    assert ceiling(measured_in("B/s", "bus_bandwidth"), machine(*names), step()) is None


def test_a_run_is_published_once(store: Store) -> None:
    store.save(record(step("a")))
    store.save(record(step("a"), started_at=datetime(2026, 11, 1, 7, tzinfo=UTC)))
    (message,) = messages(store)
    assert message.startswith("has the run id of")


@pytest.mark.parametrize("place", ["8xB200-180GB/nvlink/x.json", "cpu-example-x86_64-2c/other/x.json"])
def test_a_record_in_the_wrong_place_is_told_where_it_belongs(store: Store, place: str) -> None:
    moved = store.root / place
    moved.parent.mkdir(parents=True)
    store.save(record(step("a"))).rename(moved)
    assert messages(store) == [
        "belongs at cpu-example-x86_64-2c/nvlink/20261101T080000Z-a1b2c3d4e5f6.json; move it there"
    ]


def test_unreadable_and_foreign_files_keep_the_folder_back(store: Store) -> None:
    path = store.save(record(step("a")))
    path.with_name("20261101T080001Z-bad.json").write_text('{"load": NaN}')
    (store.root / "notes.txt").write_text("mine")
    assert sorted(messages(store)) == [
        "contains NaN; omit a value that could not be measured",
        "is not a record of this project; move it elsewhere",
    ]


def test_the_command_prints_a_line_a_problem_and_returns_1(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(store, record(simulated=True, outcome=None))
    assert main(["--data", str(store.root), "verify-data"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "verify-data: 2 problems; not fit to publish"
    assert all(line.startswith(f"{path}: ") for line in lines[:-1])


def test_the_command_returns_0_where_all_may_be_published(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.save(
        record(
            step("a"), started_at=datetime(2025, 1, 1, tzinfo=UTC), ended_at=datetime(2025, 1, 2, tzinfo=UTC)
        )
    )
    assert main(["--data", str(store.root), "verify-data"]) == 0
    assert capsys.readouterr().out == "verify-data: 1 record of 1 machine class fit to publish\n"


@pytest.mark.parametrize(("name", "why"), [("", "holds no record"), ("missing", "does not exist")])
def test_a_folder_with_nothing_to_check_is_bad_input_and_no_answer_about_its_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    folder = tmp_path / name
    assert main(["--data", str(folder), "verify-data"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"runbook: {folder} {why};")
    assert "--data" in said
    assert said.count("\n") == 1


def test_a_data_folder_that_cannot_be_listed_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_text("a file")
    assert main(["--data", str(tmp_path / "data"), "verify-data"]) == 3
    assert "cannot list" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"torch": "2.9.0a0+145a3a7bda.nv25.10", "kernel": "6.8.0-1021-nvidia-64k", "python": "3.12.3+"},
        {"torch": "2.13.0+cpu", "kernel": "5.14.0-427.el9.x86_64", "python": "3.14.0rc2"},
        {"torch": "2.10.0.dev20260101+cu130", "kernel": "[ip]-microsoft-standard-WSL2", "nccl": "2.27.7"},
        {"torch": None, "cuda": None, "nccl": "2.28.3-1", "kernel": "6.1", "driver": "570.86.15"},
        {"cuda": "12.8", "driver": "610.12", "load": None},
    ],
)
def test_versions_are_taken_with_whatever_a_vendor_adds(store: Store, changes: dict[str, Any]) -> None:
    write(store, record(step("a"), machine=machine(B200, **changes)))
    assert messages(store) == []


def test_what_a_probe_may_print_beside_its_document_is_no_contradiction(store: Store) -> None:
    command = "python -m runner.probes.collectives"
    said = '{"probe": "collectives", "measurements": [], "status": "ok"}'
    told: tuple[dict[str, Any], ...] = (
        {"command": f"{command} > /tmp/out; echo done", "stdout_tail": said},
        {"command": f"RUNBOOK_RESULT= {command}", "stdout_tail": said},
        {"command": command, "stdout_tail": f"{said[20:]}\n"},
        {"command": command, "stdout_tail": "[" * 10000},
        {"command": command, "stdout_tail": f"{said}\nall done\n"},
    )
    for number, changes in enumerate(told):
        start = datetime(2026, 10, 1 + number, tzinfo=UTC)
        taken = step("a", measurement(3e10, 3e10, bytes=1), **changes)
        when = {"started_at": start, "ended_at": start.replace(minute=1), "run_id": f"{number:012x}"}
        write(store, record(taken, **when))
    assert messages(store) == []


def test_invisible_characters_that_a_record_does_not_keep_are_no_contradiction(store: Store) -> None:
    """gloo ends a message with a picture and a variation selector, which JSON escapes and a record drops."""
    words = "Read error. GLHF! \U0001f3d6\ufe0f"
    document = {"probe": "collectives", "measurements": [], "status": "ok", "details": {"words": [words]}}
    taken = step("a", command="python -m runner.probes.collectives", stdout_tail=json.dumps(document))
    write(
        store, record(taken.model_copy(update={"probe": "collectives", "details": {"words": [words[:-1]]}}))
    )
    assert not [one for one in messages(store) if "details" in one]
    other = taken.model_copy(update={"probe": "collectives", "details": {"words": [words[1:-1]]}})
    start = datetime(2026, 10, 1, tzinfo=UTC)
    write(store, record(other, started_at=start, ended_at=start.replace(minute=1), run_id="0" * 12))
    assert [one for one in messages(store) if "a different details" in one]


def test_whatever_a_record_holds_a_refusal_is_one_line_without_escapes(store: Store) -> None:
    odd = "a\n\x1b[31mred"
    write(
        store,
        record(
            step(odd, measurement(1.0, name=odd, **{odd: 1})),
            machine=machine(kernel=odd, driver=odd),
            options=Options(preset=odd, phases=(), allow=(odd,)),
            code=Code(commit=odd, digest="d", dirty=False),
        ),
    )
    found = messages(store)
    assert found
    assert all(message.isprintable() for message in found), found
