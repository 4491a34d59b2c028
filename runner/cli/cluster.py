"""`--on slurm`: live view and completion of a campaign, shared by `run` and `collect`."""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter
from rich.console import Console

from runner.base.errors import InputError
from runner.base.places import running_package
from runner.base.plain import json_text
from runner.cli.chosen import chosen_entries
from runner.cli.cluster_arguments import campaigns_folder
from runner.cli.console import console_of
from runner.cli.fleet_view import FleetProgress, fleet_report
from runner.entry.model import Runbook
from runner.entry.plan import Request, asked_steps
from runner.fleet import START_WITHIN_S
from runner.fleet.alias import alias_key
from runner.fleet.archive import pack_code
from runner.fleet.campaign import Campaign, JointSteps
from runner.fleet.commands import Slurm
from runner.fleet.folder import Folder
from runner.fleet.follow import cancel_jobs, follow_jobs
from runner.fleet.gathering import Gathered, gather_records
from runner.fleet.retry import Fleet
from runner.fleet.submit import Order, again, prepare, submit
from runner.history.campaigns import NodeRow, distributions, suspects
from runner.history.golden import compare_settings, settings_as_json, settings_of_records
from runner.record.code import code_state, user_cache
from runner.record.redaction.redact import host_secrets, redact_json, telling


def run_on_slurm(arguments: argparse.Namespace, request: Request) -> int:
    """Start a campaign; follow it to its end unless `--detach` was given. Exit status as for `run`."""
    runbooks = chosen_entries(arguments.runbooks, arguments.ids, None)
    wanted = {runbook.id: asked_steps(runbook, request) for runbook in runbooks}
    across = {entry: [step for step in steps if step.nodes > 1] for entry, steps in wanted.items()}
    together_s = sum(step.timeout for steps in wanted.values() for step in steps)
    order = order_of(
        arguments,
        runbooks,
        _words(request),
        longest_s=min(together_s, request.within or math.inf),
        joint=tuple(
            JointSteps(entry=entry, steps=tuple(s.id for s in steps), nodes=min(s.nodes for s in steps))
            for entry, steps in across.items()
            if steps
        ),
    )
    console = console_of(to_stderr=arguments.json)
    folder, campaign = launch(arguments, order, console)
    if arguments.detach and any(job.live for job in campaign.jobs):
        if arguments.json:
            _print_json(campaign, gather_records(campaign, folder, arguments.data))
        console.print(
            f"campaign {campaign.id}: {len(campaign.jobs)} jobs submitted; gather with `runbook collect {campaign.id}`"
        )
        return 0
    return close(arguments, console, campaign, folder)


def launch(arguments: argparse.Namespace, order: Order, console: Console) -> tuple[Folder, Campaign]:
    """Prepare a campaign, submit it and follow it.

    Raises:
        InputError: this machine has no Slurm, or the cluster does not have the requested nodes.
    """
    if not shutil.which("sbatch"):
        raise InputError(
            "sbatch is not on PATH; run this on a node that can submit jobs, or without --on slurm"
        )
    slurm = Slurm()
    with FleetProgress(console) as progress:
        folder, campaign = prepare(order, campaigns_folder(arguments), slurm)
        return folder, see_through(campaign, Fleet(folder, slurm, progress), arguments)


def see_through(campaign: Campaign, fleet: Fleet, arguments: argparse.Namespace) -> Campaign:
    """Submit the remaining jobs and follow them to their end; with `--confirm`, run suspects a second time.

    Ctrl-C, at any moment, cancels this campaign's unfinished jobs and no others.
    """
    with fleet.folder.held():
        try:
            campaign = submit(campaign, fleet)
            if not arguments.detach:
                campaign = follow_jobs(campaign, fleet)
            if arguments.confirm and not arguments.detach:
                found = gather_records(campaign, fleet.folder, arguments.data)
                second = again(campaign, suspects(distributions(found.records)))
                if second != campaign:
                    campaign = follow_jobs(submit(second, fleet), fleet)
        except KeyboardInterrupt:
            fleet.observer.trouble("interrupted; cancelling the jobs of this campaign")
            campaign = cancel_jobs(fleet.folder.load(), fleet)
    return campaign


def close(arguments: argparse.Namespace, console: Console, campaign: Campaign, folder: Folder) -> int:
    """Store the gathered records, print the fleet report, and return the exit status."""
    gathered = gather_records(campaign, folder, arguments.data)
    found = distributions(gathered.records)
    fleet_report(console, campaign.id, gathered, found)
    if arguments.json:
        _print_json(campaign, gathered)
    return gathered.exit_status


def _print_json(campaign: Campaign, gathered: Gathered) -> None:
    rows = TypeAdapter(tuple[NodeRow, ...]).dump_python(gathered.rows, mode="json")
    # The stored, redacted records: printed output gets pasted.
    records = [json.loads(path.read_text(encoding="utf-8")) for path in gathered.paths]
    # Reasons come from Slurm and from the nodes, and may contain node names.
    names = (*host_secrets(), *telling(gathered.names.values()))
    settings = settings_as_json(compare_settings(settings_of_records(gathered.records)))
    document = {
        "campaign": campaign.id,
        "nodes": redact_json(rows, names),
        "settings": redact_json(settings, names),
        "records": records,
    }
    print(json_text(document, sort_keys=True))


def order_of(
    arguments: argparse.Namespace,
    runbooks: Sequence[Runbook],
    words: Sequence[str],
    *,
    longest_s: float,
    command: str = "run",
    joint: tuple[JointSteps, ...] = (),
) -> Order:
    """An order for these entries with the nodes and options of the command line; `words`: arguments on each node."""
    here = running_package().parent
    return Order(
        command=command,
        runbooks=arguments.runbooks[-1],
        entries=tuple(runbook.id for runbook in runbooks),
        arguments=tuple(words),
        longest_s=longest_s,
        joint=joint,
        code=code_state(running_package(), *arguments.runbooks, root=arguments.places.checkout or here),
        archive=pack_code(here, *arguments.runbooks),
        alias_key=alias_key(user_cache()),
        home_python=sys.executable,
        partition=arguments.partition,
        account=arguments.account,
        gpus=arguments.gpus,
        minutes=arguments.time,
        count=arguments.nodes,
        nodelist=arguments.nodelist,
        shared=not arguments.no_shared_files,
        prefix=arguments.prefix,
        python=arguments.python,
        start_within_s=arguments.start_within or START_WITHIN_S,
    )


def _words(request: Request) -> list[str]:
    """The request as arguments of `runbook run` on a node."""
    words = [word for phase in request.phases for word in ("--phase", phase.value)]
    words += [word for step in request.steps for word in ("--step", step)]
    words += [word for allowed in request.allow for word in ("--allow", allowed)]
    words += ["--reproduce"] if request.reproduce else []
    words += ["--preset", request.preset] if request.preset else []
    words += ["--within", f"{request.within:.3f}s"] if request.within else []
    return words + ([] if request.slow else ["--without-slow"])
