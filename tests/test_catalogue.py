"""One vocabulary: every name has one meaning, and one that was published keeps it."""

import pytest

from runner.base.summaries import SINGLE, STATISTICS
from runner.catalogue import (
    METRICS,
    PROBES,
    RENAMED,
    RETIRED,
    compiling,
    interconnect,
    label_of,
    memory,
    metric_of,
    precision,
    serving,
)
from runner.kit.probe import CRASHED, Findings, Probe, base_parser, run_probe
from runner.record.model import Measurement
from tests.evidence_samples import measurement

LONGEST_LABEL = 40
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


def test_a_number_stored_under_an_old_name_is_read_as_the_renamed_metric() -> None:
    assert not set(RENAMED) & (set(METRICS) | set(RETIRED))
    for old, new in RENAMED.items():
        assert metric_of(old) is METRICS[new]
        assert label_of(old) == METRICS[new].label


def test_every_metric_says_what_its_values_may_be() -> None:
    for name, metric in METRICS.items():
        assert set(metric.statistics) <= {SINGLE, *STATISTICS}, name
        assert metric.unit == "1" or metric.kind in {"amount", "signed"}, name


def test_every_metric_has_a_unique_label_of_plain_words() -> None:
    labels = [metric.label for metric in (*METRICS.values(), *RETIRED.values())]
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert label == label.strip(), label
        assert 0 < len(label) <= LONGEST_LABEL, label
        assert label[0].isupper(), label
        assert "_" not in label, label


def test_no_label_of_a_measurement_is_listed_twice() -> None:
    assert all(len(set(probe.labels)) == len(probe.labels) for probe in PROBES.values())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            measurement(1.0, blessed=True),
            "gives bus_bandwidth the label blessed, which the catalogue does not list",
        ),
        (
            measurement(1.0, 1.0).model_copy(update={"statistic": "max"}),
            "bus_bandwidth cannot be a max; add it",
        ),
        (measurement(1.0, name="power"), "reports power, which the catalogue does not list"),
    ],
)
def test_a_probe_that_reports_what_is_not_listed_is_a_bug_and_no_symptom(
    found: Measurement, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = Probe("collectives", parser=lambda: base_parser("x"), run=lambda _: Findings([found]))
    assert run_probe(probe, []) == CRASHED
    assert says in capsys.readouterr().err
