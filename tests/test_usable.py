import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.kit.probe import CRASHED, NOT_APPLICABLE
from tests.nvml import EIGHT_B200, environment

USE = """
import sys, torch
from runner.base.errors import RunbookError
from runner.kit.probe import NotApplicableError
from runner.kit.usable import require_sharing, usable_gpus
torch.cuda.device_count = lambda: int(sys.argv[1])
try:
    print(usable_gpus())
    if len(sys.argv) > 2:
        require_sharing(sys.argv[2])
except NotApplicableError as error:
    sys.exit(print(error, file=sys.stderr) or 80)
except RunbookError as error:
    sys.exit(print(error, file=sys.stderr) or error.exit_status)
"""


def use(
    tmp_path: Path, board: str | None, torch_sees: int, *words: str, visible: str | None = None
) -> tuple[int, str]:
    own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    own |= environment(tmp_path, board) if board else {}
    own |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(torch_sees), *words],
        cwd=Path(__file__).parents[1],
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (done.stdout + done.stderr).strip()


@pytest.mark.parametrize(
    "degraded",
    [
        "fabric_gpu 2 3 0 1\n",
        "fabric_gpu 6 3 999 0\n",
        "clique 7 2\n",
        "fabric 0 0 0\n",
        "link_down 3 5\n",
        "fabric_version 1\n",
    ],
)
def test_a_degraded_node_on_which_cuda_starts_is_measured(degraded: str, tmp_path: Path) -> None:
    assert use(tmp_path, EIGHT_B200 + degraded, 8) == (0, "8")


@pytest.mark.parametrize(("state", "named"), [(1, "not started"), (2, "in progress")])
@pytest.mark.parametrize("count", [1, 8])
def test_cuda_waits_for_a_fabric_that_is_not_up_even_for_one_gpu(
    state: int, named: str, count: int, tmp_path: Path
) -> None:
    status, said = use(tmp_path, f"{EIGHT_B200}count {count}\nfabric {state} 0 0\n", count)
    assert status == NOT_APPLICABLE
    assert said.startswith(f"CUDA does not start until the fabric is up: GPU 0: fabric state {named}")


def test_the_fabric_of_a_gpu_that_is_not_visible_does_not_matter(tmp_path: Path) -> None:
    board = EIGHT_B200 + "fabric_gpu 6 1 0 0\n"
    assert use(tmp_path, board, 1, visible="5") == (0, "1")
    assert use(tmp_path, board, 1, visible="6")[0] == NOT_APPLICABLE


@pytest.mark.parametrize("code", [3, 7, 17, 25, 26, 27, 999])
def test_one_gpu_is_measured_whatever_nvml_refuses_about_its_links(code: int, tmp_path: Path) -> None:
    queries = ("nvmlDeviceGetNvLinkState", "nvmlDeviceGetP2PStatus", "nvmlDeviceGetGpuFabricInfoV")
    refused = "".join(f"fail {query} {code}\n" for query in queries)
    assert use(tmp_path, EIGHT_B200 + "count 1\n" + refused, 1) == (0, "1")


def test_a_torch_without_cuda_never_measures_the_host_instead(tmp_path: Path) -> None:
    assert use(tmp_path, EIGHT_B200, 0)[0] == CRASHED
    status, said = use(tmp_path, EIGHT_B200, 0, visible="1,2")
    assert (status, said.partition(",")[0]) == (CRASHED, "NVML reports 2 visible GPUs")
    assert use(tmp_path, EIGHT_B200 + "fail nvmlDeviceGetName 15\n", 0)[0] == CRASHED


def test_no_gpus_or_none_visible_means_the_host(tmp_path: Path) -> None:
    assert use(tmp_path, None, 0) == (0, "0")
    assert use(tmp_path, EIGHT_B200, 0, visible="") == (0, "0")


def test_a_gpu_that_accepts_no_further_process_is_refused_before_cuda_fails(tmp_path: Path) -> None:
    status, said = use(tmp_path, EIGHT_B200 + "compute_mode 3 3\nholder 3 4000000 python\n", 8)
    assert (status, said[:38]) == (NOT_APPLICABLE, "GPU 3 is in a compute mode that exclud")


def test_two_processes_are_not_started_on_a_gpu_that_accepts_one(tmp_path: Path) -> None:
    assert use(tmp_path, EIGHT_B200, 8, "--both") == (0, "8")
    status, said = use(tmp_path, EIGHT_B200 + "compute_mode 3 3\n", 8, "--both")
    assert (status, "--both runs two processes on each GPU, and GPU 3" in said) == (NOT_APPLICABLE, True)
