import math

import pytest

from runner.kit.budget import VARIABLE, Budget, budget


def test_a_probe_run_by_hand_has_its_own_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert 3000 < budget(3600).left <= 3600


def test_a_step_with_less_time_than_the_default_leaves_a_share_of_it_for_start_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "1000")
    assert 500 < budget(3600).left <= 800


@pytest.mark.parametrize("given", ["", "soon", "nan", "inf", "-5", "0"])
def test_a_time_that_means_nothing_is_ignored(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(VARIABLE, given)
    assert 3000 < budget(3600).left <= 3600


def test_work_is_repeated_as_often_as_fits_between_its_bounds() -> None:
    spent, roomy = budget(0), budget(3600)
    assert spent.times(1.0, at_least=3, at_most=10) == 3
    assert roomy.times(1.0, at_least=3, at_most=10) == 10
    assert 30 <= roomy.times(100.0, at_least=3, at_most=100) <= 36
    assert roomy.times(0.0, at_least=3, at_most=10) == 10
    assert Budget(ends=math.inf).times(1.0, at_least=3, at_most=10) == 10


def test_work_longer_than_what_is_left_does_not_fit() -> None:
    assert not Budget(ends=0.0).has(0.1)
    assert budget(3600).has(60)
