"""Changed verdicts: an outcome or a deciding expectation that differs from the previous run. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.history.conditions import differences
from runner.history.endings import Ending

OUTCOME = "outcome"
UNMEASURED = "unmeasured"


@dataclass(frozen=True)
class VerdictChange:
    """One verdict of an entry on a class that changed between two runs of the same scope.

    Attributes:
        what: `outcome`, or the id of the expectation; both are judged by the current entry.
        before, after: the two verdicts; `unmeasured` before the first run of an entry on a class.
        earlier, later: the two runs; no earlier one for the first.
        causes: other differences between them.
    """

    what: str
    before: str
    after: str
    earlier: Ending | None
    later: Ending
    causes: tuple[str, ...]

    @property
    def why(self) -> str:
        """For a passed drill, what was not measured; else empty."""
        return self.later.judged.why if self.what == OUTCOME else ""

    def __str__(self) -> str:
        change = f"{self.before} → {self.after}".replace("_", " ")
        run = f"{self.later.where} {self.later.runbook.id}: {self.what} {change}"
        said = f"{run} (run {self.later.run_id})" + (f": {self.why}" if self.why else "")
        if self.earlier is None:
            return f"{said}; first run"
        return said + (
            f"; other differences: {', '.join(self.causes)}"
            if self.causes
            else "; no other recorded differences"
        )


def verdict_changes(endings: Iterable[Ending]) -> tuple[VerdictChange, ...]:
    """Every changed verdict in the history, oldest first, and the first run of every entry on every class.

    A run is compared with the newest earlier run of its class, entry and scope on the same node; if the node has none,
    with that of any node outside its campaign. Nodes of one campaign are compared on the Fleet page.
    """
    by_node: dict[tuple[object, ...], Ending] = {}
    by_class: dict[tuple[object, ...], Ending] = {}
    measured: set[tuple[str, str]] = set()
    found: list[VerdictChange] = []
    for ending in sorted(endings, key=lambda ending: ending.moment):
        place = (ending.machine_class, ending.runbook.id)
        of_class = (*place, ending.scope)
        of_node = (*of_class, ending.node)
        earlier = by_node.get(of_node) or _of_another_node(by_class.get(of_class), ending)
        if earlier is not None:
            found += _between(earlier, ending)
        elif ending.at_home and place not in measured:
            found.append(VerdictChange(OUTCOME, UNMEASURED, ending.judged.outcome.value, None, ending, ()))
        if ending.at_home:
            measured.add(place)
        by_node[of_node] = by_class[of_class] = ending
    return tuple(found)


def _of_another_node(newest: Ending | None, ending: Ending) -> Ending | None:
    if newest is not None and newest.campaign is not None and newest.campaign == ending.campaign:
        return None
    return newest


def _between(earlier: Ending, later: Ending) -> Iterator[VerdictChange]:
    causes = differences([earlier.conditions], [later.conditions])
    had, has = earlier.judged.outcome, later.judged.outcome
    if had is not has:
        yield VerdictChange(OUTCOME, had.value, has.value, earlier, later, causes)
    for name, verdict in earlier.verdicts.items():
        after = later.verdicts.get(name, verdict)
        if after is not verdict:
            yield VerdictChange(name, verdict.value, after.value, earlier, later, causes)
