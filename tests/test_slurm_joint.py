"""Steps over several nodes of a real Slurm on this machine: collectives, and the search in pairs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, cluster, installed
from tests.test_cli import step
from tests.test_slurm import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not installed(), reason="needs Slurm: apt-get install slurm-wlm munge"),
]

ACROSS = "python -m runner.probes.collectives --across-nodes --sizes 4KiB --iterations 2 --timeout 250"
PAIRS = (
    "python -m runner.probes.node_pairs --slow-node 1 --slow-rate 128KiB --size 64KiB --iterations 3 "
    "--slow-below 0.1 --timeout 250"
)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster(4) as made:
        yield made


@pytest.fixture
def site(slurm: Cluster) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="rb-site-", ignore_cleanup_errors=True) as folder:
        yield Site(slurm, Path(folder))


def test_collectives_and_pairs_over_nodes_are_one_record_that_names_the_slow_node(site: Site) -> None:
    site.entry(
        step("alone", "true"),
        step("across", ACROSS, "nodes=2 timeout=300"),
        step("pairs", PAIRS, "nodes=3 timeout=300"),
    )
    status, said, err = site.run(
        site.campaign("small", "--nodelist", "n[1-4]"), GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1"
    )
    assert status == 1, (said.get("nodes"), err)
    (joint,) = [record for record in site.records() if record.members]
    steps = {one.id: one for one in joint.steps}
    assert steps["across"].status == "passed"
    bandwidth = next(one for one in steps["across"].measurements if one.name == "bus_bandwidth")
    assert (bandwidth.labels["nodes"], bandwidth.labels["ranks"]) == (4, 4)
    found = {one.name: one.value for one in steps["pairs"].measurements}
    assert (steps["pairs"].status, found["slow_nodes"], found["slow_node_named"]) == ("symptom", 1, 1)
    assert "node 1 of 4" in (steps["pairs"].reason or "")


def test_steps_that_need_more_nodes_than_there_are_are_skipped_and_the_others_run(site: Site) -> None:
    site.entry(
        step("alone", "true"),
        step("across", ACROSS, "nodes=2 timeout=300"),
        step("pairs", PAIRS, "nodes=3 timeout=300"),
    )
    status, said, err = site.run(
        site.campaign("small", "--nodelist", "n[1-2]"), GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1"
    )
    assert status == 0, (said.get("nodes"), err)
    (joint,) = [record for record in site.records() if record.members]
    steps = {one.id: one for one in joint.steps}
    assert (steps["across"].status, steps["pairs"].status) == ("passed", "skipped")
    assert "needs 3 nodes" in (steps["pairs"].reason or "")
