"""The start page and the lists of entries. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.entry.model import Runbook
from runner.pages.evidence import last_refresh
from runner.pages.site import Page, Site, plain_page
from runner.pages.view import by_urgency

ELSE = "Something else"
# Rows of the matrix on one page: more would be too heavy for a phone.
ROWS_A_PAGE = 100
# Entries on the start page, the most urgent first, and in a branch of its tree.
ROWS_AT_START = 40
ENTRIES_A_BRANCH = 20


def list_pages(site: Site) -> dict[str, Page]:
    """The start page and the list of entries, which may take several pages."""
    rows = [(runbook, site.rows[runbook.id]) for runbook in site.runbooks]
    at_start = rows if len(rows) <= ROWS_AT_START else sorted(rows, key=by_urgency)[:ROWS_AT_START]
    shared = {"tree": decision_tree(site.runbooks, ENTRIES_A_BRANCH), "refresh": last_refresh(site.evidence)}
    pages = {"index.md": Page(site.fill("index.md.j2", shared, rows=at_start), None)}
    pages |= plain_page("index.md", site.fill("index.plain.j2", shared, rows=rows, prefix="entries/"))
    pages |= plain_page("entries/index.md", site.fill("index.plain.j2", shared, rows=rows, prefix=""))
    count = max(1, -(-len(rows) // ROWS_A_PAGE))
    for number in range(count):
        some = rows[number * ROWS_A_PAGE : (number + 1) * ROWS_A_PAGE]
        path = f"entries/{'index' if number == 0 else f'page-{number + 1}'}.md"
        pages[path] = Page(site.fill("entries.md.j2", rows=some, number=number + 1, count=count), None)
    return pages


@dataclass
class Branch:
    """One question of the decision tree: what the operator sees, further questions, and the entries they lead to."""

    text: str
    branches: list["Branch"] = field(default_factory=list)
    entries: list[Runbook] = field(default_factory=list)
    more: int = 0


def decision_tree(runbooks: Sequence[Runbook], most: int) -> Branch:
    """The entries by their `seen`, from general to specific; entries without it come last.

    Args:
        runbooks: by number.
        most: how many entries a branch shows; it counts the others.
    """
    root = Branch("")
    for runbook in runbooks:
        branch = root
        for text in runbook.head.seen or (ELSE,):
            found = next((one for one in branch.branches if one.text == text), None)
            if found is None:
                found = Branch(text)
                branch.branches.append(found)
            branch = found
        if len(branch.entries) < most:
            branch.entries.append(runbook)
        else:
            branch.more += 1
    root.branches.sort(key=lambda one: one.text == ELSE)
    return root
