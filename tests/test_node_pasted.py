"""What somebody pasted of nvidia-smi is judged by the rules of the live readings."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.entry.read import read_all
from runner.entry.signatures import match_log
from runner.node.gpu.group import GpuReading
from runner.node.gpu.links import judge_links
from runner.node.gpu.links_facts import LINK_COUNTERS
from runner.node.gpu.links_text import parse_links
from runner.node.gpu.memory import judge_memory
from runner.node.gpu.memory_facts import RemappedRows, RetiredPages
from runner.node.gpu.memory_text import parse_memory
from tests.logs import log_of
from tests.node_probe import judge_node, judge_text
from tests.nvml import EIGHT_B200

EVERY = read_all(Path(__file__).parents[1] / "runbooks")


def yes(state: bool) -> str:
    return "Yes" if state else "No"


def smi_q(
    rows: RemappedRows,
    volatile: int = 0,
    *,
    recovery: str = "None",
    ecc: str = "Enabled",
    threshold: bool = False,
    name: str = "NVIDIA H100 80GB HBM3",
    attached: int = 1,
) -> str:
    """One GPU as `nvidia-smi -q` of driver 580 prints it, shortened."""
    count = volatile if ecc == "Enabled" else "N/A"
    return f"""\
==============NVSMI LOG==============

Driver Version                                         : 580.95.05
Attached GPUs                                          : {attached}
GPU 00000000:1B:00.0
    Product Name                                       : {name}
    MIG Mode
        Current                                        : Disabled
        Pending                                        : Disabled
    GPU Virtualization Mode
        Virtualization Mode                            : None
    GPU Recovery Action                                : {recovery}
    PCI
        GPU Link Info
            PCIe Generation
                Max                                    : 5
    ECC Mode
        Current                                        : {ecc}
        Pending                                        : {ecc}
    ECC Errors
        Volatile
            SRAM Correctable                           : {count}
            SRAM Uncorrectable Parity                  : {0 if ecc == "Enabled" else "N/A"}
            SRAM Uncorrectable SEC-DED                 : {0 if ecc == "Enabled" else "N/A"}
            DRAM Correctable                           : {count}
            DRAM Uncorrectable                         : {count}
        Aggregate
            SRAM Correctable                           : 3
            SRAM Uncorrectable Parity                  : 0
            SRAM Uncorrectable SEC-DED                 : 0
            DRAM Correctable                           : 3
            DRAM Uncorrectable                         : 3
            SRAM Threshold Exceeded                    : {yes(threshold)}
        Aggregate Uncorrectable SRAM Sources
            SRAM L2                                    : 0
        Channel Repair Pending                         : No
        TPC Repair Pending                             : No
        Unrepairable Memory                            : No
    Retired Pages
        Single Bit ECC                                 : N/A
        Double Bit ECC                                 : N/A
        Pending Page Blacklist                         : N/A
    Remapped Rows
        Correctable Error                              : {rows.correctable}
        Uncorrectable Error                            : {rows.uncorrectable}
        Pending                                        : {yes(rows.pending)}
        Remapping Failure Occurred                     : {yes(rows.failure)}
        Bank Remap Availability Histogram
            Max                                        : 2560 bank(s)
            High                                       : 0 bank(s)
            Partial                                    : 0 bank(s)
            Low                                        : 0 bank(s)
            None                                       : 0 bank(s)
    Temperature
        GPU Current Temp                               : 33 C
