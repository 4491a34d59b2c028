"""Writes dumps of real gloo jobs of three ranks: `PYTHON tests/dumps/record.py FOLDER`, by the torch of that Python.

Each of the four jobs makes the same four steps. In the third, rank 1 leaves out the gather (`skip`), calls a broadcast
instead (`op`), or comes late to it (`late`, dumped meanwhile). Strings that name the machine are replaced; all other
bytes of the pickles are torch's.
"""

import contextlib
import datetime as dt
import http.client
import json
import os
import pickletools
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

c10d: Any = torch._C._distributed_c10d

FAULTS = ("none", "skip", "op", "late")
CULPRIT, STEP = 1, 2
DUMPED_S, LATER_S = 2, 3


def scrubbed(data: bytes) -> bytes:
    """A pickle with the paths of this machine and the ids of its threads replaced."""
    found, copied = bytearray(), 0
    for code, value, place in pickletools.genops(data):
        if code.name == "BINUNICODE":
            assert isinstance(value, str)
            assert place is not None
            old = value.encode()
            new = neutral(value).encode()
            found += data[copied : place + 1] + len(new).to_bytes(4, "little") + new
            copied = place + 5 + len(old)
    return bytes(found + data[copied:])


def neutral(text: str) -> str:
    """The text without a path or an id of this machine."""
    text = re.sub(r"^/.*/(?:site|dist)-packages/", "/usr/lib/python3/site-packages/", text)
    text = re.sub(r"^/.*/record\.py$", "/job/train.py", text)
    return re.sub(r"^\d{9,}$", "1000", text)


def step(number: int, fault: str, dump: threading.Thread) -> None:

    rank = dist.get_rank()
    at_fault = number == STEP and rank == CULPRIT
    dist.all_reduce(torch.ones(8, 4))
    if number == STEP and fault == "late":
        dump.start()
    if at_fault and fault == "late":
        dump.join()
        time.sleep(LATER_S)
    if at_fault and fault == "op":
        dist.broadcast(torch.ones(16), 0)
    elif not (at_fault and fault == "skip"):
        dist.all_gather([torch.zeros(16) for _ in range(3)], torch.ones(16))
    if number == 0:
        dist.barrier()


def write(folder: Path, fault: str, rank: int) -> None:

    (folder / f"comm_lib_trace_rank_{rank}").write_bytes(scrubbed(c10d._dump_fr_trace(True, True, False)))
    if fault == "skip":
        folder = folder.with_name("skip-json")
        folder.mkdir(exist_ok=True)
        (folder / f"rank{rank}.json").write_text(scrubbed_json(c10d._dump_fr_trace_json(True, False)))


def scrubbed_json(text: str | bytes) -> str:
    dump = json.loads(text)
    for entry in dump.get("entries", ()):
        entry["thread_id"] = neutral(entry["thread_id"])
    return json.dumps(dump, separators=(",", ":"))


def write_once(folder: Path) -> None:
    """What a rank's worker server answers, and the dump of an NCCL build without an NCCL job."""

    server = c10d._WorkerServer(place := str(Path(tempfile.mkdtemp()) / "worker"))
    line = socket.socket(socket.AF_UNIX)
    line.connect(place)
    caller = http.client.HTTPConnection("localhost")
    caller.sock = line
    caller.request("POST", "/handler/fr_trace_json")
    answer = caller.getresponse()
    if answer.status == http.HTTPStatus.OK:
        (folder / "handler.json").write_text(scrubbed_json(answer.read()))
    server.shutdown()
    if hasattr(c10d, "_dump_nccl_trace"):
        (folder / "without-calls").write_bytes(c10d._dump_nccl_trace())


def work(fault: str, folder: Path) -> None:

    dist.init_process_group("gloo", timeout=dt.timedelta(seconds=8))
    rank = dist.get_rank()
    folder.mkdir(exist_ok=True)
    pair = dist.new_group([0, 2])

    def dump_meanwhile() -> None:
        time.sleep(DUMPED_S)
        write(folder, fault, rank)

    thread = threading.Thread(target=dump_meanwhile)
    with contextlib.suppress(RuntimeError):
        for number in range(4):
            step(number, fault, thread)
            if rank != CULPRIT:
                dist.all_reduce(torch.ones(3), group=pair)
    if fault == "late":
        thread.join()
    else:
        write(folder, fault, rank)
    if fault == "none" and rank == 0:
        write_once(folder.parent)
    # Threads of a job that failed still wait for its other ranks.
    os._exit(0)


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    if len(sys.argv) > 2:
        work(sys.argv[2], folder)
        return
    folder.mkdir(exist_ok=True)
    settings = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_FR_BUFFER_SIZE": "2000", "OMP_NUM_THREADS": "1"}
    for fault in FAULTS:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", __file__]
        subprocess.run([*command, str(folder / fault), fault], env={**os.environ, **settings}, check=True)


if __name__ == "__main__":
    main()
