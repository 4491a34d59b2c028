"""A device is taken from a running process by its control group, as systemctl daemon-reload takes GPUs from containers.

A process in a control group of its own opens a device node: a harmless null device, made for this drill. Then the
group is told to deny it (devices.deny of cgroup v1). The node and its mode stay as they are, and the next open fails
with EPERM; with a GPU's nodes NVML then answers "Unknown Error". What was opened before keeps working. Nothing outside
of the group changes, and group and node are removed at the end.

Output: device_opens, held_device_works and fault_named, with the moment (denied, recreated). Symptom: the device cannot
be opened at the end; with --recreated a new process in a new group opens it. Not applicable: not root, or a kernel
without the devices controller of cgroup v1.

Example:
    python -m runner.probes.device_cgroup_drill
    python -m runner.probes.device_cgroup_drill --recreated
"""

import argparse
import sys

from runner.kit.options import add_flags
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Metric


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_flags(
        parser, {"--recreated": "start a new process in a new group after that, as a recreated container"}
    )
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.device_cgroup_drill import cgroup_drill_findings

    return cgroup_drill_findings(arguments)


PROBE = Probe(
    "device_cgroup_drill",
    method_version=1,
    summary="A device that the control group takes from a running process",
    metrics=(
        Metric(
            "device_opens",
            "1",
            "higher",
            "1 if the process can open the device node, else 0.",
            kind="flag",
            label="Device opens",
        ),
        Metric(
            "held_device_works",
            "1",
            "higher",
            "1 if a descriptor that was opened before the denial still works, else 0.",
            kind="flag",
            label="Held device works",
        ),
        Metric(
            "fault_named",
            "1",
            "higher",
            "1 if the error is EPERM and the check of the group software names the control group, else 0.",
            kind="flag",
            label="Fault named",
        ),
    ),
    labels=("moment",),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
