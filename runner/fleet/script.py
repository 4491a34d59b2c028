"""The batch script that a campaign's job runs on its node: unpack the code, choose a Python, run the entry. Pure."""

import base64
import hashlib
import re
import shlex
from dataclasses import dataclass, field

from runner.record.stamp import Stamp

# Exit statuses of the script itself, and those of `runbook run` that say nothing about a node.
NO_FOLDER, NO_ROOM, NO_PYTHON, NO_NOTE, NOT_OURS, OTHER_CODE, NO_PORT = 70, 71, 72, 73, 74, 75, 76
MEANINGS = {
    2: "`runbook run` rejected its input",
    NO_FOLDER: "the campaign's folder is not on this node; share it, or start with --no-shared-files",
    NO_ROOM: "the code could not be unpacked on the node: its disk is full, or its temporary folder is not writable",
    NO_PYTHON: "no Python on the node has the dependencies; name one with --python, or a container with --prefix",
    NO_NOTE: "its final note could not be written: the disk for its results is full or not available",
    NOT_OURS: "a folder on the node is another user's, a link, or replaceable by others; remove it, or set TMPDIR",
    OTHER_CODE: "the code on the node differs from the submitted code; submit a new campaign",
    NO_PORT: "no free port on the node for the rendezvous",
}
DIAGNOSIS = "diagnosis.json"
# The arguments that pass the stamp, and the file of the result, to each command.
_INTO = {"run": '--stamp "$work/stamp.json"', "diagnose": f'--json --output "$place/{DIAGNOSIS}"'}
_BLANK = re.compile(r"@([a-z]+)@")
_RESULTS = "${TMPDIR:-/tmp}/llm-runbooks-results-$EUID"

# 0: the runner's dependencies and a CUDA build of torch are installed; 3: only the dependencies; 1: neither.
_ASK = """
import importlib.util as u, pathlib, re, sys
if sys.version_info < (3, 11) or not all(map(u.find_spec, (
    "jinja2", "markdown_it", "mdit_py_plugins", "psutil", "pydantic", "pynvml", "rich", "yaml"))): sys.exit(1)
s = u.find_spec("torch")
t = pathlib.Path(s.origin).with_name("version.py").read_text() if s and s.origin else ""
sys.exit(0 if re.search(r"^cuda\\b.*=\\s*['\\"][\\d.]+['\\"]", t, re.M) else 3)
"""


@dataclass(frozen=True)
class NodeTask:
    """The task of one job of a campaign.

    Attributes:
        place: the shared folder for its results; None without shared files.
        key: name of the task within the campaign, for its own folder on a node without shared files.
        code: the shared archive of the code; None to carry `archive` in the script.
        command: `run` or `diagnose`.
        arguments: of that command.
        prefix: words before Python, for example a container launcher.
        python: the only Python to use; if empty, one on the node is chosen.
        home_python: the Python that started the campaign, used if it exists on the node too.
        joint: whether the job has several nodes, which all need the code.
    """

    stamp: Stamp
    key: str
    place: str | None
    code: str | None
    archive: bytes = field(repr=False)
    command: str
    arguments: tuple[str, ...]
    prefix: str
    python: str | None
    home_python: str
    joint: bool = False


def batch_script(task: NodeTask) -> str:
    """The script for `sbatch`. Every failure before the entry runs has its own exit status."""
    parts = [_HEAD, _GUARDS, _ROOM, _PLACE_SHARED if task.place else _PLACE_OWN, _UNPACK]
    parts += [_STAMP, _SPREAD if task.joint else "", _CHOOSE, _RUN]
    script = "\n".join(part.strip("\n") for part in parts if part) + "\n"
    values = _values(task)
    # In one pass, so that placeholders inside values are not replaced.
    return _BLANK.sub(lambda blank: values[blank[1]], script)


