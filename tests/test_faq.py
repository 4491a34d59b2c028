"""The FAQ that the entries answer: each of its sentences with a number or a cause is a claim or an expectation.

An id that begins with `faq-` is a sentence of the FAQ. A sentence may only leave here on purpose.
"""

from pathlib import Path

import pytest

from runner.entry.model import Claim, Expectation, Runbook
from runner.entry.read import read_runbook

RUNBOOKS = Path(__file__).parents[1] / "runbooks"

SENTENCES = {
    "torch-compile-hang": {"faq-40b-parameters", "faq-cpu-pegged", "faq-cpu-100-percent"},
    "nvlink-bandwidth": {
        "faq-thirty-per-link",
        "faq-thirty-is-pcie",
        "faq-topo-phb",
        "faq-five-exports",
    },
    "single-gpu-rollback": {
        "faq-tokens-per-second",
        "faq-leftovers-keep-multi-gpu-kernels",
        "faq-no-graph-reuse",
    },
    "long-context-memory": {
        "faq-32k-tokens",
        "faq-70-percent-progress",
        "faq-48-gb-per-gpu",
        "faq-activation-checkpointing",
    },
    "fp8-power-regression": {
        "faq-tokens-per-joule",
        "faq-invalid-calibration-falls-back",
        "faq-recalibrate",
    },
}

# What the FAQ says, and the words by which the sentence in the entry names it.
NUMBERS = [
    ("torch-compile-hang", "faq-40b-parameters", "40B"),
    ("torch-compile-hang", "faq-cpu-pegged", "100 %"),
    ("torch-compile-hang", "faq-cpu-100-percent", "100 %"),
    ("nvlink-bandwidth", "faq-thirty-per-link", "30 GB/s per NVLink"),
    ("nvlink-bandwidth", "faq-thirty-is-pcie", "30 GB/s per link"),
    ("nvlink-bandwidth", "faq-topo-phb", "NCCL_P2P_DISABLE=1"),
    ("nvlink-bandwidth", "faq-topo-phb", "PHB"),
    ("single-gpu-rollback", "faq-tokens-per-second", "1.5K tokens/s"),
    ("long-context-memory", "faq-32k-tokens", "32K"),
    ("long-context-memory", "faq-70-percent-progress", "70 %"),
    ("long-context-memory", "faq-48-gb-per-gpu", "48 GB"),
    ("fp8-power-regression", "faq-tokens-per-joule", "6 tokens per joule"),
]


def entry(name: str) -> Runbook:
    return read_runbook(RUNBOOKS / f"{name}.md")


def sentences(runbook: Runbook) -> dict[str, Claim | Expectation]:
    both: list[Claim | Expectation] = [*runbook.head.expectations, *runbook.head.claims]
    return {one.id: one for one in both if one.id.startswith("faq-")}


@pytest.mark.parametrize("path", sorted(RUNBOOKS.glob("*.md")), ids=lambda path: path.stem)
def test_an_entry_has_exactly_its_sentences_of_the_faq(path: Path) -> None:
    assert set(sentences(read_runbook(path))) == SENTENCES.get(path.stem, set())


@pytest.mark.parametrize(("name", "sentence", "number"), NUMBERS)
def test_a_number_of_the_faq_stands_in_its_sentence(name: str, sentence: str, number: str) -> None:
    assert number in (sentences(entry(name))[sentence].text or "")


@pytest.mark.parametrize("name", SENTENCES)
def test_every_sentence_of_the_faq_says_where_it_comes_from(name: str) -> None:
    assert all(one.source.strip() for one in sentences(entry(name)).values())


def test_a_bound_of_the_faq_without_a_source_decides_nothing() -> None:
    found = {name: sentences(entry(name)) for name in SENTENCES}
    for name, sentence in (
        ("torch-compile-hang", "faq-cpu-pegged"),
        ("nvlink-bandwidth", "faq-thirty-per-link"),
        ("single-gpu-rollback", "faq-tokens-per-second"),
    ):
        assert not found[name][sentence].evidence.decides


def test_the_bounds_of_the_faq_are_its_numbers() -> None:
    per_link = sentences(entry("nvlink-bandwidth"))["faq-thirty-per-link"]
    assert isinstance(per_link, Expectation)
    # 30 GB/s on each of the 18 links of a B200.
    assert (per_link.min, per_link.unit) == (30 * 18, "GB/s")
    tokens = sentences(entry("single-gpu-rollback"))["faq-tokens-per-second"]
    assert isinstance(tokens, Expectation)
    assert (tokens.min, tokens.unit) == (1500, "tokens/s")
    memory = sentences(entry("long-context-memory"))["faq-48-gb-per-gpu"]
    assert isinstance(memory, Claim)
    assert memory.confirmed_if is not None
    assert memory.contradicted_if is not None
    assert (memory.confirmed_if.min, memory.confirmed_if.unit) == (48, "GB")
    assert (memory.contradicted_if.max, memory.contradicted_if.unit) == (48, "GB")
    progress = sentences(entry("long-context-memory"))["faq-70-percent-progress"]
    assert isinstance(progress, Claim)
    assert progress.confirmed_if is not None
    assert progress.confirmed_if.min is not None
    assert progress.confirmed_if.max is not None
    assert progress.confirmed_if.min < 0.7 < progress.confirmed_if.max
