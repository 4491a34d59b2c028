"""What stands between a rank and its rendezvous: the name, the port, the interfaces, the clock. Reads only."""

import ipaddress
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from runner.base.environment import environment_of
from runner.base.errors import RunbookError
from runner.base.plain import visible_line
from runner.base.time_limit import answer_within
from runner.kit.clock import clock_state
from runner.kit.judged import judged_pid
from runner.kit.probe import Findings, NotApplicableError, say, single
from runner.node.findings import Action
from runner.record.model import Measurement

_RESOLVE_S, _CONNECT_S, _LIST_S = 20.0, 4.0, 20.0
_HIGHEST_PORT, _ANY = 65535, ("0.0.0.0", "::")  # noqa: S104 - as listed, not to listen
_INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")


@dataclass
class PathReport:
    """What was found on the way. `obstacles`: a sentence each; `told`: everything else, for the details."""

    obstacles: list[str] = field(default_factory=list)
    told: dict[str, object] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)


def path_findings() -> Findings:
    """Check the rendezvous of this environment, or of the process that `runbook diagnose --pid` names.

    Raises:
        NotApplicableError: MASTER_ADDR is not set, or the process has a network of its own.
        InputError, RunbookError: the environment of the process cannot be read.
    """
    pid = judged_pid()
    environment = os.environ if pid is None else environment_of(pid)
    host = environment.get("MASTER_ADDR", "")
    if not host:
        raise NotApplicableError("MASTER_ADDR is not set: no rendezvous by address is configured here")
    _require_same_network(pid)
    report = PathReport(
        told={"host": visible_line(host), "port": visible_line(environment.get("MASTER_PORT", ""))}
    )
    _check_interfaces(environment, report)
    report.told["clock"] = clock_state()
    port = environment.get("MASTER_PORT", "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= _HIGHEST_PORT:
        report.obstacles.append(f"MASTER_PORT is {port!r}, which is not a port")
    elif addresses := _resolved(host, int(port), report):
        _check_address(environment, addresses, report)
        _check_port(environment, addresses, int(port), pid, report)
    # They quote the environment, in which anything may be.
    obstacles = [visible_line(one) for one in report.obstacles]
    for one in obstacles:
        say(one)
    return Findings(
        measurements=[single("rendezvous_obstacles", len(obstacles)), *report.measurements],
        status="symptom" if obstacles else "ok",
        reason=obstacles[0] if obstacles else None,
        details={
            **report.told,
            "obstacles": obstacles,
            # The ranks meet when they start; what is in the way is the job's configuration or its network.
            "findings": [{"action": Action.RESTART.value} for _ in obstacles],
        },
    )


def _require_same_network(pid: int | None) -> None:
    if pid is None:
        return
    try:
        own, theirs = (Path(f"/proc/{one}/ns/net").readlink() for one in ("self", pid))
    except OSError as error:
        raise RunbookError(f"the network of process {pid} cannot be read: {error.strerror}") from error
    if own != theirs:
        raise NotApplicableError(
            f"process {pid} is in another network namespace; run this inside its container"
        )


def _resolved(host: str, port: int, report: PathReport) -> list[str]:
    began = time.perf_counter()
    try:
        found = answer_within(_RESOLVE_S, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (TimeoutError, OSError, UnicodeError) as error:
        report.obstacles.append(f"MASTER_ADDR {host} does not resolve: {error}")
        return []
    report.measurements.append(single("resolve_time", time.perf_counter() - began))
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    report.told["addresses"] = addresses
    return addresses


def _own(address: str) -> bool:
    """Whether it is one of this host's addresses."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return True
    return any(
        one.address.partition("%")[0] == address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for one in interface
    )


def _check_address(environment: Mapping[str, str], addresses: Sequence[str], report: PathReport) -> None:
    host, listed = environment["MASTER_ADDR"], ", ".join(addresses)
    report.told["own"] = own = [one for one in addresses if _own(one)]
    sizes = [environment.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    several = all(re.fullmatch(r"[0-9]{1,9}", one) for one in sizes) and int(sizes[0]) > int(sizes[1])
    if environment.get("RANK") == "0" and not own:
        report.obstacles.append(
            f"rank 0 runs here, and MASTER_ADDR {host} ({listed}) is no address of this host"
        )
    if several and any(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in addresses):
        report.obstacles.append(
            f"MASTER_ADDR {host} is a loopback address here ({listed}): ranks of other nodes cannot reach rank 0"
        )


def _check_port(
    environment: Mapping[str, str], addresses: Sequence[str], port: int, pid: int | None, report: PathReport
) -> None:
    """A listener on this host is looked up; only another host's port is connected to, and closed at once.

    torch's store counts the ranks that register, not the connections: an open and a close does not disturb it.
    """
    if not all(_own(one) for one in addresses):
        problems = [_unreachable(one, port) for one in addresses if not _own(one)]
        report.told["connects"] = reached = None in problems
        if not reached:
            report.obstacles += [one for one in problems if one is not None]
        return
    try:
        connections: list[Any] = answer_within(_LIST_S, lambda: psutil.net_connections("tcp"))
    except (TimeoutError, psutil.Error, OSError) as error:
        report.told["listeners"] = f"unknown: {error}"
        return
    held = [one for one in connections if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
    owners = sorted({one.pid for one in held if one.pid is not None})
    report.told["listeners"] = named = [_process(one) for one in owners] or [
        "a process of another user"
    ] * bool(held)
    starts = environment.get("RANK") == "0" and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if held and starts and pid not in owners:
        report.obstacles.append(
            f"port {port} of this host is held by {', '.join(named)}: rank 0 cannot listen there"
        )
    serving = any(one.laddr.ip in {*_ANY, *addresses} for one in held)
    if not serving and (pid is not None or not starts):
        report.obstacles.append(
            f"nothing listens at {addresses[0]} port {port} of this host, where rank 0 must"
        )


def _unreachable(address: str, port: int) -> str | None:
    """Why no connection comes about; None if one does."""
    try:
        socket.create_connection((address, port), timeout=_CONNECT_S).close()
    except TimeoutError:
        return f"{address} port {port} does not answer within {_CONNECT_S:g} s: dropped on the way, or no such host"
    except ConnectionRefusedError:
        return f"{address} port {port} refuses: the host is there, and nothing listens (rank 0 not started, or ended)"
    except OSError as error:
        return f"{address} port {port} cannot be reached: {error.strerror}"
    return None


def _process(pid: int) -> str:
    try:
        return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"process {pid}"


def _check_interfaces(environment: Mapping[str, str], report: PathReport) -> None:
    stats, addresses = psutil.net_if_stats(), psutil.net_if_addrs()

    def usable(name: str) -> bool:
        families = {one.family for one in addresses.get(name, ())}
        return stats[name].isup and bool(families & {socket.AF_INET, socket.AF_INET6})

    for variable in _INTERFACES:
        given = environment.get(variable, "")
        names = chosen_interfaces(variable, given, list(stats))
        if given and not names:
            report.obstacles.append(
                f"{variable}={given}: this host has no such interface ({', '.join(stats)})"
            )
        elif given and not any(usable(name) for name in names):
            report.obstacles.append(f"{variable}={given}: {', '.join(names)} is down, or has no address")


def chosen_interfaces(variable: str, given: str, there: Sequence[str]) -> list[str]:
    """The interfaces that a setting selects. NCCL's names are prefixes; `=` asks for whole names, `^` excludes."""
    nccl, words = variable.startswith("NCCL_"), given.lstrip("^=")
    listed = [word.partition(":")[0] for word in words.split(",") if word]
    whole = not nccl or given.lstrip("^").startswith("=")
    excludes = nccl and given.startswith("^")
    return [
        name
        for name in there
        if any(name == word if whole else name.startswith(word) for word in listed) != excludes
    ]
