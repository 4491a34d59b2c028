"""Verdicts that turned: an outcome or a deciding expectation that reads otherwise than in the run before. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.entry.model import Runbook
from runner.evidence.measured import evaluate
from runner.evidence.record import Record, Verdict
from runner.evidence.trend import versions_of

_SURE = frozenset({Verdict.MET, Verdict.MISSED})


@dataclass(frozen=True)
class Turn:
    """One verdict of an entry on a class that turned between two runs.

    Attributes:
        what: `outcome`, or the id of the expectation, judged afresh in both.
        before, after: the two verdicts.
        earlier, later: the two records.
        causes: what else differs between them.
    """

    what: str
    before: str
    after: str
    earlier: Record
    later: Record
    causes: tuple[str, ...]

    def __str__(self) -> str:
        where = f"{self.later.machine.machine_class} {self.later.runbook.id}"
        also = f"; also new: {', '.join(self.causes)}" if self.causes else "; nothing else recorded differs"
        return f"{where}: {self.what} {self.before} → {self.after} (run {self.later.run_id}){also}"


def turns(runbooks: Sequence[Runbook], records: Iterable[Record]) -> tuple[Turn, ...]:
    """Every turn in the whole history, oldest first.

    A run is held against the newest earlier one of its class, entry and options on the same node; where the node has
    none, against that of any node. Runs without an outcome and simulated ones do not count.
    """
    entries = {runbook.id: runbook for runbook in runbooks}
    by_node: dict[tuple[str, ...], Record] = {}
    by_class: dict[tuple[str, ...], Record] = {}
    found: list[Turn] = []
    for record in sorted(records, key=lambda record: record.moment):
        if record.outcome is None or record.simulated or record.machine.simulated:
            continue
        of_class = (record.machine.machine_class, record.runbook.id, record.options.model_dump_json())
        of_node = (*of_class, record.node_alias)
        earlier = by_node.get(of_node) or by_class.get(of_class)
        if earlier is not None:
            found += _between(entries.get(record.runbook.id), earlier, record)
        by_node[of_node] = by_class[of_class] = record
    return tuple(found)


def _between(runbook: Runbook | None, earlier: Record, later: Record) -> Iterator[Turn]:
    causes = differences(earlier, later)
    if earlier.outcome is not later.outcome:
        yield Turn("outcome", str(earlier.outcome), str(later.outcome), earlier, later, causes)
    before, after = _verdicts(runbook, earlier), _verdicts(runbook, later)
    for name, verdict in before.items():
        if after.get(name, verdict) is not verdict:
            yield Turn(name, verdict.value, after[name].value, earlier, later, causes)


def _verdicts(runbook: Runbook | None, record: Record) -> Mapping[str, Verdict]:
    if runbook is None:
        return {}
    judged = {
        bound.id: evaluate(bound, record.steps, record.machine).verdict
        for bound in runbook.head.expectations
        if bound.evidence.decides
    }
    return {name: verdict for name, verdict in judged.items() if verdict in _SURE}


def differences(earlier: Record, later: Record) -> tuple[str, ...]:
    """What differs between two runs beside their numbers: versions, steps, node."""
    had, has = versions_of(earlier.machine), versions_of(later.machine)
    found = [f"{name} {had[name]} → {has[name]}" for name in had if had[name] != has[name]]
    digests = {step.id: step.digest for step in earlier.steps}
    changed = [step.id for step in later.steps if digests.get(step.id, step.digest) != step.digest]
    if changed:
        found.append(f"changed steps ({', '.join(changed)})")
    if earlier.node_alias != later.node_alias:
        found.append(f"another node ({later.node_alias})")
    return tuple(found)
