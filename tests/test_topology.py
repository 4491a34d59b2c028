import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import InputError
from runner.hardware.boards import board_named
from runner.hardware.topology import judge
from runner.hardware.topology_text import parse_topology
from tests.nvml import EIGHT_B200, environment

ROOT = Path(__file__).parents[1]
TEXTS = Path(__file__).parent / "topo"
HEALTHY = (TEXTS / "eight_b200_with_nics.txt").read_text(encoding="utf-8")


def probe(
    tmp_path: Path, board: str | None, *words: str, stdin: str = ""
) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    extra = environment(tmp_path, board) if board is not None else {}
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.topology", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
        env={**os.environ, **extra},
    )
    last = done.stdout.strip().splitlines()[-1:] or ["{}"]
    return done, json.loads(last[0])


def test_eight_healthy_b200_are_wired_as_expected(tmp_path: Path) -> None:
    done, document = probe(tmp_path, EIGHT_B200)
    assert done.returncode == 0, done.stderr
    assert document["status"] == "ok"
    assert len(dict(document["details"])["pairs"]) == 28  # type: ignore[call-overload]
    assert "all pairs NV18" in done.stderr


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("link_down 3 5\n", "GPU 3: 17 NVLinks active (down: 5), expected 18 on B200"),
        ("links 0\nancestor 30\n", "no uniform NVLink mesh (PHB × 28)"),
        ("fabric 2 0 0\n", "fabric state in progress"),
        ("fabric 1 0 0\n", "fabric state not started"),
        ("fabric_gpu 6 3 802 0\n", "GPU 6: fabric state completed (error 802)"),
        ("p2p 4\n", "disabled by a registry key"),
        (
            "clique 7 2\n",
            "node: partition 0: GPU 0, 1, 2, 3, 4, 5, 6; partition 2: GPU 7, expected one partition",
        ),
        ("fabric_gpu 2 3 0 1\n", "GPU 2: the fabric reports degraded bandwidth"),
    ],
)
def test_each_wiring_fault_is_the_symptom_and_is_named(tmp_path: Path, fault: str, named: str) -> None:
    done, document = probe(tmp_path, EIGHT_B200 + fault)
    assert done.returncode == 1, done.stderr
    assert document["status"] == "symptom"
    assert named in done.stderr


def test_every_pair_has_its_own_verdict_and_every_gpu_its_place(tmp_path: Path) -> None:
    board = EIGHT_B200 + "link_down 3 5\nnuma 4 1\npcie_gpu 2 1 8\n"
    details: Any = probe(tmp_path, board)[1]["details"]
    told = details["pairs"]
    assert told["2-3"] == {"link": "NV17", "expected": "NV18", "p2p": "ok", "as_expected": False}
    assert {pair for pair, one in told.items() if not one["as_expected"]} == {
        pair for pair in told if "3" in pair.split("-")
    }
    assert details["gpus"][4]["numa_node"] == 1
    assert (details["gpus"][2]["pcie_generation"], details["gpus"][2]["pcie_width"]) == (1, 8)


def test_counts_that_no_driver_gives_are_not_called_zero(tmp_path: Path) -> None:
    board = EIGHT_B200 + "fail nvmlDeviceGetNvLinkErrorCounter 3\n"
    found: Any = probe(tmp_path, board)[1]["measurements"]
    assert "nvlink_errors" not in {one["name"] for one in found}


@pytest.mark.parametrize("code", [1, 3, 15, 999])
def test_errors_from_every_call_never_read_as_healthy(code: int, tmp_path: Path) -> None:
    done, document = probe(tmp_path, f"{EIGHT_B200}fail * {code}\n")
    assert (done.returncode, document) == (3, {})
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("note", "named"),
    [
        ("pcie_gpu 2 5 8\n", "PCIe ×8"),
        ("link_errors 1 4 0 9\n", "9 NVLink data-link errors"),
        # Newer boards keep the counts as fields: effective errors (219) and link recoveries (215).
        (
            "fail nvmlDeviceGetNvLinkErrorCounter 3\nfield 1 4 219 5\nfield 1 17 215 2\n",
            "GPU 1: 7 NVLink data-link errors",
        ),
    ],
)
def test_what_is_worth_a_look_is_said_and_decides_nothing(tmp_path: Path, note: str, named: str) -> None:
    done, document = probe(tmp_path, EIGHT_B200 + note)
    assert (done.returncode, document["status"]) == (0, "ok")
    assert named in done.stderr


