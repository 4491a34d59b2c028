"""What each Xid means and what NVIDIA's catalog says to do about it, as one of this project's actions. Pure."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.node.findings import Action
from runner.node.kernel.xid_rows import XID_ROWS

CATALOG = "NVIDIA, Xid catalog (2025-10)"
APPLICATION, CONSEQUENCE, VENDOR = "application", "consequence", "vendor"
_CHOSEN = "chosen here: the catalog of 2025-10 names no action for it"
# `Resolution Bucket (Immediate Action)` and its sheet "Guidance Classes". Buckets that depend on the line or on other
# lines have rules of their own: WORKFLOW_…, XID_154.
_BUCKETS: Mapping[str, Action] = MappingProxyType(
    {
        "IGNORE": Action.KEEP,
        "RESTART_APP": Action.RESTART,
        # "if UVM or vGPU is used, RESET_GPU; otherwise IGNORE": CUDA programs use UVM.
        "CHECK_UVM": Action.RESET,
        "RESET_GPU": Action.RESET,
        "WORKFLOW_XID_48": Action.RESET,
        "WORKFLOW_NVLINK_ERR": Action.RESET,
        "WORKFLOW_NVLINK5_ERR": Action.RESET,
        "RESTART_VM": Action.DRAIN,
        "RESTART_BM": Action.DRAIN,
        "CHECK_MECHANICALS": Action.DRAIN,
        # Only Xid 78 has it: one virtual machine did not start, and nothing says that the GPU is bad.
        "UPDATE_SWFW": Action.RESTART,
        "WORKFLOW_XID_45": Action.KEEP,
        "XID_154": Action.KEEP,
    }
)
# Codes without a bucket, by what the catalog tells of them.
_WITHOUT_BUCKET: Mapping[int, Action] = MappingProxyType(
    {
        **dict.fromkeys((162, 163, 164, 165), Action.KEEP),
        # Both belong to an Xid 48, whose bucket is a reset.
        **dict.fromkeys((171, 172), Action.RESET),
        # A controller that halted, as Xid 62.
        169: Action.RESET,
        167: Action.DRAIN,
    }
)
_STEPS: Mapping[Action, str] = MappingProxyType(
    {
        Action.KEEP: "nothing to do now",
        Action.RESTART: "check the program's own log, then restart the job; the node can stay",
        Action.RESET: "end the jobs of this GPU and reset it: `nvidia-smi --gpu-reset -i GPU`",
        Action.DRAIN: "take the node out of service and reboot it; if it comes back, give it to repair",
        Action.REPLACE: "take the node out of service; the part goes back to the vendor",
    }
)


@dataclass(frozen=True)
class XidRow:
    """One code.

    Attributes:
        code: of the Xid.
        mnemonic: the driver's name of it.
        bucket: the catalog's immediate action; None if it names none.
        family: `application`, `memory`, `link`, `bus`, `firmware`, …: Xids of one family on one GPU have one cause.
        meaning: in this project's words.
        action: None where neither the catalog nor this project decides.
        source: whose decision that is.
    """

    code: int
    mnemonic: str
    bucket: str | None
    family: str
    meaning: str
    action: Action | None
    source: str


def xid_row(code: int) -> XidRow | None:
    """The row of a code; None for a code that the catalog does not have."""
    return _rows().get(code)


def xid_codes() -> tuple[int, ...]:
    """All codes of the catalog."""
    return tuple(_rows())


def next_step(action: Action) -> str:
    """What to do next about a GPU, in one clause."""
    return _STEPS[action]


@functools.cache
def _rows() -> Mapping[int, XidRow]:
    found = {}
    for line in XID_ROWS.splitlines():
        code, mnemonic, bucket, family, meaning = line.split(" | ")
        found[int(code)] = _row(int(code), mnemonic, bucket, family, meaning)
    return MappingProxyType(found)


def _row(code: int, mnemonic: str, bucket: str, family: str, meaning: str) -> XidRow:
    if bucket == "-":
        return XidRow(code, mnemonic, None, family, meaning, _WITHOUT_BUCKET.get(code), _CHOSEN)
    return XidRow(code, mnemonic, bucket, family, meaning, _BUCKETS.get(bucket), f"{CATALOG}: {bucket}")
