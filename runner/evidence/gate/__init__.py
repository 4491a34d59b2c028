"""The publishing gate: which records may stand on a page that others rely on, and why the others may not.

Whatever follows from the rest of a record is worked out again and compared: statuses, outcome, verdicts, statistics,
digests. What a record alone cannot show is worked out from the repository: the entry and the catalogue of its commit.
Every refusal is one line: the file, what is wrong, and after a semicolon what to do.
"""

from runner.evidence.gate.folder import gate
from runner.evidence.gate.identity import identities
from runner.evidence.gate.record import record_problems

__all__ = ["gate", "identities", "record_problems"]
