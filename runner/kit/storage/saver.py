"""The job that saves, as a program: each line on its standard input starts a child that saves until it is killed.

It imports torch once and forks the children. Its arguments: format, `plain` or `guarded`, `new` or `same` (a new name
for each step, or the same one), bytes, seed, the process that started it, and an empty folder. A line is the folder to
save into; it answers with the child's process id, and with `ended` and its status after that. A child saves steps 2, 3,
… and removes older ones, so that a kill always hits a save.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.guards.checkpoint import saving
from runner.kit.children import die_with_parent
from runner.kit.storage.formats import FORMATS, CheckpointFormat, State, two_states
from runner.kit.storage.resume import PREFIX

# A child that is not killed ends.
_MOST_STEPS = 1000


def save_step(form: CheckpointFormat, folder: Path, state: State, *, guarded: bool) -> Path:
    """Save one step as a job does; returns its folder."""
    if guarded:
        with saving(folder) as partial:
            form.save(state, partial)
    else:
        folder.mkdir(exist_ok=True)
        form.save(state, folder)
    return folder


def main(argv: Sequence[str]) -> int:
    """Serve until standard input ends."""
    form, guarded, same = FORMATS[argv[0]], argv[1] == "guarded", argv[2] == "same"
    size, seed, parent, scratch = int(argv[3]), int(argv[4]), int(argv[5]), Path(argv[6])
    if not die_with_parent(parent):
        return 1
    import torch

    torch.set_num_threads(1)
    states = two_states(size, seed)
    # What a save imports late is imported before the fork.
    shutil.rmtree(save_step(form, scratch / "warm", states[0], guarded=guarded))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            die_with_parent(os.getppid())
            try:
                _save_on(form, Path(line.rstrip("\n")), states, guarded, same)
            finally:
                os._exit(1)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)
    return 0


def _save_on(form: CheckpointFormat, root: Path, states: Sequence[State], guarded: bool, same: bool) -> None:
    for step in range(2, _MOST_STEPS):
        save_step(form, root / f"{PREFIX}{1 if same else step}", states[step % 2], guarded=guarded)
        older = root / f"{PREFIX}{step - 1}"
        if not same and older.name != f"{PREFIX}1":
            shutil.rmtree(older)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
