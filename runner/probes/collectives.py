"""Bandwidth of collectives over message sizes, between the GPUs of one node (NCCL) or processes on its CPU (gloo).

Physics. A collective over n ranks moves more than its message: with the best algorithm, each rank sends and receives
2(n−1)/n of it in an all_reduce, (n−1)/n in an all_gather, reduce_scatter or all_to_all, and all of it in a broadcast.
Algorithm bandwidth is message bytes ÷ time of the slowest rank. Bus bandwidth is algorithm bandwidth × that factor; it
can be compared with the links and across rank counts (factors and byte counts as in nccl-tests' PERFORMANCE.md). Small
messages measure latency, large ones bandwidth, so a floor is valid only for one size and number of ranks.

Results are checked element by element on data whose sums are exact in fp32. With --compare-environment, a second set
of ranks runs without the caller's NCCL_* and GLOO_* variables, interleaved with the first; the ratio of the two, pair
by pair, separates a bad environment from bad wiring. NCCL's log shows which transport each arm used.

Output: collective_time (s, the median), collective_time_p95 (its 95th percentile), algorithm_bandwidth and
bus_bandwidth (B/s) with labels op, bytes, ranks, backend, arm (`caller` or `clean`); wrong_elements; environment_ratio;
nccl_channels by transport. Symptom: wrong elements; a ratio whose 95 % CI is below 0.9; or a transport other than P2P
although a clean environment uses P2P or every pair has NVLink.

Example:
    python -m runner.probes.collectives --op all_reduce --sizes 256MiB 8GiB --compare-environment
"""

import argparse
import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from runner.base.errors import InputError
from runner.base.stats import FEWEST_FOR_BOOTSTRAP, median_interval
from runner.base.units import format_bytes, format_value, parse_bytes
from runner.hardware.gpus import visible_count
from runner.hardware.topology import Topology
from runner.kit.budget import Budget, budget
from runner.kit.children import ended_by_sigterm
from runner.kit.nccl.log import Transport, fault_of, logging_environment, read_transport
from runner.kit.nccl.settings import NcclSetting, Origin, judge_setting
from runner.kit.nccl.sources import home_of, read_own
from runner.kit.nccl.values import Judgement
from runner.kit.probe import (
    Findings,
    NotApplicableError,
    Probe,
    base_parser,
    measured,
    say,
    single,
)
from runner.kit.ranks import World
from runner.kit.usable import require_sharing, wiring_with_fabric
from runner.record.model import Measurement
from runner.vocabulary import shared
from runner.vocabulary.model import Metric

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
SCRUBBED = ("NCCL_", "GLOO_", "TORCH_NCCL_")
# Below this share of the clean environment's bandwidth, the caller's environment is the fault.
ENVIRONMENT_FLOOR = 0.9
_ELEMENT = 4
_TURNS = 10
_MOST_IN_A_TURN = 64
# With gloo the sizes only show that the probe works: if they take longer than this, turns are left out.
_ON_CPU_S = 15.0


def bus_factor(op: str, ranks: int) -> float:
    """Bus bandwidth ÷ algorithm bandwidth of a collective over `ranks` ranks (nccl-tests, PERFORMANCE.md)."""
    if op == "broadcast":
        return 1.0
    return (2.0 if op == "all_reduce" else 1.0) * (ranks - 1) / ranks


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


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    parser.add_argument(
        "--op", choices=OPS, nargs="+", default=["all_reduce"], help="collectives to run (default all_reduce)"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="SIZE",
        help="message sizes, for example 256KiB 4MiB (default: by preset)",
    )
    parser.add_argument(
        "--ranks",
        type=int,
        metavar="N",
        help="number of ranks (default: the visible GPUs, or 2 without a GPU)",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "gloo", "nccl"),
        default="auto",
        help="communication backend (default auto: nccl with GPUs, else gloo)",
    )
    parser.add_argument(
        "--iterations", type=int, default=20, metavar="N", help="timed iterations per size (default 20)"
    )
    parser.add_argument(
        "--warmup", type=int, default=5, metavar="N", help="untimed iterations per size (default 5)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="deadline for the whole run in seconds (default 120)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="rendezvous port of the ranks (default: a free port)"
    )
    parser.add_argument(
        "--compare-environment",
        action="store_true",
        help="also run without the caller's NCCL_* and GLOO_* settings, interleaved, and report the ratio",
    )
    return parser


@dataclass(frozen=True)
class _Job:
    ops: tuple[str, ...]
    sizes: tuple[int, ...]
    ranks: int
    backend: str
    iterations: int
    warmup: int
    timeout: float
    port: int | None


@dataclass
class _Arm:
    world: World
    times: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)


