"""`--on slurm`: the arguments, the live view and the end of a campaign, shared by `run` and `collect`."""

import argparse
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console

from runner.cli.console import console_on
from runner.cli.fleet_view import FleetProgress, fleet_report
from runner.entry.model import Runbook
from runner.entry.read import find
from runner.errors import InputError
from runner.evidence.code import code_state, running_package
from runner.evidence.fleet import distributions, suspects
from runner.evidence.redact import host_secrets, redact_json, telling
from runner.launch.slurm.alias import alias_key
from runner.launch.slurm.campaign import Campaign, Folder, JointSteps, pack_code
from runner.launch.slurm.commands import Slurm, Wish
from runner.launch.slurm.follow import follow, give_up
from runner.launch.slurm.gathering import Gathered, gather
from runner.launch.slurm.submit import START_WITHIN_S, Order, again, prepare, submit
from runner.plain import json_text
from runner.plan import Request, asked_steps
from runner.screen import Screen

# A log has no width of its own; 80 columns would break every cell of a table.
LOG_WIDTH = 150
_ONLY_ON_SLURM = (
    "nodes", "nodelist", "partition", "account", "gpus", "time", "start_within", "prefix", "python",
    "no_shared_files", "detach", "campaigns", "confirm",
)  # fmt: skip
_WHERE = "where campaigns are (default: scratch/campaigns)"


def add_cluster_arguments(parser: argparse.ArgumentParser, *, lasting: bool = True) -> None:
    """Declare `--on` and what goes with it; `lasting`: the campaign may be left alone, and confirmed."""
    parser.add_argument(
        "--on", choices=("local", "slurm"), default="local", help="where (default: this node)"
    )
    group = parser.add_argument_group("with --on slurm")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--nodes", type=_count, metavar="N", help="so many nodes (default: the whole partition)"
    )
    which.add_argument("--nodelist", metavar="L", help="exactly these, as node[01-16,20]")
    group.add_argument("--partition", metavar="P", help="where to look for nodes (default: Slurm's own)")
    group.add_argument("--account", metavar="A", help="whom to charge")
    group.add_argument("--gpus", type=_count, metavar="G", help="GPUs to ask for on each node")
    group.add_argument(
        "--time", type=_count, metavar="MIN", help="time limit of a job (default: its deadlines)"
    )
    group.add_argument(
        "--start-within",
        type=_count,
        metavar="S",
        help=f"give a job up that is pending for longer (default {START_WITHIN_S:g})",
    )
    group.add_argument(
        "--prefix", default="", metavar="WORDS", help="put before Python: a container's words, say"
    )
    group.add_argument(
        "--python", metavar="PATH", help="the nodes' Python (default: theirs with CUDA torch, or ours)"
    )
    group.add_argument(
        "--no-shared-files", action="store_true", help="nodes share no file system: code goes with the job"
    )
    if lasting:
        group.add_argument(
            "--detach", action="store_true", help="submit and leave; `runbook collect` picks it up"
        )
        add_campaign_arguments(group)
    else:
        group.add_argument("--campaigns", type=Path, metavar="DIR", help=_WHERE)
        parser.set_defaults(detach=False, confirm=False)


