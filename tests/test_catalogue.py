"""One vocabulary: every name has one meaning, and one that was published keeps it."""

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
