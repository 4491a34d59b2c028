"""Memory errors that come while a node is watched. Pure."""

from collections.abc import Iterator

from runner.node.findings import Action, NodeFinding
from runner.node.gpu.memory_facts import GpuMemory


def growth_of(before: GpuMemory, now: GpuMemory, seconds: float) -> Iterator[NodeFinding]:
    """What changed on one GPU between two readings that lie `seconds` apart."""
    during = f"in {seconds:.0f} s"
    uncorrected = _grown(before.volatile.uncorrected, now.volatile.uncorrected)
    if uncorrected:
        yield NodeFinding(
            kind="uncorrectable-errors-now",
            action=Action.DRAIN,
            where=now.where,
            found=f"{uncorrected} uncorrectable memory errors {during}",
            next="take the node out of service, reset the GPU, then load it again and watch",
            source="chosen here: a job on this GPU is being killed or is computing with wrong data",
            evidence=(
                f"uncorrectable, volatile: {before.volatile.uncorrected} → {now.volatile.uncorrected}",
            ),
        )
    corrected = _grown(before.volatile.corrected, now.volatile.corrected)
    if corrected:
        yield NodeFinding(
            kind="corrected-errors-now",
            action=Action.KEEP,
            where=now.where,
            found=f"{corrected} corrected memory errors {during}",
            next="nothing now; corrected errors cost no data",
            source="chosen here: a corrected error costs no data, and NVIDIA names no limit for them",
            evidence=(f"corrected, volatile: {before.volatile.corrected} → {now.volatile.corrected}",),
        )
    if before.rows is None or now.rows is None:
        return
    correctable = _grown(before.rows.correctable, now.rows.correctable)
    if correctable:
        yield NodeFinding(
            kind="correctable-remaps-now",
            action=Action.KEEP,
            where=now.where,
            found=f"{correctable} rows remapped because of correctable errors {during}",
            next="watch this GPU: 8 or more a day is what Algalon's rules warn of",
            source="chosen here, as Algalon's rules (2026): correctable remaps preceded the loss of a B200 (Lablup)",
            evidence=(f"remapped, correctable: {before.rows.correctable} → {now.rows.correctable}",),
        )
    uncorrectable = _grown(before.rows.uncorrectable, now.rows.uncorrectable)
    if uncorrectable and not uncorrected:
        yield NodeFinding(
            kind="uncorrectable-remaps-now",
            action=Action.RESET,
            where=now.where,
            found=f"{uncorrectable} rows marked for remapping because of uncorrectable errors {during}",
            next="let its jobs end, then nvidia-smi --gpu-reset -i, as root",
            source="NVIDIA, GPU Memory Error Management: remapped at the next reset",
            evidence=(f"remapped, uncorrectable: {before.rows.uncorrectable} → {now.rows.uncorrectable}",),
        )


def _grown(before: int | None, now: int | None) -> int:
    """By how much a counter grew; one that fell was reset meanwhile, and counts from zero."""
    if before is None or now is None:
        return 0
    return now if now < before else now - before
