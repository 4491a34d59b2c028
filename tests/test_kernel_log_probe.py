"""The probe `kernel_log` on logs of every source: this node's, the journal's, a captured one, and that of a drill."""

import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.kit import kernel_log as kit
from runner.node.kernel_messages import KernelMessage
from runner.probes.kernel_log import PROBE

ROOT = Path(__file__).parents[1]
LOST = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
PROGRAM = "NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=train, MMU Fault"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    status = PROBE.main(list(words))
    out, err = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else {}, err


def numbers(document: dict[str, Any], name: str) -> list[tuple[dict[str, Any], float]]:
    return [(one["labels"], one["value"]) for one in document["measurements"] if one["name"] == name]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A node with GPUs whose kernel log is given, one reading after the other."""
    monkeypatch.setattr(kit, "why_unreadable", lambda _: "NVML: not installed")

    def give(*readings: Sequence[KernelMessage] | OSError) -> None:
        left = list(readings)

        def read(_: Path) -> tuple[list[KernelMessage], str | None]:
            reading = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(reading, OSError):
                raise reading
            return list(reading), None

        monkeypatch.setattr(kit, "read_kernel_log", read)

    return give


def at(ago_s: float, text: str, facility: int = 0, number: int = 0) -> KernelMessage:
    return KernelMessage(facility, time.clock_gettime(time.CLOCK_MONOTONIC) - ago_s, text, number)


def test_a_captured_log_gives_a_fault_with_its_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "dmesg"
    log.write_text(f"[ 5.1] {LOST}\n")
    status, document, err = run(capsys, "--from", str(log), "--about", "gpu")
    assert (status, document["status"]) == (1, "symptom")
    assert numbers(document, "node_faults") == [({"about": "gpu", "source": "captured"}, 1)]
    assert numbers(document, "xid_events") == [({"code": 79, "gpu": "0000:3b:00.0", "source": "captured"}, 1)]
    assert numbers(document, "xid_unknown") == [({"source": "captured"}, 0)]
    (finding,) = document["details"]["findings"]
    assert (finding["action"], finding["where"]) == ("drain", "GPU 0000:3b:00.0")
    assert "drain: GPU 0000:3b:00.0" in err


def test_standard_input_and_a_compressed_log_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(f"Nov 28 04:11:02 gpu-7 kernel: {LOST}\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(capsys, "--from", "-")[0] == 1
    packed = tmp_path / "syslog.1.gz"
    packed.write_bytes(gzip.compress(f"Nov 28 04:11:02 gpu-7 kernel: {LOST}\n".encode()))
    assert run(capsys, "--from", str(packed))[0] == 1


def test_a_code_that_nothing_tells_is_unknown_and_not_fine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "dmesg"
    log.write_text("[ 5.1] NVRM: Xid (PCI:0000:3b:00): 999, something new\n")
    status, _, err = run(capsys, "--from", str(log))
    assert status == 3
    assert "unknown: what Xid 999 of GPU 0000:3b:00.0 asks for" in err


@pytest.mark.parametrize(
    ("content", "words", "status", "said"),
    [
        ("", [], 2, "holds no line"),
        ("\n \n", [], 2, "holds no line"),
        ("some text\nof something else\n", [], 3, "no line has a time or a form of the kernel"),
        ("[ 1.5] systemd[1]: Started x.\n", [], 0, "no findings"),
        ("[ 1.5] x\n", ["--journal"], 2, "--from and --journal name different logs"),
        ("[ 1.5] x\n", ["--drill"], 2, "--from and --drill name different logs"),
        ("[ 1.5] x\n", ["--watch", "5"], 2, "leave out --from"),
        ("[ 1.5] x\n", ["--since", "-5"], 2, "--since must not be negative"),
        ("[ 1.5] x\n", ["--boot", "-1"], 2, "add --journal"),
    ],
)
def test_what_cannot_be_judged_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: list[str], status: int, said: str
) -> None:
    log = tmp_path / "log"
    log.write_text(content)
    found, _, err = run(capsys, "--from", str(log), *words)
    assert (found, said in err) == (status, True), err


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--from", str(tmp_path / "none"))[0] == 2
    assert run(capsys, "--from", str(tmp_path))[0] == 2


def test_a_host_without_gpus_has_no_answer_about_gpus_and_one_about_its_memory(
    kernel: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel([at(9, "Linux version 6.8.0")])
    monkeypatch.setattr(kit, "why_unreadable", lambda _: None)
    for about in ("gpu", "memory", "links"):
        assert run(capsys, "--about", about)[0] == 80
    assert run(capsys, "--about", "host-memory")[0] == 0


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (PermissionError(1, "Operation not permitted"), "dmesg_restrict"),
        (FileNotFoundError(2, "No such file or directory"), "No such file"),
        ([], "is empty"),
        ([KernelMessage(0, 0.0, "Starting gVisor...")], "gVisor"),
    ],
)
def test_a_log_that_cannot_be_read_is_unknown_and_not_without_xids(
    kernel: Callable[..., None], capsys: pytest.CaptureFixture[str], reading: Any, said: str
) -> None:
    kernel(reading)
    for about in ("gpu", "host-memory", "all"):
        status, document, err = run(capsys, "--about", about)
        assert (status, document) == (3, {})
        assert "unknown: the kernel log" in err
        assert said in err


def test_only_lines_that_the_kernel_wrote_count(
    kernel: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel(
        [at(90, "Linux version 6.8.0"), at(9, LOST, facility=1), at(8, f"runbook drill: {LOST}", facility=1)]
    )
    assert run(capsys, "--about", "gpu")[0] == 0
    status, document, _ = run(capsys, "--about", "gpu", "--drill")
    assert status == 1
    assert numbers(document, "node_faults") == [({"about": "gpu", "source": "drill"}, 1)]
    kernel([at(90, "Linux version 6.8.0"), at(9, LOST)])
    assert run(capsys, "--about", "gpu")[0] == 1
    assert run(capsys, "--about", "gpu", "--drill")[0] == 0


def test_an_error_of_a_program_is_a_fault_for_an_hour(
    kernel: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel([at(9_000, "Linux version 6.8.0"), at(3_000, PROGRAM)])
    assert run(capsys)[0] == 1
    kernel([at(9_000, "Linux version 6.8.0"), at(4_000, PROGRAM)])
    status, document, _ = run(capsys)
    assert (status, document["details"]["findings"][0]["action"]) == (0, "keep")


def test_the_lost_beginning_of_the_log_is_told_and_is_not_a_fault(
    kernel: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel([at(600, "some line", number=70_000)])
    status, document, _ = run(capsys, "--about", "gpu")
    assert status == 0
    (missing,) = document["details"]["not_read"]
    assert "begins 10 min ago" in missing["why"]
    assert not missing["matters"]


def test_a_watch_judges_only_what_comes_meanwhile(
    kernel: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    before = [at(900, "Linux version 6.8.0"), at(600, LOST)]
    kernel(before, before)
    assert run(capsys, "--about", "gpu", "--watch", "60")[0] == 0
    kernel(before, [*before, at(0, LOST.replace("3b", "9b"))])
    status, document, _ = run(capsys, "--about", "gpu", "--watch", "60")
    assert (status, waited) == (1, [60.0, 60.0])
    assert [one["where"] for one in document["details"]["findings"]] == ["GPU 0000:9b:00.0"]


def fake_journal(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "journalctl"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_journal_of_an_earlier_start_is_judged_as_of_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kit, "why_unreadable", lambda _: "NVML: not installed")
    body = f"echo \"$@\" >{tmp_path}/words; echo '2020-11-28T04:11:02+00:00 gpu-7 kernel: {PROGRAM}'"
    fake_journal(tmp_path, body, monkeypatch)
    status, document, _ = run(capsys, "--journal", "--boot", "-1", "--about", "gpu")
    assert (status, document["effective"]["source"]) == (1, "journal")
    assert "--boot=-1" in (tmp_path / "words").read_text()
    # The running start is judged as of now, and the line is old.
    assert run(capsys, "--journal", "--about", "gpu")[0] == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "echo 'Data from the specified boot is not available: No such boot ID' >&2; exit 1",
            "No such boot ID",
        ),
        ("exit 0", "no line of the kernel"),
    ],
)
def test_a_journal_that_cannot_be_read_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    fake_journal(tmp_path, body, monkeypatch)
    status, _, err = run(capsys, "--journal", "--about", "driver")
    assert status == 3
    assert said in err


def test_a_node_without_a_journal_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = run(capsys, "--journal", "--about", "driver")
    assert status == 3
    assert "--from FILE" in err


def test_a_drill_goes_through_the_real_kernel_and_never_counts_as_real() -> None:
    try:
        descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    except OSError as error:
        pytest.skip(f"/dev/kmsg cannot be written here: {error.strerror}")
    # An address of this process alone, so that drills side by side are told apart.
    address = f"{os.getpid() % 0xFFFF:04x}:{os.getpid() % 0xFF:02x}:1e"
    with os.fdopen(descriptor, "wb", buffering=0) as kmsg:
        kmsg.write(f"runbook drill: {LOST.replace('0000:3b:00', address)}\n".encode())

    def read(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "runner.probes.kernel_log", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return document

    drill = read("--drill", "--about", "gpu", "--since", "300")
    assert f"GPU {address}.0" in [one["where"] for one in drill["details"]["findings"]]
    real = read("--about", "pcie")
    assert f"GPU {address}.0" not in [one["where"] for one in real["details"]["findings"]]


def test_a_compressed_log_that_was_cut_is_unknown_beyond_the_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"[ {number}.5] usb 1-1: new device {number**3 % 7919}\n" for number in range(5000))
    packed = gzip.compress(f"{lines}[ 5001.0] {LOST}\n".encode())
    (tmp_path / "dmesg.gz").write_bytes(packed)
    assert run(capsys, "--from", str(tmp_path / "dmesg.gz"))[0] == 1
    (tmp_path / "dmesg.gz").write_bytes(packed[: len(packed) // 2])
    status, _, told = run(capsys, "--from", str(tmp_path / "dmesg.gz"))
    assert (status, "the rest of the log: its gzip data ends early" in told) == (3, True)


def test_a_small_file_that_unpacks_to_a_flood_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dmesg.gz").write_bytes(gzip.compress(bytes(65 << 20)))
    status, _, told = run(capsys, "--from", str(tmp_path / "dmesg.gz"))
    assert (status, "unpacks to more than 64MiB" in told, told.count("\n")) == (2, True, 1)


def test_a_log_with_faults_of_thousands_of_gpus_is_told_in_few_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"[ 1.5] NVRM: Xid (PCI:{gpu // 200:04x}:{gpu % 200:02x}:00): 79, x" for gpu in range(3000)]
    lines += [f"[ 1.5] NVRM: Xid (PCI:0000:ff:00): {code}, x" for code in range(900, 2900)]
    (tmp_path / "dmesg").write_text("\n".join(lines))
    status, document, told = run(capsys, "--from", str(tmp_path / "dmesg"))
    details = document["details"]
    assert (status, len(details["findings"]), details["findings_in_all"]) == (1, 1000, 3000)
    assert ("… and 2900 more\n" in told, told.count("\n") < 250) == (True, True)
    assert len(details["facts"]["unknown_codes"]) == 100
    assert numbers(document, "xid_unknown") == [({"source": "captured"}, 2000)]


def test_a_name_that_breaks_the_line_is_told_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, told = run(capsys, "--from", "missing\n\x1b[31m::error::\u202ex")
    assert (status, told.count("\n"), told.strip().isprintable()) == (2, 1, True)
