"""The probes' options as the site shows them are those of their parsers."""

from pathlib import Path

import pytest

from runner.base.errors import InputError
from runner.check.commands import probe_options
from runner.kit.probe import Probe
from runner.vocabulary import PROBES

ROOT = Path(__file__).parents[1]

# What each of these probes cannot be called without.
REQUIRED = {
    "compile_growth": ["--curve", "operations"],
    "gpu_state": ["--group", "memory"],
    "host_paths": ["--group", "limits"],
    "limits_drill": ["--limit", "shm"],
    "recompile_log": ["--from", "-"],
    "step_drill": ["--topic", "nonfinite"],
}


def test_the_site_shows_no_default_that_comes_from_the_environment_of_its_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RUNBOOK_PRESET", raising=False)
    without = probe_options()
    monkeypatch.setenv("RUNBOOK_PRESET", "70b")
    assert probe_options() == without


@pytest.mark.parametrize("name", sorted(probe_options()))
def test_a_preset_of_the_environment_that_does_not_exist_is_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNBOOK_PRESET", "9000b")
    probe = PROBES[name]
    assert isinstance(probe, Probe)
    with pytest.raises(SystemExit) as ended:
        probe.main(REQUIRED.get(name, []))
    assert ended.value.code == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: error: RUNBOOK_PRESET is '9000b' (choose from 'tiny', ")


def test_every_probe_and_what_every_option_takes_is_there() -> None:
    found = probe_options()
    assert set(found) == {name for name in PROBES if (ROOT / "runner" / "probes" / f"{name}.py").exists()}
    usages = {str(option["usage"]) for option in found["collectives"]}
    assert {"--preset tiny|8b|40b|70b", "--backend auto|gloo|nccl", "--ranks N"} <= usages
    assert any(usage.startswith("--sizes SIZE …") for usage in usages)


def test_every_option_of_every_probe_is_described() -> None:
    silent = [
        f"{probe} {option['usage']}"
        for probe, options in probe_options().items()
        for option in options
        if not str(option["help"] or "").strip()
    ]
    assert not silent