def step_script(
    archive: bytes, words: tuple[str, ...], prefix: str, python: str | None, home_python: str, seconds: float
) -> str:
    """The script that runs `runbook` beside a running job on a node, and prints its standard output.

    That is packed (gzip) and encoded (base64), for its size. The script leaves nothing on the node.

    Args:
        archive: the packed code.
        words: the command and its arguments.
        prefix: as in `NodeTask`.
        python: as in `NodeTask`.
        home_python: as in `NodeTask`.
        seconds: after this time the command is ended.
    """
    script = (
        "\n".join(part.strip("\n") for part in (_STEP_HEAD, _GUARDS, _ROOM, _UNPACK, _CHOOSE, _STEP)) + "\n"
    )
    values = {
        "ask": shlex.quote(_ASK),
        "python": shlex.quote(python or ""),
        "home": shlex.quote(home_python),
        "digest": hashlib.sha256(archive).hexdigest(),
        "archive": _carried(archive),
        "prefix": prefix,
        "words": shlex.join(words),
        "seconds": f"{seconds:g}",
    }
    return _BLANK.sub(lambda blank: values[blank[1]], script)


def fetch_command(campaign: str, key: str) -> str:
    """The command that prints a task's results on a node without shared files, as a base64-encoded archive.

    It checks the folder like the job does: files that another user placed there are not fetched.
    """
    place = f"{_RESULTS}/{shlex.quote(campaign)}/{shlex.quote(key)}"
    lines = [_GUARDS.strip(), f'fixed "${{TMPDIR:-/tmp}}/" && ours {_RESULTS} || exit {NOT_OURS}']
    lines += ["set -o pipefail", f"tar -C {place} -cz . | base64"]
    return "\n".join(lines)


def _values(task: NodeTask) -> dict[str, str]:
    given = {
        "campaign": task.stamp.campaign,
        "key": task.key,
        "place": task.place or "",
        "stamp": task.stamp.model_dump_json(),
        "ask": _ASK,
        "python": task.python or "",
        "home": task.home_python,
        "digest": hashlib.sha256(task.archive).hexdigest(),
    }
    return {name: shlex.quote(value) for name, value in given.items()} | {
        "archive": _archive(task),
        "prefix": task.prefix,
        "words": shlex.join(task.arguments),
        "action": task.command,
        "into": _INTO[task.command],
        "results": _RESULTS,
    }


def _archive(task: NodeTask) -> str:
    if task.code is not None:
        return f"cat {shlex.quote(task.code)}"
    return _carried(task.archive)


def _carried(archive: bytes) -> str:
    text = base64.encodebytes(archive).decode()
    return f"base64 -d <<'END_OF_CODE'\n{text}END_OF_CODE\n"


