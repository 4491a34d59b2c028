"""One vocabulary: every name has one meaning, and one that was published keeps it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from runner.base.summaries import SINGLE, STATISTICS
from runner.kit.probe import CRASHED, Findings, base_parser
from runner.probes import collectives
from runner.record.model import Measurement
from runner.vocabulary import (
    METRICS,
    PROBES,
    RENAMED,
    RETIRED,
    label_of,
    metric_of,
)
from runner.vocabulary.versions import declared_versions, method_version
from tests.evidence_samples import measurement

LONGEST_LABEL = 40
ROOT = Path(__file__).parents[1]


def test_every_module_of_the_probes_declares_one_under_its_own_name() -> None:
    modules = {path.stem for path in (ROOT / "runner" / "probes").glob("*.py")} - {"__init__"}
    assert modules == set(PROBES) - {"nccl_tests", "nvbandwidth"}
    assert all(probe.name == name for name, probe in PROBES.items())


def test_two_probes_that_report_the_same_metric_declare_the_same() -> None:
    for probe in PROBES.values():
        assert len(set(probe.emits)) == len(probe.emits), probe.name
        for metric in probe.metrics:
            assert metric == METRICS[metric.name], f"{probe.name} {metric.name}"


def test_the_method_version_is_read_from_the_source_of_a_probe_as_it_is_declared() -> None:
    assert {name: method_version(name) for name in PROBES} == {
        name: probe.method_version for name, probe in PROBES.items()
    }
    assert method_version("no_such_probe") is None


def test_older_commits_declare_their_method_versions_in_one_catalogue() -> None:
    source = (
        b'{\n    "topology": ProbeInfo(\n        2, "Wiring", ("nvlinks",)), "rank": ProbeInfo(1, "x", ())}'
    )
    assert declared_versions(source) == {"topology": 2, "rank": 1}


def test_the_declarations_of_all_probes_are_read_without_torch_a_driver_or_what_the_probes_do() -> None:
    """Every command that reads entries imports all of them: what is slow to import would slow every command."""
    program = (
        "import sys; from runner.vocabulary import METRICS, PROBES; assert len(METRICS) > len(PROBES) > 0; "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    slow = {
        "torch",
        "transformers",
        "numpy",
        "pynvml",
        "psutil",
        "asyncio",
        "unittest",
        "multiprocessing",
        "rich",
    }
    assert not loaded & slow
    kit = {name for name in loaded if name.startswith("runner.kit.")}
    folders = {path.name for path in (ROOT / "runner" / "kit").rglob("*") if path.is_dir()}
    parts = {"probe", "undo", "options", "compile_options", "metrics", "defaults", "growing_models"}
    # Topics of `step_drill`.
    parts |= {"topic", "declared"}
    assert {name.rpartition(".")[2] for name in kit} <= parts | folders
    assert not [name for name in loaded if name.startswith(("runner.run", "runner.fleet", "runner.history"))]


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
            "gives bus_bandwidth the label blessed, which it does not declare",
        ),
        (
            measurement(1.0, 1.0).model_copy(update={"statistic": "max"}),
            "bus_bandwidth cannot be a max; add it",
        ),
        (measurement(1.0, name="power"), "reports power, which it does not declare"),
    ],
)
def test_a_probe_that_reports_what_is_not_listed_is_a_bug_and_no_symptom(
    found: Measurement, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = dataclasses.replace(
        collectives.PROBE, parser=lambda: base_parser("x"), run=lambda _: Findings([found])
    )
    assert probe.main([]) == CRASHED
    assert says in capsys.readouterr().err
