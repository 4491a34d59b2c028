"""What the site calls an outcome: a proof on a machine that the entry is not for is a check of the method. Pure."""

import re

from runner.entry.model import Runbook
from runner.hardware.boards import board_named
from runner.record.model import Outcome

METHOD_CHECKED = "method_checked"
_WORDS = {METHOD_CHECKED: "method checked on CPU"}
_COUNT = re.compile(r"^\d+x")


def shown_outcome(runbook: Runbook, machine_class: str, state: str) -> str:
    """The state that the site shows for an outcome: `method_checked` for a fix proved without the entry's GPUs.

    Args:
        runbook: the entry.
        machine_class: where the run was.
        state: the outcome's value, or another state, which stays as it is.
    """
    if state == Outcome.FIX_PROVED.value and machine_class.startswith("cpu-") and _is_for_gpus(runbook):
        return METHOD_CHECKED
    return state


def state_words(state: str) -> str:
    """A state for a reader: `not fixed`."""
    return _WORDS.get(state, state.replace("_", " "))


def _is_for_gpus(runbook: Runbook) -> bool:
    """Whether all that the entry applies to are boards: `B200`, `8xH100`."""
    boards = [board_named(_COUNT.sub("", one)) for one in runbook.head.applies_to]
    return bool(boards) and all(boards)
