"""What one reading of the memory of a GPU shows, and what NVIDIA says to do about it. Pure."""

from collections.abc import Iterator

from runner.node.findings import Action, NodeFinding
from runner.node.gpu.memory_facts import GpuMemory

NVIDIA = "NVIDIA, GPU Memory Error Management"
# Kinds of findings after which the GPU may go on until it is idle, unless the driver asks for more: NVIDIA allows new
# work while a remapping is pending, since the faulty page is not used; its catalog ignores Xid 160 (channel repair).
MAY_GO_ON = frozenset({"uncorrectable-errors", "row-remap-pending", "repair-pending"})
_RMA = f"{NVIDIA}, section RMA Policy"
_DCGM = "NVIDIA, DCGM's health watch (dcgm_gpu_hardware_limits.h)"
# DCGM_LIMIT_MAX_RETIRED_PAGES: the InfoROM holds no more than 64.
_MOST_RETIRED_PAGES = 63
# Remaps in one reading that are worth a look. Lablup's fleet lost a B200 that had 254 of them and no Xid.
_MANY_CORRECTABLE = 8
_RETURN = "drain the node and run NVIDIA's field diagnostic: if it confirms, the board has to be replaced"
_RESET = "let its jobs end, and reset it (nvidia-smi --gpu-reset -i, as root)"


def memory_faults(gpu: GpuMemory) -> Iterator[NodeFinding]:
    """What one reading of one GPU shows, without the action that the driver itself asks for."""
    yield from _whole_gpu(gpu)
    yield from _rows(gpu)
    yield from _pages(gpu)
    yield from _repairs(gpu)
    if gpu.sram_threshold:
        yield NodeFinding(
            kind="sram-threshold",
            action=Action.REPLACE,
            where=gpu.where,
            found="uncorrectable errors in SRAM exceed NVIDIA's threshold",
            next=_RETURN,
            source=f"{_RMA}: the flag SRAM Threshold Exceeded",
            evidence=(f"SRAM uncorrectable, aggregate: {_known(gpu.aggregate.sram_uncorrected)}",),
        )
    count = gpu.volatile.uncorrected
    # Where a remapping is pending, it is the same fault, which the same reset ends.
    if count and not (gpu.rows and gpu.rows.pending):
        yield NodeFinding(
            kind="uncorrectable-errors",
            action=Action.RESET,
            where=gpu.where,
            found=f"{count} uncorrectable memory errors since its last reset",
            next="save nvidia-smi -q, which a reset clears, " + _RESET,
            source=f"{NVIDIA}: the page stays offline and the row is replaced at the next reset",
            evidence=(
                f"uncorrectable, volatile: {count}, of these in SRAM: {_known(gpu.volatile.sram_uncorrected)}",
            ),
        )
    if gpu.ecc is False and gpu.board is not None:
        yield NodeFinding(
            kind="ecc-off",
            action=Action.KEEP,
            where=gpu.where,
            found=f"ECC is off, and {gpu.board.name} boards come with ECC on: memory errors stay unseen",
            next="switch it on with nvidia-smi -e 1, as root, and reset the GPU",
            source="chosen here: without ECC a wrong bit is neither corrected nor counted",
        )
    elif gpu.ecc is not None and gpu.ecc_pending is not None and gpu.ecc != gpu.ecc_pending:
        yield NodeFinding(
            kind="ecc-change-pending",
            action=Action.KEEP,
            where=gpu.where,
            found=f"ECC is {_on(gpu.ecc)} and will be {_on(gpu.ecc_pending)} after the next reset or reboot",
            next="reset the GPU if the change is wanted, else set the mode back with nvidia-smi -e",
            source="NVML, nvmlDeviceGetEccMode",
        )


def _whole_gpu(gpu: GpuMemory) -> Iterator[NodeFinding]:
    refused = [f"{one.what}: {one.text}" for one in gpu.unread if one.kind in {"lost", "reset"}]
    if gpu.lost:
        yield NodeFinding(
            kind="gpu-lost",
            action=Action.DRAIN,
            where=gpu.where,
            found="NVML reports that the GPU is lost: it does not answer on its bus",
            next="drain the node, then see `runbook show xid-triage` for Xid 79",
            source="NVML, NVML_ERROR_GPU_IS_LOST; NVIDIA's Xid catalogue: Xid 79 needs a restart of the node",
            evidence=tuple(refused[:1]),
        )
    elif gpu.needs_reset:
        yield NodeFinding(
            kind="reset-required",
            action=Action.RESET,
            where=gpu.where,
            found="NVML answers that the GPU requires a reset",
            next=_RESET,
            source="NVML, NVML_ERROR_RESET_REQUIRED",
            evidence=tuple(refused[:1]),
            vendor="reset required (NVML)",
        )


