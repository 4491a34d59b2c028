import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.kit.nccl.settings import NcclSetting, Origin, judge_setting
from runner.kit.nccl.sources import (
    parse_conf,
    parse_environment,
    read_own,
    read_process,
    read_settings,
    running_jobs,
)
from runner.kit.nccl.units import parse_environment_file, parse_unit, read_units
from runner.kit.nccl.values import number_of

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


def of(settings: list[NcclSetting]) -> dict[str, str]:
    return {setting.name: setting.value for setting in settings if not setting.shadowed}


def test_a_file_is_read_as_nccl_reads_it() -> None:
    text = "# NCCL_DEBUG=INFO\nNCCL_P2P_DISABLE=1 # why?\nLD_PRELOAD=x\nNCCL_ALGO\n NCCL_PROTO = LL\n\0\xff\n"
    assert of(parse_conf(text, "f")) == {"NCCL_P2P_DISABLE": "1 # why?", " NCCL_PROTO ": " LL"}


def test_a_name_with_a_space_in_a_file_is_said_to_do_nothing() -> None:
    (setting,) = parse_conf("NCCL_P2P_DISABLE = 0\n", "f")
    assert "so it has no effect; write NCCL_P2P_DISABLE=" in judge_setting(setting, 1).why


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
    settings = read_settings(
        [NcclSetting("NCCL_P2P_DISABLE", "0", "environment")], [tmp_path], system, tilde=tmp_path
    ).settings
    winning = {setting.name: (setting.value, setting.source) for setting in settings if not setting.shadowed}
    assert winning == {
        "NCCL_P2P_DISABLE": ("0", "environment"),
        "NCCL_ALGO": ("Ring", "~/.nccl.conf"),
        "NCCL_IB_DISABLE": ("1", "~/nccl.conf"),
    }
    shadowed = next(setting for setting in settings if setting.value == "1" and setting.shadowed)
    assert not judge_setting(shadowed, 1).judgement.is_fault


def test_a_named_file_takes_the_place_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    named = tmp_path / "other.conf"
    named.write_text("NCCL_P2P_DISABLE=1\n", encoding="utf-8")
    found = of(read_own({"NCCL_CONF_FILE": str(named), "PATH": "/bin"}, tmp_path).settings)
    assert found == {"NCCL_CONF_FILE": str(named), "NCCL_P2P_DISABLE": "1"}


@pytest.mark.parametrize("name", ["gone", "."])
def test_a_named_file_that_cannot_be_read_is_a_finding(name: str, tmp_path: Path) -> None:
    (tmp_path / ".nccl.conf").write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    (setting,) = read_own({"NCCL_CONF_FILE": str(tmp_path / name)}, tmp_path).settings
    found = judge_setting(setting, 1)
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
    assert found.unread == []
    assert [(setting.name, setting.origin) for setting in found.settings] == [
        ("NCCL_P2P_DISABLE", Origin.UNIT),
        ("NCCL_IB_DISABLE", Origin.FILE),
    ]


def unit_naming(folder: Path, *files: str) -> Path:
    """A folder with one unit that names these environment files."""
    folder.mkdir(exist_ok=True)
    lines = "".join(f"EnvironmentFile={file}\n" for file in files)
    (folder / "train.service").write_text(f"[Service]\n{lines}", encoding="utf-8")
    return folder


def test_wildcards_in_a_unit_mean_what_they_mean_to_systemd(tmp_path: Path) -> None:
    (tmp_path / "job1.env").write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    (tmp_path / "job2.env").write_text("NCCL_PROTO=LL\n", encoding="utf-8")
    found = read_units([unit_naming(tmp_path / "units", f"{tmp_path}/job**.env")])
    assert (of(found.settings), found.unread) == ({"NCCL_ALGO": "Ring", "NCCL_PROTO": "LL"}, [])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("-", "is not an absolute path"),
        ("relative.env", "is not an absolute path"),
        ("/etc/%i.env", "has a specifier"),
        ("/nonexistent/job.env", "does not exist, so systemd does not start this unit"),
        ("-/nonexistent/job.env", None),
        ("/nonexistent/[", "does not exist"),
        ("/nonexistent/\0", "does not exist"),
    ],
)
def test_an_environment_file_that_cannot_be_read_is_said(
    named: str, said: str | None, tmp_path: Path
) -> None:
    found = read_units([unit_naming(tmp_path / "units", named)])
    assert found.settings == []
    assert len(found.unread) == (said is not None)
    assert all((said or "") in line and "train.service" in line for line in found.unread)


