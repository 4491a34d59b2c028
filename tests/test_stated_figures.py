"""Figures that prose states of a GPU: each is that of the record it names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CLASS = "1xH200-141GB"
# The first of each entry.
RECORDS = {
    path.parent.name: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "site_data" / CLASS).glob("*/*.json"), reverse=True)
}
GIB, MIB = 2**30, 2**20
# Prose in which one of these stands beside a class has a version and a date too.
PAGES = sorted([*(ROOT / "runbooks").glob("*.md"), *(ROOT / "kb").rglob("*.md"), ROOT / "CHANGELOG.md"])


def step(entry: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in RECORDS[entry]["steps"] if one["id"] == name)
    return found


def value(entry: str, name: str, metric: str, **labels: Any) -> float:
    (found,) = [
        one["value"]
        for one in step(entry, name)["measurements"]
        if one["name"] == metric and labels.items() <= one["labels"].items()
    ]
    return float(found)


def words(path: str) -> str:
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def noise(name: str, mode: str) -> float:
    return value("fp8-power-regression", name, "signal_to_noise", mode=mode)


def test_the_figures_of_long_prompts_are_those_of_the_record() -> None:
    said = words("runbooks/long-context-memory.md")
    peak = value("long-context-memory", "limit", "peak_memory", tokens=65536)
    reserved = value("long-context-memory", "limit", "reserved_memory", tokens=65536)
    budget = step("long-context-memory", "limit")["details"]["budget_bytes"]
    assert f"fitted under a limit of {budget / GIB:.1f} GiB" in said
    assert f"{(reserved - peak) / MIB:.0f} MiB reserved beyond its peak of {peak / GIB:.1f} GiB" in said
    assert step("long-context-memory", "limit")["details"]["allocator"]["expandable_segments"] is True


def test_predicted_peaks_are_as_near_to_the_measured_ones_as_the_changelog_says() -> None:
    ratios = [
        one["value"]
        for ran in RECORDS["long-context-memory"]["steps"]
        for one in ran["measurements"]
        if one["name"] == "prediction_ratio"
    ]
    assert len(ratios) > 10
    assert max(abs(ratio - 1) for ratio in ratios) < 0.002


def test_the_figures_of_fp8_are_those_of_the_record_and_say_that_the_models_ran_in_eager() -> None:
    entry, guide = words("runbooks/fp8-power-regression.md"), words("kb/guides/fp8_power_guide.md")
    worst = value("fp8-power-regression", "layers-again", "signal_to_noise", of="worst layer")
    speed = value("fp8-power-regression", "sweep-again", "speed_ratio", mode="fp8")
    bf16, fp8 = noise("sweep-again", "bf16"), noise("sweep-again", "fp8")
    for said in (entry, guide):
        assert f"{fp8:.1f} dB in FP8 after 32 blocks, although the worst layer had {worst:.1f} dB" in said
    assert f"had {bf16:.1f} dB in BF16" in guide
    assert f"eager FP8 had {speed:.2f} of BF16's speed" in entry
    compiled = step("fp8-power-regression", "sweep-again")["effective"]["compile_mode"]
    assert set(compiled.values()) == {"eager"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_figure_of_a_class_carries_the_versions_and_the_day_of_its_record(path: Path) -> None:
    machine = next(iter(RECORDS.values()))["machine"]
    torch = machine["torch"].partition("+")[0]
    days = {record["started_at"][:10] for record in RECORDS.values()}
    said = words(str(path.relative_to(ROOT)))
    for found in re.finditer(rf"\(?(?:class )?`{CLASS}`,? \(?", said):
        after = said[found.end() :].partition(")")[0]
        assert f"driver {machine['driver']}" in after, after[:80]
        assert f"torch {torch}" in after, after[:80]
        assert any(day in after for day in days), after[:80]
