"""A save onto storage that is full: a small tmpfs of its own, or a limit of the size of a file."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runner.base.errors import RunbookError
from runner.base.plain import one_line
from runner.kit.children import die_with_parent, without_launch
from runner.kit.limits.kernel_calls import mount_private_shm
from runner.kit.storage.formats import FORMATS, CheckpointFormat, two_states
from runner.kit.storage.resume import PREFIX, Resumes
from runner.kit.storage.saver import save_step

# Room for one checkpoint and half of the next.
_ROOM = 1.5
# Under RLIMIT_FSIZE no file may have more than this part of a checkpoint: DCP's has two files.
_PARTS = 4
_TMPFS = "/dev/shm"  # noqa: S108 - covered by a tmpfs of this process alone
_DEADLINE_S = 300.0


def save_into_full(form: CheckpointFormat, words: Sequence[str]) -> tuple[Resumes, str, str]:
    """Save two steps where there is room for one and a half; the second fails.

    Args:
        form: the format.
        words: format, writer, bytes, seed, and a folder on the storage for where no tmpfs can be mounted.

    Returns:
        What resumes take; the last line of the error that the save raised; how the storage was made small.

    Raises:
        RunbookError: the saver failed otherwise, or the save did not fail.
    """
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-m", "runner.kit.storage.filling", *words, str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=without_launch(os.environ),
            timeout=_DEADLINE_S,
            check=False,
        )
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
    if done.returncode:
        raise RunbookError(
            f"the process that saves ended with {done.returncode}: {one_line((lines or ['?'])[-1])}"
        )
    told = json.loads(done.stdout)
    if not told["error"]:
        raise RunbookError(f"the {form.name} save did not fail on full storage")
    return Resumes(told["torn"], told["lost"]), one_line(told["error"]), told["by"]


def main(argv: Sequence[str]) -> int:
    """Save and tell: in a mount namespace of its own if the kernel grants one, else under RLIMIT_FSIZE."""
    form, guarded, size, seed = FORMATS[argv[0]], argv[1] == "guarded", int(argv[2]), int(argv[3])
    if not die_with_parent(int(argv[5])):
        return 1
    try:
        mount_private_shm(int(size * _ROOM))
    except OSError:
        root, by = Path(tempfile.mkdtemp(dir=argv[4])), "RLIMIT_FSIZE"
    else:
        root, by = Path(_TMPFS), "tmpfs"
    states, resumes = two_states(size, seed), Resumes()
    save_step(form, root / f"{PREFIX}1", states[1], guarded=guarded)
    if by == "RLIMIT_FSIZE":
        # With the signal ignored, the write fails with EFBIG.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // _PARTS, resource.RLIM_INFINITY))
    error = ""
    try:
        save_step(form, root / f"{PREFIX}2", states[0], guarded=guarded)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # noqa: BLE001 - DCP's own exception is no Exception
        error = str(raised).strip().splitlines()[-1]
    resumes.count(form, root, lambda step: (states[step % 2],), guarded=guarded)
    if by == "RLIMIT_FSIZE":
        shutil.rmtree(root)
    print(json.dumps({"torn": resumes.torn, "lost": resumes.lost, "error": error, "by": by}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
