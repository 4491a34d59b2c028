"""Entry 21: which lines of a log it claims, and what its claims come to when it runs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.entry.read import read_runbook
from runner.entry.signatures import match_log
from runner.record.judge import judge_claims
from runner.record.model import ClaimState, Record
from tests.logs import log_of

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "runbooks" / "recompile-storm.md"
ENTRY, ENTRY_TEXT = read_runbook(PLACE), PLACE.read_text(encoding="utf-8")

LIMIT_2_9 = """\
W1021 10:44:18.989000 2926 torch/_dynamo/convert_frame.py:1355] [0/8] torch._dynamo hit config.recompile_limit (8)
W1021 10:44:18.989000 2926 torch/_dynamo/convert_frame.py:1355] [0/8]    function: 'foo' (/job/train.py:4)
W1021 10:44:18.989000 2926 torch/_dynamo/convert_frame.py:1355] [0/8]    last reason: 0/7: y == 7
"""
AGAIN = "V1128 08:29:44.102000 14421 torch/_dynamo/guards.py:5396] [0/1] [__recompiles] "
BROKEN = "V1128 08:29:52.409000 14494 torch/_dynamo/symbolic_convert.py:5124] [0/0] [__graph_breaks] "
WARM_UP = f"""\
{AGAIN}Recompiling function forward in /job/m.py:10
{AGAIN}    triggered by the following guard failure(s):
{AGAIN}    - 0/0: tensor 'x' size mismatch at index 0. expected 4, actual 5
{BROKEN}Graph break in user code at /job/m.py:13
torch.compile took 27.28 s; recompile_limit=8
I1128 08:29:52.409000 14494 torch/_dynamo/__init__.py:141] torch._dynamo.reset
the last reason: none; config.recompile_limit is 8
"""


# The drill itself keeps torch's warnings back.
STORM = """\
import torch

@torch.compile(backend="eager", dynamic=False)
def forward(x):
    return x + 1

for size in range(2, 14):
    forward(torch.ones(size))
"""


def meanings(text: str) -> Sequence[str]:
    return [hit.means or "" for match in match_log(log_of(text.splitlines()), [ENTRY]) for hit in match.hits]


def test_the_lines_of_a_limit_are_known_and_name_the_guard() -> None:
    found = meanings(LIMIT_2_9)
    assert any("compiled as often as it may be" in one for one in found)
    assert any("guard that failed" in one for one in found)


@pytest.mark.parametrize("why", ["fullgraph=True", "fail_on_recompile_limit_hit"])
def test_a_limit_that_is_an_error_is_known(why: str) -> None:
    (meaning,) = meanings(f"torch._dynamo.exc.FailOnRecompileLimitHit: Hard failure due to {why}")
    assert "reached the recompile limit" in meaning


def test_a_normal_warm_up_is_not_a_storm_even_with_its_recompiles_logged() -> None:
    assert meanings(WARM_UP) == []


@pytest.mark.system
def test_the_claims_are_decided_by_a_run_on_this_host_and_the_fix_is_proved(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    steps = ("ordinary", "shapes", "attribute", "raised", "branch", "no-grad", "dtype", "clean")
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--data", str(tmp_path / "data"), "run", ENTRY.id, "--reproduce",
         "--allow", "busy", *(word for one in steps for word in ("--step", one)), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )  # fmt: skip
    (document,) = json.loads(done.stdout)
    found = Record.model_validate(document)
    assert found.outcome == "fix_proved", [(one.id, one.status, one.reason) for one in found.steps]
    verdicts = judge_claims(ENTRY, found.steps, found.machine)
    decided = {claim: state for claim, (state, _) in verdicts.items()}
    for claim in (
        "each-size-recompiles",
        "static-shapes-are-safe",
        "changing-float-recompiles",
        "changing-int-attribute-is-made-dynamic",
        "higher-limit-ends-the-storm",
    ):
        assert decided[claim] is ClaimState.CONTRADICTED, claim


@pytest.mark.system
def test_what_torch_prints_at_a_limit_is_what_the_entry_knows() -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, check=True, cwd=ROOT)
    assert any("compiled as often as it may be" in one for one in meanings(done.stderr))
    assert any("guard that failed" in one for one in meanings(done.stderr))


@pytest.mark.system
def test_the_report_of_tlparse_that_the_entry_asks_for_has_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if shutil.which("tlparse") is None:
        pytest.skip("tlparse is not installed")
    (shown,) = (line for line in ENTRY_TEXT.splitlines() if line.startswith("tlparse "))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "runner.probes.step_drill",
            "--topic",
            "recompiles",
            "--fault",
            "int-attribute",
        ],
        env={**os.environ, "TORCH_TRACE": str(tmp_path / "trace")},
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    subprocess.run(["bash", "-c", f"TRACE=trace\n{shown}"], cwd=tmp_path, capture_output=True, check=True)
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "report").rglob("recompile_reasons*")]
    assert any("self.calls == 0" in page for page in pages)
