"""The hand-written pages: their numbers filled in, and what they say about entries. Pure."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from runner.entry.model import Runbook
from runner.pages.prose import as_html, as_markdown, expand
from runner.pages.readings import Known
from runner.pages.site import Page, plain_page

# The guide about the FAQ that the first entries replace.
FAQ = "reference/faq.md"


def replaced_in(faq: str, runbooks: Sequence[Runbook]) -> frozenset[str]:
    """Ids of the entries that replace an item of the FAQ: the page about it has a section `## N. …` for each."""
    items = {int(number) for number in re.findall(r"^## (\d+)\. ", faq, re.MULTILINE)}
    return frozenset(runbook.id for runbook in runbooks if runbook.head.number in items)


def guide_pages(guides: Mapping[str, str], known: Known) -> dict[str, Page]:
    """Those that ask for numbers, and the plain Markdown of all of them."""
    pages: dict[str, Page] = {}
    for path, text in guides.items():
        file = Path("kb", path)
        expanded = expand(text, file, 1, known, partial(as_html, prefix="../" * path.count("/")))
        if expanded != text:
            pages[path] = Page(expanded, f"kb/{path}")
        pages |= plain_page(path, expand(text, file, 1, known, as_markdown))
    return pages
