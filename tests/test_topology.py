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

from runner.base.errors import InputError
from runner.hardware.boards import board_named
from runner.hardware.topology import Topology
from runner.hardware.topology_text import parse_topology
from runner.hardware.wiring import expected_link, judge_wiring
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


LINK_QUERIES = [
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetP2PStatus",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetNvLinkRemoteDeviceType",
    "nvmlDeviceGetNvLinkErrorCounter",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTopologyCommonAncestor",
    "nvmlDeviceGetMemoryAffinity",
    "nvmlDeviceGetMaxPcieLinkWidth",
    "nvmlDeviceGetMigMode",
]


def read_with(tmp_path: Path, board: str) -> subprocess.CompletedProcess[str]:
    program = "from runner.hardware.topology_nvml import read_topology; print(read_topology())"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment(tmp_path, board)},
    )


@pytest.mark.parametrize("code", [2, 3, 4, 7, 13, 17, 25, 26, 27, 999])
def test_a_query_that_is_refused_in_any_way_is_a_missing_reading(code: int, tmp_path: Path) -> None:
    refused = "".join(f"fail {query} {code}\n" for query in LINK_QUERIES)
    done = read_with(tmp_path, EIGHT_B200 + refused)
    assert done.returncode == 0, done.stderr
    assert "GpuWiring(index=7, links_active=None" in done.stdout
    done, document = probe(tmp_path, EIGHT_B200 + refused)
    assert (done.returncode, document["status"]) == (80, "not_applicable"), done.stderr


@pytest.mark.parametrize("query", LINK_QUERIES)
def test_one_refused_query_is_never_a_wiring_fault(query: str, tmp_path: Path) -> None:
    done, document = probe(tmp_path, f"{EIGHT_B200}fail {query} 17\n")
    assert document["status"] != "symptom", done.stderr


@pytest.mark.parametrize("code", [1, 9, 15, 16])
@pytest.mark.parametrize("query", ["nvmlDeviceGetNvLinkState", "nvmlDeviceGetGpuFabricInfoV"])
def test_a_gpu_or_driver_that_is_gone_ends_the_reading(query: str, code: int, tmp_path: Path) -> None:
    done = read_with(tmp_path, f"{EIGHT_B200}fail {query} {code}\n")
    assert done.returncode != 0
    assert "RunbookError: NVML cannot read the GPUs" in done.stderr


def test_of_a_single_gpu_only_the_fabric_is_read(tmp_path: Path) -> None:
    lost = "".join(
        f"fail {query} 15\n" for query in LINK_QUERIES if "Fabric" not in query and "Mig" not in query
    )
    done = read_with(tmp_path, EIGHT_B200 + "count 1\nfabric 2 0 0\n" + lost)
    assert done.returncode == 0, done.stderr
    assert "fabric_state='in progress'" in done.stdout


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


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("link_down 3 5\n", {"GPU 3"}),
        ("link_down 3 5\nlink_down 4 5\n", {"GPU 3", "GPU 4"}),
        ("links 0\nancestor 30\n", {"node"}),
    ],
)
def test_pairs_of_a_gpu_whose_links_are_down_are_no_second_fault(
    tmp_path: Path, fault: str, named: set[str]
) -> None:
    details: Any = probe(tmp_path, EIGHT_B200 + fault)[1]["details"]
    assert {one["where"] for one in details["findings"]} == named


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
    assert (done.returncode, document["status"]) == (80, "not_applicable")
    assert "name the board with --board to judge it" in done.stderr
    done, document = probe(tmp_path, None, "--from", str(TEXTS / "eight_b200_one_lost.txt"))
    assert (done.returncode, document["status"]) == (1, "symptom")
    assert "the same NVLink count for all pairs" in done.stderr


def test_links_to_network_cards_are_not_held_against_the_node() -> None:
    assert judge_wiring(parse_topology(HEALTHY), board_named("B200")).healthy


@pytest.mark.parametrize(
    ("name", "links", "gpus", "node"),
    [
        ("four_phb_old_driver", {"PHB", "SYS"}, 4, None),
        ("eight_v100_driver_470", {"NV1", "NV2", "SYS"}, 8, 0),
        ("eight_a100_driver_525", {"NV12"}, 8, 3),
        ("four_h100_pairs_driver_550", {"NV6", "SYS"}, 4, None),
        ("two_pcie_driver_565", {"NODE"}, 2, 1),
        ("eight_b200_with_nics", {"NV18"}, 8, 0),
        ("eight_h200_glued_nics", {"NV18"}, 8, 0),
        ("two_5090_with_p2p_below", {"PHB"}, 2, 0),
        ("eight_h100_p2p_first", {"NV18"}, 8, 0),
    ],
)
def test_the_text_of_each_driver_generation_is_read(
    name: str, links: set[str], gpus: int, node: int | None
) -> None:
    found = pasted(name)
    assert ({pair.link for pair in found.pairs}, len(found.gpus)) == (links, gpus)
    assert found.gpus[0].numa_node == node


def pasted(name: str) -> Topology:
    return parse_topology((TEXTS / f"{name}.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        "eight_l40s_pcie",
        "two_4090_phb",
        "four_a4000_pix",
        "four_p40_old",
        "four_phb_old_driver",
        "two_pcie_driver_565",
        "two_5090_with_p2p_below",
    ],
)
def test_a_node_without_nvlink_on_an_unknown_board_is_not_judged(name: str) -> None:
    verdict = judge_wiring(pasted(name), None)
    assert (verdict.symptom, verdict.healthy) == (False, False)
    assert verdict.unknown == (
        "no pair of GPUs has NVLink, as on boards without it or with it down; name the board with --board to judge it"
    )
    assert judge_wiring(pasted(name), board_named("B200")).symptom


