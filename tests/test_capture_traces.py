import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from runner.base.errors import InputError, RunbookError
from runner.kit.budget import Budget
from runner.kit.kernel_traces import _fitting, _largest, _on_device, _outermost, _timed
from runner.kit.precision.linear import signal_to_noise
from runner.kit.precision.product import NATIVE
from runner.kit.traced_work import SHAPES, Operation, under_nsys
from runner.probes.capture_fp8_flexattention_traces import PROBE
from runner.sizing.presets import PRESETS

main = PROBE.main

ROOT = Path(__file__).parents[1]
# Does what nsys does as far as its caller can tell: runs the program, and leaves a report where it was told to.
NSYS = """#!/bin/bash
set -e
for word in "$@"; do case "$word" in --output=*) report="${word#--output=}";; esac; done
while [[ "$1" != *python* ]]; do shift; done
"$@"
echo "$*" > "$report.nsys-rep"
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run on this host with an nsys on PATH: the folder that it wrote, and its document."""
    place = tmp_path_factory.mktemp("capture")
    nsys = place / "nsys"
    nsys.write_text(NSYS, encoding="utf-8")
    nsys.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.capture_fp8_flexattention_traces", "--iterations", "2",
         "--preset", "tiny", "--output-dir", str(place / "traces")],
        cwd=ROOT,
        env=os.environ | {"PATH": os.pathsep.join([str(place), os.environ["PATH"]])},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place / "traces", json.loads(done.stdout.splitlines()[-1])


def matmul_of(document: dict[str, Any]) -> tuple[str, str]:
    """The matrix product and its operator, by which product this CPU can use."""
    if document["effective"]["product"] == NATIVE:
        return "fp8_matmul", "aten::_scaled_mm"
    return "e4m3_matmul_in_fp32", "aten::matmul"


def test_the_trace_has_what_perfetto_needs_of_both_operations(captured: tuple[Path, dict[str, Any]]) -> None:
    folder, document = captured
    trace = json.loads((folder / "fp8_flexattention.json").read_text(encoding="utf-8"))
    assert document["details"]["trace"] == str(folder / "fp8_flexattention.json")
    slices = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() for event in slices)
    names = [event["name"] for event in slices]
    matmul, kernel = matmul_of(document)
    assert (names.count(matmul), names.count("flex_attention")) == (2, 2)
    assert kernel in names


def test_both_operations_are_timed_and_right(captured: tuple[Path, dict[str, Any]]) -> None:
    document = captured[1]
    found = {
        (one["name"], one["labels"]["operation"]): one
        for one in document["measurements"]
        if "kernel" not in one["labels"]
    }
    for operation, decibel in ((matmul_of(document)[0], 20), ("flex_attention", 40)):
        assert len(found["operation_time", operation]["samples"]) == 2
        assert found["signal_to_noise", operation]["value"] > decibel


def test_the_largest_kernels_are_measurements(captured: tuple[Path, dict[str, Any]]) -> None:
    shares = [one for one in captured[1]["measurements"] if one["name"] == "kernel_share"]
    matmul, kernel = matmul_of(captured[1])
    products = {
        one["labels"]["kernel"]: one["value"] for one in shares if one["labels"]["operation"] == matmul
    }
    assert products[kernel] > 0
    for operation in (matmul, "flex_attention"):
        assert 0 < sum(one["value"] for one in shares if one["labels"]["operation"] == operation) <= 1.000001


def test_nsys_watches_the_same_work_where_it_is_there(captured: tuple[Path, dict[str, Any]]) -> None:
    folder, document = captured
    report = folder / "fp8_flexattention.nsys-rep"
    assert document["details"]["nsys"] == str(report)
    assert "-m runner.kit.traced_work --preset=tiny" in report.read_text(encoding="utf-8")


def event(
    name: str, parent: Any = None, device: str = "CPU", microseconds: float = 1e6, **more: object
) -> Any:
    kind = SimpleNamespace(name=device)
    taken = {
        "cpu_time_total": microseconds,
        "self_device_time_total": microseconds,
        "is_user_annotation": False,
    }
    return SimpleNamespace(name=name, cpu_parent=parent, device_type=kind, **(taken | more))


