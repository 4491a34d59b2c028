"""Reads the memory facts of GPUs from NVML."""

from collections.abc import Sequence
from typing import Any

from runner.node.gpu.asking import NvmlAsker, OpenGpu
from runner.node.gpu.memory_facts import (
    EccCounts,
    GpuMemory,
    MemoryFacts,
    RemappedRows,
    Repairs,
    RetiredPages,
    SpareRows,
)
from runner.node.gpu.together import UnreadFact
from runner.node.recovery import RECOVERY_FIELD, recovery_numbered

COUNTERS, ROWS, PAGES, SRAM = "ECC error counters", "remapped rows", "retired pages", "the SRAM threshold"
MODE, RECOVERY, REPAIRS = "the ECC mode", "the GPU recovery action", "pending repairs"
# nvmlMemoryErrorType_t, nvmlEccCounterType_t, nvmlMemoryLocation_t.
_CORRECTED, _UNCORRECTED, _VOLATILE, _AGGREGATE, _SRAM = 0, 1, 0, 1, 7
_VGPU = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU


def read_memory(asker: NvmlAsker, gpus: Sequence[OpenGpu]) -> MemoryFacts:
    """The facts of all GPUs, at this moment."""
    return tuple(_Reader(asker, gpu).facts() for gpu in gpus)


class _Reader:
    """Reads one GPU, and keeps what of it could not be read."""

    def __init__(self, asker: NvmlAsker, gpu: OpenGpu) -> None:
        self._asker, self._gpu = asker, gpu
        self._unread: list[UnreadFact] = []

    def facts(self) -> GpuMemory:
        gpu = self._gpu
        mode = self._ask(MODE, "nvmlDeviceGetEccMode")
        on = None if mode is None else bool(mode[0])
        # With ECC off, some drivers answer 0 and others refuse; neither is a count.
        counted = on is not False
        sram = self._sram() if counted else None
        virtual = self._quiet("nvmlDeviceGetVirtualizationMode")
        volatile = self._counts(_VOLATILE) if counted else EccCounts()
        aggregate = self._counts(_AGGREGATE) if counted else EccCounts()
        rows, pages = self._rows(), self._pages()
        recovery = self._recovery()
        kinds = {one.kind for one in self._unread}
        return GpuMemory(
            where=gpu.where,
            name=gpu.name,
            board=gpu.board,
            mig=gpu.mig,
            virtual=virtual == _VGPU,
            ecc=on,
            ecc_pending=None if mode is None else bool(mode[1]),
            volatile=volatile,
            aggregate=aggregate,
            sram_threshold=sram,
            rows=rows,
            spare=self._spare() if rows else None,
            pages=pages,
            repairs=self._repairs(),
            recovery=None if recovery is None else recovery_numbered(recovery),
            needs_reset="reset" in kinds,
            lost="lost" in kinds,
            unread=tuple(dict.fromkeys(self._unread)),
        )

    def _ask(self, what: str, call: str, *arguments: object) -> Any:
        answer = self._asker.ask(call, self._gpu.handle, *arguments, of=self._gpu.where)
        if answer is None:
            self._keep(what, call)
        return answer

    def _quiet(self, call: str, *arguments: object) -> Any:
        """A fact that few boards have, and that nothing depends on."""
        return self._asker.ask(call, self._gpu.handle, *arguments, of=self._gpu.where)

    def _keep(self, what: str, call: str) -> None:
        refusal = self._asker.refusal(call, self._gpu.where)
        if refusal is not None:
            self._unread.append(UnreadFact(what, refusal.kind, refusal.text))

    def _empty(self, name: str) -> Any:
        """A structure for NVML to fill, in which pynvml sets the version; None if this pynvml does not have it."""
        kind = getattr(self._asker.nvml, name, None)
        return None if kind is None else kind()

    def _sram(self) -> bool | None:
        """Whether the threshold is exceeded. NVML answers this to root only."""
        found = self._empty("c_nvmlEccSramErrorStatus_v1_t")
        if found is None:
            return None
        given = self._asker.nvml.byref(found)
        if self._ask(SRAM, "nvmlDeviceGetSramEccErrorStatus", given) is None:
            return None
        return bool(found.bThresholdExceeded)

    def _counts(self, scope: int) -> EccCounts:
        corrected = self._ask(COUNTERS, "nvmlDeviceGetTotalEccErrors", _CORRECTED, scope)
        uncorrected = self._ask(COUNTERS, "nvmlDeviceGetTotalEccErrors", _UNCORRECTED, scope)
        sram = self._quiet("nvmlDeviceGetMemoryErrorCounter", _UNCORRECTED, scope, _SRAM)
        return EccCounts(corrected, uncorrected, sram)

    def _rows(self) -> RemappedRows | None:
        found = self._ask(ROWS, "nvmlDeviceGetRemappedRows")
        return None if found is None else RemappedRows(found[0], found[1], bool(found[2]), bool(found[3]))

    def _spare(self) -> SpareRows | None:
        found = self._quiet("nvmlDeviceGetRowRemapperHistogram")
        if found is None:
            return None
        return SpareRows(found.max, found.high, found.partial, found.low, found.none)

    def _pages(self) -> RetiredPages | None:
        pending = self._ask(PAGES, "nvmlDeviceGetRetiredPagesPendingStatus")
        causes = [self._ask(PAGES, "nvmlDeviceGetRetiredPages", cause) for cause in (0, 1)]
        if pending is None or None in causes:
            return None
        return RetiredPages(len(causes[0]), len(causes[1]), bool(pending))

    def _repairs(self) -> Repairs:
        repairs = self._quiet("nvmlDeviceGetRepairStatus")
        flag = self._quiet("nvmlDeviceGetUnrepairableMemoryFlag_v1")
        banks = self._empty("c_nvmlEccBankRemapperStatus_v1_t")
        if banks is not None:
            given = self._asker.nvml.byref(banks)
            banks = banks if self._quiet("nvmlDeviceGetBankRemapperStatus_v1", given) is not None else None
        return Repairs(
            channel_pending=None if repairs is None else bool(repairs[0]),
            tpc_pending=None if repairs is None else bool(repairs[1]),
            bank_pending=None if banks is None else bool(banks.bPending),
            unrepairable=None if flag is None else bool(flag),
        )

    def _recovery(self) -> int | None:
        found = self._asker.field(self._gpu.handle, RECOVERY_FIELD, of=self._gpu.where)
        if found is None:
            self._keep(RECOVERY, "nvmlDeviceGetFieldValues")
            self._keep(RECOVERY, f"nvmlDeviceGetFieldValues field {RECOVERY_FIELD}")
        return found
