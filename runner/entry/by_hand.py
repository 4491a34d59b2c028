"""What to type on a node that has none of this project's tools. Pure."""

from markdown_it import MarkdownIt

from runner.entry.model import Prose, Runbook

BY_HAND = "By hand"
SHELLS = frozenset({"bash", "sh", "shell", "console"})


def is_shell(info: str) -> bool:
    """Whether the info string of a fence, such as `bash {#step}`, names a shell."""
    return bool(SHELLS.intersection(info.replace("{", " ").split()[:1]))


def by_hand_block(runbook: Runbook) -> str:
    """The first shell block of the section `By hand`, to be copied as it is; empty if the entry has none."""
    for section in runbook.sections:
        for part in section.body if section.title == BY_HAND else ():
            for token in MarkdownIt("commonmark").parse(part.markdown) if isinstance(part, Prose) else ():
                if token.type == "fence" and is_shell(token.info):
                    return token.content.strip("\n")
    return ""
