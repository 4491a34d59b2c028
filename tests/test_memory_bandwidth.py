import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import InputError
from runner.base.stats import FEWEST_FOR_BOOTSTRAP
from runner.hardware.boards import board_named
from runner.kit.budget import VARIABLE
from runner.kit.copy_bandwidth import Copy, copies, peak_of, weak_pairs
from runner.kit.probe import OK, measured
from runner.probes.memory_bandwidth import PROBE
from runner.record.model import Measurement
from tests.nvml import EIGHT_B200, environment

main = PROBE.main

B200 = board_named("B200")


def pair(source: int, target: int, *samples: float) -> Measurement:
    labels = Copy("pair", f"cuda:{source}", f"cuda:{target}").labels
    return measured("copy_bandwidth", samples, **labels, bytes=1)


def test_a_host_without_gpus_copies_within_its_own_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--size", "4MiB", "--iterations", "5"]) == OK
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    bandwidth, wrong = document["measurements"]
    assert bandwidth["labels"] == {"copy": "within", "source": "cpu", "target": "cpu", "bytes": 4 << 20}
    assert (bandwidth["unit"], len(bandwidth["samples"])) == ("B/s", 5)
    assert (wrong["name"], wrong["value"]) == ("wrong_elements", 0)
    assert document["effective"]["gpus"] == 0


def test_where_the_time_is_over_there_are_still_enough_copies_for_an_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "1e-9")
    assert main(["--size", "4KiB", "--iterations", "100000"]) == OK
    bandwidth, _ = json.loads(capsys.readouterr().out)["measurements"]
    assert len(bandwidth["samples"]) == FEWEST_FOR_BOOTSTRAP


def test_eight_gpus_are_copied_between_in_both_directions_and_to_and_from_the_host() -> None:
    every = list(copies(8))
    kinds = [copy.kind for copy in every]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "within": 8, "host_to_device": 16, "device_to_host": 16, "pair": 56,
    }  # fmt: skip
    assert len({json.dumps(copy.labels) for copy in every}) == len(every)


def test_the_peak_is_that_of_the_links_or_the_memory_and_none_for_what_is_not_known() -> None:
    assert peak_of(Copy("pair", "cuda:0", "cuda:1"), B200) == 900e9
    assert peak_of(Copy("within", "cuda:0", "cuda:0"), B200) == pytest.approx(7.672e12, rel=1e-3)
    assert peak_of(Copy("host_to_device", "cpu", "cuda:0", pinned=True), B200) is None
    assert peak_of(Copy("pair", "cuda:0", "cuda:1"), None) is None


def test_one_weak_pair_is_named_and_an_evenly_slow_mesh_is_not() -> None:
    sound = [pair(0, 1, 700, 710, 705), pair(1, 0, 700, 705, 702), pair(0, 2, 690, 700, 695)]
    assert weak_pairs([*sound, pair(2, 0, 300, 310, 305)]) == [
        "cuda:2 to cuda:0: copy bandwidth is 44% of the median pair"
    ]
    assert weak_pairs([pair(0, 1, 50, 51, 50), pair(1, 0, 50, 49, 51), pair(0, 2, 51, 50, 50)]) == []


def test_a_pair_whose_samples_reach_the_floor_is_not_called_weak() -> None:
    assert weak_pairs([pair(0, 1, 700, 700), pair(1, 0, 700, 700), pair(2, 0, 300, 690)]) == []


def test_gpus_that_torch_cannot_use_are_never_measured_as_host_memory(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.memory_bandwidth", "--size", "1MiB"],
        cwd=Path(__file__).parents[1],
        env=own | environment(tmp_path, EIGHT_B200),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "NVML reports 8 GPUs, but this torch cannot use any" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["--size", "banana"], ["--size", "1"], ["--iterations", "0"], ["--warmup", "-1"]]
)
def test_bad_input_ends_with_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == InputError.exit_status
    assert len(capsys.readouterr().err.splitlines()) == 1