def _run(arguments: argparse.Namespace) -> Findings:
    job = _job(arguments)
    wiring = wiring_with_fabric() if job.backend == "nccl" else None
    settings = read_own(os.environ, home_of(os.getuid())).settings
    in_files = [setting for setting in settings if setting.origin is Origin.FILE]
    named = sorted(
        {name for name in os.environ if name.startswith(SCRUBBED)} | {one.name for one in in_files}
    )
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
        arms = {
            arm: _Arm(stack.enter_context(_world(job, arm, environment, logs / arm, deadline)))
            for arm, environment in environments.items()
        }
        ready, *_ = [arm.world.ask(None, "joining the group")[0] for arm in arms.values()]
        within = budget(job.timeout if job.backend == "nccl" else min(job.timeout, _ON_CPU_S))
        wanted = [(op, _whole(op, size, job.ranks)) for op in job.ops for size in job.sizes]
        for number, (op, size) in enumerate(wanted):
            # The remaining time is shared equally by the remaining measurements.
            until = Budget(time.monotonic() + within.left / (len(wanted) - number))
            measurements += _measure(arms, job, op, size, until)
        transports = {arm: read_transport(logs / arm) for arm in arms} if job.backend == "nccl" else {}
    wrong = [found.value for found in measurements if found.name == "wrong_elements"]
    # Without labels, for the whole run, so that one bound covers every size.
    measurements.append(single("wrong_elements", sum(wrong)))
    measurements += _channels(transports, job)
    reason = _symptom(measurements) or fault_of(transports, _nvlinked(wiring))
    return Findings(
        measurements=measurements,
        status="symptom" if reason else "ok",
        reason=reason,
        requested={"ops": list(job.ops), "ranks": arguments.ranks, "backend": arguments.backend},
        effective={"ranks": job.ranks, "backend": job.backend, "arms": list(arms)},
        details={
            "settings_left_out_of_clean": named,
            "torch": ready["torch"],
            "nccl": ready["nccl"],
            "transport": {arm: str(found) if found else None for arm, found in transports.items()},
        },
    )


def _world(job: _Job, arm: str, environment: Mapping[str, str], logs: Path, deadline: float) -> World:
    program = (
        "-m",
        "runner.kit.collectives_worker",
        f"--backend={job.backend}",
        f"--timeout={job.timeout}",
    )
    logs.mkdir()
    if job.backend == "gloo":
        # All ranks are on this host; its host name may not resolve to a reachable address.
        environment = {"GLOO_SOCKET_IFNAME": "lo"} | dict(environment)
    else:
        environment = dict(environment) | logging_environment(logs)
    # Two arms cannot share one port: the second uses the next.
    port = None if job.port is None else job.port + (arm == "clean")
    return World(program, job.ranks, environment, deadline, arm, port)


def _nvlinked(topology: Topology | None) -> bool:
    # MIG instances have no peer access, whatever links the board has.
    if topology is None or topology.mig or not topology.pairs:
        return False
    return all(pair.nvlinks for pair in topology.pairs)


def _channels(transports: Mapping[str, Transport | None], job: _Job) -> list[Measurement]:
    found = []
    for arm, transport in transports.items():
        say(f"transport, {arm}: {transport or 'not in the NCCL log'}")
        for way, count in sorted(transport.channels.items()) if transport else ():
            found.append(single("nccl_channels", count, transport=way, arm=arm, ranks=job.ranks))
    return found


def _job(arguments: argparse.Namespace) -> _Job:
    gpus = visible_count()
    backend = arguments.backend
    if backend == "auto":
        backend = "nccl" if gpus else "gloo"
    ranks = arguments.ranks if arguments.ranks is not None else (gpus if backend == "nccl" else 2)
    if ranks < 1 or arguments.iterations < 1 or arguments.warmup < 0 or arguments.timeout <= 0:
        raise InputError("--ranks, --iterations and --timeout must be above zero, --warmup zero or more")
    if backend == "nccl" and ranks > gpus:
        raise InputError(
            f"{ranks} NCCL ranks need {ranks} GPUs; {gpus} are visible (--backend gloo needs none)"
        )
    if ranks == 1:
        raise NotApplicableError("bus bandwidth needs two or more ranks")
    by_default = ["256KiB", "4MiB"] if backend == "gloo" else ["1MiB", "256MiB", "8GiB"]
    sizes = tuple(dict.fromkeys(parse_bytes(size) for size in arguments.sizes or by_default))
    if min(sizes) < _ELEMENT * ranks:
        raise InputError(f"--sizes must be at least {_ELEMENT * ranks} bytes: one element per rank")
    return _Job(
        tuple(dict.fromkeys(arguments.op)),
        sizes,
        ranks,
        backend,
        arguments.iterations,
        arguments.warmup,
        arguments.timeout,
        arguments.port,
    )