def test_unit_files_that_are_no_files_are_said_and_the_others_read(tmp_path: Path) -> None:
    units = unit_naming(tmp_path / "units")
    (units / "a.service").symlink_to("a.service")
    os.mkfifo(units / "b.service")
    (units / "c.service").write_bytes(b"[Service]\nEnvironment=NCCL_ALGO=Ring\n" + b"#" * (1 << 20))
    (units / "masked.service").symlink_to(os.devnull)
    (units / "gone.service").symlink_to(units / "nowhere")
    found = read_units([units])
    assert of(found.settings) == {"NCCL_ALGO": "Ring"}
    assert [line.rpartition("/")[2] for line in found.unread] == [
        "a.service: Too many levels of symbolic links",
        "b.service: is a pipe, not a regular file",
        "c.service: only its first 1 MiB was read",
    ]


@pytest.mark.parametrize("name", ["~nosuch/x", "~/x", "//nonexistent/x", "x" * 5000, "nonexistent"])
def test_a_named_file_is_taken_to_the_letter_as_nccl_does(name: str, tmp_path: Path) -> None:
    (setting,) = read_own({"NCCL_CONF_FILE": name}, tmp_path).settings
    assert setting.dangling


def test_a_named_device_or_pipe_is_not_read_and_not_called_missing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place, kind in ((pipe, "pipe"), (Path("/dev/zero"), "device")):
        found = read_own({"NCCL_CONF_FILE": str(place)}, Path("/nonexistent"))
        assert [setting.dangling for setting in found.settings] == [False]
        assert found.unread == [f"{place}: is a {kind}, not a regular file"]


def test_a_relative_path_starts_from_the_working_folder_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("NCCL_ALGO=Ring\n", encoding="utf-8")
    named = NcclSetting("NCCL_CONF_FILE", "own.conf", "process 7", Origin.PROCESS)
    found = read_settings([named], [Path("/nonexistent")], working=tmp_path)
    assert of(found.settings)["NCCL_ALGO"] == "Ring"


# What paths and contents are made of, with much of what means something to a shell, to glob or to a file system.
ANY_TEXT = st.text(st.sampled_from("/~*?[]!-.%{}$\\'\"=# \t\n\r\0aZ0é\u2028\udcff"), max_size=30) | st.text(
    max_size=30
)


@given(ANY_TEXT)
def test_any_value_of_the_variable_that_names_a_file_is_read_or_said(value: str) -> None:
    found = read_own({"NCCL_CONF_FILE": value}, Path("/nonexistent"))
    (named,) = (setting for setting in found.settings if setting.name == "NCCL_CONF_FILE")
    judge_setting(named, 2)
    assert named.undo


@given(st.lists(ANY_TEXT, max_size=4), st.binary(max_size=200))
def test_any_unit_and_any_environment_file_is_read_or_said(named: list[str], content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.env").write_bytes(content)
        lines = "".join(f"EnvironmentFile={one}\n" for one in [*named, f"{folder}/job.env"])
        (folder / "a.service").write_bytes(lines.encode("utf-8", "surrogatepass"))
        (folder / "b.service").write_bytes(content)
        for setting in read_units([folder]).settings:
            judge_setting(setting, 1)


@given(st.text("0123456789+-xabc ", max_size=12).map(lambda text: text * 500))
def test_a_number_of_any_length_is_read_as_c_reads_it(text: str) -> None:
    assert -(2**63) <= number_of(text) < 2**63


@contextmanager
def job(folder: Path, name: str = "libnccl.so.2", **environment: str) -> Iterator[int]:
    """A process of another program that has a library with NCCL's name in its memory, as a job with NCCL has."""
    library = folder / name
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
        found = read_process(pid).settings
        assert pid in running_jobs()[0]
    assert {"NCCL_P2P_DISABLE": "1", "NCCL_ALGO": "Ring"}.items() <= of(found).items()
    assert next(one.source for one in found if one.name == "NCCL_P2P_DISABLE") == f"process {pid}"


def test_a_process_without_nccl_is_no_job() -> None:
    assert os.getppid() not in running_jobs()[0]


def test_a_process_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(InputError, match="there is no process 99999999"):
        read_process(99999999)
