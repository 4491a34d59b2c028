"""Which rank holds up a job: a pure function of what was seen."""

from runner.hang.findings import Verdict
from runner.hang.model import Snapshot


def judge(snapshot: Snapshot) -> tuple[Verdict, ...]:
    """One verdict for each job in the snapshot, those that hang first."""
    raise NotImplementedError
