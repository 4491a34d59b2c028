"""Runs and steps that were simulated, of which nothing is published, shown or compared. Pure.

A step is simulated if its probe read hardware that is not there: a stand-in for NVML, which it can see although the
runner does not (`LD_LIBRARY_PATH` in its command). Nothing of it counts: no number, and no status. The rest of its run
may be published. A probe that judges captured input (`--from`, `--root`) is not simulated: what it finds in this text
is true on any host, and the label `source: captured` tells it from a finding about this node.

A run is simulated as a whole if the runner itself saw the stand-in. Its steps are judged as a real node's would be,
which rehearses what the entry says of such a node, and prove nothing; the gate refuses its record.
"""

from runner.record.model import Record

# What a reader is told of a simulated step.
NOT_COUNTED = "simulated: not counted"


def was_simulated(record: Record) -> bool:
    """Whether the whole run was, by its own mark or by that of its machine."""
    return record.simulated or record.machine.simulated
