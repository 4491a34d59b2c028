"""NVLinks: a link that is down names its suspect, and only errors that come now count."""

from pathlib import Path

import pynvml
import pytest

from runner.node.gpu.group import GpuReading
from runner.node.gpu.links import judge_links
from runner.node.gpu.links_facts import LINK_COUNTERS, GpuLinks, NvLink
from tests.node_probe import judge_node
from tests.nvml.boards import BRIDGED_H100_NVL
from tests.nvml.healthy import HEALTHY_NODES

H100, B200, GB200 = (HEALTHY_NODES[name] for name in ("eight H100", "eight B200", "four GB200"))


def down(gpus: range | tuple[int, ...], links: range | tuple[int, ...]) -> str:
    return "".join(f"link_down {gpu} {link}\n" for gpu in gpus for link in links)


FAULTS = {
    "one link": (H100 + down((3,), (7,)), [("nvlink-down", "GPU 3, NVLink 7")]),
    "two links of two GPUs": (
        H100 + down((3, 5), (7,)),
        [("nvlink-down", "GPU 3, NVLink 7"), ("nvlink-down", "GPU 5, NVLink 7")],
    ),
    "all links of one GPU": (B200 + down((3,), range(18)), [("nvlinks-of-gpu-down", "GPU 3")]),
    "the same link of every GPU": (B200 + down(range(8), (7,)), [("nvlink-switch", "node")]),
    "four links of every GPU": (H100 + down(range(8), range(4)), [("nvlink-switch", "node")]),
    "all links of all GPUs": (B200 + down(range(8), range(18)), [("nvlinks-all-down", "node")]),
    "one link of a board that is not in the table": (
        GB200 + down((2,), (7,)),
        [("nvlink-down", "GPU 2, NVLink 7")],
    ),
    "a part of a bridge": (BRIDGED_H100_NVL + down((0,), (1,)), [("nvlink-down", "GPU 0, NVLink 1")]),
    "fewer links than the board has": (
        H100.replace("links 18", "links 16"),
        [("nvlinks-missing", f"GPU {gpu}") for gpu in range(8)],
    ),
}


@pytest.mark.parametrize("name", HEALTHY_NODES)
def test_nothing_is_found_in_the_links_of_a_healthy_node(tmp_path: Path, name: str) -> None:
    judged = judge_node(tmp_path, HEALTHY_NODES[name], "links")
    assert judged.faults == []
    assert judged.status in {0, 80}


@pytest.mark.parametrize("name", FAULTS)
def test_links_that_are_down_name_the_part_that_is_the_suspect(tmp_path: Path, name: str) -> None:
    board, expected = FAULTS[name]
    judged = judge_node(tmp_path, board, "links")
    assert judged.faults == [(kind, "drain", where) for kind, where in expected]
    assert judged.status == 1


def test_links_of_a_split_gpu_are_off_by_design_and_the_others_are_judged() -> None:
    links = tuple(NvLink(number, active=False) for number in range(18))
    whole = tuple(NvLink(number, active=True, remote="switch") for number in range(18))
    facts = (GpuLinks("GPU 0", "x", mig=True, links=links), GpuLinks("GPU 1", "x", links=whole))
    judged = judge_links((GpuReading(0, facts),))
    assert judged.findings == ()
    assert [str(one) for one in judged.not_read] == [
        "the NVLinks of GPU 0: MIG is on: NVLinks are off by design"
    ]


def test_a_board_that_is_not_in_the_table_is_compared_with_its_peers() -> None:
    def with_down(gpu: int, *down: int) -> GpuLinks:
        links = tuple(NvLink(number, number not in down, remote=None) for number in range(4))
        return GpuLinks(f"GPU {gpu}", "NVIDIA A100-SXM4-80GB", links=links)

    (found,) = judge_links((GpuReading(0, (with_down(0), with_down(1, 2))),)).faults
    assert found.where == "GPU 1, NVLink 2"
    alike = judge_links((GpuReading(0, (with_down(0, 2), with_down(1, 3))),))
    assert alike.findings == ()


def test_old_errors_are_a_note(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, H100 + "link_errors 3 7 0 12\n", "links")
    assert judged.findings == [("nvlink-errors-before", "keep", "GPU 3")]
    assert "12 replays since the driver was loaded (NVLink 7)" in judged.said


def test_old_errors_that_do_not_move_under_a_watch_are_nothing(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, H100 + "link_errors 3 7 0 12\n", "links", "--watch", "1")
    assert judged.findings == []
    assert judged.numbers("nvlink_errors_still_moving") == [0.0]
    assert judged.numbers("nvlinks_with_new_errors") == [0.0]


