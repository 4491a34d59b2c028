"""Lines of kernel logs: the code, the GPU, the action. The lines are in tests/kernel_log/."""

from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.node.findings import NodeVerdict
from runner.node.kernel.events import DRILL_MARK, KernelEvent, kernel_events
from runner.node.kernel.lines import LogLine, log_lines, newest_of
from runner.node.kernel.verdict import LogRequest, judge_kernel_log
from runner.node.kernel.xid_form import pci_address, xid_text

FOLDER = Path(__file__).parent / "kernel_log"
CAPTURED = LogRequest(about=None, source="captured")
XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid=4021, name=python3, GPU has fallen off the bus."


def samples() -> list[tuple[str, str, str, str]]:
    found = []
    for line in (FOLDER / "lines.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            action, what, device, text = (part.strip() for part in line.split("|", 3))
            found.append((action, what, device, text))
    return found


def judged(text: str) -> NodeVerdict:
    return judge_kernel_log(list(log_lines(text)), CAPTURED)


def names_of(event: KernelEvent) -> set[str]:
    return {event.kind, str(event.code)}


def test_there_are_at_least_sixty_shapes_of_lines() -> None:
    assert len(samples()) >= 60
    assert len({line for *_, line in samples()}) == len(samples())


@pytest.mark.parametrize(("action", "what", "device", "line"), samples(), ids=lambda text: text[:40])
def test_each_line_gives_its_code_its_gpu_and_its_action(
    action: str, what: str, device: str, line: str
) -> None:
    events = kernel_events(log_lines(line))
    verdict = judged(line)
    if action == "none":
        assert (events, verdict.findings, verdict.not_read) == ([], (), ())
        return
    (event,) = events
    assert what in names_of(event) or (what == "79" and "caused by previous Xid 79" in line)
    assert (event.device or "") == device
    if action == "unknown":
        assert verdict.findings == ()
        assert [one.matters for one in verdict.not_read] == [True]
    else:
        (finding,) = verdict.findings
        assert finding.action.value == action
        assert finding.source
        assert finding.next
        assert finding.evidence
        assert verdict.not_read == ()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("healthy-*.txt")), ids=lambda path: path.stem)
def test_a_healthy_log_has_no_fault_and_nothing_unknown(path: Path) -> None:
    verdict = judged(path.read_text())
    assert [str(one) for one in verdict.faults] == []
    assert verdict.not_read == ()


PREFIXES = {
    "plain": ("", None, None),
    "dmesg": ("[   12.345678] ", None, "uptime"),
    "dmesg with a caller": ("[   12.345678][  T771] ", None, "uptime"),
    "dmesg -T": ("[Sat Nov 28 04:11:02 2026] ", None, "wall"),
    "dmesg -x": ("kern  :err   : [   12.345678] ", True, "uptime"),
    "dmesg -x, a program's": ("user  :notice: [   12.345678] ", False, "uptime"),
    "dmesg -r": ("<3>[   12.345678] ", True, "uptime"),
    "dmesg -r, a program's": ("<14>[   12.345678] ", False, "uptime"),
    "dmesg iso": ("2026-11-28T04:11:02,123456+00:00 ", None, "wall"),
    "kmsg": ("4,2161,12345678,-,caller=T77;", True, "uptime"),
    "journal short": ("Nov 28 04:11:02 gpu-7 kernel: ", True, "wall"),
    "journal short, precise": ("Nov 28 04:11:02.123456 gpu-7 kernel: ", True, "wall"),
    "journal short-iso": ("2026-11-28T04:11:02+0000 gpu-7 kernel: ", True, "wall"),
    "journal short-iso, new": ("2026-11-28T04:11:02+00:00 gpu-7 kernel: ", True, "wall"),
    "journal short-full": ("Sat 2026-11-28 04:11:02 UTC gpu-7 kernel: ", True, "wall"),
    "journal short-unix": ("1795839062.123456 gpu-7 kernel: ", True, "wall"),
    "journal short-monotonic": ("[   12.345678] gpu-7 kernel: ", True, "uptime"),
    "syslog with the kernel's time": ("Nov 28 04:11:02 gpu-7 kernel: [   12.345678] ", True, "wall"),
    "syslog iso": ("2026-11-28T04:11:02.123456+01:00 gpu-7.example kernel: [   12.345678] ", True, "wall"),
    "syslog RFC 5424": ("<4>1 2026-11-28T04:11:02.123Z gpu-7 kernel - - - ", True, "wall"),
    "syslog, a program's": ("Nov 28 04:11:02 gpu-7 gpud[77]: ", False, "wall"),
    "syslog, a program's without a number": ("Nov 28 04:11:02 gpu-7 gpud: ", False, "wall"),
    "syslog without the kernel's name": ("Nov 28 04:11:02 gpu-7 ", None, "wall"),
    "the vendor's examples": ("[...] ", None, None),
    "kernel alone": ("kernel: [   12.345678] ", True, "uptime"),
    "colours": ("\x1b[32m[   12.345678] \x1b[0m\x1b[33m", None, "uptime"),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_each_form_of_a_log_gives_the_kernels_text_and_its_time(name: str) -> None:
    prefix, kernel, clock = PREFIXES[name]
    (line,) = log_lines(f"{prefix}{XID}\n")
    assert (line.text, line.kernel, line.clock) == (XID, kernel, clock)
    assert (line.at_s is None) == (clock is None)


@pytest.mark.parametrize(
    "text",
    [
        "mce: [Hardware Error]: Machine check events logged",
        "pcieport 0000:3a:00.0: AER: Corrected error received: 0000:3b:00.0",
        "mlx5_core 0000:5c:00.0 ens1: Link down",
        "EDAC MC0: 1 CE memory read error",
        "INFO: task nvidia-smi:2165 blocked for more than 122 seconds.",
        "INFO: task nvidia-smi:2165 blocked in I/O wait for more than 122 seconds.",
        "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        "Memory cgroup out of memory: Killed process 51807 (python3) total-vm:83312kB",
    ],
)
@pytest.mark.parametrize(
    "prefix", ["", "[ 1.5] ", "[Sat Nov 28 04:11:02 2026] ", "2026-11-28T04:11:02,123456+00:00 "]
)
def test_a_text_that_begins_like_a_name_stays_whole(prefix: str, text: str) -> None:
    (line,) = log_lines(prefix + text)
    assert (line.text, line.kernel is False) == (text, False)


def test_times_without_a_year_grow_over_new_year() -> None:
    first, second = log_lines("Dec 31 23:59:59 a kernel: one\nJan  1 00:00:01 a kernel: two\n")
    assert first.at_s is not None
    assert second.at_s == first.at_s + 2


def test_a_wrapped_line_is_joined_and_the_properties_of_a_record_are_not() -> None:
    wrapped = "NVRM: Xid (PCI:0000:02:00): 154, GPU recovery action changed from 0x0 (None)\n      to 0x2 (OS Reboot)\n"
    (finding,) = judged(wrapped).findings
    assert finding.vendor == "OS Reboot (Xid 154)"
    record = f"4,1,5,-;{XID}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:3b:00.0\n"
    assert next(log_lines(record)).text == XID


def test_a_sentence_over_three_lines_names_its_gpu() -> None:
    text = (
        "[ 5.1] NVRM: The NVIDIA GPU 0000:18:00.0\n[ 5.1] NVRM: (PCI ID: 10de:2901) installed in this system has\n"
        "[ 5.1] NVRM: fallen off the bus and is not responding to commands.\n"
    )
    (event,) = kernel_events(log_lines(text))
    assert (event.kind, event.device) == ("gpu-lost", "0000:18:00.0")


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("3b:00", "0000:3b:00.0"),
        ("0000:3B:00", "0000:3b:00.0"),
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("0019:01:00", "0019:01:00.0"),
        ("0000:c1:00.1", "0000:c1:00.1"),
        ("invalid", None),
        ("0000:3b", None),
        ("..:::", None),
    ],
)
def test_an_address_is_written_as_the_kernel_writes_it(written: str, address: str | None) -> None:
    assert pci_address(written) == address


