"""What a stranger placed, or named in an environment, is never waited for, nor read without end, nor a traceback."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from runner.base.confined import open_within
from runner.base.environment import read_environ
from runner.base.errors import InputError, RunbookError, RunbookFaultsError
from runner.base.placed import PlacedFileError, read_placed
from runner.base.time_limit import answer_within
from runner.check.faults import check
from runner.cli.main import main as runbook
from runner.entry.read import read_runbook
from runner.kit.leftovers.serving_config import parallel_sizes, read_sizes
from runner.kit.nccl import report
from runner.kit.nccl.sources import read_own, read_process, running_jobs
from runner.kit.nccl.units import read_units
from runner.kit.precision.scales import read_scales
from runner.kit.precision.sweeps import read_sweep
from runner.kit.repro import bundle, live_compiles
from runner.probes import nccl_env
from runner.record.last_words import last_words_in
from runner.record.stamp import read_stamp
from runner.sizing.models import model_shape, weight_files
from tests import nvml
from tests.test_cli import ROOT, step, write_entry
from tests.test_diagnose import CLEAN

Reader = Callable[[Path], object]
SHAPE = model_shape("tiny")
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "a model": lambda path: model_shape(str(path)),
        "a serving configuration": read_sizes,
        "a stamp": read_stamp,
        "scales": lambda path: read_scales(path, SHAPE, ()),
        "a sweep": read_sweep,
    }
)


def fifo(place: Path) -> None:
    os.mkfifo(place)


def device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def huge(place: Path) -> None:
    place.touch()
    os.truncate(place, 40 << 30)


def nested(place: Path) -> None:
    place.write_text("[" * 200_000)


def long_number(place: Path) -> None:
    place.write_text('{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}")


def no_text(place: Path) -> None:
    place.write_bytes(b"\xff\xfe\x00{")


HOSTILE = (fifo, device, huge, nested, long_number, no_text)


@pytest.mark.parametrize("place", HOSTILE, ids=lambda place: place.__name__)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_file_that_is_none_is_bad_input_in_one_line(
    reader: Reader, place: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "given.json"
    place(path)
    if reader is read_sizes and place is long_number:
        assert reader(path) == []  # YAML without a size in it
        return
    with pytest.raises(InputError) as raised:
        reader(path)
    assert len(str(raised.value).splitlines()) == 1
    assert str(path) in str(raised.value)


def test_the_index_of_a_model_is_read_with_the_same_care(tmp_path: Path) -> None:
    nested(tmp_path / "model.safetensors.index.json")
    with pytest.raises(InputError, match="nested too deeply"):
        weight_files(tmp_path)


@pytest.mark.parametrize("place", [fifo, device, huge], ids=lambda place: place.__name__)
def test_an_entry_and_a_guide_that_are_no_files_are_faults(
    place: Callable[[Path], None], tmp_path: Path
) -> None:
    entry, guide = tmp_path / "entry.md", tmp_path / "guide.md"
    place(entry)
    place(guide)
    with pytest.raises(RunbookFaultsError) as raised:
        read_runbook(entry)
    assert len(raised.value.faults) == 1
    faults = check((), (guide,), whole_folder=False)
    assert [fault.path for fault in faults] == [guide]
    assert faults[0].message.startswith("cannot be read: is ")


@pytest.mark.parametrize("place", [fifo, device], ids=lambda place: place.__name__)
def test_an_output_that_is_no_file_has_no_last_words_and_no_part_in_a_bundle(
    place: Callable[[Path], None], tmp_path: Path
) -> None:
    place(tmp_path / "output")
    assert last_words_in(tmp_path / "output") is None
    assert not bundle._read(tmp_path / "output")


def test_of_an_output_of_forty_gigabytes_only_the_ends_are_read(tmp_path: Path) -> None:
    huge(tmp_path / "output")
    with (tmp_path / "output").open("ab") as file:
        file.write(b"\nthe disk is full\n")
    assert last_words_in(tmp_path / "output") == "the disk is full"
    kept = bundle._read(tmp_path / "output")
    assert kept.endswith("the disk is full\n")
    assert len(kept) < bundle.LARGEST_TEXT + 100
    assert "bytes left out" in kept


def test_a_short_output_is_in_the_bundle_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("one\ntwo\n")
    assert bundle._read(tmp_path / "output") == "one\ntwo\n"


# Each of them needs a mebibyte, and some needed minutes or no end of memory.
HOSTILE_YAML = {
    "aliases of aliases": "a0: &a0 [x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 99)),
    "an alias of itself": "a: &a [*a, tp_size, 8]\n",
    "many values": "a: 1\n" * 200_000,
    "many anchors": "".join(f"- &a{i} x\n" for i in range(80_000)),
    "many documents": "---\n" * 250_000,
    "deep lists": "[" * (1 << 20),
    "deep mappings": "{a: " * (1 << 18),
    "deep dashes": "- " * (1 << 19),
}


@pytest.mark.parametrize("text", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_a_configuration_that_explodes_is_refused_by_its_bounds(text: str) -> None:
    used = time.process_time()
    with contextlib.suppress(InputError):
        parallel_sizes(text)
    assert time.process_time() - used < 20


def test_flags_in_a_line_of_a_mebibyte_are_counted_in_one_pass() -> None:
    used = time.process_time()
    sizes = parallel_sizes("a: |\n" + "  --tp-size 9\n" * 70_000)
    assert sizes[-1].line - sizes[0].line == len(sizes) - 1 == 69_999
    assert time.process_time() - used < 20


def test_a_configuration_with_anchors_as_people_write_them_is_read() -> None:
    text = "defaults: &d {port: 80}\nserver:\n  <<: *d\n  tensor-parallel-size: 4\n"
    assert [(size.line, size.value) for size in parallel_sizes(text)] == [(4, 4)]


def test_a_head_of_many_values_is_a_fault_and_not_a_wait(tmp_path: Path) -> None:
    path = tmp_path / "entry.md"
    path.write_text("---\n" + "".join(f"k{i}: 1\n" for i in range(90_000)) + "---\n")
    with pytest.raises(RunbookFaultsError, match="more than 5,000 values"):
        read_runbook(path)


def python(*words: str, variables: Mapping[str, str] = MappingProxyType({})) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env={**CLEAN, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_topology_from_a_device_is_bad_input_and_from_a_pipe_is_read(tmp_path: Path) -> None:
    with python("-m", "runner.probes.topology", "--from", "/dev/zero") as done:
        _, said = done.communicate(timeout=300)
    assert done.returncode == 2
    assert said == "topology: cannot read /dev/zero: is larger than 1MiB\n"
    text = (ROOT / "tests" / "topo" / "eight_b200_with_nics.txt").read_bytes()
    fifo(tmp_path / "pipe")
    with python("-m", "runner.probes.topology", "--from", str(tmp_path / "pipe")) as done:
        (tmp_path / "pipe").write_bytes(text)
        out, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert json.loads(out)["status"] == "ok"


def test_a_log_may_be_a_pipe_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_entry(tmp_path / "runbooks", step("d", "true"))
    where = ("--runbooks", str(tmp_path / "runbooks"))
    assert runbook([*where, "match", str(tmp_path)]) == 2
    assert "is a folder, not a regular file" in capsys.readouterr().err
    fifo(tmp_path / "pipe")
    with python("-m", "runner.cli.main", *where, "match", str(tmp_path / "pipe")) as done:
        (tmp_path / "pipe").write_bytes(b"all is well\n" * 100_000)
        assert done.wait(timeout=300) == 1


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetNvLinkState", "nvmlDeviceGetName"])
def test_a_driver_that_never_answers_is_said_by_the_topology_probe_alone(
    function: str, tmp_path: Path
) -> None:
    # What is answered is waited for, however busy the machine is.
    wiring_s = 300 if function == "nvmlDeviceGetName" else 0.5
    program = (
        "import sys; from runner.hardware import gpus, topology_nvml as t; from runner.probes import topology;"
        f" gpus.nvml_deadline = lambda: 0.5; t.nvml_deadline = lambda: {wiring_s}; sys.exit(topology.PROBE.main([]))"
    )
    board = nvml.environment(tmp_path, f"{nvml.EIGHT_B200}fail {function} 9999\n")
    with python("-c", program, variables=board) as done:
        out, said = done.communicate(timeout=300)
    if function == "nvmlDeviceGetName":
        # The wiring could be read; what board it is could not, and no fault is made up.
        assert (done.returncode, json.loads(out)["effective"]["board"]) == (0, None)
    else:
        assert (done.returncode, out) == (3, "")
        assert said == (
            "topology: NVML: no answer within 0.5 s; the driver may be hung; check dmesg for Xid messages\n"
        )


def test_an_answer_is_waited_for_only_so_long_and_errors_come_through() -> None:
    assert answer_within(300, lambda: 7) == 7
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        answer_within(0.05, lambda: time.sleep(3))
    with pytest.raises(ZeroDivisionError):
        answer_within(300, lambda: 1 // 0)


def test_a_look_at_processes_that_do_not_answer_cannot_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "_LOOK_S", 0.05)
    monkeypatch.setattr(report, "read_own", lambda *_: time.sleep(3))
    assert nccl_env.PROBE.main(["--units"]) == 3
    assert "does not answer" in capsys.readouterr().err
    monkeypatch.setattr(live_compiles, "_LOOK_S", 0.0)
    monkeypatch.setattr(live_compiles, "look_at_processes", lambda _: time.sleep(3))
    with pytest.raises(RunbookError, match="does not answer"):
        live_compiles.look_findings(0.05)


def test_a_unit_that_names_a_thousand_files_and_a_folder_of_pipes_are_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, named = tmp_path / "units", tmp_path / "named"
    units.mkdir()
    named.mkdir()
    for number in range(1_005):
        (named / f"{number:04}.env").touch()
    fifo(named / "0000.env.fifo")
    (units / "a.service").write_text(
        f"[Service]\nEnvironmentFile={named}/*.env\nEnvironmentFile={named}/*.fifo\n"
    )
    assert read_units([units]).unread == [
        f"{units}/a.service: EnvironmentFile={named}/*.env matches more than 1000 files; the rest was not read",
        f"{named}/0000.env.fifo: is a pipe, not a regular file",
    ]
    monkeypatch.setattr("runner.kit.nccl.units._MOST_UNITS", 3)
    assert f"{named}: more than 3 unit files; the rest was not read" in _unread(named)


def _unread(folder: Path) -> list[str]:
    for path in folder.glob("*.env"):
        path.rename(path.with_suffix(".conf"))
    return read_units([folder]).unread


def test_a_cache_folder_that_holds_too_much_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert live_compiles._bytes_of(tmp_path) == 5
    monkeypatch.setattr(live_compiles, "_MOST_FILES", 1)
    assert live_compiles._bytes_of(tmp_path) is None


@contextmanager
def waiting(environment: Mapping[str, str], user: int | None = None) -> Iterator[int]:
    with subprocess.Popen(
        ["/bin/cat"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=user
    ) as process:
        # Its environment is its own once it works.
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        yield process.pid


@pytest.mark.parametrize("place", [fifo, device, huge], ids=lambda place: place.__name__)
def test_a_file_that_a_process_names_for_nccl_is_not_waited_for(
    place: Callable[[Path], None], tmp_path: Path
) -> None:
    place(tmp_path / "nccl.conf")
    with waiting({"NCCL_CONF_FILE": str(tmp_path / "nccl.conf")}) as pid:
        found = read_process(pid)
    assert [setting.name for setting in found.settings if setting.source.startswith("process")] == [
        "NCCL_CONF_FILE"
    ]
    assert len(found.unread) == 1
    own = read_own({"NCCL_CONF_FILE": str(tmp_path / "nccl.conf")}, Path("/nonexistent"))
    assert len(own.unread) == 1


def test_a_process_that_has_ended_and_an_environment_without_end_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no process 4194305"):
        read_environ(4194305)
    (tmp_path / "7").mkdir()
    huge(tmp_path / "7" / "environ")
    with pytest.raises(RunbookError, match="process 7 cannot be read: it is larger than 8MiB"):
        read_environ(7, tmp_path)
    huge(tmp_path / "7" / "maps")
    assert running_jobs(tmp_path) == ([], 1)


def jail(folder: Path) -> tuple[Path, Path]:
    """A root of a container, whose links lead to a secret of the host by every way there is."""
    secret = folder / "secret.conf"
    secret.write_text("NCCL_ALGO=secret\n")
    root = folder / "jail"
    (root / "etc").mkdir(parents=True)
    (root / "deep" / "er").mkdir(parents=True)
    (root / "etc" / "own.conf").write_text("NCCL_ALGO=own\n")
    (root / "etc" / "absolute").symlink_to(secret)
    (root / "etc" / "up").symlink_to("../../secret.conf")
    (root / "deep" / "host").symlink_to(folder)
    (root / "etc" / "circle").symlink_to("circle")
    (root / "etc" / "sound").symlink_to("/etc/own.conf")
    (root / "deep" / "er" / "sound").symlink_to("../../../../etc/./sound")
    return root, secret


@pytest.mark.parametrize(
    "path",
    ["/etc/absolute", "/etc/up", "/deep/host/secret.conf", "/../secret.conf", "/deep/../../secret.conf"],
)
def test_no_link_leads_out_of_the_file_system_of_another_process(path: str, tmp_path: Path) -> None:
    root, _ = jail(tmp_path)
    with pytest.raises(PlacedFileError) as raised:
        read_placed(Path(path), 100, root=root)
    assert raised.value.kind == "missing"


@pytest.mark.parametrize("path", ["/etc/own.conf", "/etc/sound", "/deep/er/sound", "/etc/../etc/own.conf"])
def test_links_within_it_are_followed_as_the_process_follows_them(path: str, tmp_path: Path) -> None:
    root, _ = jail(tmp_path)
    assert read_placed(Path(path), 100, root=root) == b"NCCL_ALGO=own\n"


def test_a_circle_a_pipe_and_a_file_as_a_folder_within_it_are_refused(tmp_path: Path) -> None:
    root, _ = jail(tmp_path)
    fifo(root / "etc" / "pipe")
    for path, kind in (("/etc/circle", "closed"), ("/etc/pipe", "special"), ("/etc/own.conf/x", "missing")):
        with pytest.raises(PlacedFileError) as raised:
            read_placed(Path(path), 100, root=root)
        assert raised.value.kind == kind
    before = len([*Path("/proc/self/fd").iterdir()])
    os.close(open_within(root, Path("/deep/er/../er")))
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process with another root")
def test_a_process_with_another_root_is_read_within_it(tmp_path: Path) -> None:
    root, secret = jail(tmp_path)
    for name in ("absolute", "up", "sound"):
        # `cat` is not in the jail, so the process changes its root by itself and waits.
        program = (
            f"import os, sys; os.chroot({str(root)!r}); os.chdir('/etc'); print(flush=True); sys.stdin.read()"
        )
        for given in (f"/etc/{name}", name):
            with subprocess.Popen(
                [sys.executable, "-c", program],
                env={"NCCL_CONF_FILE": given},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as process:
                assert process.stdout
                process.stdout.readline()
                found = read_process(process.pid)
            values = {setting.value for setting in found.settings if setting.name == "NCCL_ALGO"}
            assert values == ({"own"} if name == "sound" else set()), (given, secret)
