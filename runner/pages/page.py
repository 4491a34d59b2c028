"""A file of the site. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """One file of the site.

    Attributes:
        text: its content.
        source: the file that an editor should open, from the root, None for data.
        address: where the site has it, if that is not its path.
    """

    text: str
    source: str | None
    address: str | None = None


def plain_page(path: str, text: str) -> dict[str, Page]:
    """The plain Markdown of a page, which the site publishes next to it: `entries/x.md` next to `entries/x.html`."""
    return {f"{path}.txt": Page(text, None, path)}
