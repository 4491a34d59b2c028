"""Display of a campaign: one live line per node, then the fleet report."""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from runner.base.plain import one_line
from runner.base.screen import tell_trouble
from runner.base.stats import OUTLYING_SCORE, OUTLYING_SHARE
from runner.base.units import format_bytes
from runner.base.words import folded_names
from runner.fleet.campaign import CampaignJob, JobProgress
from runner.fleet.gathering import DONE, ERROR, Gathered
from runner.history.campaigns import Distribution, NodeRow, sentence
from runner.history.golden import ComparedSetting, compare_settings, settings_of_records
from runner.history.golden_text import also_differ, setting_sentences

# More lines than the terminal has would flicker; above this number, only unfinished jobs are listed.
_MOST_LINES = 40
_COLOURS = {
    DONE: "green",
    ERROR: "red",
    "refused": "red",
    "over": "green",
    "running": "cyan",
    "waiting": "dim",
}


class FleetProgress:
    """Observer of a campaign; a context manager that restores the terminal on exit."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._jobs: dict[tuple[str, int], tuple[CampaignJob, str]] = {}
        self._live = Live(get_renderable=self._table, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def job_changed(self, job: CampaignJob, said: str) -> None:
        """Redraw the node's line; in a log, print a line each time its state changes."""
        place = (job.key, job.round)
        before = self._jobs.get(place)
        self._jobs[place] = (job, said or (before[1] if before else ""))
        if self._console.is_terminal or (before and before[0].progress is job.progress):
            return
        why = f": {one_line(job.reason)}" if job.reason else ""
        named = f" (job {job.job_id})" if job.job_id else ""
        self._console.print(
            f"{_named(job)}{named} {job.progress.value}{escape(why)}", highlight=False, soft_wrap=True
        )

    def trouble(self, message: str) -> None:
        """Print a problem; the campaign goes on."""
        tell_trouble(message)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        shown = list(self._jobs.values())
        if len(shown) > _MOST_LINES:
            counts = {p: sum(job.progress is p for job, _ in shown) for p in JobProgress}
            table.add_row(
                f"{len(shown)} jobs:", ", ".join(f"{n} {p.value}" for p, n in counts.items() if n), ""
            )
            shown = [one for one in shown if one[0].live][:_MOST_LINES]
        for job, said in shown:
            colour = _COLOURS[ERROR if job.reason else job.progress.value]
            table.add_row(
                _named(job),
                f"[{colour}]{job.progress.value}[/{colour}]",
                escape(one_line(job.reason or said)[:100]),
            )
        return table


def _named(job: CampaignJob) -> str:
    if job.joint:
        return f"{job.key} over {len(job.nodes)} nodes"
    again = " again" if job.round > 1 else ""
    return f"{job.nodes[0]} [{job.key}]{again}".replace("[", "\\[")


def fleet_report(console: Console, campaign: str, gathered: Gathered, found: Sequence[Distribution]) -> None:
    """Print one line per node, the distribution of each key metric, the outliers, and the settings that differ.

    Node names appear only on this terminal; records and pages use aliases.
    """
    console.print(_node_table(campaign, gathered))
    keys = [one for one in found if one.key and len(one.values) > 1]
    if keys:
        console.print(_metric_table(keys))
    compared = compare_settings(settings_of_records(gathered.records))
    for line in _outliers(found, compared):
        console.print(escape(line), highlight=False, soft_wrap=True)
    print_settings(console, compared, gathered.names)
    rows = gathered.rows
    well = sum(row.state == DONE for row in rows)
    broken = sum(row.state == ERROR for row in rows)
    console.print(
        f"campaign {campaign}: {well} of {len(rows)} jobs returned every record, {broken} failed, "
        f"{len(rows) - well - broken} not finished; {len(gathered.records)} records",
        highlight=False,
        soft_wrap=True,
    )


def print_settings(console: Console, compared: Sequence[ComparedSetting], names: Mapping[str, str]) -> None:
    """Print in which settings nodes differ; nothing if no two nodes can be compared.

    Args:
        console: where.
        compared: as `compare_settings` gives them.
        names: alias → name in Slurm.
    """

    def named(aliases: Sequence[str]) -> str:
        return folded_names(one_line(names.get(alias, alias)) for alias in aliases)

    if not compared:
        return
    console.print("[bold]Settings of the nodes[/bold], the rarest value first")
    for line in setting_sentences(compared, named):
        console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def folded_table(title: str, *headings: str) -> Table:
    """A table whose cells wrap anywhere, so that long names are never cut."""
    return Table(*(Column(heading, overflow="fold") for heading in headings), title=title)


def _node_table(campaign: str, gathered: Gathered) -> Table:
    table = folded_table(f"Campaign {campaign}", "node", "alias", "state", "outcomes", "reason")
    rows = gathered.rows
    # With many nodes, only those that need attention; the counts below include the healthy ones.
    odd = [row for row in rows if row.state != DONE or any(o.exit_status for o in row.outcomes.values())]
    for row in rows if len(rows) <= _MOST_LINES else odd:
        colour = _COLOURS.get(row.state, "dim")
        table.add_row(
            escape(gathered.names.get(row.node_alias, "")),
            row.node_alias,
            f"[{colour}]{row.state}[/{colour}]",
            escape(_outcomes(row)),
            escape(one_line(row.reason or "")),
        )
    return table


def _outcomes(row: NodeRow) -> str:
    return ", ".join(
        f"{entry} {outcome.value.replace('_', ' ')}"
        + (f" ({'; '.join(row.unproved[entry])})" if entry in row.unproved else "")
        for entry, outcome in row.outcomes.items()
    )


def _metric_table(keys: Sequence[Distribution]) -> Table:
    headings = ("step", "metric", "class", "nodes", "median", "lowest … highest", "outlier limits")
    table = folded_table("Nodes of a class: median, spread and outlier limits", *headings)
    for one in keys:
        table.add_row(
            f"{one.entry}/{one.step}",
            escape(_metric(one)),
            one.machine_class,
            str(len(one.values)),
            *one.shown,
        )
    return table


def _metric(one: Distribution) -> str:
    labels = " ".join(
        f"{name}={format_bytes(value) if name == 'bytes' and isinstance(value, int) else value}"
        for name, value in one.labels.items()
    )
    return f"{one.metric} ({labels})" if labels else one.metric


def _outliers(found: Sequence[Distribution], compared: Sequence[ComparedSetting]) -> Iterator[str]:
    odd = [(one, said) for one in found if (said := sentence(one))]
    for one, said in odd:
        also = also_differ(one, compared)
        yield f"{one.entry}/{one.step} {_metric(one)}: {said}" + (f"; {also}" if also else "")
    if odd:
        yield (
            f"An outlier is more than {OUTLYING_SCORE:g} scaled median absolute deviations and {OUTLYING_SHARE:.0%} "
            "away from the median; --confirm runs such nodes a second time to confirm it."
        )
