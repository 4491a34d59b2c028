"""Consoles whose styles are this project's own, whatever they are given to show."""

from collections.abc import Iterable
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from runner.plain import plain
from runner.screen import Screen


class _Styled:
    """A screen as a console writes on it, which has cleaned what it is given and adds its own styles."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def write(self, text: str) -> int:
        self._screen.write_styled(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._screen, name)


class _Console(Console):
    """A console whose text steers nothing: it is cleaned before it is laid out, and once more behind that."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(plain(text), _without_link(style))


def _without_link(style: Style | None) -> Style | None:
    """Rich writes the address of a link as it is, and a reader sees only the link's text."""
    return style.update_link(None) if style and style.link else style


def console_on(stream: TextIO | Screen, width: int | None = None) -> Console:
    """A console for text of any origin: the styles that its reader sees are this project's alone.

    Args:
        stream: standard output or standard error; a `Screen` of the caller's own knows what was lost.
        width: in columns; the terminal's when left out.
    """
    screen = stream if isinstance(stream, Screen) else Screen(stream)
    return _Console(file=cast("IO[str]", _Styled(screen)), width=width)
