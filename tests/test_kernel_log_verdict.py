"""What several lines of a kernel log mean together."""

from typing import cast

from runner.node.findings import Action, NodeFinding, NodeVerdict
from runner.node.kernel.forms import About
from runner.node.kernel.lines import log_lines
from runner.node.kernel.nvlink5 import NVLINK5_CODES, link_error
from runner.node.kernel.timing import Timing
from runner.node.kernel.verdict import LogRequest, judge_kernel_log
from runner.node.kernel.xid_catalogue import xid_codes, xid_row
from runner.node.recovery import recovery_numbered

A, B = "PCI:0000:3b:00", "PCI:0000:9b:00"
WARP = "Graphics SM Warp Exception on"
FATAL_LINK = "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x01600011 0x00000000 0x00000000 0x00000000)"


def log(*lines: tuple[float, str]) -> str:
    return "".join(f"[{at:.6f}] {text}\n" for at, text in lines)


def xid(at: float, text: str, gpu: str = A) -> tuple[float, str]:
    return at, f"NVRM: Xid ({gpu}): {text}"


def judged(text: str, about: About | None = None, since_s: float | None = None) -> NodeVerdict:
    return judge_kernel_log(
        list(log_lines(text)), LogRequest(about=about, source="captured", since_s=since_s)
    )


def only(text: str) -> NodeFinding:
    (finding,) = judged(text).findings
    return finding


def test_one_gpu_with_one_cause_is_one_finding_however_many_lines_it_has() -> None:
    finding = only(
        log(
            xid(1, FATAL_LINK),
            *[xid(1 + place / 100, f"45, pid={place + 1}, name=python3, Ch 00000008") for place in range(40)],
        )
    )
    assert (finding.kind, finding.action, finding.where) == ("xid-149", Action.RESET, "GPU 0000:3b:00.0")
    assert "Xid 45 × 40" in finding.found
    assert len(finding.evidence) == 6
    assert "36 more lines" in finding.evidence[3]


def test_two_gpus_are_two_findings_and_two_causes_of_one_gpu_too() -> None:
    found = judged(
        log(xid(1, FATAL_LINK), xid(1, FATAL_LINK, B), xid(1, "95, Uncontained: LTC TAG"))
    ).findings
    assert sorted((one.where, one.kind) for one in found) == [
        ("GPU 0000:3b:00.0", "xid-149"),
        ("GPU 0000:3b:00.0", "xid-95"),
        ("GPU 0000:9b:00.0", "xid-149"),
    ]


def test_the_drivers_own_word_decides_over_the_table_for_its_gpu_alone() -> None:
    reboot = "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
    first, second = judged(log(xid(1, FATAL_LINK), xid(1.1, reboot), xid(1, FATAL_LINK, B))).findings
    assert (first.where, first.action, first.vendor) == (
        "GPU 0000:3b:00.0",
        Action.DRAIN,
        "Node Reboot Required (Xid 154)",
    )
    assert first.kind == "xid-149"
    assert (second.where, second.action, second.vendor) == ("GPU 0000:9b:00.0", Action.RESET, None)


def test_the_drivers_word_can_also_ask_for_less_than_the_table() -> None:
    reset = "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
    assert only(log(xid(1, "79, GPU has fallen off the bus."), xid(1.5, reset))).action is Action.RESET


def test_of_several_words_of_the_driver_the_newest_counts() -> None:
    words = [
        xid(1, FATAL_LINK),
        xid(2, "154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)"),
        xid(90, "154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)"),
    ]
    assert only(log(*words)).vendor == "GPU Reset Required (Xid 154)"
    settled = judged(
        log(*words, xid(600, "154, GPU recovery action changed from 0x1 (GPU Reset) to 0x0 (None)"))
    )
    assert settled.faults == ()
    assert [one.kind for one in settled.notes] == ["xid-settled"]


def test_what_comes_after_the_driver_took_its_word_back_counts_again() -> None:
    text = log(
        xid(1, FATAL_LINK),
        xid(2, "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"),
        xid(60, "154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"),
        xid(90, FATAL_LINK),
    )
    assert [one.kind for one in judged(text).faults] == ["xid-149"]


def test_a_graver_error_long_after_the_drivers_word_is_not_hidden_by_it() -> None:
    text = log(
        xid(1, FATAL_LINK),
        xid(2, "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"),
        xid(9_000, "79, GPU has fallen off the bus."),
    )
    assert only(text).action is Action.DRAIN


