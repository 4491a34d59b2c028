import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import InputError
from runner.probes.nccl.settings import Origin, Setting, judge
from runner.probes.nccl.sources import (
    parse_conf,
    parse_environment,
    parse_environment_file,
    parse_unit,
    read_own,
    read_process,
    read_settings,
    read_units,
    running_jobs,
)

UNIT = """\
[Unit]
Description=Trains a model

[Service]
# Environment=NCCL_ALGO=Ring
Environment="NCCL_P2P_DISABLE=1" NCCL_DEBUG=WARN "OTHER=a b"
Environment=NCCL_IB_HCA=mlx5_0,mlx5_1 \\
    NCCL_NVLS_ENABLE=0
EnvironmentFile=-/etc/default/train
UnsetEnvironment=NCCL_DEBUG
ExecStart=/usr/bin/train --flag=NCCL_SHM_DISABLE=1
"""


def of(settings: list[Setting]) -> dict[str, str]:
    return {setting.name: setting.value for setting in settings if not setting.shadowed}


def test_a_file_is_read_as_nccl_reads_it() -> None:
    text = "# NCCL_DEBUG=INFO\nNCCL_P2P_DISABLE=1 # why?\nLD_PRELOAD=x\nNCCL_ALGO\n NCCL_PROTO = LL\n\0\xff\n"
    assert of(parse_conf(text, "f")) == {"NCCL_P2P_DISABLE": "1 # why?", " NCCL_PROTO ": " LL"}


def test_a_name_with_a_space_in_a_file_is_said_to_do_nothing() -> None:
    (setting,) = parse_conf("NCCL_P2P_DISABLE = 0\n", "f")
    assert "does nothing; write NCCL_P2P_DISABLE=" in judge(setting, 1).why


@pytest.mark.parametrize(
    "text", ["", "NCCL_P2P_DISABLE", "<html>\n</html>", "[Service]\n", "NCCL-P2P=1", "export X=1"]
)
def test_truncated_and_foreign_text_sets_nothing(text: str) -> None:
    assert parse_conf(text, "f") == []
    assert parse_environment(text.encode(), "process 1") == []
    assert parse_unit(text, "u") == ([], [])
    assert parse_environment_file(text, "f") == []


@given(st.text(max_size=200))
def test_any_text_sets_only_names_that_stand_in_it(text: str) -> None:
    for found in (parse_conf(text, "f"), parse_unit(text, "u")[0], parse_environment_file(text, "f")):
        assert all(setting.name in text for setting in found)


def test_the_environment_wins_over_the_users_file_and_that_over_the_systems(tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_P2P_DISABLE=1\nNCCL_ALGO=Ring\n", encoding="utf-8")
    system = tmp_path / "nccl.conf"
    system.write_text("NCCL_ALGO=Tree\nNCCL_IB_DISABLE=1\n", encoding="utf-8")
    settings = read_settings([Setting("NCCL_P2P_DISABLE", "0", "environment")], tmp_path, system)
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
    found = of(read_own({"NCCL_CONF_FILE": str(named), "PATH": "/bin"}, tmp_path))
    assert found == {"NCCL_CONF_FILE": str(named), "NCCL_P2P_DISABLE": "1"}


@pytest.mark.parametrize("name", ["gone", "."])
def test_a_named_file_that_cannot_be_read_is_a_finding(name: str, tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    (setting,) = read_own({"NCCL_CONF_FILE": str(tmp_path / name)}, tmp_path)
    found = judge(setting, 1)
    assert found.judgement.is_fault
    assert "names a file that cannot be read" in found.why


def test_a_unit_gives_what_systemd_would_set() -> None:
    settings, files = parse_unit(UNIT, "train.service")
    assert of(settings) == {
        "NCCL_P2P_DISABLE": "1",
        "NCCL_IB_HCA": "mlx5_0,mlx5_1",
        "NCCL_NVLS_ENABLE": "0",
    }
    assert files == ["-/etc/default/train"]


def test_an_empty_assignment_in_a_unit_forgets_what_stood_before() -> None:
    text = "[Service]\nEnvironment=NCCL_ALGO=Ring\nEnvironment=\nEnvironment=NCCL_PROTO=LL\n"
    assert of(parse_unit(text, "u")[0]) == {"NCCL_PROTO": "LL"}


def test_a_unit_line_with_an_open_quote_is_passed_over_as_systemd_does() -> None:
    assert parse_unit('[Service]\nEnvironment="NCCL_ALGO=Ring\n', "u") == ([], [])


def test_units_and_the_files_they_name_are_read_once(tmp_path: Path) -> None:
    named = tmp_path / "train.env"
    named.write_text('# set in 2023\nNCCL_IB_DISABLE="1"\n', encoding="utf-8")
    units, wants = tmp_path / "system", tmp_path / "system" / "multi-user.target.wants"
    wants.mkdir(parents=True)
    (units / "train.service").write_text(
        f"[Service]\nEnvironment=NCCL_P2P_DISABLE=1\nEnvironmentFile={named}\n", encoding="utf-8"
    )
    (wants / "train.service").symlink_to(units / "train.service")
    found = read_units([units, tmp_path / "none"])
    assert [(setting.name, setting.origin) for setting in found] == [
        ("NCCL_P2P_DISABLE", Origin.UNIT),
        ("NCCL_IB_DISABLE", Origin.FILE),
    ]


@contextmanager
def job(folder: Path, **environment: str) -> Iterator[int]:
    """A process of another program that has a library with NCCL's name in its memory, as a job with NCCL has."""
    library = folder / "libnccl.so.2"
    library.write_bytes(b"\0" * mmap.PAGESIZE)
    program = (
        "import mmap, sys; file = open(sys.argv[1]); held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ);"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid


@pytest.mark.host
def test_a_running_process_is_read_by_what_it_was_started_with(tmp_path: Path) -> None:
    conf = tmp_path / "nccl.conf"
    conf.write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    with job(tmp_path, NCCL_P2P_DISABLE="1", NCCL_CONF_FILE=str(conf)) as pid:
        found = read_process(pid)
        assert pid in running_jobs()[0]
    assert {"NCCL_P2P_DISABLE": "1", "NCCL_ALGO": "Ring"}.items() <= of(found).items()
    assert next(one.source for one in found if one.name == "NCCL_P2P_DISABLE") == f"process {pid}"


def test_a_process_without_nccl_is_no_job() -> None:
    assert os.getppid() not in running_jobs()[0]


def test_a_process_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(InputError, match="there is no process 99999999"):
        read_process(99999999)
