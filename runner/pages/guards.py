"""The guards on the site: each as a file to download, and a page that lists them. Pure."""

from collections.abc import Sequence

from runner.entry.guard_files import GuardFile
from runner.pages.site import Page, Site, plain_page

PATH = "reference/guards.md"


def guard_pages(site: Site, guards: Sequence[GuardFile]) -> dict[str, Page]:
    """Every guard at `guards/NAME.py`, and the page that says what each is for."""
    listed = [(guard, guard.entries(site.runbooks)) for guard in guards]
    files = {f"guards/{guard.name}.py": Page(guard.text, None) for guard in guards}
    shown = {"guards": listed}
    return {
        PATH: Page(site.fill("guards.md.j2", shown, plain=False), "runner/guards/__init__.py"),
        **plain_page(PATH, site.fill("guards.md.j2", shown, plain=True)),
        **files,
    }
