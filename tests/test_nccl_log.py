from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.nccl.log import Transport, fault_of, logging_environment, parse_log, read_transport

LOGS = Path(__file__).parent / "nccl_log"
P2P, SHM = Transport({"P2P/CUMEM": 3}, True), Transport({"SHM/direct": 3}, False)


def log(name: str) -> str:
    return (LOGS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "channels", "nvls"),
    [
        ("p2p_nvls.log", {"P2P/CUMEM": 3}, True),
        ("shm_old.log", {"SHM/direct": 3}, False),
        ("net_and_p2p.log", {"NET/IB": 1, "P2P/IPC": 1, "P2P/direct": 1, "P2P/indirect": 1}, None),
    ],
)
def test_a_log_names_the_way_of_every_connection(name: str, channels: dict[str, int], nvls: bool) -> None:
    assert parse_log(log(name)) == Transport(channels, nvls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all good via P2P/CUMEM\n",
        "h:1:2 [0] NCCL INFO Channel 00/24 :    0   1   2\n",
        "h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via WARP/CUMEM\n",
        "h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM",
    ],
)
def test_truncated_and_foreign_text_names_no_way(text: str) -> None:
    assert parse_log(text) is None


@given(st.integers(min_value=0, max_value=len(log("p2p_nvls.log"))))
def test_a_log_cut_anywhere_names_no_way_that_is_not_in_it(cut: int) -> None:
    found = parse_log(log("p2p_nvls.log")[:cut])
    assert found is None or set(found.channels) == {"P2P/CUMEM"}


def test_the_logs_of_all_ranks_are_one_transport(tmp_path: Path) -> None:
    assert read_transport(tmp_path) is None
    pattern = logging_environment(tmp_path)["NCCL_DEBUG_FILE"]
    for pid, name in (("17", "p2p_nvls.log"), ("18", "shm_old.log")):
        Path(pattern.replace("%p", pid)).write_text(log(name), encoding="utf-8")
    found = read_transport(tmp_path)
    assert found is not None
    assert found.channels == {"P2P/CUMEM": 3, "SHM/direct": 3}
    assert found.non_p2p_transports == ("SHM/direct",)


@pytest.mark.parametrize(
    ("caller", "clean", "nvlinked", "fault"),
    [
        (P2P, None, True, None),
        (P2P, SHM, True, None),
        (None, None, True, None),
        (SHM, P2P, True, "in this environment NCCL uses SHM/direct, in a clean one P2P/CUMEM"),
        (SHM, P2P, False, "in this environment NCCL uses SHM/direct, in a clean one P2P/CUMEM"),
        (SHM, SHM, True, "NCCL uses SHM/direct although every pair of GPUs has NVLink"),
        (SHM, None, True, "NCCL uses SHM/direct although every pair of GPUs has NVLink"),
        (SHM, None, False, None),
    ],
)
def test_a_detour_is_a_fault_only_where_a_straight_way_is_known(
    caller: Transport | None, clean: Transport | None, nvlinked: bool, fault: str | None
) -> None:
    assert fault_of({"caller": caller} | ({"clean": clean} if clean else {}), nvlinked) == fault
