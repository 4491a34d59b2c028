import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.hang.model import XidLine
from runner.hang.xid_lines import find_xids, xid_lines
from runner.node import kernel_messages as log
from runner.node.kernel_messages import KernelMessage, kmsg_message, syslog_messages

NOW = 10_000.0
FALLEN = "NVRM: Xid (PCI:0000:3b:00): 79, pid=4021, name=python3, GPU has fallen off the bus."


def at(seconds: float, text: str, facility: int = 0) -> KernelMessage:
    return KernelMessage(facility, seconds, text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (FALLEN, 79),
        ("NVRM: Xid (0000:03:00): 13, 0003 00000000 00008297 00001098 00000000 00000044", 13),
        ("NVRM: Xid (PCI:0000:af:00): 48, pid='<unknown>', name=<unknown>, Ch 00000008", 48),
        ("NVRM: Xid (PCI:0000:05:00 GPU-I:05): 31, pid=77, name=python, Ch 00000010, MMU Fault", 31),
        ("NVRM: Xid (PCI:0000:1b:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 00 (0x004505c6 0x00000000)", 149),
        (
            "NVRM: Xid (PCI:0019:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset)",
            154,
        ),
    ],
)
def test_every_form_of_the_line_gives_its_code(text: str, code: int) -> None:
    assert find_xids("node-a", [at(9_999.0, text)], 60.0, NOW) == (
        XidLine(node="node-a", code=code, line=text),
    )


@pytest.mark.parametrize(
    "text",
    [
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.95.05",
        "NVRM: GPU at PCI:0000:3b:00: GPU-8d0dd9a5-0000-0000-0000-000000000000",
        "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 28 LTSSM Fault Up",
        f"monitor[12]: saw {FALLEN}",
        "pcieport 0000:3a:00.0: AER: Corrected error received: 0000:3b:00.0",
    ],
)
def test_other_lines_of_a_node_with_gpus_are_no_xids(text: str) -> None:
    assert find_xids("node-a", [at(9_999.0, text)], 60.0, NOW) == ()


def test_lines_that_a_program_wrote_into_the_log_do_not_count() -> None:
    # Such a line has the facility of user programs; the kernel does not let them claim its own.
    written = kmsg_message(f"14,900,9999000000,-;{FALLEN}\n".encode())
    real = kmsg_message(f"4,901,9999000000,-;{FALLEN}\n".encode())
    assert written is not None
    assert real is not None
    assert find_xids("a", [written], 60.0, NOW) == ()
    assert len(find_xids("a", [real], 60.0, NOW)) == 1


def test_old_lines_are_left_out_and_the_newest_comes_last() -> None:
    lines = [
        at(100.0, FALLEN),
        at(9_000.0, FALLEN.replace("79", "13")),
        at(9_990.0, FALLEN.replace("79", "31")),
    ]
    assert [one.code for one in find_xids("a", lines, 1_500.0, NOW)] == [13, 31]


def test_a_line_whose_age_is_unknown_counts() -> None:
    assert len(find_xids("a", [KernelMessage(0, None, FALLEN)], 1.0, NOW)) == 1
    # A container with a clock of its own: the line is from the future.
    assert len(find_xids("a", [at(NOW + 5_000, FALLEN)], 1.0, NOW)) == 1


def test_a_record_of_the_device_is_its_text_without_the_lines_that_follow() -> None:
    record = f"4,2161,9999123456,-,caller=T77;{FALLEN}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n".encode()
    assert kmsg_message(record) == KernelMessage(0, 9999.123456, FALLEN, 2161)


def test_the_text_of_the_system_call_is_read_with_and_without_times() -> None:
    text = f"<4>[ 9999.123456] {FALLEN}\n<14>[ 9999.2][  T771] {FALLEN}\n<4>{FALLEN}\nthe rest of a line\n"
    assert list(syslog_messages(text)) == [
        KernelMessage(0, 9999.123456, FALLEN),
        KernelMessage(1, 9999.2, FALLEN),
        KernelMessage(0, None, FALLEN),
    ]


def test_a_log_that_cannot_be_read_is_named_and_is_not_a_log_without_xids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed() -> list[KernelMessage]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(log, "_from_system_call", closed)
    found, (unseen,) = xid_lines("a", 60.0, tmp_path / "none")
    assert found == ()
    assert unseen.source == "kernel log"
    assert "dmesg_restrict" in unseen.reason
    assert "sudo dmesg" in unseen.reason


def test_a_log_that_never_answers_does_not_hold_up_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    monkeypatch.setattr(log, "_DEADLINE_S", 0.2)
    monkeypatch.setattr(log, "_read", lambda _: os.read(read_end, 1))
    found, (unseen,) = xid_lines("a", 60.0, tmp_path / "none")
    os.close(write_end)
    assert found == ()
    assert "no answer" in unseen.reason


def of_device(*records: bytes) -> tuple[list[KernelMessage], str | None]:
    """A socket that keeps the bounds of records, as the device does, and would block after the last."""
    device, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device, writer:
        device.setblocking(False)
        for record in records:
            writer.send(record)
        return log._from_device(device.fileno())


def test_the_device_is_read_record_by_record_and_never_waits() -> None:
    messages, problem = of_device(b"6,1,5,-;one\n", b"\xff\xfe\n", f"4,2,9,-;{FALLEN}\n".encode())
    assert [one.text for one in messages] == ["one", FALLEN]
    assert problem is None


def test_a_log_without_end_is_said_to_be_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_MOST_BYTES", 20)
    messages, problem = of_device(*[b"6,1,5,-;one\n"] * 9)
    assert 0 < len(messages) < 9
    assert problem is not None
    assert "journalctl" in problem


def test_a_log_whose_begin_is_overwritten_says_so_if_that_part_was_wanted() -> None:
    kept = [KernelMessage(0, NOW - 120.0, "one", 7_000)]
    (reason,) = log.what_is_missing(kept, 3600.0, NOW)
    assert "2 min" in reason
    assert log.what_is_missing(kept, 60.0, NOW) == []
    # The first message since the start of the node: nothing was overwritten.
    assert log.what_is_missing([KernelMessage(0, NOW - 120.0, "one", 0)], 3600.0, NOW) == []


def test_the_log_of_a_sandbox_is_not_the_log_of_the_node() -> None:
    assert "gVisor" in log.what_is_missing([KernelMessage(0, 0.0, "Starting gVisor...")], 60.0, NOW)[0]
    assert log.what_is_missing([], 60.0, NOW) != []


def test_the_log_of_this_host_is_read_or_its_reason_named() -> None:
    found, unseen = xid_lines("here", 10.0)
    assert all(one.node == "here" for one in found)
    assert all(one.source == "kernel log" and one.reason for one in unseen)
    try:
        messages, _ = log._read(Path("/dev/kmsg"))
    except OSError:
        assert unseen
    else:
        assert messages or unseen


@given(st.binary(max_size=300))
def test_any_record_is_read_or_left_out(record: bytes) -> None:
    message = kmsg_message(record)
    if message is not None:
        find_xids("a", [message], 60.0, NOW)
    for one in syslog_messages(record.decode(errors="replace")):
        find_xids("a", [one], 60.0, NOW)


@given(code=st.integers(0, 999), bus=st.integers(0, 255), rest=st.text(max_size=50))
def test_any_text_after_the_code_is_kept_on_one_line(code: int, bus: int, rest: str) -> None:
    (found,) = find_xids("a", [at(NOW, f"NVRM: Xid (PCI:0000:{bus:02x}:00): {code}, {rest}")], 60.0, NOW)
    assert found.code == code
    assert "\n" not in found.line
