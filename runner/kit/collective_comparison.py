"""What `collectives` does: its job from the arguments, ranks in one environment or two, and the judgement."""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.base.errors import InputError
from runner.base.units import format_bytes, parse_bytes
from runner.hardware.gpus import visible_count
from runner.hardware.topology import Topology
from runner.kit.budget import Budget, budget
from runner.kit.children import ended_by_sigterm
from runner.kit.collective_timing import ELEMENT, CollectiveJob, ranks_of, time_collective, whole_size
from runner.kit.interleaved import interval_below
from runner.kit.joint import JointWorld
from runner.kit.joint_collectives import (
    fault_between,
    follow_collectives,
    lead_collectives,
    network_channels,
    networks_seen,
)
from runner.kit.joint_place import JointPlace, joint_place
from runner.kit.nccl.log import Transport, fault_of, read_transport
from runner.kit.nccl.settings import NcclSetting, Origin, judge_setting
from runner.kit.nccl.sources import home_of, read_own
from runner.kit.nccl.values import Judgement
from runner.kit.options import ENVIRONMENT_FLOOR
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.kit.ranks import World
from runner.kit.usable import require_sharing, wiring_with_fabric
from runner.record.model import Measurement

SCRUBBED = ("NCCL_", "GLOO_", "TORCH_NCCL_")
# With gloo the sizes only show that the probe works: if they take longer than this, rounds are left out.
_ON_CPU_S = 15.0