"""


SOUND = RemappedRows(0, 0, pending=False, failure=False)


def found_in(text: str) -> list[tuple[str, str]]:
    judged = judge_memory((GpuReading(0, parse_memory(text)),))
    return [(one.kind, one.action.value) for one in judged.findings]


def faults_in(text: str) -> set[str]:
    return {kind for kind, action in found_in(text) if action != "keep"}


@given(
    rows=st.builds(
        RemappedRows, st.integers(0, 7), st.integers(0, 512), pending=st.booleans(), failure=st.booleans()
    ),
    volatile=st.integers(0, 10**9),
    indented=st.booleans(),
)
def test_what_the_text_says_is_what_is_read(rows: RemappedRows, volatile: int, indented: bool) -> None:
    text = smi_q(rows, volatile)
    if not indented:
        text = "\n".join(line.strip() for line in text.split("\n"))
    (gpu,) = parse_memory(text)
    assert (gpu.rows, gpu.volatile.uncorrected, gpu.ecc) == (rows, volatile, True)
    assert gpu.spare is not None
    assert gpu.spare.most == 2560
    assert gpu.unread[0].what == "retired pages"
    expected = {"row-remap-failure"} if rows.failure else set()
    assert faults_in(text) == expected
    # A driver that does not tell what it asks for.
    older = "\n".join(line for line in text.split("\n") if "Recovery Action" not in line)
    past = {"row-remap-pending"} if rows.pending else {"uncorrectable-errors"} if volatile else set()
    assert faults_in(older) == expected | past


@given(st.text(max_size=2000) | st.text("GPU 0123456789abc:.\n Link<>", max_size=500))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_memory, parse_links):
        with contextlib.suppress(InputError):
            parse(text)


@given(st.data())
def test_a_text_that_is_cut_anywhere_never_gives_a_false_alarm(data: st.DataObject) -> None:
    text = smi_q(SOUND)
    begin = text.index("GPU 00000000")
    cut = data.draw(st.integers(0, len(text)) | st.integers(begin, begin + 600))
    try:
        facts = parse_memory(text[:cut])
    except InputError:
        return
    assert judge_memory((GpuReading(0, facts),)).faults == ()


def test_the_same_board_is_judged_alike_from_nvml_and_from_text(tmp_path: Path) -> None:
    live = judge_node(tmp_path, EIGHT_B200 + "memory_kind 3\nremapped 0 0 1 1 0\nrecovery 0 1\n", "memory")
    text = smi_q(RemappedRows(0, 1, pending=True, failure=False), recovery="Reset", name="NVIDIA B200")
    pasted = judge_text(text, "memory")
    assert pasted.findings == live.findings == [("recovery-action", "reset", "GPU 0")]
    assert pasted.document["effective"] == {"source": "captured"}


def test_of_a_text_the_number_of_faults_is_the_only_number() -> None:
    judged = judge_text(smi_q(SOUND, threshold=True), "memory")
    (number,) = judged.document["measurements"]
    assert (number["name"], number["value"]) == ("node_faults", 1)
    assert number["labels"] == {"group": "memory", "source": "captured"}


def test_flags_of_newer_drivers_count() -> None:
    assert found_in(smi_q(SOUND, threshold=True)) == [("sram-threshold", "replace")]
    text = smi_q(SOUND).replace(
        "TPC Repair Pending                             : No", "TPC Repair Pending : Yes"
    )
    assert found_in(text) == [("tpc-repair-pending", "reset")]
    text = smi_q(SOUND).replace(
        "Unrepairable Memory                            : No", "Unrepairable Memory : Yes"
    )
    assert found_in(text) == [("memory-unrepairable", "replace")]


def test_a_gpu_of_several_is_named_by_its_bus_and_all_by_their_numbers() -> None:
    (gpu,) = parse_memory(smi_q(SOUND, attached=8))
    assert gpu.where == "GPU 0000:1b:00.0"
    assert parse_memory(smi_q(SOUND))[0].where == "GPU 0"


def test_ecc_that_is_off_in_a_text_is_unknown() -> None:
    judged = judge_text(smi_q(SOUND, ecc="Disabled"), "memory")
    assert judged.status == 3
    assert "ECC is off, so no error is counted" in judged.said


def test_an_action_of_the_driver_in_unknown_words_is_unknown_and_no_alarm() -> None:
    judged = judge_text(smi_q(SOUND, recovery="Dance"), "memory")
    assert (judged.status, judged.faults) == (3, [])
    assert "`Dance` is no action that is known here" in judged.said


def test_a_part_that_is_not_in_the_text_is_unknown() -> None:
    judged = judge_text(smi_q(SOUND).split("    Remapped Rows")[0], "memory")
    assert judged.status == 3
    assert "remapped rows of GPU 0: it is not in the text" in judged.said


def test_a_geforce_has_nothing_to_count() -> None:
    text = smi_q(SOUND, ecc="N/A", name="NVIDIA GeForce RTX 4090")
    judged = judge_text(text, "memory")
    assert judged.faults == []
    assert judged.status == 0


def test_drivers_that_told_bits_apart_are_read() -> None:
    text = """\
