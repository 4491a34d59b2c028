"""What the driver asks for now, over what its log says of the past. Pure.

Drivers without Xid 154 do not log that a GPU was reset, and the lines of its fault stay until the node starts again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from runner.node.findings import Action, NodeFinding
from runner.node.kernel.shown import gpu_name
from runner.node.recovery import RECOVERY_SOURCE, RecoveryRequest

_NEXT = "nothing now: the driver asks for no recovery of this GPU; if the code comes back, drain the node"


def with_drivers_word(
    findings: Iterable[NodeFinding], requests: Mapping[str, RecoveryRequest]
) -> tuple[NodeFinding, ...]:
    """The findings; those that would end service are notes where the driver asks for nothing now.

    Args:
        findings: of the log.
        requests: PCI address of a GPU → what the driver asks for now, where NVML tells. A GPU that does not answer has
            none, so what the log says of it stands.
    """
    quiet = {gpu_name(address): request for address, request in requests.items() if not request.asks}
    return tuple(_settled(one, quiet[one.where]) if _is_past(one, quiet) else one for one in findings)


def _is_past(finding: NodeFinding, quiet: Mapping[str, RecoveryRequest]) -> bool:
    return finding.where in quiet and finding.action.ends_service


def _settled(finding: NodeFinding, request: RecoveryRequest) -> NodeFinding:
    return replace(finding, action=Action.KEEP, next=_NEXT, source=RECOVERY_SOURCE, vendor=request.vendor)
