"""What all pages of one site share, and a file of it. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jinja2 import Environment
from markupsafe import Markup

from runner.entry.model import Prose, Runbook
from runner.pages.answer import symptom_line
from runner.pages.evidence import SiteEvidence
from runner.pages.prose import Shown, as_markdown, expand
from runner.pages.readings import Known
from runner.pages.view import MatrixCell, matrix_row


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


@dataclass(frozen=True)
class Site:
    """What the pages are made of.

    Attributes:
        runbooks: all entries, by number.
        evidence: what the records say of them.
        jinja: the templates.
        shared: what every template may use.
    """

    runbooks: Sequence[Runbook]
    evidence: SiteEvidence
    jinja: Environment
    shared: Mapping[str, object]

    @cached_property
    def known(self) -> Known:
        """What prose may ask for."""
        return Known({runbook.id: runbook for runbook in self.runbooks}, self.evidence)

    @cached_property
    def rows(self) -> dict[str, tuple[MatrixCell, ...]]:
        """By entry, its row of the matrix."""
        return {runbook.id: matrix_row(runbook, self.evidence) for runbook in self.runbooks}

    @cached_property
    def symptoms(self) -> dict[str, str]:
        """By entry, its symptom as one line of Markdown."""
        return {
            runbook.id: " ".join(self.expanded(runbook, symptom_line(runbook), as_markdown).split())
            for runbook in self.runbooks
        }

    def expanded(self, runbook: Runbook, prose: Prose, show: Callable[[Shown], str]) -> Markup:
        """An author's Markdown with its numbers filled in."""
        # It is the page's own; only what was captured is foreign.
        return Markup(expand(prose.markdown, runbook.path, prose.line, self.known, show))  # noqa: S704

    def fill(self, template: str, *shared: Mapping[str, object], **values: object) -> str:
        """The text of a template with these values, later ones before earlier ones of the same name."""
        more = {name: value for some in shared for name, value in some.items()}
        return self.jinja.get_template(template).render({**self.shared, **more, **values})