_HEAD = """
#!/bin/bash
# One node of the campaign @campaign@; removes everything that it creates, except its results.
set -u
"""
_STEP_HEAD = """
#!/bin/bash
# Looks at one node of a running job; removes everything that it creates.
set -u
"""
# Every user of a node can see these names and create them first. `fixed`: no other user can replace a folder that is
# created in this one, nor this one or one above it. `ours`: a folder that only this user can access, not a link to one.
_GUARDS = """
fixed() {
    local owner mode above
    read -r owner mode < <(stat -Lc '%u %a' -- "$1") && [ -d "$1" ] || return 1
    [ "$owner" = 0 ] || [ "$owner" = "$EUID" ] || return 1
    above=$(cd -P -- "$1" && pwd -P) || return 1
    while mode=$(stat -c %a -- "${above:-/}"); do
        (( (8#$mode & 8#2) == 0 || (8#$mode & 8#1000) != 0 )) || return 1
        [ -n "$above" ] && [ "$above" != / ] || return 0
        above=${above%/*}
    done
    return 1
}
ours() {
    [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && (( (8#$(stat -c %a -- "$1") & 8#77) == 0 ))
}
"""
_ROOM = """
[ -d "${TMPDIR:-/tmp}/" ] || exit 71
fixed "${TMPDIR:-/tmp}/" || exit 74
"""
_PLACE_SHARED = """
place=@place@
[ -d "$place" ] || exit 70
[ ! -L "$place" ] && [ -O "$place" ] || exit 74
"""
# Results of old campaigns are removed from the node.
_PLACE_OWN = """
results=@results@
place=$results/@campaign@/@key@
mkdir -m 700 "$results" 2>/dev/null || [ -e "$results" ] || [ -L "$results" ] || exit 71
ours "$results" || exit 74
mkdir -p "$place" || exit 71
find -P "$results" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf -- {} + 2>/dev/null
"""
_UNPACK = """
work=$(mktemp -d "${TMPDIR:-/tmp}/llm-runbooks-XXXXXXXX") || exit 71
running=
leave() { [ -z "$running" ] || kill -TERM "$running" 2>/dev/null; }
trap leave TERM INT HUP
trap 'rm -rf "$work"' EXIT
code() {
@archive@
}
root=$work
code > "$work/code.tar.gz" || exit 71
[ "$(sha256sum < "$work/code.tar.gz")" = "@digest@  -" ] || exit 75
tar -xzf "$work/code.tar.gz" -C "$work" || exit 71
"""
_STAMP = """
printf %s @stamp@ > "$work/stamp.json" || exit 71
"""
# srun copies its standard input to every task: each node creates a folder of the same name and unpacks a copy there
# under its own name. The port is random, below the kernel's ephemeral range (ip_local_port_range) and not in use: if
# others could predict it, they could impersonate the rendezvous.
_SPREAD = """
free_port() {
    local try port
    for try in {1..100}; do
        port=$((20000 + ${SRANDOM:-$RANDOM} % 12000))
        grep -qs ":$(printf %04X "$port") [0-9A-F]*:0000 0A" /proc/net/tcp /proc/net/tcp6 || { echo "$port"; return; }
    done
    return 1
}
export RUNBOOK_ROOTS=$work/nodes RUNBOOK_NODES=$SLURM_JOB_NUM_NODES
address=$(scontrol show node -o "$SLURMD_NODENAME" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
port=$(free_port) || exit 76
export RUNBOOK_RENDEZVOUS=$address:$port
export -f fixed ours
srun --ntasks-per-node=1 bash -c '
    work=${RUNBOOK_ROOTS%/nodes}
    fixed "${work%/*}/" || exit 74
    mkdir -m 700 "$work" 2>/dev/null || [ -e "$work" ] || [ -L "$work" ] || exit 71
    ours "$work" || exit 74
    mkdir -p "$RUNBOOK_ROOTS/$SLURMD_NODENAME" && tar -xzf - -C "$RUNBOOK_ROOTS/$SLURMD_NODENAME" || exit 71
' < "$work/code.tar.gz"
spread=$?
clear() {
    srun --ntasks-per-node=1 bash -c 'work=${RUNBOOK_ROOTS%/nodes}; ours "$work" && rm -rf "$work"'
    rm -rf "$work"
}
trap clear EXIT
case $spread in 0) ;; 74) exit 74;; *) exit 71;; esac
root=$RUNBOOK_ROOTS/$SLURMD_NODENAME
"""
_CHOOSE = """
python=@python@
can() { (cd / && @prefix@ "$1" -c @ask@ > /dev/null 2>&1); }
if [ -z "$python" ]; then
    for candidate in python3 python @home@; do
        can "$candidate"
        case $? in 0) python=$candidate; break;; 3) spare=$candidate;; esac
    done
    python=${python:-${spare:-}}
else
    can "$python"
    case $? in 0|3) ;; *) python=;; esac
fi
[ -n "$python" ] || exit 72
"""
_RUN = """
cd "$root" || exit 71
@prefix@ "$python" -m runner.cli.main --runbooks "$root/runbooks" --data "$place/data" \\
    @action@ @words@ @into@ > "$place/output.txt" 2>&1 < /dev/null &
running=$!
wait "$running"; status=$?
# A signal ends the first wait; the entry still writes its record.
while kill -0 "$running" 2>/dev/null; do wait "$running"; status=$?; done
# Files that steps wrote for a reader, for example a bundle for a bug report.
[ ! -d "$root/artifacts" ] || cp -R "$root/artifacts" "$place/" || true
printf '{"exit_status": %d}\\n' "$status" > "$place/.end" && mv "$place/.end" "$place/end.json" || exit 73
case $status in 0|1|3|130) exit 0;; *) exit "$status";; esac
"""
_STEP = """
cd "$root" || exit 71
timeout -k 5 @seconds@ @prefix@ "$python" -m runner.cli.main --runbooks "$root/runbooks" --data "$work/data" \\
    @words@ > "$work/answer" 2> "$work/said" < /dev/null &
running=$!
wait "$running"; status=$?
tail -c 2000 "$work/said" >&2
gzip -c "$work/answer" | base64
case $status in 0|1|3) exit 0;; *) exit "$status";; esac
"""
