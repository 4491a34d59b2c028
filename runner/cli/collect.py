"""`runbook collect`: gather the results of a campaign from any shell, and report."""

import argparse

from runner.base.errors import InputError
from runner.cli.cluster import close, see_through
from runner.cli.cluster_arguments import add_campaign_arguments, campaigns_folder
from runner.cli.console import console_of
from runner.cli.fleet_view import FleetProgress
from runner.fleet.commands import Slurm
from runner.fleet.folder import find_folder
from runner.fleet.follow import refresh
from runner.fleet.retry import Fleet


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "campaign", nargs="?", metavar="CAMPAIGN", help="id of the campaign (default: the newest)"
    )
    parser.add_argument(
        "--wait", action="store_true", help="follow the campaign to its end; Ctrl-C then cancels its jobs"
    )
    parser.add_argument("--json", action="store_true", help="print nodes and records as JSON")
    add_campaign_arguments(parser)
    parser.set_defaults(detach=False)


def run(arguments: argparse.Namespace) -> int:
    """Check once, or follow to the end, and store every returned record; no record is stored twice.

    Raises:
        InputError: no such campaign.
        BusyError: another shell is using it.
    """
    folder = find_folder(campaigns_folder(arguments), arguments.campaign)
    console = console_of(to_stderr=arguments.json)
    campaign = folder.load()
    if campaign.command != "run":
        raise InputError(f"{campaign.id} is a diagnosis and has no records; run `runbook diagnose` again")
    with FleetProgress(console) as progress:
        fleet = Fleet(folder, Slurm(), progress)
        if arguments.wait or arguments.confirm:
            campaign = see_through(campaign, fleet, arguments)
        # A finished campaign needs no Slurm: Slurm may have forgotten the jobs, or not be on this host.
        elif any(job.live for job in campaign.jobs) or not campaign.shared:
            with folder.held():
                campaign = refresh(folder.load(), fleet)
    return close(arguments, console, campaign, folder)
