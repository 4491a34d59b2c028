"""Probes on a node whose Python has no torch: each says so in the same line, whichever process it starts first."""

import importlib
import sys

import pytest

from runner.hardware.machine import look_visible
from runner.kit.probe import CRASHED
from runner.kit.repro import stack_compile

PROBES = {
    "collectives": ["--backend", "gloo", "--ranks", "2"],
    "compile_growth": ["--curve", "operations", "--sizes", "1", "2"],
    "rendezvous": [],
    "torch_compile_repro": [],
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_without_torch_says_what_to_start_it_with(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"runner.probes.{name}")
    # None hides an installed module from `find_spec` and from imports.
    monkeypatch.setitem(sys.modules, "torch", None)
    if name == "torch_compile_repro":
        # It asks what is installed, not what can be imported.
        machine = look_visible().model_copy(update={"torch": None})
        monkeypatch.setattr(stack_compile, "look_at_machine", lambda: machine)
    assert module.PROBE.main(PROBES[name]) == CRASHED
    lines = [line for line in capsys.readouterr().err.splitlines() if "torch is not installed" in line]
    (line,) = lines
    assert line.startswith(f"{name}: torch is not installed; start runbook with a Python that has it")
