"""The search in pairs: its schedule and its verdict on fleets with slow nodes, and real ranks over gloo."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.pairs.schedule import (
    Pair,
    PairOutcome,
    PairVerdict,
    first_pass,
    judge_pairs,
    measure_of,
    second_pass,
    wanted_groups,
)
from runner.kit.pairs.search import worded
from tests.cluster import free_ports, until

SHARE = 0.8
# Guards against a hang only.
HANG_S = 300


@given(st.integers(2, 60))
def test_each_node_is_in_one_pair_a_round_and_meets_two_others(nodes: int) -> None:
    rounds = first_pass(nodes)
    for pairs in rounds:
        busy = [node for pair in pairs for node in pair]
        assert len(set(busy)) == len(busy) == nodes - nodes % 2
    every = [pair for pairs in rounds for pair in pairs]
    assert len(set(every)) == len(every)
    met = [sum(node in pair for pair in every) for node in range(nodes)]
    assert min(met) >= min(2, nodes - 1)


def test_pairs_are_the_ranks_of_both_nodes() -> None:
    assert wanted_groups([[(0, 2)]], 2) == [[[0, 1, 4, 5]]]


def searched(rates: Sequence[float], expected: float | None = None, share: float = SHARE) -> PairVerdict:
    """The verdict on a fleet in which a pair is as fast as the slower of its nodes."""

    def measured(rounds: Sequence[Sequence[Pair]]) -> Mapping[Pair, float]:
        return {pair: min(rates[node] for node in pair) for pairs in rounds for pair in pairs}

    first = measured(first_pass(len(rates)))
    again = measured(second_pass(first, max(measure_of(first), expected or 0.0), share))
    return judge_pairs(first, again, share, expected)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    nodes = draw(st.integers(2, 40))
    slow = draw(st.lists(st.integers(0, nodes - 1), unique=True, max_size=nodes))
    rates = [draw(st.floats(1.0, 1.1)) for _ in range(nodes)]
    for node in slow:
        rates[node] = draw(st.floats(0.01, 0.7))
    return rates, sorted(slow)


@given(fleets())
def test_a_healthy_node_is_never_named(fleet: tuple[list[float], list[int]]) -> None:
    rates, slow = fleet
    assert set(searched(rates).named) <= set(slow)


@given(fleets())
def test_all_slow_nodes_are_named_if_at_most_a_third_is_slow(fleet: tuple[list[float], list[int]]) -> None:
    rates, slow = fleet
    verdict = searched(rates)
    if len(rates) > 2 and len(slow) * 3 <= len(rates):
        assert list(verdict.named) == slow
        assert verdict.outcome is (PairOutcome.NAMED if slow else PairOutcome.EVEN)


def test_with_two_nodes_a_pair_can_be_slow_and_no_node_is_named() -> None:
    verdict = searched([1.0, 0.1])
    assert (verdict.outcome, verdict.named, verdict.slow) == (PairOutcome.TOO_FEW, (), ())
    assert "no other to be compared with" in worded(verdict, 2)
    verdict = searched([1.0, 0.1], expected=1.0)
    assert (verdict.outcome, verdict.named, verdict.slow) == (PairOutcome.TOO_FEW, (), ((0, 1),))
    assert "the pair is slow" in worded(verdict, 2)
    assert searched([1.0, 1.0], expected=1.0).outcome is PairOutcome.EVEN


def test_a_fleet_that_is_slow_as_a_whole_has_a_common_cause() -> None:
    assert searched([0.1] * 6).outcome is PairOutcome.EVEN
    verdict = searched([0.1] * 6, expected=1.0)
    assert (verdict.outcome, verdict.named) == (PairOutcome.ALL_SLOW, ())
    assert "common cause" in worded(verdict, 6)


def test_a_slow_way_between_two_good_nodes_names_none() -> None:
    rounds = first_pass(6)
    first = {pair: 0.1 if pair == rounds[0][0] else 1.0 for pairs in rounds for pair in pairs}
    assert second_pass(first, 1.0, SHARE) == ()
    verdict = judge_pairs(first, {}, SHARE)
    assert (verdict.outcome, verdict.named, verdict.slow) == (PairOutcome.UNNAMED, (), (rounds[0][0],))


def started(
    module: str, arguments: Sequence[str], nodes: int, these: Sequence[int]
) -> list["subprocess.Popen[str]"]:
    """A probe as these nodes of a joint job on this host."""
    (port,) = free_ports(1)
    own = {
        "RUNBOOK_NODES": str(nodes), "RUNBOOK_RENDEZVOUS": f"127.0.0.1:{port}", "RUNBOOK_RUN_ID": "a-run",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", f"runner.probes.{module}", *arguments],
            env=dict(os.environ) | own | {"RUNBOOK_NODE_RANK": str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in these
    ]


def ended(runs: Sequence["subprocess.Popen[str]"]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each."""
    said = [run.communicate(timeout=HANG_S) for run in runs]
    return [(run.returncode, out, err) for run, (out, err) in zip(runs, said, strict=True)]


