"""How NCCL reaches other nodes, by its log: GPUDirect RDMA or not, sockets, plugins, errors."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.nccl.network import Network, merged_networks, network_fault, parse_network, read_network

LOG = (Path(__file__).parent / "nccl_log" / "two_nodes.log").read_text(encoding="utf-8")
HOST = "h:1:2 [0] NCCL INFO "
WARN = "h:1:2 [0] transport/net_ib.cc:2453 NCCL WARN "


def test_a_log_names_the_network_of_each_pair_of_ranks() -> None:
    found = parse_network(LOG)
    assert found.pairs == {(0, 8): "IB/GDRDMA", (1, 9): "IB"}
    assert found.channels == {"IB/GDRDMA": 2, "IB": 1}
    assert found.direct == {"mlx5_0": True, "mlx5_1": False}
    assert (found.chosen, found.gdrdma, found.events, found.errors) == (("IB",), True, (), ())


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Channel 00/0 : 7[7] -> 8[0] [send] via NET/Socket/0", "Socket"),
        ("Channel 00/0 : 7[7] -> 8[0] [send] via NET/Libfabric/3(2)/GDRDMA/Shared", "Libfabric/GDRDMA"),
        ("Ring 00 : 7 -> 8 [send] via NET/AWS Libfabric/0", "AWS Libfabric"),
        ("Channel 00/0 : 7[1b000] -> 8[1c000] [send] via NET/IBext_v8/0/GDRDMA", "IBext_v8/GDRDMA"),
    ],
)
def test_plugins_and_old_lines_are_networks_too(line: str, name: str) -> None:
    assert parse_network(f"{HOST}{line}\n").pairs == {(7, 8): name}


PEER = "NET/IB: Got completion from peer 10.9.9.6<511> with"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (f"{PEER} error 12, opcode 0, len 0, vendor err 129 (Recv)", ("", 12)),
        (f"{PEER} status=4 opcode=0 len=0 vendor err 81 (Send) hca mlx5_1", ("mlx5_1", 4)),
        (
            f"{PEER} status=IBV_WC_RETRY_EXC_ERR(12) opcode=IBV_WC_SEND(0) vendor_err=129 hca mlx5_3",
            ("mlx5_3", 12),
        ),
        (
            f"{PEER.replace('IB', 'IB/GIN', 1)} status=5 opcode=0 len=0 vendor err 249 hca mlx5_0",
            ("mlx5_0", 5),
        ),
    ],
)
def test_a_completion_with_an_error_is_read_in_each_of_its_spellings(
    line: str, error: tuple[str, int]
) -> None:
    found = parse_network(f"{WARN}{line}\n")
    assert found.errors == (error,)
    assert f"status {error[1]}" in str(network_fault(found, rdma_ports=1))


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("NET/IB : mlx5_0:1 Got async event : port error", ("mlx5_0", "port error")),
        ("NET/IB : mlx5_0:1 Got non-fatal async event: migration failed(7)", ("mlx5_0", "migration failed(7)")),
        (
            "NET/IB : mlx5_3:1 async fatal event on QP (0x732d78661238): local access violation work queue error",
            ("mlx5_3", "local access violation work queue error"),
        ),
        ("NET/IB : mlx5_3:1 async fatal event: local catastrophic error", ("mlx5_3", "local catastrophic error")),
        ("NET/IB : mlx5_0:1 Got async event : port active", None),
        ("NET/IB : mlx5_0:1 Got async event : client reregistration", None),
    ],
)  # fmt: skip
def test_an_event_that_is_a_fault_is_told_from_one_that_is_none(
    line: str, event: tuple[str, str] | None
) -> None:
    assert parse_network(f"{WARN}{line}\n").events == ((event,) if event else ())


IB, DIRECT = Network(channels={"IB": 4}), Network(channels={"IB/GDRDMA": 4}, gdrdma=True)
SOCKET = Network(channels={"Socket": 4}, no_device=True)


@pytest.mark.parametrize(
    ("network", "ports", "fault"),
    [
        (DIRECT, 8, None),
        (Network(), 8, None),
        # A receiver reads with GPUDirect RDMA, a sender does not: the default without NVLink.
        (replace(IB, gdrdma=True), 8, None),
        (Network(channels={"Libfabric": 4}), 16, None),
        (SOCKET, 0, None),
        (SOCKET, 8, "found no InfiniBand or RoCE device"),
        (IB, 8, "without GPUDirect RDMA"),
        (replace(IB, direct={"mlx5_1": False}), 8, "disabled for mlx5_1"),
    ],
)
def test_a_detour_between_nodes_is_a_fault_only_where_a_better_way_is_there(
    network: Network, ports: int, fault: str | None
) -> None:
    found = network_fault(network, rdma_ports=ports)
    assert found is None if fault is None else fault in str(found)


def test_the_logs_of_all_nodes_are_one(tmp_path: Path) -> None:
    (tmp_path / "nccl.17.log").write_text(LOG, encoding="utf-8")
    here = read_network(tmp_path)
    both = merged_networks([here, SOCKET])
    assert both.channels == {"IB/GDRDMA": 2, "IB": 1, "Socket": 4}
    assert (both.no_device, both.gdrdma) == (True, True)


@given(st.integers(min_value=0, max_value=len(LOG)))
def test_a_log_cut_anywhere_names_nothing_that_is_not_in_it(cut: int) -> None:
    whole, found = parse_network(LOG), parse_network(LOG[:cut])
    assert found.pairs.items() <= whole.pairs.items()
    assert found.direct.items() <= whole.direct.items()


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    parse_network(text + "\n")
