"""`runbook collect`: pick a campaign up from any shell, take in what its nodes have returned, and report."""

import argparse

from runner.cli.cluster import add_campaign_arguments, campaigns_folder, close, console_of, see_through
from runner.cli.fleet_view import FleetProgress
from runner.errors import InputError
from runner.launch.slurm.campaign import find_folder
from runner.launch.slurm.commands import Slurm
from runner.launch.slurm.follow import refresh


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("campaign", nargs="?", metavar="CAMPAIGN", help="its id (default: the newest)")
    parser.add_argument(
        "--wait", action="store_true", help="follow it to its end; Ctrl-C then cancels its jobs"
    )
    parser.add_argument("--json", action="store_true", help="print nodes and records as JSON")
    add_campaign_arguments(parser)
    parser.set_defaults(detach=False)


def run(arguments: argparse.Namespace) -> int:
    """Look once, or follow to the end, and store every record that is home; nothing is stored twice.

    Raises:
        InputError: no such campaign.
        BusyError: another shell has it.
    """
    folder = find_folder(campaigns_folder(arguments), arguments.campaign)
    console = console_of(to_stderr=arguments.json)
    campaign, slurm = folder.load(), Slurm()
    if campaign.command != "run":
        raise InputError(
            f"{campaign.id} was a look at the nodes and has no records; run `runbook diagnose` again"
        )
    with FleetProgress(console) as progress:
        if arguments.wait or arguments.confirm:
            campaign = see_through(campaign, folder, slurm, progress, arguments)
        # What is over needs no Slurm: it may have forgotten the jobs, or be elsewhere.
        elif any(job.live for job in campaign.jobs) or not campaign.shared:
            with folder.held():
                campaign = refresh(folder.load(), folder, slurm, progress)
    return close(arguments, console, campaign, folder)