def scrubbed(environment: Mapping[str, str], in_files: Sequence[NcclSetting] = ()) -> dict[str, str]:
    """The environment without the variables and files that affect NCCL or gloo.

    Args:
        environment: the caller's.
        in_files: settings in NCCL's configuration files.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(SCRUBBED)}
    # An empty file instead of ~/.nccl.conf. No variable disables /etc/nccl.conf, but an empty variable overrides its
    # line, and NCCL treats an empty value as not set.
    blank = {
        setting.name: ""
        for setting in in_files
        if setting.source.startswith("/etc/") and judge_setting(setting, 1).judgement is not Judgement.SYSTEM
    }
    return kept | {"NCCL_CONF_FILE": os.devnull} | blank


def collective_findings(arguments: argparse.Namespace) -> Findings:
    """Bandwidth and correctness of every collective and size, in the caller's environment and, if asked, a clean one.

    Raises:
        InputError: a number or a size is out of range, or there are too few GPUs.
        NotApplicableError: a single rank, or a second set of ranks cannot share the GPUs.
        RankError: a rank died or gave no answer.
    """
    place = joint_place(os.environ) if arguments.across_nodes else None
    job = _job(arguments, place)
    if place is not None and place.node:
        follow_collectives(job, place)
        # The first node has the result.
        raise SystemExit(0)
    wiring = wiring_with_fabric() if job.backend == "nccl" else None
    settings = read_own(os.environ, home_of(os.getuid())).settings
    in_files = [setting for setting in settings if setting.origin is Origin.FILE]
    named = sorted(
        {name for name in os.environ if name.startswith(SCRUBBED)} | {one.name for one in in_files}
    )
    if place is not None and arguments.compare_environment:
        raise InputError("--compare-environment compares on one node; omit it with --across-nodes")
    compare = arguments.compare_environment and bool(named)
    if arguments.compare_environment and not named:
        say("no NCCL or gloo setting found: there is no second environment to compare with")
    environments = {"caller": dict(os.environ)}
    if compare:
        require_sharing("--compare-environment")
        environments["clean"] = scrubbed(os.environ, in_files)
    deadline = time.monotonic() + job.timeout
    measurements: list[Measurement] = []
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nccl-logs-")))
        arms: dict[str, World | JointWorld] = {}
        for arm, environment in environments.items():
            if place is None:
                arms[arm] = stack.enter_context(ranks_of(job, arm, environment, logs / arm, deadline))
            else:
                arms[arm] = stack.enter_context(lead_collectives(job, place, logs / arm, deadline))
        ready, *_ = [world.ask(None, "joining the group")[0] for world in arms.values()]
        within = budget(job.timeout if job.backend == "nccl" else min(job.timeout, _ON_CPU_S))
        wanted = [(op, whole_size(op, size, job.ranks)) for op in job.ops for size in job.sizes]
        for number, (op, size) in enumerate(wanted):
            # The remaining time is shared equally by the remaining measurements.
            until = Budget(time.monotonic() + within.left / (len(wanted) - number))
            measurements += time_collective(arms, job, op, size, until)
        transports = {arm: read_transport(logs / arm) for arm in arms} if job.backend == "nccl" else {}
        seen = networks_seen(arms["caller"], job, logs / "caller")
    wrong = [found.value for found in measurements if found.name == "wrong_elements"]
    # Without labels, for the whole run, so that one bound covers every size.
    measurements.append(single("wrong_elements", sum(wrong)))
    measurements += _channels(transports, job)
    measurements += network_channels(seen, job)
    between = None if place is None else fault_between(seen)
    reason = _symptom(measurements) or between
    # Between nodes the network is the direct way.
    reason = reason or (fault_of(transports, _nvlinked(wiring)) if place is None else None)
    return Findings(
        measurements=measurements,
        status="symptom" if reason else "ok",
        reason=reason,
        requested={"ops": list(job.ops), "ranks": arguments.ranks, "backend": arguments.backend},
        effective={"ranks": job.ranks, "nodes": job.nodes, "backend": job.backend, "arms": list(arms)},
        details={
            "settings_left_out_of_clean": named,
            "torch": ready["torch"],
            "nccl": ready["nccl"],
            "transport": {arm: str(found) if found else None for arm, found in transports.items()},
            "network": {f"node {node}": str(found) for node, (found, _) in seen.items()},
        },
    )


def _nvlinked(topology: Topology | None) -> bool:
    # MIG instances have no peer access, whatever links the board has.
    if topology is None or topology.mig or not topology.pairs:
        return False
    return all(pair.nvlinks for pair in topology.pairs)


def _channels(transports: Mapping[str, Transport | None], job: CollectiveJob) -> list[Measurement]:
    found = []
    for arm, transport in transports.items():
        say(f"transport, {arm}: {transport or 'not in the NCCL log'}")
        for way, count in sorted(transport.channels.items()) if transport else ():
            found.append(single("nccl_channels", count, transport=way, arm=arm, ranks=job.ranks))
    return found


def _job(arguments: argparse.Namespace, place: JointPlace | None) -> CollectiveJob:
    gpus = visible_count()
    backend = arguments.backend
    if backend == "auto":
        backend = "nccl" if gpus else "gloo"
    nodes = place.nodes if place else 1
    by_backend = gpus if backend == "nccl" else 2 if place is None else 1
    here = arguments.ranks if arguments.ranks is not None else by_backend
    ranks = here * nodes
    if ranks < 1 or arguments.iterations < 1 or arguments.warmup < 0 or arguments.timeout <= 0:
        raise InputError("--ranks, --iterations and --timeout must be above zero, --warmup zero or more")
    if backend == "nccl" and here > gpus:
        raise InputError(
            f"{here} NCCL ranks need {here} GPUs; {gpus} are visible (--backend gloo needs none)"
        )
    if ranks == 1:
        raise NotApplicableError("bus bandwidth needs two or more ranks")
    by_default = ["256KiB", "4MiB"] if backend == "gloo" else ["1MiB", "256MiB", "8GiB"]
    sizes = tuple(dict.fromkeys(parse_bytes(size) for size in arguments.sizes or by_default))
    if min(sizes) < ELEMENT * ranks:
        raise InputError(f"--sizes must be at least {ELEMENT * ranks} bytes: one element per rank")
    return CollectiveJob(
        tuple(dict.fromkeys(arguments.op)),
        sizes,
        ranks,
        backend,
        arguments.iterations,
        arguments.warmup,
        arguments.timeout,
        arguments.port,
        nodes,
    )


def _symptom(measurements: Sequence[Measurement]) -> str | None:
    for found in measurements:
        if not found.labels:
            continue
        where = f"{found.labels['op']} of {format_bytes(int(found.labels['bytes']))}"
        if found.name == "wrong_elements" and found.value:
            return f"{where}: {found.value:,.0f} wrong elements ({found.labels['arm']} environment)"
        if found.name == "environment_ratio":
            interval = interval_below(found, ENVIRONMENT_FLOOR)
            if interval is not None:
                return (
                    f"{where}: bandwidth in this environment is {found.value:.0%} of a clean one (at most"
                    f" {interval.high:.0%}); run python -m runner.probes.nccl_env to find the variables"
                )
    return None
