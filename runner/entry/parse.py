"""Parses the text of a runbook into a `Runbook`, or raises with every fault. Pure: no file access."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin

from runner.base.errors import Fault, RunbookFaultsError
from runner.base.words import nearest
from runner.entry.attributes import entry_id_fault, read_attributes
from runner.entry.by_hand import BY_HAND, is_shell
from runner.entry.head import key_lines, parse_head
from runner.entry.model import FrontMatter, Phase, Prose, Runbook, Section, Step
from runner.entry.references import reference_faults

SECTIONS = ("Symptom", BY_HAND, "Root cause", "Diagnose", "Fix", "Reproduce", "Verify", "See also")
# What By hand must not use: it is for a node that has only the system's own programs.
_OURS = re.compile(r"\b(runner\.\w+|runbook|nox)\b")
OPTIONAL = frozenset({"Reproduce", "See also"})
_PHASES = {phase.value.capitalize(): phase for phase in Phase}


@dataclass
class _Draft:
    """The parts parsed so far, and every fault found."""

    path: Path
    lines: Sequence[str]
    faults: list[Fault] = field(default_factory=list)

    def fault(self, line: int, message: str) -> None:
        self.faults.append(Fault(self.path, line, message))


def parse(text: str, path: Path, *, references: bool = True) -> Runbook:
    """Parse a runbook.

    Args:
        text: the whole file.
        path: the path of the file; its stem must be the id.
        references: whether to check references and the order of sections; False for an earlier version of a file.

    Raises:
        RunbookFaultsError: with every fault found, in the order of the file.
    """
    # markdown-it converts these to \n itself; doing it first keeps its line numbers and ours equal.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    draft = _Draft(path, text.split("\n"))
    # Text within a paragraph is not looked at here.
    tokens = MarkdownIt("commonmark").disable("inline").use(front_matter_plugin).parse(text)
    head = _head(tokens, draft)
    sections = _sections(tokens, draft, None if head is None else head.title, today=references)
    if head is not None:
        runbook = Runbook(head=head, sections=sections, path=path)
        if references:
            place = key_lines(tokens[0].content, 2, path)
            draft.faults.extend(reference_faults(runbook, place))
    if draft.faults or head is None:
        raise RunbookFaultsError(tuple(sorted(set(draft.faults))))
    return runbook


def _head(tokens: Sequence[Token], draft: _Draft) -> FrontMatter | None:
    if not tokens or tokens[0].type != "front_matter":
        draft.fault(1, "no front matter; begin the file with --- lines around id, number and title")
        return None
    try:
        head = parse_head(tokens[0].content, 2, draft.path)
    except RunbookFaultsError as error:
        draft.faults.extend(error.faults)
        return None
    line = key_lines(tokens[0].content, 2, draft.path).get(("id",), 2)
    fault = entry_id_fault(head.id)
    if fault is not None:
        draft.fault(line, fault)
    elif head.id != draft.path.stem:
        draft.fault(line, f"the id {head.id!r} differs from the file name; rename the file to {head.id}.md")
    return head


def _sections(
    tokens: Sequence[Token], draft: _Draft, title_in_head: str | None, *, today: bool
) -> tuple[Section, ...]:
    starts: list[tuple[int, str, int]] = []  # place among the tokens, title, line from 0
    for place, token in enumerate(tokens):
        if token.level == 0 and token.type == "heading_open" and token.map:
            title = tokens[place + 1].content.strip()
            if token.tag == "h1" and (starts or title_in_head not in {title, None}):
                message = f"the # heading must precede the sections and repeat the title, {title_in_head!r}"
                draft.fault(token.map[0] + 1, message)
            elif token.tag == "h2":
                starts.append((place, title, token.map[0]))
    _before_sections(tokens[: starts[0][0] if starts else len(tokens)], draft)
    if today:
        _titles(starts, draft)
    bounds = [*starts, (len(tokens), "", len(draft.lines))]
    seen: dict[str, int] = {}
    return tuple(
        _section(tokens[place + 3 : after], title, (line, end), draft, seen)
        for (place, title, line), (after, _, end) in pairwise(bounds)
    )


def _before_sections(tokens: Sequence[Token], draft: _Draft) -> None:
    for place, token in enumerate(tokens):
        in_heading = place > 0 and tokens[place - 1].type == "heading_open"
        if token.map and not in_heading and token.type not in {"front_matter", "heading_open"}:
            draft.fault(token.map[0] + 1, "text before the first section; put it under ## Symptom")
            return


def _titles(starts: Sequence[tuple[int, str, int]], draft: _Draft) -> None:
    seen: list[str] = []
    for _, title, line in starts:
        if title not in SECTIONS:
            draft.fault(line + 1, f"unknown section {title!r}{nearest(title, SECTIONS)}")
        elif title in seen:
            draft.fault(line + 1, f"duplicate section {title!r}")
        elif seen and SECTIONS.index(title) < max(SECTIONS.index(one) for one in seen):
            draft.fault(
                line + 1, f"the section {title!r} is out of order; the order is {', '.join(SECTIONS)}"
            )
        if title in SECTIONS:
            seen.append(title)
    for title in SECTIONS:
        if title not in seen and title not in OPTIONAL:
            draft.fault(len(draft.lines), f"the section ## {title} is missing")


def _section(
    tokens: Sequence[Token], title: str, span: tuple[int, int], draft: _Draft, seen: dict[str, int]
) -> Section:
    """One section; `span` is its first and last line (from 0, the heading's, and past the end)."""
    phase = _PHASES.get(title)
    if title == BY_HAND:
        _by_hand(tokens, span[0] + 1, draft)
    body: list[Prose | Step] = []
    begin = span[0] + 1
    for token, step in _steps(tokens, title, phase, draft, seen):
        assert token.map
        body.extend(_prose(draft.lines[begin : token.map[0]], begin))
        body.append(step)
        begin = token.map[1]
    body.extend(_prose(draft.lines[begin : span[1]], begin))
    return Section(title=title, phase=phase, body=tuple(body))


def _by_hand(tokens: Sequence[Token], line: int, draft: _Draft) -> None:
    blocks = [token for token in tokens if token.type == "fence" and is_shell(token.info)]
    if not blocks:
        draft.fault(line, "By hand holds no ```bash block; give the commands that need none of our tools")
    for block in blocks:
        assert block.map
        for number, text in enumerate(block.content.splitlines(), block.map[0] + 2):
            if ours := _OURS.search(text):
                message = f"By hand uses {ours[0]!r}; a node without our tools must be able to run it"
                draft.fault(number, message)


def _prose(lines: Sequence[str], before: int) -> Iterator[Prose]:
    """The lines as prose, unless they are blank; `before` is the number of lines of the file before them."""
    text = "\n".join(lines)
    if text.strip():
        blank = len(text) - len(text.lstrip("\n"))
        yield Prose(markdown=text.strip("\n"), line=before + blank + 1)


def _steps(
    tokens: Sequence[Token], title: str, phase: Phase | None, draft: _Draft, seen: dict[str, int]
) -> Iterator[tuple[Token, Step]]:
    for token in tokens:
        if token.type != "fence" or not token.map:
            continue
        line = token.map[0] + 1
        if not _closed(token, draft.lines):
            draft.fault(line, "this fence is not closed")
            continue
        attributes = read_attributes(token.info)
        for message in attributes.faults:
            draft.fault(line, message)
        if attributes.step_id is None or attributes.faults:
            continue
        step_id = attributes.step_id
        if phase is None:
            draft.fault(line, f"a step is not allowed under {title}; steps belong in {', '.join(_PHASES)}")
        elif step_id in seen:
            draft.fault(line, f"duplicate step id {step_id!r}; the first is on line {seen[step_id]}")
        elif token.level:
            draft.fault(line, "a step must start at the left margin, not inside a list or a quote")
        else:
            seen[step_id] = line
            fields = dict(attributes.fields)
            yield (
                token,
                Step.model_validate(
                    {"id": step_id, "phase": phase, "command": token.content, "line": line, **fields}
                ),
            )


def _closed(token: Token, lines: Sequence[str]) -> bool:
    """Whether a fence has its closing line: markdown-it silently closes an open fence at the end of its container."""
    assert token.map
    last = lines[min(token.map[1], len(lines)) - 1].strip().lstrip(">").strip()
    mark = re.escape(token.markup[0])
    return (
        token.map[1] - token.map[0] > 1 and re.fullmatch(rf"{mark}{{{len(token.markup)},}}", last) is not None
    )
