"""`runbook check`: finds every fault in entries and guides that can be found without running them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.front_matter import front_matter_plugin

from runner.base.errors import Fault
from runner.base.placed import PlacedFileError, read_placed
from runner.base.programs import run_program
from runner.check.commands import command_faults
from runner.entry.by_hand import is_shell
from runner.entry.markup import unbalanced
from runner.entry.model import Phase, Prose, Runbook, Section
from runner.entry.read import folder_faults, read_paths
from runner.pages.evidence import gather
from runner.pages.prose import prose_faults
from runner.pages.readings import Known
from runner.record.store import Store

TYPOGRAPHIC = {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00ab": '"', "\u00bb": '"',
    "\u2013": "-", "\u2014": "--", "\u2212": "-", "\u00a0": " ", "\u2026": "...",
}  # fmt: skip
_MOST_BYTES = 8 << 20


def check(
    paths: tuple[Path, ...],
    guides: tuple[Path, ...] = (),
    *,
    whole_folder: bool,
    others: tuple[Path, ...] = (),
    data: Path | None = None,
) -> tuple[Fault, ...]:
    """Every fault of these runbooks and guides, in order of file and line.

    Args:
        paths: runbook files.
        guides: Markdown files whose bash fences and numbers are checked too.
        whole_folder: `paths` holds all entries, so links between them can be checked.
        others: runbook files that are not checked, but whose numbers prose may refer to.
        data: the folder of records; without it, prose is checked against the entries only.
    """
    runbooks, faults = read_paths(paths)
    found = list(faults)
    if whole_folder:
        found.extend(folder_faults(runbooks))
    for runbook in runbooks:
        found.extend(_entry_faults(runbook))
    texts: dict[Path, str] = {}
    for path in guides:
        try:
            texts[path] = _text(path)
        except PlacedFileError as error:
            found.append(Fault(path, 1, f"cannot be read: {error.why}"))
    broken = {fault.path for fault in faults}
    found.extend(_number_faults(runbooks, texts, others, broken, data))
    for path, text in {**{path: _text(path) for path in paths if path not in broken}, **texts}.items():
        found.extend(_fence_faults(path, text))
    return tuple(sorted(set(found)))


def _number_faults(
    runbooks: tuple[Runbook, ...],
    guides: Mapping[Path, str],
    others: tuple[Path, ...],
    broken: set[Path],
    data: Path | None,
) -> Iterator[Fault]:
    """References in prose to numbers that cannot exist."""
    texts = [
        (part.markdown, runbook.path, part.line) for runbook in runbooks for part in _prose(runbook.sections)
    ]
    texts += [(text, path, 1) for path, text in guides.items()]
    asking = [text for text in texts if "{{" in text[0]]
    if not asking:
        return  # the usual case: no record needs to be read
    beside, faults = read_paths(others)
    known = Known(
        {runbook.id: runbook for runbook in (*beside, *runbooks)},
        gather(Store(data).records() if data else ()),
        frozenset(path.stem for path in (*broken, *(fault.path for fault in faults))),
        strict=True,
    )
    for markdown, path, line in asking:
        yield from prose_faults(markdown, path, line, known)


def _prose(sections: Sequence[Section]) -> list[Prose]:
    return [part for section in sections for part in section.body if isinstance(part, Prose)]


def _entry_faults(runbook: Runbook) -> Iterator[Fault]:
    for step in runbook.steps:
        for line, message in _shell_faults(step.command):
            yield Fault(runbook.path, step.line + line, message)
    verify = [step.id for step in runbook.steps if step.phase is Phase.VERIFY]
    if verify and not runbook.head.proof:
        yield Fault(
            runbook.path,
            1,
            "Verify has steps but the front matter has no proof; name the steps or metrics that a proof of the fix "
            f"needs, for example `proof: [{verify[0]}]`",
        )
    for section in runbook.sections:
        for line, message in unbalanced(_prose([section])):
            yield Fault(runbook.path, line, message)


def _shell_faults(command: str) -> Iterator[tuple[int, str]]:
    """Faults of one block; lines count from 1 within the block."""
    for number, line in enumerate(command.split("\n"), start=1):
        if line.startswith("$ "):
            yield number, "a `$ ` prompt; write only the command, so that it can be copied and run"
        for character, plain in TYPOGRAPHIC.items():
            if character in line:
                yield number, f"a typographic {character!r} in a command; write {plain!r}"
    done = run_program(["bash", "-n", "-c", command], text=True, timeout=20)
    if done.returncode or done.stderr.strip():
        said = (done.stderr.strip().splitlines() or ["bash rejects it"])[0]
        # `bash: -c: line 3: syntax error …`
        place = re.search(r"(?:^|: )line (\d+): (.*)", said)
        number, message = (int(place[1]), place[2]) if place else (1, said)
        yield number, f"bash cannot parse this block: {message}"


def _text(path: Path) -> str:
    return read_placed(path, _MOST_BYTES).decode("utf-8", "replace")


def _fence_faults(path: Path, text: str) -> Iterator[Fault]:
    """Check this project's commands in every shell fence, step or illustration, against their argument parsers."""
    for token in MarkdownIt("commonmark").use(front_matter_plugin).parse(text.replace("\r\n", "\n")):
        if token.type != "fence" or not token.map or not is_shell(token.info):
            continue
        for line, message in command_faults(token.content):
            yield Fault(path, token.map[0] + 1 + line, message)
