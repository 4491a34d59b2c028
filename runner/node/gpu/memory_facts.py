"""What is known of the memory of GPUs: ECC counters, remapped rows, retired pages, repairs."""

from dataclasses import dataclass, field

from runner.hardware.boards import Board
from runner.node.gpu.together import UnreadFact
from runner.node.recovery import RecoveryRequest


@dataclass(frozen=True)
class EccCounts:
    """ECC errors; None is unknown.

    Attributes:
        corrected, uncorrected: of DRAM and SRAM together.
        sram_uncorrected: of these, in SRAM (caches, registers, shared memory).
    """

    corrected: int | None = None
    uncorrected: int | None = None
    sram_uncorrected: int | None = None


@dataclass(frozen=True)
class RemappedRows:
    """Rows of DRAM that were replaced by spare ones (Ampere and later).

    Attributes:
        correctable, uncorrectable: remapped because of such errors; entries of the InfoROM, also those still pending.
        pending: a remapping waits for the next reset of the GPU.
        failure: a remapping failed once: no spare row could be used.
    """

    correctable: int
    uncorrectable: int
    pending: bool
    failure: bool

    @property
    def count(self) -> int:
        """All of them."""
        return self.correctable + self.uncorrectable

    def __str__(self) -> str:
        return (
            f"remapped rows: correctable {self.correctable}, uncorrectable {self.uncorrectable}, "
            f"pending {'yes' if self.pending else 'no'}, failure {'yes' if self.failure else 'no'}"
        )


@dataclass(frozen=True)
class SpareRows:
    """Memory banks by the spare rows that they still have."""

    most: int
    high: int
    partial: int
    low: int
    none: int


@dataclass(frozen=True)
class RetiredPages:
    """Pages of DRAM that the driver no longer uses (Volta, Turing and older)."""

    single_bit: int
    double_bit: int
    pending: bool

    @property
    def count(self) -> int:
        """All of them."""
        return self.single_bit + self.double_bit


@dataclass(frozen=True)
class Repairs:
    """Repairs of the hardware by spare parts of the chip (Blackwell), and whether none is left; None is unknown."""

    channel_pending: bool | None = None
    tpc_pending: bool | None = None
    bank_pending: bool | None = None
    unrepairable: bool | None = None


@dataclass(frozen=True)
class GpuMemory:
    """The memory of one GPU.

    Attributes:
        where: `GPU 3`; of a text without all GPUs, the bus id.
        ecc, ecc_pending: whether ECC is on, and whether it will be after the next reset; None if it is not known, or
            the board has none.
        volatile: since the driver was loaded or the GPU was reset.
        aggregate: since the board was made.
        sram_threshold: NVIDIA's limit of uncorrectable errors in SRAM is exceeded.
        rows, spare, pages, repairs, recovery: None if the board or driver does not have them, or see `unread`.
        needs_reset, lost: NVML's own words for the whole GPU.
        unread: what could not be read.
    """

    where: str
    name: str
    board: Board | None = None
    mig: bool = False
    virtual: bool = False
    ecc: bool | None = None
    ecc_pending: bool | None = None
    volatile: EccCounts = EccCounts()
    aggregate: EccCounts = EccCounts()
    sram_threshold: bool | None = None
    rows: RemappedRows | None = None
    spare: SpareRows | None = None
    pages: RetiredPages | None = None
    repairs: Repairs = Repairs()
    recovery: RecoveryRequest | None = None
    needs_reset: bool = False
    lost: bool = False
    unread: tuple[UnreadFact, ...] = field(default=())

    @property
    def judged(self) -> tuple[str, ...]:
        """What of it can be judged."""
        parts = {
            "ECC errors": self.volatile.uncorrected is not None,
            "remapped rows": self.rows is not None,
            "retired pages": self.pages is not None,
            "the driver's recovery action": self.recovery is not None,
        }
        return tuple(name for name, known in parts.items() if known)


MemoryFacts = tuple[GpuMemory, ...]
