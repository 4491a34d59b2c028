"""Nodes of one campaign: the distribution of each metric over them, and the outliers. Pure.

A node is suspect if a value of its first run is on the bad side of the fence around the median of all nodes of its
class (`runner.base.stats.fence`). A second run decides: if its value is beyond the same fence again, it is confirmed.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from statistics import median

from runner.base.stats import Fence, Spread, fence, spread
from runner.base.units import format_value
from runner.entry.model import Scalar
from runner.history.change import is_better
from runner.record.headline import key_measurement
from runner.record.model import Measurement, Outcome, Record

# Alias of the node, the measurement, and whether it is the key metric of its step.
_Taken = tuple[str, Measurement, bool]
# A distance of more than this many medians is given in the metric's unit.
_LARGEST_SHARE = 10.0


@dataclass(frozen=True)
class NodeRow:
    """One node of a campaign: its state, the reason if it returned no result, and the outcome of each entry.

    `unproved`: by entry, why a passed drill is not a proof.
    """

    node_alias: str
    state: str
    reason: str | None
    outcomes: Mapping[str, Outcome]
    unproved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outlier:
    """A node whose value is an outlier. `off`: its value minus the median, in the metric's unit.

    `confirmed`: whether the second run was an outlier too; None without a second run.
    """

    alias: str
    value: float
    off: float
    confirmed: bool | None


@dataclass(frozen=True)
class Distribution:
    """One metric over the nodes of one class. `key`: whether it is the key metric of its step."""

    entry: str
    step: str
    metric: str
    labels: Mapping[str, Scalar]
    machine_class: str
    preset: str
    unit: str
    key: bool
    values: Mapping[str, float]
    spread: Spread
    fence: Fence | None
    outliers: tuple[Outlier, ...]

    @property
    def suspects(self) -> tuple[Outlier, ...]:
        """Outliers on the bad side; on both sides if the metric has no better direction."""
        return tuple(one for one in self.outliers if is_better(self.metric, rose=one.off > 0) is not True)

    @property
    def shown(self) -> tuple[str, str, str]:
        """The median, `lowest … highest`, and the outlier limits, with units."""
        middle, *range_of_values = self._with_units(self.spread.median, self.spread.low, self.spread.high)
        limits = self._with_units(self.fence.low, self.fence.high) if self.fence else ["too few nodes"]
        return middle, " … ".join(range_of_values), " … ".join(limits)

    def _with_units(self, *values: float) -> list[str]:
        return [format_value(value, self.unit) for value in values]


def distributions(records: Iterable[Record]) -> tuple[Distribution, ...]:
    """Every metric that at least two nodes of a class measured, by entry, step and metric.

    Args:
        records: the records of one campaign; joint records are ignored.
    """
    taken: dict[tuple[str, ...], list[_Taken]] = defaultdict(list)
    for record in sorted(records, key=lambda one: one.moment):
        for step in record.steps if not record.members else ():
            if step.counts:
                key = key_measurement(step)
                for one in step.measurements:
                    place = (record.runbook.id, step.id, one.name, json.dumps(one.labels, sort_keys=True))
                    node = (record.machine.machine_class, record.options.preset)
                    taken[*place, *node].append((record.node_alias, one, one == key))
    return tuple(
        _distribution(place, found)
        for place, found in sorted(taken.items(), key=itemgetter(0))
        if len({alias for alias, _, _ in found}) > 1
    )


def _distribution(place: tuple[str, ...], taken: Sequence[_Taken]) -> Distribution:
    entry, step, metric, _, machine_class, preset = place
    _, measurement, key = taken[-1]
    by_node: dict[str, list[float]] = defaultdict(list)
    for alias, one, _ in taken:
        by_node[alias].append(one.value)
    first = {alias: values[0] for alias, values in by_node.items()}
    around = fence(list(first.values()))
    return Distribution(
        entry=entry,
        step=step,
        metric=metric,
        labels=measurement.labels,
        machine_class=machine_class,
        preset=preset,
        unit=measurement.unit,
        key=key,
        values=first,
        spread=spread(list(first.values())),
        fence=around,
        outliers=() if around is None else tuple(_outliers(around, by_node)),
    )


def _outliers(around: Fence, taken: Mapping[str, Sequence[float]]) -> Iterable[Outlier]:
    def outside(value: float) -> bool:
        return not around.low <= value <= around.high

    for alias, (first, *later) in sorted(taken.items()):
        if outside(first):
            # On the same side: a node that was slow and is now fast is not confirmed as slow.
            again = outside(later[-1]) and (later[-1] < around.low) == (first < around.low) if later else None
            yield Outlier(alias, first, first - around.median, again)


def suspects(found: Iterable[Distribution]) -> dict[str, tuple[str, ...]]:
    """Alias → the entries in which the node is an outlier on the bad side and that have not been run again."""
    named: dict[str, set[str]] = {}
    for distribution in found:
        for one in distribution.suspects:
            if one.confirmed is None:
                named.setdefault(one.alias, set()).add(distribution.entry)
    return {alias: tuple(sorted(entries)) for alias, entries in sorted(named.items())}


def sentence(distribution: Distribution) -> str | None:
    """`3 of 128 nodes are 12 % below the median (node-…, …); confirmed by a second run: 2`; None without suspects."""
    odd = distribution.suspects
    if not odd:
        return None
    parts = []
    for side, word in ((-1, "below"), (1, "above")):
        ones = [one for one in odd if one.off * side > 0]
        if ones:
            names = ", ".join(one.alias for one in ones)
            away = _distance(abs(median(one.off for one in ones)), word, distribution)
            verb = "is" if len(ones) == 1 else "are"
            parts.append(f"{len(ones)} of {len(distribution.values)} nodes {verb} {away} ({names})")
    tried = [one for one in odd if one.confirmed is not None]
    if tried:
        parts.append(
            f"confirmed by a second run: {sum(bool(one.confirmed) for one in tried)} of {len(tried)}"
        )
    return "; ".join(parts)


def _distance(off: float, word: str, distribution: Distribution) -> str:
    """`12% below the median`; in the metric's unit if the median is too close to 0 for a percentage."""
    middle = distribution.fence.median if distribution.fence else 0.0
    if off <= _LARGEST_SHARE * abs(middle):
        return f"{off / abs(middle):.0%} {word} the median"
    distance, median_shown = (format_value(value, distribution.unit) for value in (off, middle))
    return f"{distance} {word} the median of {median_shown}"