def test_a_lost_gpu_is_an_error_and_neither_healthy_nor_a_symptom(tmp_path: Path) -> None:
    done, document = probe(tmp_path, EIGHT_B200 + "fail nvmlDeviceGetNvLinkState 15\n")
    assert done.returncode not in {0, 1, 80}
    assert document == {}
    assert "GPU is lost" in done.stderr
    assert "Traceback" not in done.stderr


def test_split_gpus_have_no_mesh_to_judge(tmp_path: Path) -> None:
    done, document = probe(tmp_path, EIGHT_B200 + "mig 1\np2p 5\n")
    assert document["status"] == "ok", done.stderr
    assert dict(document["details"])["mig"] is True  # type: ignore[call-overload]


def test_a_host_without_the_library_or_with_one_gpu_is_not_applicable(tmp_path: Path) -> None:
    assert probe(tmp_path, None)[0].returncode == 80
    assert probe(tmp_path, EIGHT_B200 + "count 1\n")[0].returncode == 80


def test_a_pasted_matrix_is_judged_from_a_file_and_from_standard_input(tmp_path: Path) -> None:
    path = str(TEXTS / "eight_b200_with_nics.txt")
    assert probe(tmp_path, None, "--from", path, "--board", "B200")[1]["status"] == "ok"
    done, document = probe(
        tmp_path, None, "--from", "-", stdin=(TEXTS / "four_phb_old_driver.txt").read_text()
    )
    assert document["status"] == "symptom"
    assert "no uniform NVLink mesh (PHB × 3, SYS × 3)" in done.stderr
    assert "the same NVLink count for all pairs" in done.stderr


def test_links_to_network_cards_are_not_held_against_the_node() -> None:
    assert judge(parse_topology(HEALTHY), board_named("B200")).healthy


@pytest.mark.parametrize(
    ("name", "healthy", "gpus", "node"),
    [
        ("four_phb_old_driver", False, 4, None),
        ("eight_v100_driver_470", False, 8, 0),
        ("eight_a100_driver_525", True, 8, 3),
        ("four_h100_pairs_driver_550", False, 4, None),
        ("two_pcie_driver_565", False, 2, 1),
        ("eight_b200_with_nics", True, 8, 0),
    ],
)
def test_the_text_of_each_driver_generation_is_read(
    name: str, healthy: bool, gpus: int, node: int | None
) -> None:
    found = parse_topology((TEXTS / f"{name}.txt").read_text(encoding="utf-8"))
    verdict = judge(found, None)
    assert (verdict.healthy, len(found.gpus), found.gpus[0].numa_node) == (healthy, gpus, node)
    assert healthy or "no uniform NVLink mesh" in str(verdict.faults[0])


def test_one_uniform_mesh_is_healthy_when_no_board_is_named() -> None:
    fewer = HEALTHY.replace("NV18", "NV12")
    assert judge(parse_topology(fewer), None).healthy
    assert not judge(parse_topology(fewer), board_named("B200")).healthy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header line with GPU0"),
        ("total 12\ndrwxr-xr-x 2 a a 4096 .\n", "no header line with GPU0"),
        (HEALTHY[: HEALTHY.index("GPU1\tNV18") + 12], "is cut off"),
        (HEALTHY[: HEALTHY.index("GPU7\tNV18")], "no row for GPU7"),
        (HEALTHY.replace("NV18", "XX18", 1), "'XX18' is not a cell"),
        (HEALTHY.replace("NV18", "PHB", 1), "is not symmetric"),
    ],
)
def test_truncated_and_foreign_text_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_topology(text)


@given(st.integers(min_value=0, max_value=len(HEALTHY)))
def test_a_matrix_cut_anywhere_is_whole_or_refused(cut: int) -> None:
    try:
        found = parse_topology(HEALTHY[:cut])
    except InputError:
        return
    assert {pair.link for pair in found.pairs} <= {"NV18", "NV1"}
    assert len(found.pairs) == 28


@given(st.text(max_size=300))
def test_any_text_is_a_matrix_or_an_error_for_the_reader(text: str) -> None:
    with suppress(InputError):
        assert parse_topology(text).gpus


NUMBERS = st.sampled_from(["0", "9" * 5000, "٣", "-1"])


@given(st.sampled_from(["GPU0", "GPU7", "NV18", "\t0\t"]), NUMBERS)
def test_a_matrix_with_any_number_in_it_is_read_or_refused(where: str, number: str) -> None:
    letters = "".join(character for character in where if not character.isdigit()).rstrip("\t")
    with suppress(InputError):
        parse_topology(HEALTHY.replace(where, letters + number))
