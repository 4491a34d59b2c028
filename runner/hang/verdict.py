"""Which rank holds up a job: a pure function of what was seen."""

from runner.hang.findings import HangVerdict
from runner.hang.model import Snapshot


def judge_hang(snapshot: Snapshot) -> tuple[HangVerdict, ...]:
    """One verdict for each job in the snapshot, those that hang first."""
    raise NotImplementedError