@pytest.mark.parametrize(
    "name",
    [
        "eight_v100_cube_mesh",
        "eight_v100_driver_470",
        "four_of_a_cube_mesh",
        "four_v100_power9",
        "four_a6000_bridged",
        "four_h100_pairs_driver_550",
    ],
)
def test_links_from_gpu_to_gpu_differ_by_pair_without_being_a_fault(name: str) -> None:
    verdict = judge_wiring(pasted(name), None)
    assert not verdict.symptom
    assert (verdict.unknown or "").startswith("pairs of GPUs differ, as they do without NVLink switches (NV")


def test_a_bridge_that_is_missing_between_two_boards_is_the_symptom() -> None:
    text = (TEXTS / "four_h100_pairs_driver_550.txt").read_text(encoding="utf-8")
    for board in ("H100-NVL", "H100-PCIe"):
        assert judge_wiring(parse_topology(text.replace("NV6", "NV12")), board_named(board)).healthy
        # One of three bridges, each of four links.
        verdict = judge_wiring(parse_topology(text.replace("NV6", "NV4")), board_named(board))
        assert verdict.symptom
        assert f"NV12 where {board} is bridged" in verdict.faults[0].expected


@pytest.mark.parametrize("board", ["H100", "H200", None])
def test_four_gpus_without_switches_share_a_third_of_their_links_with_each_other(board: str | None) -> None:
    named = None if board is None else board_named(board)
    assert judge_wiring(pasted("four_h100_hgx"), named).healthy
    assert expected_link(pasted("four_h100_hgx"), named) == "NV6"
    text = HEALTHY.replace("NV18", "NV6")
    assert judge_wiring(parse_topology(text), board_named("H100")).symptom


@pytest.mark.parametrize("board", ["B200", None])
def test_one_gpu_that_lost_its_links_is_the_symptom_and_is_named(board: str | None) -> None:
    verdict = judge_wiring(pasted("eight_b200_one_lost"), None if board is None else board_named(board))
    (fault,) = verdict.faults
    assert fault.symptom
    assert fault.found == "no uniform NVLink mesh (NODE × 3, NV18 × 21, SYS × 4), and none at all at GPU 3"


def test_the_view_of_pcie_paths_alone_and_the_status_of_peer_access_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="is from nvidia-smi topo -mp, which does not show NVLink"):
        pasted("eight_h800_pcie_view")
    with pytest.raises(InputError, match="is the status of peer access, from nvidia-smi topo -p2p"):
        pasted("four_p2p_alone")
    without_legend = (TEXTS / "eight_l40s_pcie.txt").read_text(encoding="utf-8").partition("\nLegend")[0]
    with pytest.raises(InputError, match="topo -mp"):
        parse_topology(f"$ nvidia-smi topo -mp\n{without_legend}")


def test_a_full_view_after_one_of_pcie_paths_is_the_one_that_is_read() -> None:
    text = (TEXTS / "eight_h800_pcie_view.txt").read_text(encoding="utf-8")
    assert {pair.link for pair in parse_topology(f"{text}\n{HEALTHY}").pairs} == {"NV18"}


@given(st.integers(min_value=1, max_value=7))
def test_columns_of_nics_are_never_read(width: int) -> None:
    text = (TEXTS / "eight_h200_glued_nics.txt").read_text(encoding="utf-8")
    lines = [
        line if line.startswith(" ") else line[:72] + "#" * width + line[72:] for line in text.splitlines()
    ]
    assert {pair.link for pair in parse_topology("\n".join(lines)).pairs} == {"NV18"}


def test_one_uniform_mesh_is_healthy_when_no_board_is_named() -> None:
    fewer = HEALTHY.replace("NV18", "NV12")
    assert judge_wiring(parse_topology(fewer), None).healthy
    assert not judge_wiring(parse_topology(fewer), board_named("B200")).healthy


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


def two_gpus(link: str) -> str:
    return f"\tGPU0\tGPU1\nGPU0\t X \t{link}\nGPU1\t{link}\t X \n"


def side_by_side(one: str, other: str) -> str:
    """As srun -l gives the output of two nodes."""
    return "".join(f"0: {a}\n1: {b}\n" for a, b in zip(one.splitlines(), other.splitlines(), strict=True))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (two_gpus("NV18") + two_gpus("PHB"), "several matrices that differ; give the output of one node"),
        (side_by_side(two_gpus("NV18"), two_gpus("PHB")), "line 4: a second row for GPU0 differs"),
        ("\n".join(line[:38] for line in HEALTHY.splitlines()), "the header has no column for GPU"),
        ("GPU0 GPU1\nGPU0 X " + "x" * 9000, f"line 2: '{'x' * 40}' is not a cell"),
    ],
)
def test_a_text_of_which_a_part_would_be_passed_over_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_topology(text)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        "GPU0 is slow on this node:\n" + two_gpus("NV18"),
        two_gpus("NV18") + "\nGPU0 is slow\n",
        two_gpus("NV18") * 2,
        side_by_side(two_gpus("NV18"), two_gpus("NV18")),
        "| | GPU0 | GPU1 |\n|---|---|---|\n| GPU0 | X | NV18 |\n| GPU1 | NV18 | X |\n",
    ],
)
def test_a_sentence_about_a_gpu_and_the_same_matrix_again_do_not_matter(text: str) -> None:
    assert [pair.link for pair in parse_topology(text).pairs] == ["NV18"]


def test_a_text_that_is_too_long_is_refused_as_such_from_a_pipe_too(tmp_path: Path) -> None:
    done, _ = probe(tmp_path, None, "--from", "-", stdin="x" * (1 << 20) + "\n" + HEALTHY)
    assert done.returncode == InputError.exit_status
    assert done.stderr == "topology: standard input has more than 1 MiB; give the matrix alone\n"
