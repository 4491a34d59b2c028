"""The arguments of `--on slurm`; without them, nothing of a campaign is imported."""

import argparse
from pathlib import Path

from runner.base.errors import InputError
from runner.fleet import START_WITHIN_S

_ONLY_ON_SLURM = (
    "nodes", "nodelist", "partition", "account", "gpus", "time", "start_within", "prefix", "python",
    "no_shared_files", "detach", "campaigns", "confirm",
)  # fmt: skip
_WHERE = "folder of the campaigns (default: scratch/campaigns)"


def add_cluster_arguments(parser: argparse.ArgumentParser, *, lasting: bool = True) -> None:
    """Declare `--on` and its options; `lasting`: also `--detach` and `--confirm`."""
    parser.add_argument(
        "--on", choices=("local", "slurm"), default="local", help="where to run (default: local, this node)"
    )
    group = parser.add_argument_group("with --on slurm")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--nodes", type=_count, metavar="N", help="number of nodes (default: the whole partition)"
    )
    which.add_argument("--nodelist", metavar="L", help="exactly these nodes, for example node[01-16,20]")
    group.add_argument("--partition", metavar="P", help="Slurm partition (default: Slurm's default)")
    group.add_argument("--account", metavar="A", help="Slurm account")
    group.add_argument("--gpus", type=_count, metavar="G", help="GPUs to request on each node")
    group.add_argument(
        "--time",
        type=_count,
        metavar="MIN",
        help="time limit of a job in minutes (default: the sum of its step deadlines)",
    )
    group.add_argument(
        "--start-within",
        type=_count,
        metavar="S",
        help=f"cancel a job that is pending for more than S seconds (default {START_WITHIN_S:g})",
    )
    group.add_argument(
        "--prefix",
        default="",
        metavar="WORDS",
        help="command to put before Python, for example a container launcher",
    )
    group.add_argument(
        "--python",
        metavar="PATH",
        help="Python on the nodes (default: the node's own if it has torch with CUDA, else this one)",
    )
    group.add_argument(
        "--no-shared-files",
        action="store_true",
        help="the nodes share no file system; send the code with each job",
    )
    if lasting:
        group.add_argument(
            "--detach", action="store_true", help="submit and exit; gather later with `runbook collect`"
        )
        add_campaign_arguments(group)
    else:
        group.add_argument("--campaigns", type=Path, metavar="DIR", help=_WHERE)
        parser.set_defaults(detach=False, confirm=False)


def add_campaign_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the options that `collect` shares: `--campaigns` and `--confirm`."""
    parser.add_argument("--campaigns", type=Path, metavar="DIR", help=_WHERE)
    parser.add_argument(
        "--confirm", action="store_true", help="run suspect nodes a second time to confirm that they are slow"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def on_slurm(arguments: argparse.Namespace) -> bool:
    """Whether `--on slurm` was given.

    Raises:
        InputError: an option that needs it was given without it, or two options that exclude each other were given.
    """
    if arguments.on == "slurm":
        if arguments.detach and arguments.confirm:
            raise InputError(
                "--confirm cannot be used with --detach; omit it, and run `runbook collect --confirm` later"
            )
        return True
    given = [name for name in _ONLY_ON_SLURM if getattr(arguments, name)]
    if given:
        flag = given[0].replace("_", "-")
        raise InputError(f"--{flag} requires --on slurm; add --on slurm, or omit --{flag}")
    return False


def campaigns_folder(arguments: argparse.Namespace) -> Path:
    """The folder of campaigns: the one given, else scratch/campaigns next to the data folder."""
    named: Path | None = arguments.campaigns
    return named or arguments.data.resolve().parent / "scratch" / "campaigns"