def add_campaign_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare what `collect` has too: `--campaigns` and `--confirm`."""
    parser.add_argument("--campaigns", type=Path, metavar="DIR", help=_WHERE)
    parser.add_argument(
        "--confirm", action="store_true", help="run suspect nodes a second time before they are called slow"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def on_slurm(arguments: argparse.Namespace) -> bool:
    """Whether `--on slurm` was asked for.

    Raises:
        InputError: it was not, and something was that means nothing without it; or two that exclude each other were.
    """
    if arguments.on == "slurm":
        if arguments.detach and arguments.confirm:
            raise InputError(
                "--confirm needs what --detach does not wait for; leave it out, and run `runbook collect --confirm`"
            )
        return True
    given = [name for name in _ONLY_ON_SLURM if getattr(arguments, name)]
    if given:
        flag = given[0].replace("_", "-")
        raise InputError(f"--{flag} means nothing on this node alone; add --on slurm, or leave it out")
    return False


def campaigns_folder(arguments: argparse.Namespace) -> Path:
    """Where campaigns are kept: beside the data folder, in scratch/, unless it was named."""
    named: Path | None = arguments.campaigns
    return named or arguments.data.resolve().parent / "scratch" / "campaigns"


def run_on_slurm(arguments: argparse.Namespace, request: Request) -> int:
    """Start a campaign; follow it to its end unless it shall be left alone. Exit status as of `run`."""
    # One entry may be named in several ways: by id, by number, by the beginning of its id.
    found = (find(arguments.runbooks, name) for name in arguments.ids)
    runbooks = tuple({runbook.id: runbook for runbook in found}.values())
    wanted = {runbook.id: asked_steps(runbook, request) for runbook in runbooks}
    across = {entry: [step for step in steps if step.nodes > 1] for entry, steps in wanted.items()}
    order = replace(
        order_of(arguments, runbooks),
        arguments=tuple(_words(request)),
        longest_s=min(
            sum(step.timeout for steps in wanted.values() for step in steps), request.within or math.inf
        ),
        joint=tuple(
            JointSteps(entry=entry, steps=tuple(s.id for s in steps), nodes=max(s.nodes for s in steps))
            for entry, steps in across.items()
            if steps
        ),
    )
    console = console_of(to_stderr=arguments.json)
    folder, campaign = launch(arguments, order, console)
    if arguments.detach and any(job.live for job in campaign.jobs):
        if arguments.json:
            _print_json(campaign, gather(campaign, folder, arguments.data))
        console.print(
            f"campaign {campaign.id}: {len(campaign.jobs)} jobs; `runbook collect {campaign.id}` gathers it"
        )
        return 0
    return close(arguments, console, campaign, folder)


def launch(arguments: argparse.Namespace, order: Order, console: Console) -> tuple[Folder, Campaign]:
    """Prepare a campaign, submit it and see it through.

    Raises:
        InputError: this machine has no Slurm, or not the nodes asked for.
    """
    if not shutil.which("sbatch"):
        raise InputError(
            "there is no sbatch on PATH; run this on a node that submits jobs, or without --on slurm"
        )
    slurm = Slurm()
    with FleetProgress(console) as progress:
        folder, campaign = prepare(order, campaigns_folder(arguments), slurm)
        return folder, see_through(campaign, folder, slurm, progress, arguments)


def see_through(
    campaign: Campaign, folder: Folder, slurm: Slurm, progress: FleetProgress, arguments: argparse.Namespace
) -> Campaign:
    """Submit what is not yet and follow it to its end, suspects a second time where asked.

    Ctrl-C, at whatever moment, cancels what is not over, and nobody else's jobs.
    """
    with folder.held():
        try:
            campaign = submit(campaign, folder, slurm, progress)
            if not arguments.detach:
                campaign = follow(campaign, folder, slurm, progress)
            if arguments.confirm and not arguments.detach:
                found = gather(campaign, folder, arguments.data)
                second = again(campaign, suspects(distributions(found.records)))
                if second != campaign:
                    campaign = follow(submit(second, folder, slurm, progress), folder, slurm, progress)
        except KeyboardInterrupt:
            progress.trouble("interrupted; cancelling the jobs of this campaign")
            campaign = give_up(folder.load(), folder, slurm, progress)
    return campaign


def close(arguments: argparse.Namespace, console: Console, campaign: Campaign, folder: Folder) -> int:
    """Store what came home, print the fleet report, and say by the exit status what it comes to."""
    gathered = gather(campaign, folder, arguments.data)
    found = distributions(gathered.records)
    fleet_report(console, campaign.id, gathered, found)
    if arguments.json:
        _print_json(campaign, gathered)
    return gathered.exit_status


def _print_json(campaign: Campaign, gathered: Gathered) -> None:
    rows: list[JsonValue] = [
        {
            "node_alias": row.alias,
            "state": row.state,
            "reason": row.reason,
            "outcomes": {entry: outcome.value for entry, outcome in row.outcomes.items()},
            "unproved": {entry: list(reasons) for entry, reasons in row.unproved.items()},
        }
        for row in (*gathered.rows, *gathered.joint)
    ]
    # As they were stored, redacted: what is printed gets pasted.
    records = [json.loads(path.read_text(encoding="utf-8")) for path in gathered.paths]
    # Reasons come from Slurm and from the nodes, which know each other by name.
    names = (*host_secrets(), *telling(gathered.names.values()))
    document = {"campaign": campaign.id, "nodes": redact_json(rows, names), "records": records}
    print(json_text(document, sort_keys=True))


def console_of(*, to_stderr: bool, patience_s: float | None = None) -> Console:
    """Where human lines go: to standard error where standard output is for a program.

    With `patience_s`, lines that nobody takes for so long (Ctrl-S, a pipe that is full) are left out.
    """
    screen = Screen(sys.stderr if to_stderr else sys.stdout, patience_s)
    return console_on(screen, None if screen.isatty() else LOG_WIDTH)


def order_of(arguments: argparse.Namespace, runbooks: tuple[Runbook, ...]) -> Order:
    """What the arguments say of where and how, for these entries; what to run is still to be filled in."""
    return Order(
        runbooks=arguments.runbooks,
        entries=runbooks,
        arguments=(),
        longest_s=0.0,
        joint=(),
        code=code_state(running_package(), arguments.runbooks),
        archive=pack_code(running_package().parent, arguments.runbooks),
        alias_key=alias_key(),
        home_python=sys.executable,
        wish=Wish(arguments.partition, arguments.account, arguments.gpus, arguments.time),
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