Attached GPUs                       : 1
GPU 00000000:34:00.0
    Product Name                    : Tesla V100-SXM3-32GB
    Ecc Mode
        Current                     : Enabled
        Pending                     : Enabled
    ECC Errors
        Volatile
            Single Bit
                Device Memory       : 1
                Total               : 1
            Double Bit
                Device Memory       : 2
                Total               : 2
        Aggregate
            Single Bit
                Total               : 9
            Double Bit
                Total               : 9
    Retired Pages
        Single Bit ECC              : 3
        Double Bit ECC              : 4
        Pending Page Blacklist      : Yes
    Remapped Rows                   : N/A
"""
    (gpu,) = parse_memory(text)
    assert (gpu.volatile.uncorrected, gpu.aggregate.corrected) == (2, 9)
    assert gpu.pages == RetiredPages(3, 4, pending=True)
    assert found_in(text) == [("page-retirement-pending", "reset"), ("uncorrectable-errors", "reset")]


def links_text(states: dict[int, bool], errors: dict[tuple[int, str], int], name: str = "NVIDIA B200") -> str:
    lines = [f"GPU 0: {name} (UUID: GPU-stand-in-0)"]
    lines += [f"\t Link {link}: {'53.125 GB/s' if up else '<inactive>'}" for link, up in states.items()]
    lines += [f"GPU 0: {name} (UUID: GPU-stand-in-0)"]
    lines += [f"\t Link {link}: {counter}: {count}" for (link, counter), count in errors.items()]
    return "\n".join(lines)


@given(
    st.lists(st.booleans(), min_size=18, max_size=18),
    st.dictionaries(
        st.tuples(st.integers(0, 17), st.sampled_from([one.smi for one in LINK_COUNTERS])),
        st.integers(0, 10**12),
    ),
)
def test_states_and_counters_in_a_text_are_what_is_read(
    states: list[bool], errors: dict[tuple[int, str], int]
) -> None:
    text = links_text(dict(enumerate(states)), errors)
    (gpu,) = parse_links(text)
    assert [link.active for link in gpu.links] == states
    keys = {one.smi: one.key for one in LINK_COUNTERS}
    read = {(link.number, key): count for link in gpu.links for key, count in link.counters.items()}
    assert read == {(link, keys[counter]): count for (link, counter), count in errors.items()}
    faults = judge_links((GpuReading(0, (gpu,)),)).faults
    # All links of a single GPU may be off in a virtual machine.
    assert bool(faults) == (any(states) and not all(states))


def test_numbers_that_are_no_errors_are_passed_over() -> None:
    text = links_text(dict.fromkeys(range(18), True), {}) + (
        "\n\t Link 0: FEC Errors - 0: 36140749276\n\t Link 0: Raw BER Lane 0: 2061\n\t Link 0: Raw Errors Lane 0: 82"
        "\n\t Link 0: Effective BER: 15e-255\n\t Link 0: Raw Errors Lane 1: 4\n\t Link 0: Tx packets: 99\n"
    )
    assert judge_links((GpuReading(0, parse_links(text)),)).findings == ()


def test_counters_alone_leave_the_states_unknown() -> None:
    judged = judge_text(links_text({}, {(0, "Replay Errors"): 0}), "links")
    assert judged.status == 3
    assert "paste nvidia-smi nvlink -s too" in judged.said


def test_links_that_are_cut_off_are_unknown_and_not_missing() -> None:
    judged = judge_text(links_text(dict.fromkeys(range(16), True), {}), "links")
    assert (judged.status, judged.faults) == (3, [])
    assert "the text has 16, and B200 has 18" in judged.said


def test_a_line_for_all_links_of_a_gpu_is_read_for_what_it_is() -> None:
    silent = (
        "GPU 1: NVIDIA B200 (UUID: GPU-stand-in-1)\nNVML: Unable to retrieve Nvlink information as all links are "
        "inActive\n"
    )
    whole = links_text(dict.fromkeys(range(18), True), {})
    assert judge_text(f"{whole}\n{silent}", "links").faults == [("nvlinks-of-gpu-down", "drain", "GPU 1")]
    assert judge_text(silent, "links").faults == []
    without = "GPU 0: NVIDIA RTX A4000 (UUID: GPU-x) Device does not have or support Nvlink\n"
    assert judge_text(without, "links").status == 80


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "has no GPU of nvidia-smi -q" in judge_text("hello", "memory").said
    assert judge_text("hello", "memory").status == 2
    assert judge_text("hello", "links").status == 2
    both = judge_node(tmp_path, EIGHT_B200, "memory", "--from", "x", "--watch", "3")
    assert (both.status, "omit one of the two" in both.said) == (2, True)
    missing = judge_node(tmp_path, EIGHT_B200, "memory", "--from", "/nowhere/x")
    assert (missing.status, "cannot read /nowhere/x: no such file" in missing.said) == (2, True)


MEMORY_LINES = (
    "NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked for remapping, reset gpu to activate.",
    "NVRM: Xid (PCI:0000:3b:00): 64, Row Remapper Error: (0x0000000000ab) - All reserved rows for bank are remapped",
    "NVRM: Xid (PCI:0000:52:00): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error (DBE) has been",
    "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
    "NVRM: Xid (PCI:0000:01:00): 95, pid=7062, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "        Remapping Failure Occurred        : Yes",
)
LINK_LINES = (
    "NVRM: Xid (PCI:0000:3b:00): 74, pid=4711, name=python3, NVLink: fatal error detected on link 6(0x10000, 0x0)",
    "NVRM: Xid (PCI:0008:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000)",
    "nvidia-nvswitch2: SXid (PCI:0000:86:00.0): 20034, Fatal, Link 33 LTSSM Fault Up",
    "[Jul 23 2024 07:53:55] [ERROR] [tid 841] detected NVSwitch fatal error 20034 on fid 0 on NVSwitch pci bus id",
    "NVRM: knvlinkUpdatePostRxDetectLinkMask_IMPL: Failed to update Rx Detect Link mask!",
    "NVRM: knvlinkDiscoverPostRxDetLinks_GH100: Getting peer0's postRxDetLinkMask failed!",
    "NVRM: knvlinkDiscoverPostRxDetLinks_GB100: Getting peer17 postRxDetLinkMask failed!",
    "CUDA error: uncorrectable NVLink error detected during the execution",
)
HEALTHY_LINES = (
    "        Remapping Failure Occurred        : No",
    "            SRAM Threshold Exceeded       : No",
    "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05",
    "NVRM: NVLink link training completed",
)


@pytest.mark.parametrize(
    ("entry", "line"),
    [("gpu-memory-ecc", line) for line in MEMORY_LINES]
    + [("nvlink-link-errors", line) for line in LINK_LINES],
)
def test_a_line_leads_to_its_entry_first(entry: str, line: str) -> None:
    assert [match.runbook_id for match in match_log(log_of([line]), EVERY)][:1] == [entry]


@pytest.mark.parametrize("line", HEALTHY_LINES)
def test_a_healthy_line_leads_nowhere(line: str) -> None:
    assert not match_log(log_of([line]), EVERY)
