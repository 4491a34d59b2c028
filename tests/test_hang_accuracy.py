"""What the page says about accuracy is what the stored runs say."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "kb" / "reference" / "how-a-hang-is-found.md"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    path = ROOT / "benchmarks" / "hang_accuracy.py"
    spec = importlib.util.spec_from_file_location("hang_accuracy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hang_accuracy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(benchmark: Any) -> Any:
    text = (ROOT / "benchmarks" / "hang_accuracy.json").read_text(encoding="utf-8")
    return benchmark.Report.model_validate_json(text)


def test_the_table_on_the_page_is_that_of_the_stored_runs(benchmark: Any, report: Any) -> None:
    assert benchmark.table(report.runs) in PAGE.read_text(encoding="utf-8")


def test_the_page_names_the_conditions_of_the_runs(report: Any) -> None:
    text, of = PAGE.read_text(encoding="utf-8"), report.conditions
    told = (
        f"`{of.machine_class}`",
        of.began[:10],
        f"torch {of.torch.partition('+')[0]}",
        f"Python {of.python}",
    )
    assert [one for one in told if one not in text] == []


def test_every_fault_was_run_as_often_and_each_answer_counts_once(benchmark: Any, report: Any) -> None:
    counts = {(one.fault, one.seed): 0 for one in report.runs}
    for one in report.runs:
        counts[one.fault, one.seed] += 1
    assert set(counts.values()) == {10}
    assert len(counts) == 2 * len({one.fault for one in report.runs}) == 12
    right = sum(one.right for one in report.runs)
    assert right >= benchmark.WANTED * len(report.runs)
    assert not any(one.wrong_certain for one in report.runs)
