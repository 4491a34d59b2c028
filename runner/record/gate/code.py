"""Checks the code of a record: it must be exactly a commit of this repository."""

import re
from collections.abc import Iterator

from runner.record.commits import History
from runner.record.gate.times import CLOCK_SLACK
from runner.record.gate.words import CLOCK, shown
from runner.record.model import Code, Record
from runner.record.source import CommitDigests

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Git's name for "no commit".
_NONE = "0" * 40


def code_problems(record: Record, history: History) -> Iterator[str]:
    """Problems with the code that the record names."""
    code = record.code
    differing = ""
    if code.commit is None:
        yield "names no commit; run it from a git checkout"
    elif not _COMMIT.fullmatch(code.commit) or code.commit == _NONE:
        yield f"names {shown(code.commit)} as its commit, which is not a commit id; run it from a git checkout"
    elif history.lacks(code.commit):
        yield (
            f"names commit {code.commit[:12]}, which is not in the history of this repository; "
            "run it from a commit that is"
        )
    else:
        commit = history.commit(code.commit)
        if commit is not None:
            differing = " and ".join(_differing(code, commit.digests))
            if record.started_at < commit.made - CLOCK_SLACK:
                yield f"starts before its commit {code.commit[:12]} was made; {CLOCK}"
    if code.dirty:
        yield (
            f"was taken with changes in {differing or 'runner/ or runbooks/'} that are not in its commit; "
            "commit or remove them, ignored files too, and run again"
        )
    elif code.commit is not None and code.dirty is None:
        yield "does not say whether its code was as committed; run it from a git checkout"
    elif differing:
        yield (
            f"says that its code is commit {(code.commit or '')[:12]}, but that commit has a different {differing}; "
            "run it again from a checkout"
        )


def _differing(code: Code, held: CommitDigests) -> Iterator[str]:
    """The folders in which the commit differs from the code that ran."""
    if code.digest is not None:
        if code.digest != held.both:
            yield "runner/ or runbooks/"
        return
    if code.package != held.package:
        yield "runner/"
    if code.entries != held.entries:
        yield "runbooks/"
