"""What a reader in a hurry needs: which entry it is, its symptom in one line, its fix in one block. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt

from runner.entry.model import Phase, Prose, Runbook, Safety

ELSE = "Something else"
_SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)", re.DOTALL)


def symptom_line(runbook: Runbook) -> Prose:
    """The first sentence of the Symptom, in Markdown; the whole paragraph where a cut would split its markup."""
    first = next(
        (part for section in runbook.sections[:1] for part in section.body if isinstance(part, Prose)), None
    )
    if first is None:
        return Prose(markdown=runbook.head.title)
    paragraph = re.split(r"\n\s*\n", first.markdown, maxsplit=1)[0]
    match = _SENTENCE.match(paragraph)
    sentence = match[1] if match else paragraph
    if any(sentence.count(mark) % 2 for mark in ("`", "**")) or sentence.count("{{") != sentence.count("}}"):
        sentence = paragraph
    return Prose(markdown=sentence, line=first.line)


def fix_block(runbook: Runbook) -> str:
    """The commands that fix it, to be copied as one: those of Fix's steps, else its first example in shell.

    Steps that change the host are left out: they are to be read before they are run.
    """
    steps = [
        step for step in runbook.steps if step.phase is Phase.FIX and step.safety is not Safety.CHANGES_HOST
    ]
    if steps:
        return "\n".join(step.command.strip("\n") for step in steps)
    for section in runbook.sections:
        for part in section.body if section.phase is Phase.FIX else ():
            for token in MarkdownIt("commonmark").parse(part.markdown) if isinstance(part, Prose) else ():
                if token.type == "fence" and token.info.strip() in {"bash", "sh", "shell"}:
                    return token.content.strip("\n")
    return ""


@dataclass
class Branch:
    """One question of the decision tree: what is seen, what then tells entries apart, and the entries it ends in."""

    text: str
    branches: list["Branch"] = field(default_factory=list)
    entries: list[Runbook] = field(default_factory=list)
    more: int = 0


def decision_tree(runbooks: Sequence[Runbook], most: int) -> Branch:
    """The entries by what they say is `seen`, from the general to the particular; those that say nothing come last.

    Args:
        runbooks: by number.
        most: how many entries a branch shows; of the others it has the count.
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