@pytest.mark.parametrize(
    ("lines", "kind", "action"),
    [
        ("link_rate 3 7 0 5\n", "nvlink-replay-now", "drain"),
        ("link_rate 3 7 1 5\n", "nvlink-recovery-now", "drain"),
        ("link_rate 3 7 2 500\n", "nvlink-crc-flit-now", "drain"),
        ("link_rate 3 7 2 20\n", "nvlink-crc-flit-now", "keep"),
    ],
)
def test_errors_that_come_now_are_judged_as_dcgm_does(
    tmp_path: Path, lines: str, kind: str, action: str
) -> None:
    judged = judge_node(tmp_path, H100 + lines, "links", "--watch", "1")
    assert judged.findings == [(kind, action, "GPU 3, NVLink 7")]


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (214, "nvlink-failed-now"),
        (219, "nvlink-effective-now"),
        (208, "nvlink-received-now"),
        (221, "nvlink-symbol-now"),
    ],
)
def test_blackwells_errors_are_read_as_fields(tmp_path: Path, field: int, kind: str) -> None:
    judged = judge_node(tmp_path, B200 + f"link_rate 3 7 {field} 9\n", "links", "--watch", "1")
    assert judged.faults == [(kind, "drain", "GPU 3, NVLink 7")]


def test_blocks_and_packets_are_no_errors(tmp_path: Path) -> None:
    board = B200 + "link_rate 3 7 294 900\nlink_rate 3 7 204 900\n"
    assert judge_node(tmp_path, board, "links", "--watch", "1").findings == []


def test_counters_that_a_board_does_not_have_are_unknown_and_not_zero(tmp_path: Path) -> None:
    board = B200.replace("port_fields\n", "")
    judged = judge_node(tmp_path, board, "links")
    assert judged.unread == {"the error counters of NVLinks of GPUs 0-7": "neither as counters nor as fields"}


@pytest.mark.parametrize(
    ("name", "call"),
    [("eight B200", "nvmlDeviceGetFieldValues"), ("eight H100", "nvmlDeviceGetNvLinkErrorCounter")],
)
def test_counters_that_fail_are_unknown_and_matter(tmp_path: Path, name: str, call: str) -> None:
    failing = judge_node(tmp_path, f"{HEALTHY_NODES[name]}fail {call} 999\n", "links")
    assert (failing.status, "error counters of NVLinks of GPUs 0-7: Unknown Error" in failing.said) == (
        3,
        True,
    )
    lacking = judge_node(tmp_path, f"{HEALTHY_NODES[name]}fail {call} 3\n", "links")
    assert (lacking.status, [one["matters"] for one in lacking.not_read]) == (0, [False])


def test_a_board_with_switches_that_shows_no_links_is_unknown(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, H100.replace("links 18", "links 0"), "links")
    assert judged.status == 3
    assert "not supported here, though the board has them" in judged.said


@pytest.mark.parametrize(("rare", "action"), [(True, "keep"), (False, "drain")])
def test_corrected_errors_drain_only_if_they_come_most_of_the_time(rare: bool, action: str) -> None:
    def at(second: int) -> GpuReading[tuple[GpuLinks, ...]]:
        count = min(second, 1) if rare else second
        link = NvLink(7, active=True, counters={"recovered": count})
        return GpuReading(float(second), (GpuLinks("GPU 3", "x", links=(link,)),))

    (found,) = judge_links([at(second) for second in range(10)]).findings
    assert (found.kind, found.action) == ("nvlink-recovered-now", action)


def test_one_gpu_with_many_bad_links_is_one_finding() -> None:
    def at(second: int) -> GpuReading[tuple[GpuLinks, ...]]:
        links = tuple(NvLink(number, active=True, counters={"replay": second}) for number in range(18))
        return GpuReading(float(second), (GpuLinks("GPU 3", "x", links=links),))

    (found,) = judge_links([at(0), at(1)]).findings
    assert (found.where, found.found) == ("GPU 3, NVLink 0-17", "18 replays in 1 s")


def test_settings_of_the_links_are_counted_where_gpus_differ(tmp_path: Path) -> None:
    judged = judge_node(tmp_path, H100 + down((3,), (7,)), "links")
    assert judged.document["details"]["settings"] == {
        "active NVLinks": "18 × 7, 17 × 1",
        "NVLink version": "4.0",
    }


def test_fields_and_counters_are_those_of_pynvml() -> None:
    names = {
        206: "MALFORMED_PACKET_ERRORS",
        207: "BUFFER_OVERRUN_ERRORS",
        208: "RCV_ERRORS",
        209: "RCV_REMOTE_ERRORS",
        210: "RCV_GENERAL_ERRORS",
        211: "LOCAL_LINK_INTEGRITY_ERRORS",
        213: "LINK_RECOVERY_SUCCESSFUL_EVENTS",
        214: "LINK_RECOVERY_FAILED_EVENTS",
        219: "EFFECTIVE_ERRORS",
        221: "SYMBOL_ERRORS",
    }
    for number, name in names.items():
        assert getattr(pynvml, f"NVML_FI_DEV_NVLINK_COUNT_{name}") == number
    assert pynvml.NVML_FI_DEV_NVLINK_PLR_XMIT_RETRY_BLOCKS == 295
    assert {one.number for one in LINK_COUNTERS if one.number} == {*names, 295}
    kinds = ("REPLAY", "RECOVERY", "CRC_FLIT", "CRC_DATA")
    assert [getattr(pynvml, f"NVML_NVLINK_ERROR_DL_{kind}") for kind in kinds] == [0, 1, 2, 3]
    assert pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION == 230
