"""Reads the memory facts of GPUs from a pasted `nvidia-smi -q`. Pure."""

from runner.base.plain import one_line
from runner.hardware.boards import board_of
from runner.node.gpu.memory_facts import (
    EccCounts,
    GpuMemory,
    MemoryFacts,
    RemappedRows,
    Repairs,
    RetiredPages,
    SpareRows,
)
from runner.node.gpu.memory_reading import COUNTERS, MODE, PAGES, RECOVERY, ROWS
from runner.node.gpu.smi_text import SmiGpu, is_known, smi_gpus
from runner.node.gpu.together import UnreadFact
from runner.node.recovery import recovery_worded

_ROWS, _BANKS, _PAGES = "Remapped Rows", "Bank Remap Availability Histogram", "Retired Pages"
_PASTE = "it is not in the text: paste the output of nvidia-smi -q whole"


def parse_memory(text: str) -> MemoryFacts:
    """The facts of all GPUs in the output of `nvidia-smi -q`, of drivers 450 to 595.

    Raises:
        InputError: the text is no such output.
    """
    return tuple(_facts(gpu) for gpu in smi_gpus(text))


def _facts(gpu: SmiGpu) -> GpuMemory:
    name = gpu.anywhere("Product Name") or "unknown"
    asked = gpu.anywhere("GPU Recovery Action")
    recovery = recovery_worded(asked) if asked else None
    ecc = gpu.flag("ECC Mode", "Current")
    rows, pages = _rows(gpu), _pages(gpu)
    on = ecc is not False
    volatile = _counts(gpu, "Volatile") if on else EccCounts()
    return GpuMemory(
        where=gpu.where,
        name=name,
        board=board_of(name),
        mig=bool(gpu.flag("MIG Mode", "Current")),
        virtual=gpu.anywhere("Virtualization Mode") == "VGPU",
        ecc=ecc,
        ecc_pending=gpu.flag("ECC Mode", "Pending"),
        volatile=volatile,
        aggregate=_counts(gpu, "Aggregate") if on else EccCounts(),
        sram_threshold=_yes(gpu.anywhere("SRAM Threshold Exceeded")),
        rows=rows,
        spare=_spare(gpu) if rows else None,
        pages=pages,
        repairs=Repairs(
            channel_pending=_yes(gpu.anywhere("Channel Repair Pending")),
            tpc_pending=_yes(gpu.anywhere("TPC Repair Pending")),
            unrepairable=_yes(gpu.anywhere("Unrepairable Memory")),
        ),
        recovery=recovery,
        unread=tuple(
            fact
            for fact in (
                _unread(MODE, ecc is not None, gpu.has("ECC Mode")),
                _unread(COUNTERS, not on or volatile.uncorrected is not None, gpu.has("Volatile")),
                _unread(ROWS, rows is not None, gpu.has(_ROWS)),
                _unread(PAGES, pages is not None, gpu.has(_PAGES)),
                _action(asked) if recovery is None else None,
            )
            if fact is not None
        ),
    )


def _unread(what: str, known: bool, there: bool) -> UnreadFact | None:
    if known:
        return None
    return UnreadFact(what, "unsupported", "N/A") if there else UnreadFact(what, "absent", _PASTE)


def _action(asked: str | None) -> UnreadFact:
    if not asked:
        return UnreadFact(RECOVERY, "absent", _PASTE)
    if not is_known(asked):
        return UnreadFact(RECOVERY, "unsupported", asked)
    return UnreadFact(RECOVERY, "other", f"`{one_line(asked)[:60]}` is no action that is known here")


def _counts(gpu: SmiGpu, scope: str) -> EccCounts:
    """Since about driver 545 SRAM errors are told apart: parity and SEC-DED; before 450 bits were."""
    single, double = f"{scope} Single Bit", f"{scope} Double Bit"
    old = EccCounts(gpu.number(single, "Total"), gpu.number(double, "Total"))
    parts = [gpu.number(scope, f"SRAM Uncorrectable {kind}") for kind in ("Parity", "SEC-DED")]
    known = [count for count in parts if count is not None]
    sram = sum(known) if known else gpu.number(scope, "SRAM Uncorrectable")
    dram = gpu.number(scope, "DRAM Uncorrectable")
    corrected = [gpu.number(scope, f"{place} Correctable") for place in ("SRAM", "DRAM")]
    if sram is None and dram is None:
        return old
    return EccCounts(sum(count or 0 for count in corrected), (sram or 0) + (dram or 0), sram)


def _rows(gpu: SmiGpu) -> RemappedRows | None:
    correctable, uncorrectable = (
        gpu.number(_ROWS, f"{kind} Error") for kind in ("Correctable", "Uncorrectable")
    )
    pending, failure = (gpu.flag(_ROWS, name) for name in ("Pending", "Remapping Failure Occurred"))
    if correctable is None or uncorrectable is None or pending is None or failure is None:
        return None
    return RemappedRows(correctable, uncorrectable, pending, failure)


def _spare(gpu: SmiGpu) -> SpareRows | None:
    found = [gpu.number(_BANKS, name) for name in ("Max", "High", "Partial", "Low", "None")]
    known = [count for count in found if count is not None]
    return SpareRows(*known) if len(known) == len(found) else None


def _pages(gpu: SmiGpu) -> RetiredPages | None:
    single, double = (gpu.number(_PAGES, f"{kind} Bit ECC") for kind in ("Single", "Double"))
    pending = gpu.flag(_PAGES, "Pending Page Blacklist")
    if single is None or double is None or pending is None:
        return None
    return RetiredPages(single, double, pending)


def _yes(value: str | None) -> bool | None:
    return {"Yes": True, "No": False}.get(value or "")
