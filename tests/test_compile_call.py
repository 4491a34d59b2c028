import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.entry.read import read_runbook

ROOT = Path(__file__).parents[1]
ENTRY = read_runbook(ROOT / "runbooks" / "torch-compile-hang.md")


def test_the_call_of_torch_compile_compiles_nothing_and_the_first_forward_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.compile_call"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["details"] == {"graphs_after_call": 0, "graphs_after_forward": 1}
    found = {one["name"]: one["value"] for one in document["measurements"]}
    both = found["compile_call_time"] + found["first_forward_time"]
    assert found["compile_call_share"] == pytest.approx(found["compile_call_time"] / both)


def test_the_claim_about_timeouts_is_decided_by_that_share() -> None:
    (claim,) = (one for one in ENTRY.head.claims if one.id == "timeout-around-torch-compile")
    for condition in (claim.confirmed_if, claim.contradicted_if):
        assert condition is not None
        assert condition.metric == "lazy.compile_call_share"
