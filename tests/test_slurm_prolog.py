"""`runbook diagnose --prolog` as the Prolog of a real Slurm: what drains a node, and what does not."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, cluster, installed, until
from tests.test_cli import ROOT, step, write_entry
from tests.test_diagnose import ACTION, SYMPTOM

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not installed(), reason="needs Slurm: apt-get install slurm-wlm munge"),
]
PROLOG = """\
#!/bin/bash
cd {root} && {python} -m runner.cli.main --runbooks {here}/runbooks diagnose $(cat {here}/words) 2> {here}/said
"""


@pytest.fixture
def here() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rb-prolog-") as folder:
        yield Path(folder)


@pytest.fixture
def slurm(here: Path) -> Iterator[Cluster]:
    prolog = here / "prolog"
    prolog.write_text(PROLOG.format(root=ROOT, python=sys.executable, here=here), encoding="utf-8")
    prolog.chmod(0o755)
    with cluster(1, prolog) as made:
        yield made


def job(slurm: Cluster) -> "subprocess.CompletedProcess[str]":
    return slurm.run("srun", "--quiet", "--nodelist=n1", "--immediate=30", "echo", "the job ran")


def test_only_what_was_found_drains_a_node(here: Path, slurm: Cluster) -> None:
    write_entry(here / "runbooks", step("d", "true"))
    # The last one lacks the option that makes it a prolog: Slurm itself says where it runs.
    for words in (
        "--prolog",
        "--prolog --nonsense",
        "--prolog --deadline 0",
        "--prolog --pid 4194305",
        "--prologue",
    ):
        (here / "words").write_text(words, encoding="utf-8")
        done = job(slurm)
        assert done.stdout == "the job ran\n", (
            words,
            done.stderr,
            (here / "said").read_text(encoding="utf-8"),
        )
        assert ((here / "said").read_text(encoding="utf-8") == "") == (words == "--prolog")
        until(lambda: slurm.states() == {"n1": "idle"}, "the node to be idle again")
    for harmless in (SYMPTOM % "critical", ACTION % "restart", "exit 3"):
        write_entry(here / "runbooks", step("d", harmless))
        (here / "words").write_text("--prolog", encoding="utf-8")
        assert job(slurm).stdout == "the job ran\n"
    write_entry(here / "runbooks", step("d", ACTION % "reset"))
    (here / "words").write_text("--prolog", encoding="utf-8")
    refused = slurm.run("sbatch", "--parsable", "--nodelist=n1", "--output=/dev/null", "--wrap", "true")
    until(lambda: slurm.states()["n1"].startswith("drain"), "the node to be drained")
    slurm.run("scancel", refused.stdout.strip())