def test_an_action_of_the_driver_that_is_not_known_here_takes_the_node_out_of_service() -> None:
    found = only(log(xid(1, "154, GPU recovery action changed from 0x0 (None) to 0x9 (Something New)")))
    assert (found.action, found.vendor) == (Action.DRAIN, "Something New (Xid 154)")
    assert [recovery_numbered(number).action for number in range(8)].count(Action.KEEP) == 1


def test_a_line_about_the_recovery_action_that_does_not_name_it_is_unknown() -> None:
    verdict = judged(log(xid(1, "154, GPU recovery action changed")))
    assert [one.matters for one in verdict.not_read] == [True]


def test_an_xid_45_that_names_an_xid_in_the_log_is_its_consequence() -> None:
    text = log(
        xid(1, "79, GPU has fallen off the bus."),
        xid(300, "45, pid=7, name=a, Ch 1 caused by previous Xid 79"),
    )
    finding = only(text)
    assert (finding.kind, finding.action) == ("xid-79", Action.DRAIN)
    assert "Xid 79, Xid 45" in finding.found


def test_an_xid_45_that_names_one_that_the_log_lost_brings_its_action_along() -> None:
    finding = only(log(xid(300, "45, pid=7, name=a, channel 0x00000008 caused by previous Xid 95")))
    assert (finding.kind, finding.action) == ("xid-95", Action.RESET)
    assert "not in this log" in finding.found


def test_an_xid_45_by_itself_is_a_program_that_was_ended() -> None:
    finding = only(log(xid(300, "45, pid=7, name=python3, Ch 00000008")))
    assert (finding.kind, finding.action) == ("xid-45-alone", Action.KEEP)


def test_errors_of_programs_right_after_a_fault_of_their_gpu_are_consequences() -> None:
    text = log(
        xid(1, "48, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer"),
        xid(
            1.1, "63, Row Remapper: New row (0x0000000018f31d80) marked for remapping, reset gpu to activate."
        ),
        xid(1.2, "94, pid=7, name=python3, Contained: SM (0x1). RST: No, D-RST: No"),
        xid(1.3, "13, pid=7, name=python3, Graphics Exception"),
        xid(1.4, "43, pid=7, name=python3, channel 0x00000008"),
    )
    finding = only(text)
    assert (finding.kind, finding.action) == ("xid-48", Action.RESET)
    assert "Xid 13, Xid 43" in finding.found


def test_the_same_error_on_several_gpus_is_the_program() -> None:
    finding = only(
        log(xid(1, "31, pid=7, name=train, MMU Fault"), xid(3, "31, pid=8, name=train, MMU Fault", B))
    )
    assert (finding.kind, finding.action) == ("xid-application", Action.RESTART)
    assert finding.where == "GPUs 0000:3b:00.0, 0000:9b:00.0"
    assert "it is the program" in finding.found


def test_the_same_error_of_different_jobs_on_one_gpu_makes_it_suspect() -> None:
    finding = only(
        log(
            xid(
                1_000,
                f"13, pid='<unknown>', name=<unknown>, {WARP} (GPC 10, TPC 2, SM 0): Illegal Instruction Encoding",
            ),
            xid(1_001, "43, pid=7, name=train, channel 0x00000008"),
            xid(
                90_000,
                f"13, pid='<unknown>', name=<unknown>, {WARP} (GPC 10, TPC 2, SM 1): Illegal Instruction Encoding",
            ),
            xid(90_001, "43, pid=9001, name=vllm, channel 0x00000008"),
        )
    )
    assert (finding.kind, finding.action) == ("xid-repeats-on-one-gpu", Action.DRAIN)
    assert "GPC 10, TPC 2" in finding.found
    assert "dcgmi diag" in finding.next


def test_one_program_that_fails_again_and_again_is_tried_on_another_gpu_first() -> None:
    finding = only(
        log(xid(1_000, "31, pid=7, name=train, MMU Fault"), xid(9_000, "31, pid=8, name=train, MMU Fault"))
    )
    assert (finding.kind, finding.action) == ("xid-repeats-on-one-gpu", Action.RESTART)
    assert finding.next.startswith("run train on another GPU")


def test_errors_of_one_process_or_of_an_unknown_one_make_no_gpu_suspect() -> None:
    same = log(xid(1_000, "31, pid=7, name=train, MMU Fault"), xid(9_000, "31, pid=7, name=train, MMU Fault"))
    unknown = log(xid(1_000, "13, Graphics Exception"), xid(9_000, "13, Graphics Exception"))
    for text in (same, unknown):
        assert {one.kind for one in judged(text).findings} == {"xid-application"}


