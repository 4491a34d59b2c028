"""The wiring of nodes of each generation, as NVML reports it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nvml import EIGHT_B200, environment
from tests.nvml.boards import (
    BRIDGED_A6000,
    CUBE_MESH_V100,
    EIGHT_B200_FIELDS,
    EIGHT_H100,
    FOUR_H100,
    HEALTHY,
    ONE_H200_VM,
    POWER9_V100,
)


def probe(tmp_path: Path, board: str, *words: str) -> tuple[int, str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.topology", *words],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(tmp_path, board)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout or "{}")
    return done.returncode, done.stderr, found


def links(document: dict[str, Any]) -> dict[str, str]:
    return {pair: one["link"] for pair, one in document["details"]["pairs"].items()}


@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_node_of_any_generation_shows_a_symptom(name: str, tmp_path: Path) -> None:
    board, wired, judged = HEALTHY[name]
    status, said, document = probe(tmp_path, board)
    assert set(links(document).values()) == wired
    assert (status, document["status"]) == ((0, "ok") if judged else (80, "not_applicable")), said


def test_the_links_of_a_cube_mesh_are_counted_pair_by_pair_even_if_one_of_them_is_down(
    tmp_path: Path,
) -> None:
    found = links(probe(tmp_path, CUBE_MESH_V100)[2])
    assert (found["0-1"], found["0-3"], found["0-5"]) == ("NV1", "NV2", "NODE")
    # Link 0 of GPU 0 goes to GPU 1: the others keep their numbers.
    found = links(probe(tmp_path, CUBE_MESH_V100 + "link_down 0 0\n")[2])
    assert (found["0-1"], found["0-2"], found["0-3"], found["0-4"]) == ("NODE", "NV1", "NV2", "NV2")


def test_links_to_a_cpu_count_as_active_and_not_as_links_to_a_gpu(tmp_path: Path) -> None:
    document = probe(tmp_path, POWER9_V100)[2]
    assert {gpu["links_active"] for gpu in document["details"]["gpus"]} == {6}
    assert links(document)["0-1"] == "NV3"


@pytest.mark.parametrize("board", [CUBE_MESH_V100, BRIDGED_A6000, FOUR_H100])
@pytest.mark.parametrize(
    "query", ["nvmlDeviceGetNvLinkRemoteDeviceType", "nvmlDeviceGetNvLinkRemotePciInfo_v2"]
)
def test_where_the_driver_does_not_tell_the_other_ends_no_pair_is_guessed(
    board: str, query: str, tmp_path: Path
) -> None:
    status, said, document = probe(tmp_path, f"{board}fail {query} 17\n")
    assert not [link for link in links(document).values() if link.startswith("NV")]
    assert (status, document["status"]) == (80, "not_applicable"), said


def test_switched_off_links_of_split_gpus_are_by_design(tmp_path: Path) -> None:
    status, said, document = probe(tmp_path, EIGHT_B200 + "mig 1\n")
    assert (status, document["details"]["faults"]) == (0, []), said
    assert document["details"]["gpus"][0]["links_active"] == 0


@pytest.mark.parametrize("counters", [1, 2])
def test_counters_of_newer_boards_are_read_from_fields_even_if_the_older_calls_answer(
    counters: int, tmp_path: Path
) -> None:
    board = f"{EIGHT_B200}counters {counters}\nfield 1 4 219 5\nfield 1 17 215 2\n"
    status, said, _ = probe(tmp_path, board)
    assert status == 0
    assert "GPU 1: 7 NVLink data-link errors" in said


def test_a_counter_of_0_from_either_source_is_a_reading(tmp_path: Path) -> None:
    for board in (EIGHT_H100, EIGHT_B200_FIELDS, EIGHT_B200 + "counters 2\nfield 0 0 219 0\n"):
        found = probe(tmp_path, board)[2]["measurements"]
        assert [one["value"] for one in found if one["name"] == "nvlink_errors"][:1] == [0]


def test_one_gpu_that_lost_its_links_is_named_whatever_path_is_left(tmp_path: Path) -> None:
    down = "".join(f"link_down 3 {link}\n" for link in range(18))
    paths = "".join(f"ancestor_pair 3 {gpu} {50 if gpu > 3 else 40}\n" for gpu in range(8) if gpu != 3)
    status, said, _ = probe(tmp_path, EIGHT_B200 + down + paths)
    assert status == 1
    assert "NODE × 3, NV18 × 21, SYS × 4), and none at all at GPU 3" in said
    assert "GPU 3: 0 NVLinks active" in said


def test_a_virtual_machine_without_nvlink_is_not_judged_and_a_node_that_lost_it_is(tmp_path: Path) -> None:
    two = ONE_H200_VM.replace("count 1", "count 2")
    status, said, document = probe(tmp_path, two)
    assert (status, document["status"]) == (80, "not_applicable")
    assert "NVML shows neither NVLinks nor a fabric on H200, as in a virtual machine without them" in said
    assert probe(tmp_path, two.replace("fabric 0", "fabric 3"))[0] == 1
    assert probe(tmp_path, ONE_H200_VM)[0] == 80


def test_a_struct_version_that_the_driver_does_not_know_leaves_the_fabric_unknown(tmp_path: Path) -> None:
    status, said, document = probe(tmp_path, EIGHT_B200 + "fabric 2 0 0\nfabric_version 1\n")
    assert (status, "fabric_state" in document["details"]["gpus"][0]) == (0, False), said
