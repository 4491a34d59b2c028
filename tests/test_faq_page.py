"""The page about the FAQ that the entries replace."""

import re
from pathlib import Path

from runner.entry.read import read_all

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "kb" / "reference" / "faq.md").read_text(encoding="utf-8")


def test_the_page_names_every_sentence_of_the_faq_beside_the_entry_that_holds_it() -> None:
    sections = re.split(r"^## (\d+)\. ", PAGE, flags=re.MULTILINE)
    named = {
        int(number): set(re.findall(r"`(faq-[a-z0-9-]+)`", text))
        for number, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    held = {}
    for runbook in read_all(ROOT / "runbooks"):
        ids = [one.id for one in runbook.head.expectations] + [one.id for one in runbook.head.claims]
        if of_the_faq := {one for one in ids if one.startswith("faq-")}:
            held[runbook.head.number] = of_the_faq
    assert named == held