def test_what_an_operator_calls_inside_is_not_counted_twice() -> None:
    around = event("fp8_matmul")
    outer = event("aten::_scaled_mm", event("Torch-Compiled Region: 0/0", around))
    events = [around, outer, event("aten::mm", outer), event("aten::mm")]
    assert _outermost(events, "fp8_matmul") == {"aten::_scaled_mm": 1.0}


def test_on_a_gpu_kernels_count_and_the_shadows_of_ranges_do_not() -> None:
    events = [
        event("gemm", device="CUDA"),
        event("gemm", device="CUDA"),
        event("fp8_matmul", device="CUDA", is_user_annotation=True),
        event("aten::_scaled_mm"),
    ]
    assert _on_device(events) == {"gemm": 2.0}


def test_iterations_are_as_many_as_asked_for_or_as_fit() -> None:
    work = [Operation("one", lambda: torch.ones(1), lambda: torch.ones(1), 1.0)]
    assert _fitting(work, "cpu", 5, Budget(float("inf"))) == 5
    assert _fitting(work, "cpu", 5, Budget(0.0)) == 1


def test_kernels_that_took_no_time_have_no_share() -> None:
    found = _largest("fp8_matmul", {"aten::mm": 0.0}, 1, 5)
    assert [(one.name, one.value) for one in found] == [("kernel_time", 0.0), ("kernel_share", 0.0)]


def test_kernels_whose_kept_names_are_equal_are_one_measurement() -> None:
    long = "void cutlass::Kernel2<" + "x" * 200
    found = _largest("fp8_matmul", {long + "a": 3.0, long + "b": 1.0}, 1, 5)
    assert [(one.name, one.value) for one in found] == [("kernel_time", 3.0), ("kernel_share", 0.75)]


@pytest.mark.parametrize(
    "words", [["--iterations", "0"], ["--top", "0"], ["--preset", "70b"], ["--output-dir", "/dev/null/x"]]
)
def test_bad_input_ends_with_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == InputError.exit_status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_parser_needs_no_torch() -> None:
    name = "runner.probes.capture_fp8_flexattention_traces"
    program = f"import sys, {name} as c; c.PROBE.parser(); sys.exit('torch' in sys.modules)"
    assert PROBE.parser().parse_args([]).top == 5
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


SLOW_NSYS = """#!/bin/bash
setsid sleep 300 &
echo $! > "$0.child"
wait
"""


def test_what_a_late_nsys_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = tmp_path / "nsys"
    nsys.write_text(SLOW_NSYS, encoding="utf-8")
    nsys.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # The work never ends, so any deadline passes; it starts its child before that.
    said, waited = "", 1.0
    while not (tmp_path / "nsys.child").exists() or not (tmp_path / "nsys.child").read_text():
        said, waited = under_nsys(tmp_path / "report", [], waited), 2 * waited
    assert said.startswith("no report: nsys did not end within")
    child = int((tmp_path / "nsys.child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_signal_to_noise_of_equal_results_and_of_zeros_is_unknown() -> None:
    ones = torch.ones(4)
    for exact in (ones, torch.zeros(4)):
        found = _timed(Operation("product", ones.clone, exact.clone, 8.0), "cpu", 1)
        assert [one.name for one in found] == ["operation_time", "operation_rate"]
    assert signal_to_noise(ones * 1.1, ones, most=math.inf) == pytest.approx(20.0, abs=0.01)
    assert signal_to_noise(ones, ones) == pytest.approx(150.0)


def test_a_result_that_is_not_finite_is_an_error_and_a_clock_that_stands_still_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 1.0)
    good = Operation("product", lambda: torch.ones(2), lambda: torch.ones(2), 8.0)
    assert [one.name for one in _timed(good, "cpu", 2)] == ["operation_time", "operation_rate"]
    bad = Operation("product", lambda: torch.tensor([math.nan]), lambda: torch.ones(1), 8.0)
    with pytest.raises(RunbookError, match="product: its result is not finite"):
        _timed(bad, "cpu", 1)


def test_every_preset_has_a_shape() -> None:
    assert set(SHAPES) == set(PRESETS)
