"""The publishing gate: decides which records may be published, and gives the reason for each refusal.

Everything that follows from other parts of a record is recomputed and compared: statuses, outcome, verdicts,
statistics, digests. The rest is checked against the repository: the entry and the probes at the record's commit.
Every refusal is one line: the file, what is wrong, and, after a semicolon, what to do.
"""

from runner.record.gate.folder import gate
from runner.record.gate.record import identities, record_problems

__all__ = ["gate", "identities", "record_problems"]
