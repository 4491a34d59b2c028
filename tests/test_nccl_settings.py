import subprocess
from pathlib import Path

import pytest

from runner.kit.nccl.settings import NcclSetting, Origin, judge_setting
from runner.kit.nccl.values import Judgement, number_of

FIVE_EXPORTS = {
    "NCCL_P2P_LEVEL": "NVL",
    "NCCL_P2P_DISABLE": "0",
    "NCCL_IB_DISABLE": "1",
    "NCCL_SHM_DISABLE": "0",
    "NCCL_NET_GDR_LEVEL": "5",
}


def judged(name: str, value: str, nodes: int = 1) -> Judgement:
    return judge_setting(NcclSetting(name, value, "environment"), nodes).judgement


@pytest.mark.parametrize(
    ("name", "value", "one", "two"),
    [
        ("NCCL_P2P_DISABLE", "1", "harmful", "harmful"),
        ("NCCL_P2P_DISABLE", "0x1", "harmful", "harmful"),
        ("NCCL_P2P_DISABLE", "0", "default", "default"),
        ("NCCL_P2P_DISABLE", "yes", "default", "default"),
        ("NCCL_P2P_LEVEL", "NVL", "default", "default"),
        ("NCCL_P2P_LEVEL", "LOC", "harmful", "harmful"),
        ("NCCL_P2P_LEVEL", "5", "legacy", "legacy"),
        ("NCCL_P2P_LEVEL", "NVLINK", "misspelt", "misspelt"),
        ("NCCL_P2P_LEVEL", "nvl", "misspelt", "misspelt"),
        ("NCCL_P2P_LEVEL", "NVL ", "misspelt", "misspelt"),
        ("NCCL_P2P_LEVEL", "NVB", "harmless", "harmless"),
        ("NCCL_P2P_LEVEL", "0", "harmful", "harmful"),
        ("NCCL_P2P_DISABLE", "2", "default", "default"),
        ("NCCL_P2P_DISABLE", " 1 # a hang", "harmful", "harmful"),
        ("NCCL_NVLS_ENABLE", "no", "harmful", "harmful"),
        ("NCCL_NVLS_ENABLE", "2", "default", "default"),
        (" NCCL_P2P_DISABLE", "1", "misspelt", "misspelt"),
        ("NCCL_IB_DISABLE", "1", "harmless", "harmful"),
        ("NCCL_SHM_DISABLE", "0", "default", "default"),
        ("NCCL_SHM_DISABLE", "1", "harmful", "harmful"),
        ("NCCL_NET_GDR_LEVEL", "5", "legacy", "legacy"),
        ("NCCL_NET_GDR_LEVEL", "LOC", "harmless", "harmful"),
        ("NCCL_NVLS_ENABLE", "0", "harmful", "harmful"),
        ("NCCL_SOCKET_IFNAME", "lo", "system", "harmful"),
        ("NCCL_IB_HCA", "mlx5", "system", "system"),
        ("NCCL_ALGO", "Ring", "tuning", "tuning"),
        ("NCCL_DEBUG", "INFO", "tuning", "tuning"),
        ("NCCL_BLOCKING_WAIT", "1", "legacy", "legacy"),
        ("NCCL_P2P_DISABEL", "1", "misspelt", "misspelt"),
        ("NCCL_MY_PLUGIN_KNOB", "1", "unknown", "unknown"),
    ],
)
def test_each_setting_is_judged_for_one_node_and_for_two(name: str, value: str, one: str, two: str) -> None:
    assert (judged(name, value), judged(name, value, 2)) == (one, two)


def test_the_five_exports_harm_only_over_several_nodes() -> None:
    faults = {
        nodes: [name for name, value in FIVE_EXPORTS.items() if judged(name, value, nodes).is_fault]
        for nodes in (1, 2)
    }
    assert faults == {1: [], 2: ["NCCL_IB_DISABLE"]}


def test_a_misspelt_name_is_answered_with_the_right_one() -> None:
    assert judge_setting(NcclSetting("NCCL_P2P_LEVL", "NVL", "environment"), 1).why.endswith(
        "did you mean NCCL_P2P_LEVEL?"
    )


def test_a_wrong_level_is_answered_with_the_right_one() -> None:
    assert judge_setting(NcclSetting("NCCL_P2P_LEVEL", "nvl", "environment"), 1).why.endswith(
        "did you mean NVL?"
    )


@pytest.mark.parametrize(
    ("value", "number"),
    [("1", 1), ("0x10", 16), ("010", 8), ("1abc", 1), (" 7", 7), ("-3", -3), ("yes", 0), ("", 0), ("09", 0)],
)
def test_numbers_are_read_as_c_reads_them(value: str, number: int) -> None:
    assert number_of(value) == number


@pytest.mark.parametrize("origin", [Origin.UNIT, Origin.PROCESS])
def test_what_no_line_of_shell_undoes_says_what_to_do(origin: Origin) -> None:
    undo = NcclSetting("NCCL_P2P_DISABLE", "1", "process 17", origin).undo.text
    assert "process 17" in undo
    assert "restart" in undo


def test_the_undo_line_of_a_file_takes_out_that_setting_alone(tmp_path: Path) -> None:
    path = tmp_path / "my conf"
    path.write_text("NCCL_ALGO=Ring\n  NCCL_P2P_DISABLE = 1\nNCCL_P2P_DISABLE_NOT=1\n", encoding="utf-8")
    undo = NcclSetting("NCCL_P2P_DISABLE", "1", str(path), Origin.FILE).undo.text
    subprocess.run(["bash", "-euc", undo], check=True)
    assert path.read_text(encoding="utf-8") == "NCCL_ALGO=Ring\nNCCL_P2P_DISABLE_NOT=1\n"