def test_jobs_that_fail_on_all_their_gpus_each_time_make_none_suspect() -> None:
    text = log(
        *(
            xid(at, f"31, pid={pid}, name=train, MMU Fault", gpu)
            for at, pid, gpu in ((1e3, 7, A), (1e3, 8, B), (9e3, 9, A), (9e3, 10, B))
        )
    )
    assert {one.kind for one in judged(text).findings} == {"xid-application"}


def test_an_error_of_a_program_is_history_after_an_hour_and_a_fault_of_a_gpu_is_not() -> None:
    text = log(
        xid(1_000, "31, pid=7, name=train, MMU Fault"),
        xid(1_000, "95, Uncontained: LTC", B),
        (90_000, "later"),
    )
    assert {one.kind: one.action for one in judged(text).findings} == {
        "xid-application": Action.KEEP,
        "xid-95": Action.RESET,
    }


def test_an_old_fault_of_a_gpu_says_how_to_leave_it_out_if_it_was_seen_to() -> None:
    old = only(log(xid(1_000, "95, Uncontained: LTC"), (90_000, "later")))
    assert "--since S" in old.next
    assert "--since S" not in only(log(xid(1_000, "95, Uncontained: LTC"))).next


def test_a_line_without_a_time_counts_as_new_and_says_so() -> None:
    finding = only("NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=train, MMU Fault\n")
    assert finding.action is Action.RESTART
    assert "at an unknown time" in finding.found


def test_what_was_before_the_last_start_of_the_node_is_a_note() -> None:
    text = log(
        xid(9_000, "79, GPU has fallen off the bus."),
        (0, "Linux version 6.8.0 (a@b)"),
        (5, "nvidia: loading"),
    )
    finding = only(text)
    assert (finding.kind, finding.action) == ("earlier-start", Action.KEEP)
    assert "Xid 79" in finding.found


def test_a_limit_of_time_leaves_out_what_is_older() -> None:
    text = log(xid(1_000, "95, Uncontained: LTC"), (90_000, "later"))
    assert judged(text, since_s=600).findings == ()
    assert len(judged(text, since_s=100_000).findings) == 1


def test_an_unknown_code_is_listed_and_counted_and_matters_while_it_is_new() -> None:
    verdict = judged(log(xid(1_000, "999, something")))
    assert [one["code"] for one in cast("list[dict[str, object]]", verdict.facts["unknown_codes"])] == [999]
    assert [(one.metric, one.value) for one in verdict.numbers if one.metric == "xid_unknown"] == [
        ("xid_unknown", 1)
    ]
    old = judged(log(xid(1_000, "999, something"), (90_000, "later")))
    assert [one.matters for one in old.not_read] == [False]


def test_events_are_chosen_by_what_they_are_about() -> None:
    text = log(
        xid(1, "95, Uncontained: LTC"),
        xid(1, FATAL_LINK, B),
        (2, "mlx5_core 0000:5c:00.0: Port module event[error]: module 0, Cable error, High Temperature"),
        (3, "VFS: file-max limit 1024 reached"),
        (4, "pcieport 0000:3a:00.0: AER: Uncorrected (Fatal) error received: 0000:3b:00.0"),
        (5, "INFO: task nvidia-smi:2165 blocked for more than 122 seconds."),
    )
    kinds = {about: {one.kind for one in judged(text, about).findings} for about in About}
    assert kinds == {
        About.GPU: {"xid-95", "xid-149"},
        About.MEMORY: {"xid-95"},
        About.LINKS: {"xid-149"},
        About.PCIE: {"aer-fatal"},
        About.NETWORK: {"nic-module-error"},
        About.HOST_MEMORY: {"file-max"},
        About.DRIVER: {"hung-task"},
    }


def test_corrected_pcie_errors_are_a_note_until_they_are_many() -> None:
    def errors(count: int) -> str:
        lines = []
        for place in range(count):
            at = 100 + place
            lines.append((at, "pcieport 0000:3a:00.0: AER: Corrected error received: 0000:3b:00.0"))
            lines.append(
                (
                    at,
                    "nvidia 0000:3b:00.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)",
                )
            )
        return log(*lines)

    assert only(errors(99)).action is Action.KEEP
    assert only(errors(100)).action is Action.DRAIN


def test_a_link_of_an_adapter_that_flaps_is_told_from_one_that_went_down_once() -> None:
    def flaps(count: int, down_s: float) -> str:
        lines = []
        for place in range(count):
            at = 1_000.0 + 1_000 * place
            lines += [
                (at, "mlx5_core 0000:5c:00.0 ens1: Link down"),
                (at + down_s, "mlx5_core 0000:5c:00.0 ens1: Link up"),
            ]
        return log(*lines)

    assert only(flaps(3, 40)).action is Action.DRAIN
    assert only(flaps(2, 40)).action is Action.KEEP
    assert only(flaps(9, 4)).action is Action.KEEP


