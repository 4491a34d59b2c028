"""The `runbook` command. One module a command; each is imported only when it is asked for."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.errors import RunbookError

# Command -> one line of help. `runner.cli.<command>` (with `_` for `-`) has `arguments(parser)` and
# `run(arguments) -> int`.
COMMANDS = {
    "list": "the entries, when each was last measured on this class of machine, and what it came to",
    "show": "one entry in the terminal",
    "check": "validate runbooks; no GPU needed",
    "plan": "what would run here, what would be skipped and why, the longest it may take",
    "run": "run entries on this node and record what they measured",
    "diagnose": "every entry's read-only Diagnose steps on this node, ranked by what they found",
    "collect": "take in what a campaign's nodes have returned, and report",
    "match": "log to entries: which issues a log shows, best first",
    "verify-data": "the publishing gate over the data folder",
    "trend": "which numbers changed over the last runs, and which verdicts turned",
    "compare": "two records, or two machine classes, number by number",
    "prune": "records that no page and no trend needs; shows them, deletes them only with --delete",
    "publish": "commit a folder's records, and nothing else, and push them",
    "new": "a skeleton of an entry that `check` accepts",
    "pages": "the site's pages as plain Markdown files, for another generator",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 good, 1 issue found, 2 bad input, 3 cannot say."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without UTF-8 gets escapes instead of a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser(words)
    arguments = parser.parse_args(words)
    try:
        return int(arguments.run(arguments))
    except RunbookError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader went away (`runbook list | head`); that is no fault of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("runbook: interrupted", file=sys.stderr)
        return 130


def project_root() -> Path:
    """The folder that holds `runbooks/`: the checkout this package runs from, else the working directory."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "runbooks").is_dir() else Path.cwd()


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    root = project_root()
    parser = argparse.ArgumentParser(
        prog="runbook", description="Runbooks that prove themselves.", allow_abbrev=False
    )
    parser.add_argument(
        "--runbooks", type=Path, default=root / "runbooks", metavar="DIR", help="where entries are"
    )
    parser.add_argument(
        "--data", type=Path, default=root / "site_data", metavar="DIR", help="where records are"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # Only the command that is asked for is imported, so that `list` starts fast.
        if name in words:
            module = importlib.import_module(f"runner.cli.{name.replace('-', '_')}")
            module.arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
