import subprocess
from pathlib import Path

import pytest

from runner.errors import InputError
from runner.probes.nccl_settings import Judgement, Setting, judge, parse_conf, read_settings

FIVE_EXPORTS = {
    "NCCL_P2P_LEVEL": "NVL",
    "NCCL_P2P_DISABLE": "0",
    "NCCL_IB_DISABLE": "1",
    "NCCL_SHM_DISABLE": "0",
    "NCCL_NET_GDR_LEVEL": "5",
}


def judged(name: str, value: str, nodes: int = 1) -> Judgement:
    return judge(Setting(name, value, "environment"), nodes).judgement


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
    assert judge(Setting("NCCL_P2P_LEVL", "NVL", "environment"), 1).why.endswith(
        "did you mean NCCL_P2P_LEVEL?"
    )


def test_a_file_is_read_as_nccl_reads_it() -> None:
    text = "# NCCL_DEBUG=INFO\n NCCL_P2P_DISABLE = 1 # why?\r\nLD_PRELOAD=x\nNCCL_ALGO\n\0\xff\n"
    assert parse_conf(text, "f") == [Setting("NCCL_P2P_DISABLE", "1", "f")]


def test_the_environment_wins_over_the_users_file_and_that_over_the_systems(tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_P2P_DISABLE=1\nNCCL_ALGO=Ring\n", encoding="utf-8")
    system = tmp_path / "nccl.conf"
    system.write_text("NCCL_ALGO=Tree\nNCCL_IB_DISABLE=1\n", encoding="utf-8")
    settings = read_settings({"NCCL_P2P_DISABLE": "0", "PATH": "/bin"}, tmp_path, system)
    winning = {setting.name: (setting.value, setting.source) for setting in settings if not setting.shadowed}
    assert winning == {
        "NCCL_P2P_DISABLE": ("0", "environment"),
        "NCCL_ALGO": ("Ring", "~/.nccl.conf"),
        "NCCL_IB_DISABLE": ("1", "~/nccl.conf"),
    }
    shadowed = next(setting for setting in settings if setting.value == "1" and setting.shadowed)
    assert not judge(shadowed, 1).judgement.is_fault


def test_a_named_file_takes_the_place_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    named = tmp_path / "other.conf"
    named.write_text("NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    settings = read_settings({"NCCL_CONF_FILE": str(named)}, tmp_path, tmp_path / "none")
    assert [setting.name for setting in settings] == ["NCCL_CONF_FILE", "NCCL_P2P_DISABLE"]


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"NCCL_CONF_FILE names .*, which is not there"):
        read_settings({"NCCL_CONF_FILE": str(tmp_path / "gone")}, tmp_path, tmp_path / "none")


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_settings({"NCCL_CONF_FILE": str(tmp_path)}, tmp_path, tmp_path / "none")


def test_the_undo_line_of_a_file_takes_out_that_setting_alone(tmp_path: Path) -> None:
    path = tmp_path / "my conf"
    path.write_text("NCCL_ALGO=Ring\n  NCCL_P2P_DISABLE = 1\nNCCL_P2P_DISABLE_NOT=1\n", encoding="utf-8")
    undo = Setting("NCCL_P2P_DISABLE", "1", str(path)).undo
    subprocess.run(["bash", "-euc", undo], check=True)
    assert path.read_text(encoding="utf-8") == "NCCL_ALGO=Ring\nNCCL_P2P_DISABLE_NOT=1\n"
