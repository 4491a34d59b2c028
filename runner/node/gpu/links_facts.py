"""What is known of the NVLinks of GPUs, and what their error counters mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runner.hardware.boards import Board
from runner.node.gpu.together import UnreadFact

DCGM_NVLINK4 = "NVIDIA, DCGM's health watch: a change of 1 or more is a failure up to NVLink 4"
DCGM_NVLINK5 = "NVIDIA, DCGM's health watch: a change of 1 or more is a failure on NVLink 5"
DCGM_CRC = (
    "NVIDIA, DCGM's health watch: CRC errors matter at 100 a second or more (dcgm_gpu_hardware_limits.h)"
)
_CORRECTED = "chosen here: corrected without loss, and a link that corrects all the time is slow"
_RECOVERED = "NVIDIA, DCGM's health watch: a warning on NVLink 5; chosen here: a fault if it goes on"


@dataclass(frozen=True)
class LinkCounter:
    """An error counter of a link.

    Attributes:
        key: for programs.
        said: for the reader: `3 … in 60 s`.
        smi: its name in `nvidia-smi nvlink -e`.
        weight: `hard`: any change while the node is watched is a fault. `rate`: a fault at 100 a second. `soft`: a
            fault if it changes in more than half of the readings.
        source: whose rule that is.
        error: of NVML's nvmlNvLinkErrorCounter_t, up to NVLink 4.
        number: of NVML's fields, from NVLink 5 on.
    """

    key: str
    said: str
    smi: str
    weight: Literal["hard", "rate", "soft"]
    source: str
    error: int | None = None
    number: int | None = None


# Numbers: nvidia-ml-py 13.615, NVML_NVLINK_ERROR_DL_* and NVML_FI_DEV_NVLINK_*; names: nvidia-smi of drivers 470 to
# 595. Raw errors and FEC counts are not here: healthy links have them all the time.
LINK_COUNTERS = (
    LinkCounter("replay", "replays", "Replay Errors", "hard", DCGM_NVLINK4, error=0),
    LinkCounter("recovery", "recoveries", "Recovery Errors", "hard", DCGM_NVLINK4, error=1),
    LinkCounter("crc_flit", "CRC errors of flits", "CRC Errors", "rate", DCGM_CRC, error=2),
    LinkCounter("crc_data", "CRC errors of data", "CRC Data Errors", "rate", DCGM_CRC, error=3),
    LinkCounter(
        "malformed", "malformed packets", "Malformed packet Errors", "hard", DCGM_NVLINK5, number=206
    ),
    LinkCounter("overrun", "buffer overruns", "Buffer overrun Errors", "hard", DCGM_NVLINK5, number=207),
    LinkCounter("received", "receive errors", "Rx Errors", "hard", DCGM_NVLINK5, number=208),
    LinkCounter(
        "remote",
        "packets that the other end marked as bad",
        "Rx remote Errors",
        "hard",
        DCGM_NVLINK5,
        number=209,
    ),
    LinkCounter(
        "general", "receive errors in headers", "Rx General Errors", "hard", DCGM_NVLINK5, number=210
    ),
    LinkCounter(
        "integrity", "link integrity errors", "Local link integrity Errors", "hard", DCGM_NVLINK5, number=211
    ),
    LinkCounter(
        "recovered",
        "recoveries that succeeded",
        "Link recovery successful events",
        "soft",
        _RECOVERED,
        number=213,
    ),
    LinkCounter(
        "failed", "recoveries that failed", "Link recovery failed events", "hard", DCGM_NVLINK5, number=214
    ),
    LinkCounter(
        "effective", "errors left after correction", "Effective Errors", "hard", DCGM_NVLINK5, number=219
    ),
    LinkCounter("symbol", "symbol errors", "Symbol Errors", "hard", DCGM_NVLINK5, number=221),
    LinkCounter("retried", "blocks sent again", "PLR Xmit Retry Blocks", "soft", _CORRECTED, number=295),
)
COUNTER_BY_KEY: Mapping[str, LinkCounter] = {one.key: one for one in LINK_COUNTERS}


@dataclass(frozen=True)
class NvLink:
    """One link of a GPU; None is unknown.

    Attributes:
        number: as in `nvidia-smi nvlink -s`.
        version: `5.0`.
        remote: what is at the other end: `GPU`, `switch`, `CPU`.
        counters: the known ones, by the key of `LINK_COUNTERS`; totals since the driver was loaded.
    """

    number: int
    active: bool | None
    version: str | None = None
    remote: str | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GpuLinks:
    """The links of one GPU.

    Attributes:
        links: those that exist, whether they are up or not; empty if the GPU shows none.
        supported: whether the GPU shows NVLinks at all; None if it is not known.
        unread: what could not be read.
    """

    where: str
    name: str
    board: Board | None = None
    mig: bool = False
    links: tuple[NvLink, ...] = ()
    supported: bool | None = None
    unread: tuple[UnreadFact, ...] = ()

    @property
    def active(self) -> tuple[int, ...]:
        """The links that are up."""
        return tuple(one.number for one in self.links if one.active)

    @property
    def down(self) -> tuple[int, ...]:
        """The links that exist and are not up."""
        return tuple(one.number for one in self.links if one.active is False)

    @property
    def switched(self) -> bool:
        """Whether its links go to switches, as far as it is known: from the board, or from the links that are up."""
        if any(one.remote == "switch" for one in self.links):
            return True
        known = any(one.remote is not None for one in self.links)
        return not known and self.board is not None and not self.board.bridged


LinkFacts = tuple[GpuLinks, ...]