def test_lines_of_a_drill_count_for_a_drill_alone() -> None:
    lines = [
        LogLine(DRILL_MARK + XID, False, "uptime", 5.0),
        LogLine(XID.replace("79", "95"), True, "uptime", 6.0),
        LogLine(DRILL_MARK + XID, True, "uptime", 7.0),
        LogLine(XID.replace("79", "48"), False, "uptime", 8.0),
    ]
    assert [one.code for one in kernel_events(lines)] == [95]
    assert [one.code for one in kernel_events(lines, drill=True)] == [79]


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_left_out(data: bytes) -> None:
    lines = list(log_lines(data.decode(errors="replace")))
    judge_kernel_log(lines, CAPTURED)
    assert all("\n" not in one.text for one in lines)
    newest_of(lines)


@given(
    rest=st.text(max_size=60),
    code=st.integers(0, 999_999),
    prefix=st.sampled_from([prefix for prefix, kernel, _ in PREFIXES.values() if kernel is not False]),
)
def test_any_text_after_a_code_is_kept_on_one_line_without_control_characters(
    rest: str, code: int, prefix: str
) -> None:
    first = next(log_lines(f"{prefix}NVRM: Xid (PCI:0000:3b:00): {code}, {rest}"))
    (event,) = kernel_events([first])
    assert event.code == code
    assert not {"Cc", "Cf", "Zl", "Zp"} & {category(one) for one in event.line}


@pytest.mark.parametrize(
    "part", ["NVRM: Xid (PCI:0000:3b:00): 149, ", "mlx5_core 0000:5c:00.0: ", "oom-kill:constraint=C", "["]
)
def test_very_long_lines_are_cut(part: str) -> None:
    text = part + "A " * 2_000_000
    (line,) = log_lines(text)
    assert len(line.text) <= 4_000
    judge_kernel_log([line], CAPTURED)


@given(st.text(alphabet="NVRM: Xid(PCI0123456789abcdef.),-<>[]{}'=_/ Fatal", max_size=300))
def test_texts_of_the_same_letters_never_fail(text: str) -> None:
    xid_text(text)
    judge_kernel_log(list(log_lines("NVRM: Xid (PCI:0000:3b:00): 149, " + text)), CAPTURED)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: Xid (PCI:0000:3b:00",
        f"kern.log.1:Nov  3 10:00:00 gpu-1 kernel: [ 12.5] {XID}",
        f"dmesg.txt:12:[ 12.5] {XID}",
        f"> [ 12.5] {XID}",
        f"gpu-7: [ 12.5] {XID}",
        f"[ 12.5] {XID.replace('79', '9' * 400)}",
        "[ 3.1] nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Weird, Link 3",
    ],
)
def test_a_report_that_cannot_be_taken_apart_is_unknown_and_not_dropped(line: str) -> None:
    verdict = judged(f"[ 1.0] usb 1-1: new device\n{line}\n")
    (unread,) = verdict.not_read
    assert (unread.matters, verdict.findings) == (True, ())
    assert line.rpartition("] ")[2][:40] in unread.why


def test_an_old_report_that_cannot_be_taken_apart_is_shown_and_does_not_matter() -> None:
    (unread,) = judged("[ 1.0] NVRM: Xid 79\n[ 9999.0] usb 1-1: new device\n").not_read
    assert not unread.matters
