"""Finds HTML elements in prose that are not closed where they begin. Pure.

A browser puts the rest of a page into an element that is not closed: the sections after it disappear, or a folded part
ends early.
"""

from collections.abc import Iterator, Sequence
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token

from runner.entry.model import Prose

_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)


def unbalanced(prose: Sequence[Prose]) -> Iterator[tuple[int, str]]:
    """Elements that a section's prose opens or closes without the other tag.

    Args:
        prose: the prose of one section, in order; an element may begin in one part and end in a later one.

    Yields:
        The line of the file and what is wrong.
    """
    tags = _Tags()
    for part in prose:
        for token, line in _html(MarkdownIt("commonmark").parse(part.markdown), part.line):
            tags.line = line
            tags.feed(token.content)
    tags.close()
    yield from tags.faults
    for name, line in tags.open:
        yield line, f"<{name}> is not closed in its section; close it, or write `<{name}>` as code"


def _html(tokens: Sequence[Token], line: int) -> Iterator[tuple[Token, int]]:
    for token in tokens:
        if token.type == "html_block" and token.map:
            yield token, line + token.map[0]
        elif token.type == "inline" and token.map:
            for child in token.children or ():
                if child.type == "html_inline":
                    yield child, line + token.map[0]


class _Tags(HTMLParser):
    """The tags of a section."""

    def __init__(self) -> None:
        super().__init__()
        self.line = 1
        self.open: list[tuple[str, int]] = []
        self.faults: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's
        """Note an element that needs an end tag."""
        if tag not in _VOID:
            self.open.append((tag, self.line))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<br/>`: HTML closes only a void element so."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element, if it is this one."""
        if self.open and self.open[-1][0] == tag:
            self.open.pop()
        else:
            self.faults.append(
                (
                    self.line,
                    f"</{tag}> closes nothing that its section opens; remove it, or write `</{tag}>` as code",
                )
            )