def document_of(out: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(out.splitlines()[-1])
    return document


@pytest.mark.system
def test_a_node_that_is_really_slow_is_named_among_four() -> None:
    # Busy cores slow a pair down by much, and the injected rate by far more.
    words = ["--slow-node", "2", "--slow-rate", "128KiB", "--size", "64KiB", "--iterations", "3"]
    words += ["--slow-below", "0.1"]
    first, *others = ended(started("node_pairs", [*words, "--timeout", "240"], 4, range(4)))
    assert first[0] == 1, first[2]
    document = document_of(first[1])
    assert document["details"]["named"] == [2]
    assert document["details"]["injected"].startswith("node 2")
    assert {one["name"]: one["value"] for one in document["measurements"]}["slow_node_named"] == 1
    assert [(status, out) for status, out, _ in others] == [(0, "")] * 3


@pytest.mark.system
def test_collectives_over_nodes_are_one_result_of_the_first() -> None:
    words = ["--across-nodes", "--ranks", "2", "--sizes", "4KiB", "--iterations", "2", "--timeout", "240"]
    first, second = ended(started("collectives", words, 2, range(2)))
    assert first[0] == 0, first[2]
    assert (second[0], second[1]) == (0, "")
    found = document_of(first[1])["measurements"]
    labels = next(one["labels"] for one in found if one["name"] == "bus_bandwidth")
    assert (labels["ranks"], labels["nodes"], labels["backend"]) == (4, 2, "gloo")
    assert {one["value"] for one in found if one["name"] == "wrong_elements"} == {0}


@pytest.mark.system
def test_a_node_that_never_joins_is_named_at_the_deadline() -> None:
    ((status, _, err),) = ended(started("collectives", ["--across-nodes", "--timeout", "3"], 3, [0]))
    assert status == 3
    assert "nodes 1, 2 never joined by the deadline" in err


@pytest.mark.system
def test_nodes_that_would_run_something_else_are_refused() -> None:
    (port,) = free_ports(1)
    runs = []
    for node, ranks in ((0, "1"), (1, "2")):
        own = {
            "RUNBOOK_NODES": "2", "RUNBOOK_NODE_RANK": str(node), "RUNBOOK_RENDEZVOUS": f"127.0.0.1:{port}",
        }  # fmt: skip
        words = [sys.executable, "-m", "runner.probes.collectives", "--across-nodes", "--ranks", ranks]
        runs.append(
            subprocess.Popen(
                [*words, "--timeout", "200"],
                env=dict(os.environ) | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    (first, _, err), (second, out, _) = ended(runs)
    assert (first, second) == (2, 0)
    assert "node 1 offers" in err
    assert out == ""


@pytest.mark.system
def test_a_rank_that_dies_on_another_node_is_named_with_its_node() -> None:
    words = ["--across-nodes", "--sizes", "4KiB", "--iterations", "100000000", "--timeout", "240"]
    runs = started("collectives", words, 2, range(2))
    other = psutil.Process(runs[1].pid)

    def ranks() -> list[psutil.Process]:
        found = []
        for child in other.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "runner.kit.collectives_worker" in child.cmdline() and "RANK" in child.environ():
                    found.append(child)
        return found

    def timing() -> bool:
        # It has computed for some seconds: it is past its imports.
        with contextlib.suppress(psutil.Error):
            return any(
                sum(one.cpu_times()[:2]) > 3 for one in ranks() if "--nproc-per-node=1" not in one.cmdline()
            )
        return False

    until(timing, "the rank of node 1 to compute")
    for one in ranks():
        if "torch.distributed.run" not in one.cmdline():
            one.kill()
    (status, _, err), (second, _, _) = ended(runs)
    assert (status, second) == (3, 0), err
    assert "node 1: rank 1 (caller) died while" in err


@pytest.mark.parametrize("module", ["collectives --across-nodes", "node_pairs"])
def test_without_a_joint_job_the_variables_that_are_missing_are_named(module: str) -> None:
    name, *words = module.split()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RUNBOOK_")}
    done = subprocess.run(
        [sys.executable, "-m", f"runner.probes.{name}", *words],
        env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "RUNBOOK_RENDEZVOUS" in done.stderr
