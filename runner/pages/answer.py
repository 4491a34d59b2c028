"""An entry's symptom in one line, a line of its log, and which of its blocks inject the fault. Pure."""

import re
from itertools import pairwise

from markdown_it import MarkdownIt

from runner.entry.markup import unbalanced
from runner.entry.model import Phase, Prose, Runbook
from runner.pages.text import escaped

_MARKDOWN = MarkdownIt("commonmark")
_SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)", re.DOTALL)


def symptom_line(runbook: Runbook) -> Prose:
    """The first sentence of the Symptom, in Markdown; the whole paragraph where a cut would split its markup.

    It is the beginning of the first paragraph of running text: a log excerpt, a list or HTML cannot be cut.
    """
    parts = (part for section in runbook.sections[:1] for part in section.body if isinstance(part, Prose))
    for part in parts:
        tokens = _MARKDOWN.parse(part.markdown)
        for token, text in pairwise(tokens):
            if token.type == "paragraph_open" and token.level == 0 and token.map:
                return Prose(markdown=_sentence(text.content), line=part.line + token.map[0])
    return Prose(markdown=escaped(runbook.head.title))


def _sentence(paragraph: str) -> str:
    match = _SENTENCE.match(paragraph)
    sentence = match[1] if match else paragraph
    whole = _MARKDOWN.renderInline(paragraph).startswith(_MARKDOWN.renderInline(sentence))
    whole = whole and not any(unbalanced([Prose(markdown=sentence)]))
    return sentence if whole and sentence.count("{{") == sentence.count("}}") else paragraph


def sample_line(runbook: Runbook) -> str:
    """One real log line of the issue: the example of the heaviest signature that has one; empty where none has."""
    given = [one for one in runbook.head.signatures if one.example]
    return max(given, key=lambda one: one.weight).example or "" if given else ""


_INJECTED = re.compile(r"(?<![\w-])(?:[A-Z_][A-Z0-9_]*=[^\s;)]*|--inject[\w-]*)")


def injecting(runbook: Runbook) -> frozenset[str]:
    """Ids of the steps that set the fault: those of Reproduce, and those of Verify that set nothing else.

    What is set: environment variables that are assigned, and options that begin with `--inject`. A step of Verify that
    shares some with a step of Reproduce, such as the GPU in use, and sets others too, sets them to sound values.
    """
    set_by = {step.id: set(_INJECTED.findall(step.command)) for step in runbook.steps}
    reproduce = [step.id for step in runbook.steps if step.phase is Phase.REPRODUCE and set_by[step.id]]
    verify = [step.id for step in runbook.steps if step.phase is Phase.VERIFY]
    again = [name for name in verify if any(_nested(set_by[fault], set_by[name]) for fault in reproduce)]
    return frozenset((*reproduce, *again))


def _nested(one: set[str], other: set[str]) -> bool:
    """Both set something, and one of them sets nothing that the other does not."""
    return bool(one and other) and (one <= other or other <= one)
