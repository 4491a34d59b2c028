"""Keeps evidence away from the Markdown parser: it is HTML already, and parsing it takes much of a large build.

A section or figure that is excluded from the search is removed before Markdown and the search index read the page, and
put back when the page is written. Pages are the same with and without this hook, except for blank lines.
"""

import gc
import re
from typing import Any, Literal

from mkdocs.structure.pages import Page

_EVIDENCE = re.compile(r"^<(section|figure)\b[^>\n]* data-search-exclude>.*?</\1>$", re.MULTILINE | re.DOTALL)
_PLACE = re.compile(r'<div data-carried="(\d+)"></div>')


def on_startup(command: Literal["build", "gh-deploy", "serve"], **_: Any) -> None:
    """Collect garbage less often: a build keeps nearly all objects, and collection takes a tenth of its time."""
    if command != "serve":
        gc.set_threshold(50_000, 20, 100)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replace the evidence by a placeholder with its number."""
    carried: list[str] = []

    def take(found: re.Match[str]) -> str:
        carried.append(found[0])
        # A block of HTML needs blank lines around it.
        return f'\n<div data-carried="{len(carried) - 1}"></div>\n'

    shortened = _EVIDENCE.sub(take, markdown)
    if carried:
        page.meta["carried"] = carried
    return shortened


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Put it back."""
    carried: list[str] = page.meta.get("carried", [])

    def put(found: re.Match[str]) -> str:
        number = int(found[1])
        return carried[number] if number < len(carried) else found[0]

    return _PLACE.sub(put, output) if carried else output
