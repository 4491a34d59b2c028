"""`runbook show`: one entry in the terminal."""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Markdown
from rich.text import Text

from runner.cli.console import console_on
from runner.entry.model import Expectation, Prose, Scalar, Step
from runner.entry.read import find
from runner.vocabulary import label_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("id", metavar="ID", help="an entry's id, the beginning of one, or its number")


def run(arguments: argparse.Namespace) -> int:
    """Print the entry as formatted text."""
    runbook = find(arguments.runbooks, arguments.id)
    head = runbook.head
    parts = [f"# {head.number}. {head.title}", f"Id: {head.id}. Severity: {head.severity.value}."]
    for section in runbook.sections:
        parts.append(f"## {section.title}")
        parts.extend(_text(part) for part in section.body)
    if head.expectations:
        parts.append("## Bounds")
        parts.append("\n".join(f"* {_bound(one)}" for one in head.expectations))
    text = _Entry("\n\n".join(parts), hyperlinks=False)
    for token in text.parsed:
        if token.children:
            token.children = _without_bare_links(token.children)
    console_on(sys.stdout).print(text, crop=False)
    return 0


class _Commands(CodeBlock):
    """A code block whose lines are never folded, so that they can be copied as they are."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Within a list Rich crops what it cannot fold.
        whole = options.max_width == console.width
        code = str(self.text).rstrip()
        yield Text(code, style=self.style_name, no_wrap=whole, overflow="ignore" if whole else "fold")


class _Entry(Markdown):
    elements = MappingProxyType({**Markdown.elements, "fence": _Commands, "code_block": _Commands})  # type: ignore[assignment]


def _bound(bound: Expectation) -> str:
    """`Bus bandwidth (floors.bus_bandwidth, bytes=8GiB): at least 600 GB/s on 8 × B200; chosen`, in Markdown."""
    name, place = _measured(bound.metric, bound.at)
    if bound.over is not None:
        below, below_at = _measured(bound.over, bound.at if bound.over_at is None else bound.over_at)
        name, place = f"{name} ÷ {'the same' if below == name else below}", f"{place} ÷ {below_at}"
    unit = "" if bound.unit in {None, "1"} else f" {bound.unit}"
    limits = [
        f"{word} {limit:,g}{unit}"
        for word, limit in (("at least", bound.min), ("at most", bound.max))
        if limit is not None
    ]
    on = "" if bound.on is None else f" on {bound.on.words}"
    return f"{name} ({place}): {' and '.join(limits)}{on}; {bound.evidence.value}"


def _measured(metric: str, at: Mapping[str, Scalar]) -> tuple[str, str]:
    """The metric's label, and its identifier with the labels that select the measurement."""
    labels = [f"`{name}={value}`" for name, value in at.items()]
    return label_of(metric.partition(".")[2]), ", ".join([f"`{metric}`", *labels])


def _without_bare_links(tokens: Sequence[Token]) -> list[Token]:
    """The tokens without links whose text is their address: as a link, it would be printed twice."""
    kept: list[Token] = []
    within: Token | None = None
    for token, following in itertools.zip_longest(tokens, tokens[1:]):
        if token.type == "link_open" and following and following.content == token.attrGet("href"):
            within = token
        elif token.type == "link_close" and within is not None:
            within = None
        else:
            kept.append(token)
    return kept


def _text(part: Prose | Step) -> str:
    if isinstance(part, Prose):
        return part.markdown
    # A fence longer than any run of backquotes within the command.
    fence = "`" * max(3, *(len(run) + 1 for run in part.command.split("\n") if set(run) == {"`"}), 3)
    return f"Step **{part.id}**:\n\n{fence}bash\n{part.command.rstrip()}\n{fence}"
