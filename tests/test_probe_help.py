"""Every probe prints its help as a program, in a Python of its own."""

import subprocess
import sys

import pytest

from runner.check.commands import probe_options
from tests.test_cli import ROOT

OPTIONS = probe_options()


@pytest.mark.parametrize("probe", sorted(OPTIONS))
def test_a_probe_prints_its_help(probe: str) -> None:
    words = [sys.executable, "-m", f"runner.probes.{probe}", "--help"]
    done = subprocess.run(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:4] == ["usage:", "python", "-m", f"runner.probes.{probe}"]
    for option in OPTIONS[probe]:
        assert str(option["usage"]).split()[0].rstrip(",") in done.stdout


def test_the_list_of_probes_is_that_of_the_programs_in_the_folder() -> None:
    programs = {
        path.stem
        for path in (ROOT / "runner" / "probes").glob("*.py")
        if "\nPROBE = Probe(" in path.read_text(encoding="utf-8")
    }
    assert programs == set(OPTIONS)
