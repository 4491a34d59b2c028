"""One vocabulary: every name has one meaning, and one that was published keeps it."""

import pytest

from runner.catalogue import (
    METRICS,
    PROBES,
    RETIRED,
    compiling,
    interconnect,
    memory,
    metric_of,
    precision,
    serving,
)
from runner.evidence.record import Measurement
from runner.probes.contract import CRASHED, Findings, Probe, base_parser, run_probe
from runner.summaries import SINGLE, STATISTICS
from tests.evidence_samples import measurement

THEMES = (compiling, interconnect, serving, memory, precision)


def test_no_two_themes_explain_the_same_metric_or_probe() -> None:
    assert sum(len(theme.METRICS) for theme in THEMES) == len(METRICS)
    assert sum(len(theme.PROBES) for theme in THEMES) == len(PROBES)


def test_every_metric_is_taken_by_a_probe_and_every_probe_takes_known_ones() -> None:
    taken = {name for probe in PROBES.values() for name in probe.emits}
    assert taken == set(METRICS)


def test_a_retired_name_is_still_understood_and_never_used_again() -> None:
    assert not set(RETIRED) & set(METRICS)
    assert all(metric_of(name) for name in RETIRED)
    assert metric_of("never_measured") is None


def test_every_metric_says_what_its_values_may_be() -> None:
    for name, metric in METRICS.items():
        assert set(metric.statistics) <= {SINGLE, *STATISTICS}, name
        assert metric.unit == "1" or metric.kind in {"amount", "signed"}, name


def test_no_label_is_listed_twice() -> None:
    assert all(len(set(probe.labels)) == len(probe.labels) for probe in PROBES.values())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            measurement(1.0, blessed=True),
            "labels bus_bandwidth by blessed, which the catalogue does not list",
        ),
        (measurement(1.0, 1.0).model_copy(update={"statistic": "max"}), "bus_bandwidth is no max; list that"),
        (measurement(1.0, name="power"), "reports power, which the catalogue does not list"),
    ],
)
def test_a_probe_that_reports_what_is_not_listed_is_a_bug_and_no_symptom(
    found: Measurement, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = Probe("collectives", parser=lambda: base_parser("x"), run=lambda _: Findings([found]))
    assert run_probe(probe, []) == CRASHED
    assert says in capsys.readouterr().err
