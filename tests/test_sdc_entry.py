"""Entry 22 on this host: flips that are found, ranks that agree, and what a host without GPUs may prove."""

from pathlib import Path

import pytest

from runner.record.model import ClaimState
from tests.test_hang_entries import decided, run_entry, values

# The entry starts ranks, as those about hanging jobs do.
pytestmark = [pytest.mark.host, pytest.mark.system]
NAME = "silent-data-corruption"


def test_injected_flips_are_found_and_the_fix_is_not_proved_without_a_vote_of_gpus(tmp_path: Path) -> None:
    found = run_entry(NAME, tmp_path, "flips", "sticky", "votes", "clean")
    assert found.outcome == "drill_passed", [(one.id, one.status, one.reason) for one in found.steps]
    assert values(found, "flips")["culprit_named"] == 3
    assert values(found, "flips")["wrong_certain"] == 0
    assert values(found, "votes")["job_state_changed"] == 0
    claims = decided(NAME, found)
    assert claims["repeat-finds-it"] is ClaimState.CONTRADICTED
    assert claims["different-bits-are-defects"] is ClaimState.CONTRADICTED
    assert claims["checksum-sees-every-flip"] is ClaimState.CONTRADICTED
    # Nothing measured it.
    assert claims.get("vote-costs-less-than-a-hundredth", ClaimState.UNDECIDED) is ClaimState.UNDECIDED
