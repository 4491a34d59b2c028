"""`runbook publish`: commits new records to the checkout, and nothing else, and pushes them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.base.errors import InputError, StoreError
from runner.base.plain import one_line
from runner.base.words import counted
from runner.entry.read import read_all
from runner.history.endings import endings
from runner.history.verdict_changes import VerdictChange, verdict_changes
from runner.record.checkout import git_in
from runner.record.publish import Incoming, artifacts, publish_records
from runner.record.redaction.redact import host_secrets, redact_text
from runner.record.store import Store

REFUSED = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Commit the records of a folder that pass the gate, and nothing else. With --push, push them on top of "
        "commits that others pushed meanwhile. The folder is not changed."
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder of the new records (--data DIR of the run)"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--class", dest="machine_class", metavar="CLASS", help="refuse records of any other machine class"
    )
    kinds.add_argument(
        "--artifacts",
        action="store_true",
        help="DIR has one folder records-CLASS per machine class, with records of that class only",
    )
    parser.add_argument("--push", metavar="REMOTE", help="push to this remote, for example origin")
    parser.add_argument("--branch", help="branch of the remote (default: main)")
    parser.add_argument(
        "--turned",
        type=Path,
        metavar="FILE",
        help="write the verdicts that changed with these records to FILE; no file if none changed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Publish; 1 if a record was refused (the others are still published), else 0.

    Raises:
        InputError: the folder does not exist or does not have the expected form, or `--branch` was given without
            `--push`.
    """
    if arguments.branch and arguments.push is None:
        raise InputError("--branch requires --push; add --push REMOTE, or omit --branch")
    if not arguments.folder.is_dir():
        raise InputError(f"{arguments.folder} is not a folder; name the data folder of the run")
    # First, so that a faulty entry is found before anything is pushed.
    runbooks = read_all(arguments.runbooks)
    store = Store(arguments.data)
    one = (Incoming(Store(arguments.folder), arguments.machine_class),)
    incoming = artifacts(arguments.folder) if arguments.artifacts else one
    done = publish_records(
        incoming,
        store,
        git_in(arguments.data.resolve().parent),
        remote=arguments.push,
        branch=arguments.branch or "main",
    )
    for problem in done.refused:
        print(one_line(str(problem)), file=sys.stderr)
    ended = {one.run_id: one.judged for one in endings(runbooks, done.records)}
    for record in done.records:
        judged = ended.get(record.run_id)
        said = (
            f"{judged.outcome.replace('_', ' ')}{f': {judged.why}' if judged.why else ''}"
            if judged
            else "no such entry in this checkout"
        )
        print(one_line(f"{record.machine.machine_class} {record.runbook.id} {record.run_id}: {said}"))
    where = f" in commit {done.commit[:12]}" if done.commit else ""
    print(
        f"publish: {counted(len(done.records), 'new record')}{where}, {counted(len(done.refused), 'problem')}"
    )
    if arguments.turned is not None:
        new = {record.run_id for record in done.records}
        found = verdict_changes(endings(runbooks, store.records()))
        # The first run of an entry on a class is new, not a changed verdict.
        _write(arguments.turned, [turn for turn in found if turn.earlier and turn.later.run_id in new])
    return REFUSED if done.refused else 0


def _write(path: Path, turned: Sequence[VerdictChange]) -> None:
    """Write a Markdown list of changed verdicts; an earlier file is removed."""
    path.unlink(missing_ok=True)
    if not turned:
        return
    # It becomes the text of a public issue.
    said = (one_line(redact_text(str(turn), host_secrets())) for turn in turned)
    lines = ["These verdicts changed with the newest records:", "", *(f"* {one}" for one in said), ""]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; the records are published") from error
