"""NVML is asked one thing at a time, and a call that does not return is cut off and named."""

import subprocess
import sys
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from runner.hardware.nvml import GuardedNvml, NvmlHungError
from runner.node.gpu.asking import kernel_bus_id
from tests.nvml import EIGHT_B200, environment

ASKING = """
import pynvml
from runner.hardware.nvml import GuardedNvml
from runner.node.gpu.asking import NvmlAsker, open_gpus
nvml = GuardedNvml(pynvml, {}, lambda _: 0.5)
nvml.nvmlInit()
asker = NvmlAsker(nvml)
print([gpu.where for gpu in open_gpus(asker)])
print(asker.ask("nvmlDeviceGetTemperature", asker.ask("nvmlDeviceGetHandleByIndex", 0), 0, of="GPU 0"))
print([(one.call, one.of, one.kind) for one in asker.refusals])
"""


def answer(folder: Path, board: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ASKING],
        env={"PATH": "/usr/bin:/bin", **environment(folder, board)},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return done.stdout.splitlines()


def test_all_gpus_of_a_sound_node_are_opened_and_nothing_is_refused(tmp_path: Path) -> None:
    opened, temperature, refused = answer(tmp_path, EIGHT_B200 + "temperature 45\n")
    assert opened == str([f"GPU {index}" for index in range(8)])
    assert (temperature, refused) == ("45", "[]")


def test_a_gpu_that_fell_off_the_bus_hides_none_of_the_others(tmp_path: Path) -> None:
    opened, _, refused = answer(tmp_path, EIGHT_B200 + "off_bus 3\n")
    assert opened == str([f"GPU {index}" for index in range(8) if index != 3])
    assert refused == str([("nvmlDeviceGetHandleByIndex", "GPU 3", "lost")])


def test_a_call_that_never_returns_is_cut_off_alone(tmp_path: Path) -> None:
    opened, temperature, refused = answer(tmp_path, EIGHT_B200 + "fail nvmlDeviceGetTemperature 9999\n")
    assert opened == str([f"GPU {index}" for index in range(8)])
    assert temperature == "None"
    assert refused == str([("nvmlDeviceGetTemperature", "GPU 0", "hung")])


def test_a_call_that_hung_is_not_made_again_and_after_two_none_is() -> None:
    never, calls = Event(), []

    def hang(name: str) -> None:
        calls.append(name)
        never.wait()

    module = SimpleNamespace(
        nvmlA=lambda: hang("A"),
        nvmlB=lambda: hang("B"),
        nvmlC=lambda: 7,
        nvmlShutdown=lambda: hang("Shutdown"),
    )
    nvml = GuardedNvml(module, {}, lambda _: 0.05 if len(calls) < 3 else 60)
    for name in ("nvmlA", "nvmlA", "nvmlB"):
        with pytest.raises(NvmlHungError, match=f"^{name}: no answer within 0.05 s$"):
            getattr(nvml, name)()
    with pytest.raises(
        NvmlHungError, match=r"^nvmlC was not called, because nvmlA and nvmlB did not return$"
    ):
        nvml.nvmlC()
    assert nvml.nvmlShutdown() is None
    assert calls == ["A", "B"]
    never.set()


def test_a_bus_id_is_written_as_the_kernel_writes_it() -> None:
    assert kernel_bus_id("00000000:1B:00.0") == "0000:1b:00.0"


def test_a_driver_that_counts_more_gpus_than_a_node_can_have_is_not_believed(tmp_path: Path) -> None:
    board = EIGHT_B200.replace("count 8", "count 4294967295")
    opened, _, refused = answer(tmp_path, board)
    assert (opened, "('nvmlDeviceGetCount', '', 'other')" in refused) == ("[]", True)


def test_a_name_in_another_encoding_is_unknown_and_no_crash() -> None:
    module = SimpleNamespace(
        nvmlDeviceGetName=lambda _: b"\xff\xfe".decode(),
        NVMLError=RuntimeError,
        NVML_ERROR_UNKNOWN=999,
    )
    with pytest.raises(RuntimeError, match="999"):
        GuardedNvml(module, {}).nvmlDeviceGetName(0)
