"""Entries 6 to 8 on this host: real ranks, an injected fault, and the fix; and what a host without GPUs may prove."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.entry.model import Phase
from runner.entry.read import read_runbook
from runner.hardware.machine import Machine
from runner.record.judge import judge_claims, judge_expectations
from runner.record.model import ClaimState, Record
from runner.record.proof import proof_gaps
from tests.evidence_samples import machine, measurement, step

# The entries look at processes of the host, and time their own.
pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
RUNBOOKS = ROOT / "runbooks"


def run_entry(name: str, tmp_path: Path, *steps: str) -> Record:
    """Some steps of an entry, with its faults injected, by the program itself; its record."""
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--data", str(tmp_path / "data"), "run", name, "--reproduce",
         "--allow", "busy", *(word for one in steps for word in ("--step", one)), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )  # fmt: skip
    assert done.stdout, done.stderr
    (document,) = json.loads(done.stdout)
    return Record.model_validate(document)


def decided(name: str, found: Record) -> dict[str, ClaimState]:
    verdicts = judge_claims(read_runbook(RUNBOOKS / f"{name}.md"), found.steps, found.machine)
    return {claim: state for claim, (state, _) in verdicts.items()}


def values(found: Record, of: str) -> dict[str, Any]:
    (one,) = (each for each in found.steps if each.id == of)
    return {each.name: each.value for each in one.measurements}


def test_a_skipped_collective_is_found_and_the_same_order_of_calls_leaves_nothing_to_find(
    tmp_path: Path,
) -> None:
    found = run_entry("nccl-collective-timeout", tmp_path, "skipped", "same-order", "late-is-waited-for")
    assert found.outcome == "fix_proved", [(one.id, one.status, one.reason) for one in found.steps]
    assert values(found, "skipped")["culprit_named"] == 1
    assert values(found, "skipped")["wrong_certain"] == 0
    claims = decided("nccl-collective-timeout", found)
    assert claims["rank-in-the-error-is-the-culprit"] is ClaimState.CONTRADICTED
    assert claims["larger-timeout-waits-for-a-late-rank"] is ClaimState.CONFIRMED


def test_a_wrong_name_is_found_before_and_after_it_costs_the_timeout_and_the_right_one_joins(
    tmp_path: Path,
) -> None:
    found = run_entry("rendezvous-failure", tmp_path, "wrong-name", "unknown-host", "right-name", "joined")
    assert found.outcome == "fix_proved", [(one.id, one.status, one.reason) for one in found.steps]
    assert decided("rendezvous-failure", found)["timeout-means-firewall"] is ClaimState.CONTRADICTED


@pytest.mark.parametrize(
    ("backend", "host", "gaps"), [("gloo", machine(), 1), ("nccl", machine("NVIDIA B200", "NVIDIA B200"), 0)]
)
def test_a_straggler_is_proved_fixed_only_where_ranks_ran_over_nccl(
    backend: str, host: Machine, gaps: int
) -> None:
    entry = read_runbook(RUNBOOKS / "straggler-rank.md")
    even = measurement(0, name="slow_ranks", fault="none", backend=backend, ranks=2)
    steps = [step("alone", even.model_copy(update={"unit": "1"}), phase=Phase.VERIFY)]
    assert len(proof_gaps(entry, steps, judge_expectations(entry, steps, host))) == gaps