def _whole(op: str, size: int, ranks: int) -> int:
    """The size rounded up to whole elements, and to equal pieces if the collective splits the message."""
    unit = _ELEMENT if op in {"all_reduce", "broadcast"} else _ELEMENT * ranks
    return math.ceil(size / unit) * unit


def _measure(arms: Mapping[str, _Arm], job: _Job, op: str, size: int, until: Budget) -> list[Measurement]:
    what = {"op": op, "bytes": size}
    where = f"{op} of {format_bytes(size)}"
    labels: dict[str, Any] = {**what, "ranks": job.ranks, "backend": job.backend}
    found: list[Measurement] = []
    for name, arm in arms.items():
        arm.times, arm.turns = [], []
        wrong = sum(answer["wrong"] for answer in arm.world.ask({**what, "check": True}, f"checking {where}"))
        found.append(single("wrong_elements", wrong, **labels, arm=name))
        arm.world.ask({**what, "warmup": job.warmup, "iterations": 1}, f"warming up {where}")
    for turn, iterations in enumerate(_turns(job.iterations)):
        if turn >= FEWEST_FOR_BOOTSTRAP and until.left < 0:
            say(f"{where}: ran {len(arms['caller'].times)} of {job.iterations} iterations: time limit")
            break
        # ABBA order: neither arm is always first, so that drift cancels.
        for arm in list(arms.values())[:: -1 if turn % 2 else 1]:
            command = {**what, "warmup": 1, "iterations": iterations}
            answers = arm.world.ask(command, f"timing {where}")
            slowest = [max(times) for times in zip(*(answer["seconds"] for answer in answers), strict=True)]
            arm.times += slowest
            arm.turns.append(median(slowest))
    factor = bus_factor(op, job.ranks)
    # The caller's arm last: the last number is the headline of the step.
    for name, arm in list(arms.items())[::-1]:
        found += [
            measured("bus_bandwidth", [size * factor / t for t in arm.times], **labels, arm=name),
            measured("algorithm_bandwidth", [size / t for t in arm.times], **labels, arm=name),
            measured("collective_time", arm.times, **labels, arm=name),
            measured("collective_time_p95", arm.times, "p95", **labels, arm=name),
        ]
        bus, *_, p50, p95 = (format_value(one.value, one.unit) for one in found[-4:])
        say(f"{where}, {job.ranks} ranks, {job.backend}, {name}: bus {bus}, p50 {p50}, p95 {p95}")
    if "clean" in arms:
        pairs = zip(arms["clean"].turns, arms["caller"].turns, strict=True)
        found.append(measured("environment_ratio", [clean / caller for clean, caller in pairs], **labels))
    return found


def _turns(iterations: int) -> list[int]:
    """Iterations of each turn: up to ten turns, or more if a turn would be too long."""
    turns = max(min(_TURNS, iterations), math.ceil(iterations / _MOST_IN_A_TURN))
    return [iterations // turns + (turn < iterations % turns) for turn in range(turns)]


def _symptom(measurements: Sequence[Measurement]) -> str | None:
    for found in measurements:
        if not found.labels:
            continue
        where = f"{found.labels['op']} of {format_bytes(int(found.labels['bytes']))}"
        if found.name == "wrong_elements" and found.value:
            return f"{where}: {found.value:,.0f} wrong elements ({found.labels['arm']} environment)"
        if found.name == "environment_ratio":
            interval = median_interval(found.samples)
            if interval is not None and interval.high < ENVIRONMENT_FLOOR:
                return (
                    f"{where}: bandwidth in this environment is {found.value:.0%} of a clean one (at most"
                    f" {interval.high:.0%}); run python -m runner.probes.nccl_env to find the variables"
                )
    return None


PROBE = Probe(
    "collectives",
    method_version=2,
    summary="Collective bandwidth over message sizes",
    metrics=(
        shared.BUS_BANDWIDTH,
        shared.ALGORITHM_BANDWIDTH,
        shared.COLLECTIVE_TIME,
        shared.COLLECTIVE_TIME_P95,
        Metric(
            "nccl_channels",
            "1",
            None,
            "Connections between ranks for each transport that NCCL chose, counted in its log.",
            kind="count",
            label="NCCL connections by transport",
        ),
        shared.WRONG_ELEMENTS,
        Metric(
            "environment_ratio",
            "1",
            "higher",
            "Bus bandwidth in the caller's environment ÷ in a clean one, in interleaved pairs.",
            label="Bandwidth against a clean environment",
        ),
    ),
    labels=("op", "bytes", "ranks", "backend", "arm", "transport"),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
