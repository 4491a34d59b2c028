"""`runbook hang --on slurm`: every node of a running job looks at its ranks; what they saw is judged once."""

import argparse
import base64
import binascii
import gzip
import io
import json
import sys
import zlib
from concurrent.futures import Future, wait

from runner.base.errors import InputError, RunbookError
from runner.base.parallel import in_parallel
from runner.base.places import running_package
from runner.fleet.archive import pack_code
from runner.fleet.commands import SlurmError
from runner.fleet.job_steps import JobSteps, RunningJob, find_job
from runner.fleet.script import step_script
from runner.hang.model import Snapshot, Unseen
from runner.hang.snapshot_json import merged, snapshot_in

# What a node may take besides the observation, in seconds: start Python there, ask every source, start the step.
_COMMAND_S, _STEP_S = 15.0, 30.0
_AT_ONCE = 64
_MOST_BYTES = 512 << 20
_SHOWN_NODES = 8


def look_at_job(arguments: argparse.Namespace) -> Snapshot:
    """One snapshot of all nodes of the job; a node that does not answer is named in it.

    Raises:
        InputError: there is no such job, it does not run, or no node has a rank of it.
        SlurmError: Slurm does not answer, or no node did.
    """
    job = find_job(arguments.job)
    words = ["hang", "--all", "--json", "--job", job.id, "--seconds", f"{arguments.seconds:g}"]
    script = step_script(
        pack_code(running_package().parent, *arguments.runbooks),
        (*words, *(["--no-dump"] if arguments.no_dump else [])),
        arguments.prefix,
        arguments.python,
        sys.executable,
        arguments.seconds + _COMMAND_S,
    )
    limit = arguments.seconds + _STEP_S
    with JobSteps(job) as steps:
        looks = in_parallel(lambda node: _seen(steps, node, script, limit), job.nodes, _AT_ONCE)
        _await(looks, limit)
        found = [_answer(future) for future in looks]
    return _one(job, found)


def _await(looks: "list[Future[Snapshot]]", limit: float) -> None:
    """As long as nodes wait for their turn, the next ones get the same time."""
    turns = -(-len(looks) // _AT_ONCE)
    wait(looks, turns * limit + 1)


def _answer(future: "Future[Snapshot]") -> Snapshot | str:
    if not future.done():
        return "no answer in time"
    try:
        return future.result()
    except RunbookError as error:
        return str(error)


def _seen(steps: JobSteps, node: str, script: str, seconds: float) -> Snapshot:
    answer = steps.run(node, script, seconds)
    try:
        return snapshot_in(json.loads(_unpacked(answer)))
    except (binascii.Error, zlib.error, ValueError, EOFError, OSError) as error:
        raise SlurmError("its answer is damaged; try again") from error


def _unpacked(answer: bytes) -> bytes:
    with gzip.open(io.BytesIO(base64.b64decode(answer))) as packed:
        text = packed.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise SlurmError("its answer is too large")
    return text


def _one(job: RunningJob, found: "list[Snapshot | str]") -> Snapshot:
    snapshots = [one for one in found if isinstance(one, Snapshot)]
    silent: dict[str, list[str]] = {}
    for node, one in zip(job.nodes, found, strict=True):
        if isinstance(one, str):
            silent.setdefault(one, []).append(node)
        elif not one.ranks:
            silent.setdefault("no rank of the job was found there", []).append(node)
    if not snapshots:
        reason, nodes = next(iter(silent.items()))
        raise SlurmError(f"no node of job {job.id} could be looked at; {_named(nodes)}: {reason}")
    if not any(one.ranks for one in snapshots):
        raise InputError(
            f"no rank of a torch job was found on the nodes of job {job.id}; name one with --pid on its node"
        )
    unseen = [Unseen(source=_named(nodes), reason=reason[:1000]) for reason, nodes in silent.items()]
    whole = merged(snapshots)
    return whole.model_copy(update={"unseen": (*unseen, *whole.unseen)})


def _named(nodes: list[str]) -> str:
    more = len(nodes) - _SHOWN_NODES
    listed = ", ".join(nodes[:_SHOWN_NODES]) + (f" and {more} more" if more > 0 else "")
    return f"node {listed}" if len(nodes) == 1 else f"nodes {listed}"
