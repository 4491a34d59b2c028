"""Steps that need several nodes at once: srun runs their blocks on every node of the job."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from runner.entry.model import Runbook
from runner.run.command import CommandResult
from runner.run.local import BlockRunner

# How long the other ranks may wait for one that ended early, in seconds.
_STRAGGLERS_S = 60


def joint_runner(run: BlockRunner, runbook: Runbook) -> BlockRunner:
    """A block runner that starts the blocks of `nodes=` steps on every node of this job; other steps run as usual.

    On each node a block finds RUNBOOK_NODES, RUNBOOK_NODE_RANK and RUNBOOK_RENDEZVOUS (host:port of the first
    node), as torchrun needs them. The first node's document is the result of the step; exports of the block are not
    passed on.
    """
    joint = {step.command for step in runbook.steps if step.nodes > 1}

    def run_across(
        command: str, *, environment: Mapping[str, str], timeout: float, cwd: Path
    ) -> CommandResult:
        block = joint_block(command) if command in joint else command
        return run(block, environment=environment, timeout=timeout, cwd=cwd)

    return run_across


def joint_block(command: str) -> str:
    """The shell line that runs a block once on every node of the job."""
    on_each = (
        'cd "$RUNBOOK_ROOTS/$SLURMD_NODENAME"; export RUNBOOK_NODE_RANK=$SLURM_NODEID; '
        'if [ "$SLURM_NODEID" != 0 ]; then export RUNBOOK_RESULT=$PWD/result-of-another-node.json; fi; '
    )
    words = ["srun", "--ntasks-per-node=1", "--input=none", f"--wait={_STRAGGLERS_S}", "--kill-on-bad-exit=0"]
    return shlex.join([*words, "bash", "-euo", "pipefail", "-c", on_each + command])
