"""Numbers that no probe can work with are bad input, and no crash."""

import pytest

from runner.base.errors import InputError
from runner.kit.probe import Probe
from runner.probes import collectives, gpt_large_optimized, nccl_env, rendezvous, torch_compile_repro


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300"])
@pytest.mark.parametrize(
    ("probe", "option"),
    [
        (collectives.PROBE, "--timeout"),
        (gpt_large_optimized.PROBE, "--decide-at"),
        (rendezvous.PROBE, "--deadline"),
    ],
)
def test_a_number_that_is_not_finite_or_too_large_is_refused_in_one_line(
    probe: Probe, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe.main([f"{option}={value}"]) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{probe.name}: {option} ")
    assert "must be a number, at most 1000000000" in line


def test_a_time_that_no_timer_takes_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert torch_compile_repro.PROBE.main(["--look", "1e300"]) == InputError.exit_status
    assert "--look 1e+300: must be a number" in capsys.readouterr().err


def test_a_whole_number_beyond_64_bits_is_refused_also_in_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--nodes", "9" * 30], ["--pid", "1", "9" * 30]):
        assert nccl_env.PROBE.main([*words, "--units"]) == InputError.exit_status
        assert "must be at most 9223372036854775807" in capsys.readouterr().err


def test_usual_numbers_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    assert nccl_env.PROBE.main(["--nodes", "100000", "--units"]) in {0, 1}
    assert "must be" not in capsys.readouterr().err
