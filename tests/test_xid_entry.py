"""Entry 9: its signatures over real lines, and what a run of captured logs may prove."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.entry.read import read_all, read_runbook
from runner.entry.signatures import match_log
from runner.record.model import Outcome, Record, Verdict
from tests.logs import log_of
from tests.test_kernel_log_lines import FOLDER, samples

# Its steps are read-only, and a run holds the node.
pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
ENTRY = ROOT / "runbooks" / "xid-triage.md"
# About one cause that other entries are about too.
SHARED = {
    "48",
    "63",
    "64",
    "74",
    "92",
    "94",
    "95",
    "136",
    "140",
    "144",
    "145",
    "146",
    "147",
    "148",
    "149",
    "150",
    "157",
    "160",
    "171",
    "172",
    # Fatal SXids.
    "10003",
    "12020",
    "20034",
    "24007",
}
XIDS = [(what, line) for action, what, _, line in samples() if what.isdecimal() and action != "none"]


def score(*lines: str) -> int:
    return sum(one.score for one in match_log(log_of(list(lines)), [read_runbook(ENTRY)]))


@pytest.mark.parametrize(("code", "line"), XIDS, ids=lambda text: text[:40])
def test_every_line_of_the_driver_leads_to_this_entry(code: str, line: str) -> None:
    if "SXid" in line and "Non-fatal" in line:
        assert score(line) == 0
        return
    assert score(line) > 0
    if code not in SHARED:
        first = match_log(log_of([line]), read_all(ROOT / "runbooks"))[0]
        assert first.runbook_id == "xid-triage"


def test_the_log_of_a_node_that_starts_leads_nowhere() -> None:
    assert score(*(FOLDER / "healthy-eight-gpus-start.txt").read_text().splitlines()) == 0


def test_a_run_over_captured_logs_is_a_drill_and_no_proof(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli.main", "--data", str(tmp_path), "run", "xid-triage", "--reproduce",
         "--allow", "busy", "--step", "captured", "--step", "settled", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip
    assert done.stdout, done.stderr
    (document,) = json.loads(done.stdout)
    record = Record.model_validate(document)
    assert {one.id: one.status.value for one in record.steps} == {"captured": "symptom", "settled": "passed"}
    found = {one.id: one.verdict for one in record.verdicts}
    assert found["one-cause-one-finding"] is Verdict.MET
    assert found["nothing-unknown-in-the-sample"] is Verdict.MET
    assert found["nothing-left-when-the-driver-says-so"] is Verdict.MET
    assert record.outcome is Outcome.DRILL_PASSED
    assert any("verify/quiet" in one for one in record.unproved)
