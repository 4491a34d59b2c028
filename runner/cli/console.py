"""Rich consoles that remove control sequences and foreign styles from the text that they print."""

import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from runner.base.plain import plain
from runner.base.screen import Screen

# A log has no width; at 80 columns every table cell would wrap.
LOG_WIDTH = 150


class _Styled:
    """A screen for a console that has already cleaned its text and adds its own styles."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def write(self, text: str) -> int:
        self._screen.write_styled(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._screen, name)


class _Console(Console):
    """A console that removes control sequences from text before layout and again before output."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(plain(text), _without_link(style))


def _without_link(style: Style | None) -> Style | None:
    """The style without its link: Rich writes a link's address unchecked, and a reader sees only the link's text."""
    return style.update_link(None) if style and style.link else style


def console_on(stream: TextIO | Screen, width: int | None = None) -> Console:
    """A console for text of any origin: only this project's own styles reach the terminal.

    Args:
        stream: standard output or standard error; pass a `Screen` to learn afterwards what was lost.
        width: in columns; the terminal's when left out.
    """
    screen = stream if isinstance(stream, Screen) else Screen(stream)
    return _Console(file=cast("IO[str]", _Styled(screen)), width=width)


def console_of(*, to_stderr: bool, patience_s: float | None = None) -> Console:
    """The console for human-readable lines: standard error if standard output is for a program.

    With `patience_s`, a line that the reader does not accept in that time (Ctrl-S, a full pipe) is discarded.
    """
    screen = Screen(sys.stderr if to_stderr else sys.stdout, patience_s)
    return console_on(screen, None if screen.isatty() else LOG_WIDTH)
