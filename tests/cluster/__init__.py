"""A real Slurm of several nodes on this machine: its own munge, one controller and one slurmd a node, on loopback.

Nothing of the system's own configuration is read or changed, no service is started, and every process is a child of
the test: `stop` ends them by pid.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from runner.kit.own_port import own_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """\
ClusterName=runbooks
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
ReturnToService=1
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=2
InactiveLimit=0
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MailProg=/bin/true
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
WRAP = "#!/bin/bash\nexport RUNBOOK_LOCK=$HERE/lock-$SLURMD_NODENAME\n{wrap}\n"


def installed() -> bool:
    """Whether the programs are here: Debian's slurm-wlm and munge."""
    return all(shutil.which(program, path=_search_path()) for program in PROGRAMS)


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class Cluster:
    """A running cluster. `environment` makes Slurm's commands speak to it; `prolog` is a script for its Prolog."""

    def __init__(self, nodes: int = 8, prolog: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rb-slurm-"))
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        ports = free_ports(nodes + 1)
        described = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=1 State=UNKNOWN"
            for name, port in zip(self.nodes, ports[1:], strict=True)
        )
        for name in ("state", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        self.conf = self.folder / "slurm.conf"
        self.conf.write_text(
            CONFIGURATION.format(port=ports[0], user=getpass.getuser(), folder=self.folder, nodes=described)
            + (f"Prolog={prolog}\n" if prolog else "")
        )
        self.environment = {"SLURM_CONF": str(self.conf)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start every daemon and wait until every node is idle."""
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        places = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._spawn(
            "munged",
            *("--foreground", "--force", f"--key-file={key}", f"--socket={places['socket']}"),
            *(f"--pid-file={places['pid']}", f"--log-file={places['log']}", f"--seed-file={places['seed']}"),
        )
        until(places["socket"].exists, "munge to listen")
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        until(lambda: self.states() == dict.fromkeys(self.nodes, "idle"), "all nodes to be idle")

    def start_controller(self) -> None:
        """Start slurmctld, on the state it has kept."""
        self._spawn("slurmctld", "-D", "-f", str(self.conf))
        until(lambda: self.run("scontrol", "ping").returncode == 0, "the controller to answer")

    def stop_controller(self) -> None:
        """End slurmctld as a service manager would."""
        self._end("slurmctld")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._spawn(node, "-D", "-f", str(self.conf), "-N", node, program="slurmd")

    def kill_node(self, node: str) -> None:
        """What a power cut does: the node's slurmd and every step daemon and process below it end at once."""
        process = self._processes.pop(node)
        log = str(self.folder / f"slurmd-{node}.log")
        victims = [psutil.Process(process.pid)]
        # A step daemon is no child of slurmd any more, but it writes to its log.
        for other in psutil.process_iter(["cmdline"]):
            line = " ".join(other.info["cmdline"] or [])
            if line.startswith("slurmstepd") and _has_open(other, log):
                victims.append(other)
        for victim in list(victims):
            with contextlib.suppress(psutil.Error):
                victims += victim.children(recursive=True)
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()
        process.wait()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands against this cluster."""
        return subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def prepared(self, here: Path, wrap: str) -> tuple[Path, dict[str, str]]:
        """A wrapper for `--prefix` in this folder, and the environment of a campaign whose files stay in it.

        `wrap` is what the wrapper does on each node before the program: all nodes are this machine, so each needs a
        lock of its own, which it gets.
        """
        for name in ("tmp", "cache"):
            (here / name).mkdir()
        wrapper = here / "wrap"
        wrapper.write_text(WRAP.format(wrap=wrap), encoding="utf-8")
        wrapper.chmod(0o755)
        places = {"HERE": here, "TMPDIR": here / "tmp", "XDG_CACHE_HOME": here / "cache"}
        return wrapper, {**os.environ, **self.environment, **{name: str(at) for name, at in places.items()}}

    def states(self) -> dict[str, str]:
        """Node → its state, as sinfo's short form has it."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %t").stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def queue(self) -> list[str]:
        """Jobs that are not over, a line each."""
        lines = self.run("squeue", "--noheader", "--format=%i %j %T").stdout.split("\n")
        return [line for line in lines if line]

    def stop(self) -> None:
        """End every daemon and job, and remove the folder."""
        self.run("scancel", f"--user={getpass.getuser()}")
        with contextlib.suppress(AssertionError):
            until(lambda: not self.queue(), "jobs to end", seconds=20)
        for name in list(self._processes):
            if name in self.nodes:
                self.kill_node(name)
        for name in reversed(list(self._processes)):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, name: str, *words: str, program: str | None = None) -> None:
        found = shutil.which(program or name, path=_search_path())
        assert found
        log = (self.folder / f"{name}.out").open("ab")
        with log:
            self._processes[name] = subprocess.Popen(
                [found, *words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster(nodes: int = 8, prolog: Path | None = None) -> Iterator[Cluster]:
    """A cluster for the length of a block."""
    made = Cluster(nodes, prolog)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def until(condition: Callable[[], bool], what: str, seconds: float = 200) -> None:
    """Wait for a condition; the deadline is against a hang only."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.05)


def _has_open(process: psutil.Process, path: str) -> bool:
    try:
        return any(file.path == path for file in process.open_files())
    except psutil.Error:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to connections: a daemon may start again."""
    found: set[int] = set()
    while len(found) < count:
        found.add(own_port())
    return list(found)
