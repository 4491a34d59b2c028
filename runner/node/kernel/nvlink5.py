"""The Xids of NVLink 5 (144 to 150, Blackwell): which of them need a reset, and on which side the cause is. Pure.

A line is `UNIT Fatal|Nonfatal XC0|XC1 i0|i1 Link N (REGISTER REGISTER …)`: unit, severity, whether the error crossed
containment, whether it was injected, and the link, where `-1` is none in particular (NVIDIA, Xid catalog,
WORKFLOW_NVLINK5_ERR).
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.node.findings import Action
from runner.node.kernel.nvlink5_rows import NVLINK5_ROWS
from runner.node.kernel.xid_catalogue import CATALOG

NVLINK5_CODES = frozenset(range(144, 151))
_LINE = re.compile(
    r"(?P<unit>[A-Z][A-Z0-9_/]{1,40}(?: Degraded)?) {1,4}(?P<severity>Fatal|Nonfatal|Non-fatal) {1,8}"
    r"XC[01] {1,4}i(?P<injected>[01]) {1,4}Link {1,4}(?P<link>-?\d{1,3}) {0,4}"
    r"\((?P<first>0x[0-9A-Fa-f]{1,8}) {1,4}(?P<status>0x[0-9A-Fa-f]{1,8})"
)
_SUBCODE_SHIFT, _SUBCODE_MASK = 20, 0x3F
_ACTIONS = {"IGNORE": Action.KEEP, "XID_154_EVAL": Action.RESTART, "RESET_GPU": Action.RESET}
# The catalog's "investigatory action", in this project's words.
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "CONTACT_SUPPORT": "tell the vendor if it comes back",
        "IGNORE": "",
        "CHECK_NVLINK_FAILURE_FLOW": "look for a link that went down in the 30 s before; that is the cause then",
        "SYMPATHETIC_REPORT_SOLO": "look for another Xid beside it; that is the cause then",
        "REPORT_ISSUE": "tell the vendor if it comes more than once a day",
        "INVESTIGATE_LINK_SI": "the signal of this link: board, seating, switch tray",
        "INVESTIGATE_LINK_SI_AND_CABLES": "the signal of this link: cable, temperature, seating",
        "INVESTIGATE_SW_USER": "software or a user took the link down; look for who did",
        "INVESTIGATE_SW_USER_LINK_SI": "software or a user took the link down; if neither did, the signal of the link",
        "INVESTIGATE_PEER_DEVICE": "the cause is at the other end of the link: look there before you replace this GPU",
        "INVESTIGATE_HOST": "a consequence of something on the host; look at the other lines",
    }
)


@dataclass(frozen=True)
class LinkError:
    """One decoded line.

    Attributes:
        unit: as the line names it: `NETIR_LINK_EVT`.
        fatal: the line's own word.
        injected: a test put the error there.
        link: number of the link; None for none in particular.
        subcode, status: as decoded from the registers.
        action: what the table says; None where it has no row and the line is not fatal.
        source: whose decision that is.
        hint: where to look for the cause; empty if the table tells nothing.
        peer: the cause is at the other end of the link.
    """

    unit: str
    fatal: bool
    injected: bool
    link: int | None
    subcode: int
    status: int
    action: Action | None
    source: str
    hint: str
    peer: bool


def link_error(code: int, text: str) -> LinkError | None:
    """Decode the text after the code; None if it does not have the form."""
    found = _LINE.search(text)
    if found is None:
        return None
    first, status = int(found["first"], 16), int(found["status"], 16)
    subcode = first >> _SUBCODE_SHIFT & _SUBCODE_MASK
    fatal = found["severity"] == "Fatal"
    link = int(found["link"])
    bucket, look = _decided(code, found["unit"].removesuffix(" Degraded"), subcode, status)
    action, source = _action(bucket, fatal)
    return LinkError(
        unit=found["unit"],
        fatal=fatal,
        injected=found["injected"] == "1",
        link=link if link >= 0 else None,
        subcode=subcode,
        status=status,
        action=action,
        source=source,
        hint=_HINTS.get(look, ""),
        peer=look == "INVESTIGATE_PEER_DEVICE",
    )


def _action(bucket: str | None, fatal: bool) -> tuple[Action | None, str]:
    """The action of a row, and whose decision it is."""
    if bucket is None:
        if fatal:
            return Action.RESET, f"chosen here: {CATALOG} has no row for it, and the line says fatal"
        return None, f"{CATALOG}: no row for it"
    name = bucket.removesuffix("*")
    if fatal and bucket.endswith("*"):
        return Action.RESET, f"{CATALOG}, decode of 144-150: RESET_GPU where the error was raised to fatal"
    return _ACTIONS[name], f"{CATALOG}, decode of 144-150: {name}"


def _decided(code: int, unit: str, subcode: int, status: int) -> tuple[str | None, str]:
    """Bucket and what to look into. Of a status with several bits, the gravest row counts."""
    rules = [rule for name in unit.split("/") for rule in (_rules().get((code, name)) or ())]
    fitting = [one for one in rules if one[0] == subcode]
    exact = [one for one in fitting if one[1] == status]
    bits = [one for one in fitting if one[1] and one[1] & status == one[1]]
    # The status of a link event carries details; its rows have none.
    chosen = exact or bits or [one for one in fitting if one[1] == 0 and len(fitting) == 1]
    if not chosen:
        return None, ""
    _, _, bucket, look = max(chosen, key=lambda one: _ACTIONS[one[2].removesuffix("*")].rank)
    return bucket, look


@functools.cache
def _rules() -> Mapping[tuple[int, str], list[tuple[int, int, str, str]]]:
    found: dict[tuple[int, str], list[tuple[int, int, str, str]]] = {}
    for line in NVLINK5_ROWS.splitlines():
        code, units, subcode, statuses, bucket, look = line.split(" | ")
        for unit in units.split(","):
            for status in statuses.split(","):
                rule = (int(subcode), int(status, 16), bucket, look)
                found.setdefault((int(code), unit), []).append(rule)
    return MappingProxyType(found)