def _rows(gpu: GpuMemory) -> Iterator[NodeFinding]:
    rows, spare = gpu.rows, gpu.spare
    if rows is None:
        return
    if rows.failure:
        yield NodeFinding(
            kind="row-remap-failure",
            action=Action.REPLACE,
            where=gpu.where,
            found="a row remapping failed: the repair of this memory by spare rows is exhausted",
            next=_RETURN,
            source=f"{_RMA}: the row-remapping failure flag, confirmed by the field diagnostic",
            evidence=(str(rows),),
        )
    if rows.pending:
        yield NodeFinding(
            kind="row-remap-pending",
            action=Action.RESET,
            where=gpu.where,
            found=f"a row remapping is pending ({rows.correctable} correctable, {rows.uncorrectable} uncorrectable)",
            next=f"{_RESET}; until then the faulty page is not used",
            source=f"{NVIDIA}, section Error Recovery and Response Flags: remapped at the next reset; "
            "DCGM's diagnostic fails while it is pending",
            evidence=(str(rows), f"uncorrectable, volatile: {_known(gpu.volatile.uncorrected)}"),
        )
    elif not rows.failure and spare is not None and spare.low + spare.none:
        yield NodeFinding(
            kind="few-spare-rows",
            action=Action.KEEP,
            where=gpu.where,
            found=f"{spare.none} memory banks have no spare row left, {spare.low} have few",
            next="plan its replacement: an uncorrectable error in such a bank can set the failure flag",
            source=f"chosen here, after {_RMA}: a bank takes eight remapped rows for uncorrectable errors",
            evidence=(str(rows),),
        )
    elif not rows.failure and rows.correctable >= _MANY_CORRECTABLE:
        yield NodeFinding(
            kind="many-correctable-remaps",
            action=Action.KEEP,
            where=gpu.where,
            found=f"{rows.correctable} rows were remapped because of correctable errors",
            next="read it again in a day: a count that grows by 8 or more a day is a GPU to watch",
            source="chosen here, as Algalon's rules (2026), after Lablup's fleet of 504 B200 (arXiv 2605.09370)",
            evidence=(str(rows),),
        )


def _pages(gpu: GpuMemory) -> Iterator[NodeFinding]:
    pages = gpu.pages
    if pages is None:
        return
    if pages.count > _MOST_RETIRED_PAGES:
        yield NodeFinding(
            kind="retired-pages-full",
            action=Action.REPLACE,
            where=gpu.where,
            found=f"{pages.count} pages are retired, and the board can hold no more",
            next=_RETURN,
            source=f"{_DCGM}: more than {_MOST_RETIRED_PAGES}",
        )
    if pages.pending:
        yield NodeFinding(
            kind="page-retirement-pending",
            action=Action.RESET,
            where=gpu.where,
            found=f"a page retirement is pending ({pages.single_bit} single-bit, {pages.double_bit} double-bit)",
            next=f"{_RESET}, or reload the driver",
            source="NVIDIA, Dynamic Page Retirement: it takes effect when the driver is loaded again",
        )


def _repairs(gpu: GpuMemory) -> Iterator[NodeFinding]:
    repairs = gpu.repairs
    if repairs.unrepairable:
        yield NodeFinding(
            kind="memory-unrepairable",
            action=Action.REPLACE,
            where=gpu.where,
            found="the driver reports memory that cannot be repaired",
            next=_RETURN,
            source="NVML, nvmlDeviceGetUnrepairableMemoryFlag_v1",
        )
    waiting = {
        "a memory channel": repairs.channel_pending,
        "a memory bank": repairs.bank_pending,
    }
    for part in (name for name, pending in waiting.items() if pending):
        yield NodeFinding(
            kind="repair-pending",
            action=Action.RESET,
            where=gpu.where,
            found=f"the repair of {part} is pending",
            next=_RESET,
            source="NVIDIA's driver (Xid 160): a reset activates the repair of a channel; chosen here for banks",
        )
    if repairs.tpc_pending:
        yield NodeFinding(
            kind="tpc-repair-pending",
            action=Action.RESET,
            where=gpu.where,
            found="the repair of a TPC, a part of the processor, is pending",
            next=_RESET,
            source="NVIDIA, Xid catalog (2025-10): Xid 156, RESET_GPU",
        )


def _on(state: bool) -> str:
    return "on" if state else "off"


def _known(count: int | None) -> str:
    return "unknown" if count is None else str(count)