def test_the_two_lines_of_one_oom_kill_are_one_finding() -> None:
    text = log(
        (
            1,
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=python3,pid=77,uid=0",
        ),
        (1, "Memory cgroup out of memory: Killed process 77 (python3) total-vm:83312kB"),
    )
    assert only(text).where == "python3 (pid 77)"


def test_the_process_that_a_drill_lets_the_kernel_kill_is_no_event_of_the_node() -> None:
    line = "Memory cgroup out of memory: Killed process 77 ({}) total-vm:83312kB"
    assert (
        only(log((1, line.format("runbook-drill")), (2, line.format("python3")))).where == "python3 (pid 77)"
    )


def test_the_time_is_told_from_now_for_a_live_log_and_from_its_end_for_a_captured_one() -> None:
    text = log(xid(1_000, "95, Uncontained: LTC"), (1_600, "later"))
    assert "10 min before the log ends" in only(text).found
    live = LogRequest(about=None, source="kernel", now=Timing({"uptime": 2_200.0}))
    (finding,) = judge_kernel_log(list(log_lines(text)), live).findings
    assert "20 min ago" in finding.found


def test_every_code_of_the_catalogue_has_a_meaning_and_an_action_or_says_that_none_is_known() -> None:
    assert xid_codes() == tuple(range(1, 173))
    rows = [row for code in xid_codes() if (row := xid_row(code))]
    assert all(row.meaning and row.mnemonic and row.family and row.source for row in rows)
    undecided = {row.code for row in rows if row.action is None and row.family != "unused"}
    assert undecided == {142, 166, 168, 170}
    assert all(row.action is None for row in rows if row.family == "unused")


def test_the_vendors_buckets_are_kept() -> None:
    def codes(bucket: str) -> set[int]:
        return {code for code in xid_codes() if (row := xid_row(code)) and row.bucket == bucket}

    assert codes("RESET_GPU") == {46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}
    assert codes("RESTART_BM") == {79}
    assert {13, 31, 94} <= codes("RESTART_APP")
    assert {43, 63, 92} <= codes("IGNORE")
    assert codes("WORKFLOW_NVLINK5_ERR") == NVLINK5_CODES


def test_a_cause_at_the_other_end_of_a_link_is_told() -> None:
    peer = link_error(149, "NETIR_LINK_EVT Fatal XC0 i0 Link 01 (0x02500011 0x00000000 0x00000000)")
    own = link_error(149, "NETIR_LINK_EVT Fatal XC0 i1 Link 01 (0x00400011 0x00000000 0x00000000)")
    assert peer is not None
    assert own is not None
    assert (peer.subcode, peer.peer, peer.injected) == (37, True, False)
    assert (own.subcode, own.peer, own.injected) == (4, False, True)
    assert "other end" in peer.hint


def test_of_a_status_with_several_bits_the_gravest_row_counts() -> None:
    error = link_error(145, "RLW_REMAP Nonfatal XC0 i0 Link 01 (0x00000004 0x00000140 0x00000000)")
    assert error is not None
    assert error.action is Action.RESET


def test_a_fatal_line_without_a_row_needs_a_reset_and_one_that_is_not_fatal_is_unknown() -> None:
    fatal = link_error(149, "NETIR_NEW Fatal XC0 i0 Link 01 (0x00000013 0x00000002)")
    other = link_error(149, "NETIR_NEW Nonfatal XC0 i0 Link 01 (0x00000013 0x00000002)")
    assert fatal is not None
    assert other is not None
    assert (fatal.action, other.action) == (Action.RESET, None)


def test_what_the_log_says_of_the_past_is_a_note_where_the_driver_asks_for_nothing_now() -> None:
    def with_word(number: int) -> Action:
        request = LogRequest(
            about=None, source="kernel", requests={"0000:3b:00.0": recovery_numbered(number)}
        )
        (found,) = judge_kernel_log(list(log_lines(log(xid(1, FATAL_LINK)))), request).findings
        return found.action

    assert [with_word(0), with_word(1)] == [Action.KEEP, Action.RESET]


def test_the_word_about_one_gpu_settles_nothing_of_another() -> None:
    request = LogRequest(about=None, source="kernel", requests={"0000:9b:00.0": recovery_numbered(0)})
    (found,) = judge_kernel_log(list(log_lines(log(xid(1, FATAL_LINK)))), request).findings
    assert found.action is Action.RESET
