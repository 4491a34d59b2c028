"""What the fleet page shows: campaigns over several nodes, how their numbers are spread, and the outliers. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from runner.base.plain import one_line
from runner.base.stats import FEWEST_FOR_OUTLIERS, OUTLYING_SCORE, OUTLYING_SHARE
from runner.base.units import format_bytes
from runner.base.words import bracketed, first_of_many
from runner.history.campaigns import Distribution, distributions, sentence
from runner.history.golden import ComparedSetting, compare_settings, settings_of_records
from runner.history.golden_text import also_differ, setting_sentences
from runner.pages.site import Site
from runner.record.model import Outcome, Record
from runner.record.outcomes import Judged, drill_sentence
from runner.vocabulary import label_of

# A record of a campaign, judged; None if its run was interrupted.
Ran = tuple[Record, Judged | None]


@dataclass(frozen=True)
class SpreadRow:
    """One metric over the nodes of a class, for a reader."""

    entry: str
    step: str
    metric: str
    label: str
    labels: str
    machine_class: str
    preset: str
    nodes: int
    median: str
    range: str
    fence: str


@dataclass(frozen=True)
class Count:
    """The number of nodes with an outcome; `why`: what a passed drill did not measure."""

    state: str
    nodes: int
    why: str


@dataclass(frozen=True)
class CampaignView:
    """One campaign.

    Attributes:
        outcomes: (entry, its outcomes counted).
        odd: (metric, sentence) for each metric in which nodes are suspect, with settings in which they differ too.
        settings: sentences about the settings that differ between nodes, the most suspicious first.
        golden: (setting, value, of how many nodes) for each setting that has a majority or is equal on all nodes.
        joint: records of runs over several nodes as one, judged.
    """

    id: str
    began: datetime
    nodes: int
    classes: tuple[str, ...]
    outcomes: tuple[tuple[str, tuple[Count, ...]], ...]
    spreads: tuple[SpreadRow, ...]
    odd: tuple[tuple[str, str], ...]
    settings: tuple[str, ...]
    golden: tuple[tuple[str, str, str], ...]
    joint: tuple[tuple[Record, Judged], ...]


# Aliases are no numbers, so they cannot be folded.
_MOST_ALIASES = 8
_CUT_OFF = Judged(Outcome.INCOMPLETE)


def fleet_page(site: Site) -> str:
    """The page's Markdown, which is plain already."""
    return site.fill(
        "fleet.md.j2",
        campaigns=campaign_views(site.evidence.campaigns),
        score=f"{OUTLYING_SCORE:g}",
        share=f"{OUTLYING_SHARE:.0%}",
        fewest=FEWEST_FOR_OUTLIERS,
    )


def campaign_views(records: Iterable[Ran]) -> tuple[CampaignView, ...]:
    """Campaigns of two nodes or more, the newest first; `records` as `Evidence.campaigns` has them."""
    campaigns: dict[str, list[Ran]] = {}
    for record, found in records:
        if record.campaign is not None:
            campaigns.setdefault(record.campaign, []).append((record, found))
    views = [
        _view(name, taken)
        for name, taken in campaigns.items()
        if len({record.node_alias for record, _ in taken}) > 1
    ]
    return tuple(sorted(views, key=lambda view: (view.began, view.id), reverse=True))


def _view(name: str, taken: Sequence[Ran]) -> CampaignView:
    records = [record for record, _ in taken]
    single = [record for record in records if not record.members]
    found = distributions(single)
    compared = compare_settings(settings_of_records(single))
    return CampaignView(
        id=name,
        began=min(record.started_at for record in records),
        nodes=len({record.node_alias for record in single}),
        classes=tuple(sorted({record.machine.machine_class for record in single})),
        outcomes=tuple(_outcomes([run for run in taken if not run[0].members])),
        spreads=tuple(_spread(one) for one in found if one.key),
        odd=tuple(
            (
                f"{one.entry}/{one.step} {one.metric}{_in_brackets(one.labels)}",
                _with_settings(said, one, compared),
            )
            for one in found
            if (said := sentence(one))
        ),
        settings=tuple(setting_sentences(compared, lambda aliases: first_of_many(aliases, _MOST_ALIASES))),
        golden=tuple(_golden(compared)),
        joint=tuple((record, found or _CUT_OFF) for record, found in taken if record.members),
    )


def _with_settings(said: str, found: Distribution, compared: Sequence[ComparedSetting]) -> str:
    also = also_differ(found, compared)
    return f"{said}; {also}" if also else said


def _golden(compared: Sequence[ComparedSetting]) -> Iterator[tuple[str, str, str]]:
    several = len({one.kind for one in compared}) > 1
    for one in sorted(compared, key=lambda one: (one.kind, one.name)):
        most = one.majority or (one.held[0] if one.equal else None)
        if most:
            name = f"{one_line(one.name)}{bracketed(one.kind) if several else ''}"
            yield name, one_line(most.value), f"{len(most.nodes)} of {one.nodes}"


def _outcomes(taken: Sequence[Ran]) -> Iterable[tuple[str, tuple[Count, ...]]]:
    """Only each node's first run of an entry counts; a second one confirms it."""
    first: dict[tuple[str, str], Judged] = {}
    for record, found in sorted(taken, key=lambda one: one[0].started_at):
        first.setdefault((record.runbook.id, record.node_alias), found or _CUT_OFF)
    for entry in sorted({entry for entry, _ in first}):
        of_entry = [found for (of, _), found in first.items() if of == entry]
        counts = (_count(outcome, of_entry) for outcome in Outcome)
        yield entry, tuple(one for one in counts if one.nodes)


def _count(outcome: Outcome, found: Sequence[Judged]) -> Count:
    alike = [one for one in found if one.outcome is outcome]
    reasons = dict.fromkeys(reason for one in alike for reason in one.unproved)
    return Count(outcome.value, len(alike), drill_sentence(tuple(reasons)))


def _spread(one: Distribution) -> SpreadRow:
    middle, range_of_values, limits = one.shown
    return SpreadRow(
        entry=one.entry,
        step=one.step,
        metric=one.metric,
        label=label_of(one.metric),
        labels=_in_brackets(one.labels).strip(),
        machine_class=one.machine_class,
        preset=one.preset,
        nodes=len(one.values),
        median=middle,
        range=range_of_values,
        fence=limits,
    )


def _in_brackets(labels: Mapping[str, object]) -> str:
    words = [
        f"{name} {format_bytes(value) if name == 'bytes' and isinstance(value, int) else value}"
        for name, value in sorted(labels.items())
    ]
    return f" ({', '.join(words)})" if words else ""
