"""ECC errors, remapped rows and retired pages of the GPUs: keep, reset or replace.

The rules are NVIDIA's, where there is one: GPU Memory Error Management (sections RMA Policy, Response to Uncorrectable
Contained ECC Errors, Error Recovery and Response Flags), and the constants of DCGM's health watch
(dcgmlib, dcgm_gpu_hardware_limits.h). Where the driver itself asks for an action, that action decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.node.findings import Action, NodeFinding, NodeNumber, NodeVerdict, NotRead
from runner.node.gpu.group import GpuGroup, GpuReading
from runner.node.gpu.memory_facts import GpuMemory, MemoryFacts
from runner.node.gpu.memory_findings import MAY_GO_ON, memory_faults
from runner.node.gpu.memory_growth import growth_of
from runner.node.gpu.memory_reading import COUNTERS, MODE, PAGES, RECOVERY, ROWS, SRAM, read_memory
from runner.node.gpu.memory_text import parse_memory
from runner.node.gpu.together import (
    UnreadFact,
    gpu_label,
    gpus_named,
    known_settings,
    not_read_together,
    same_on_all,
)
from runner.node.recovery import RECOVERY_SOURCE, RecoveryRequest


def judge_memory(readings: Sequence[GpuReading[MemoryFacts]]) -> NodeVerdict:
    """The verdict on the memory of all GPUs.

    Args:
        readings: the oldest first; with several, counters are judged by their change from the first to the last.
    """
    now = readings[-1].facts
    before = {gpu.where: gpu for gpu in readings[0].facts} if len(readings) > 1 else {}
    seconds = readings[-1].at_s - readings[0].at_s
    findings: list[NodeFinding] = []
    for gpu in now:
        found = list(memory_faults(gpu))
        if gpu.where in before:
            found += growth_of(before[gpu.where], gpu, seconds)
        findings += _with_the_drivers_word(gpu, found)
    judged = {gpu.where: gpu.judged for gpu in now if gpu.judged}
    parts = list(dict.fromkeys(part for one in judged.values() for part in one))
    return NodeVerdict(
        findings=tuple(findings),
        not_read=not_read_together(pair for gpu in now for pair in _unread(gpu)),
        numbers=tuple(_numbers(now)),
        judged=f"{', '.join(parts)} of {gpus_named(list(judged))}" if judged else "",
        not_applicable=None if judged else _why_nothing(now),
        facts={gpu.where: _shown(gpu) for gpu in now},
        settings=known_settings({"ECC": same_on_all(_mode(gpu) for gpu in now)}),
    )


def _with_the_drivers_word(gpu: GpuMemory, found: list[NodeFinding]) -> list[NodeFinding]:
    """The findings, where the driver asks for an action: one finding with its word, and what is graver beside it."""
    asked = gpu.recovery
    if asked is None:
        return found
    if not asked.asks:
        # A GPU that may go on until it is idle is no advice beside one that has to be replaced.
        lost = any(one.action is Action.REPLACE for one in found)
        return [
            _settled(one, asked) if one.kind in MAY_GO_ON else one
            for one in found
            if not (lost and one.kind == "row-remap-pending")
        ]
    kept = [one for one in found if one.action is Action.KEEP or one.action.rank > asked.action.rank]
    told = [one for one in found if one not in kept]
    request = NodeFinding(
        kind="recovery-action",
        action=asked.action,
        where=gpu.where,
        found="; ".join([f"the driver asks for: {asked.words}", *(one.found for one in told)]),
        next=asked.next,
        source=RECOVERY_SOURCE,
        evidence=tuple(dict.fromkeys(line for one in told for line in one.evidence)),
        vendor=asked.vendor,
    )
    return [request, *kept]


def _settled(past: NodeFinding, asked: RecoveryRequest) -> NodeFinding:
    """Errors after which the driver asks for nothing: their pages are out of use, and the GPU may go on."""
    step = "nothing now; reset the GPU when it is idle, and drain the node if the count grows"
    return replace(past, action=Action.KEEP, next=step, source=RECOVERY_SOURCE, vendor=asked.vendor)


def _unread(gpu: GpuMemory) -> Iterator[tuple[str, NotRead]]:
    """What of one GPU is unknown, and whether the verdict depends on it."""
    if gpu.lost or gpu.needs_reset:
        return
    if gpu.ecc is False:
        yield gpu.where, NotRead(COUNTERS, "ECC is off, so no error is counted", gpu.board is not None)
    for fact in gpu.unread:
        if fact.what == PAGES and gpu.mig:
            continue
        # One of the two is what this generation has.
        if fact.kind == "unsupported" and (
            (fact.what == PAGES and gpu.rows) or (fact.what == ROWS and gpu.pages)
        ):
            continue
        # Without any such error there can be no excess of them.
        if fact.what == SRAM and (gpu.sram_threshold is not None or gpu.aggregate.sram_uncorrected == 0):
            continue
        yield gpu.where, NotRead(fact.what, _why(gpu, fact), _matters(fact))


def _matters(fact: UnreadFact) -> bool:
    if fact.kind == "absent":
        return fact.what not in {RECOVERY, PAGES, SRAM}
    return fact.kind != "unsupported"


def _why(gpu: GpuMemory, fact: UnreadFact) -> str:
    if fact.kind == "closed":
        return f"{fact.text}: run it as root"
    if fact.kind != "unsupported":
        return fact.text
    if gpu.mig:
        return "MIG is on: the driver does not tell it for the whole GPU"
    if gpu.virtual:
        return "a vGPU does not show it: read it on the host of the virtual machine"
    if fact.what in {MODE, COUNTERS} and gpu.ecc is None:
        return "the board has no ECC, or the driver does not show it"
    return "this board or driver does not have it"


def _why_nothing(now: MemoryFacts) -> str:
    if any(gpu.mig for gpu in now):
        return "MIG is on: the driver tells nothing about the memory of the whole GPUs"
    if any(gpu.virtual for gpu in now):
        return "the GPUs are virtual (vGPU): read their memory on the host of the virtual machine"
    return "no GPU here has ECC that is on, row remapping or page retirement"


def _numbers(now: MemoryFacts) -> Iterator[NodeNumber]:
    for gpu in now:
        label = gpu_label(gpu.where)
        if gpu.volatile.uncorrected is not None:
            yield NodeNumber("uncorrected_memory_errors", gpu.volatile.uncorrected, label)
        if gpu.rows is not None:
            yield NodeNumber("remapped_rows", gpu.rows.count, label)
    remapped = [gpu.rows for gpu in now if gpu.rows is not None and (gpu.rows.count or gpu.rows.failure)]
    if remapped:
        yield NodeNumber("failed_remap_share", sum(rows.failure for rows in remapped) / len(remapped))


def _mode(gpu: GpuMemory) -> str | None:
    return None if gpu.ecc is None else "on" if gpu.ecc else "off"


def _shown(gpu: GpuMemory) -> dict[str, object]:
    """The facts of one GPU in JSON."""
    return {
        "ecc": gpu.ecc,
        "corrected_volatile": gpu.volatile.corrected,
        "uncorrected_volatile": gpu.volatile.uncorrected,
        "corrected_aggregate": gpu.aggregate.corrected,
        "uncorrected_aggregate": gpu.aggregate.uncorrected,
        "sram_uncorrected_aggregate": gpu.aggregate.sram_uncorrected,
        "sram_threshold_exceeded": gpu.sram_threshold,
        "rows": None if gpu.rows is None else str(gpu.rows),
        "retired_pages": None if gpu.pages is None else gpu.pages.count,
        "recovery_action": None if gpu.recovery is None else gpu.recovery.words,
    }


GROUP = GpuGroup("memory", read_memory, judge_memory, parse=parse_memory)
