"""What a check costs, on the page before a long run: from records, by class, and never for a step that is not there."""

import re
from functools import partial
from pathlib import Path

import pytest

from runner.base.errors import RunbookFaultsError
from runner.entry.guard_files import guard_files
from runner.entry.model import Phase, Runbook, Step
from runner.kit.probe import single
from runner.pages.check_costs import guard_costs, step_times
from runner.pages.evidence import HEADLINE_CLASSES, gather
from runner.pages.prose import as_html, as_markdown, expand
from runner.pages.readings import Known
from runner.pages.tables import Reading, Table
from runner.record.model import Record, RunbookRef, StepStatus
from tests.builders import a_runbook
from tests.evidence_samples import machine, record, step
from tests.html_reader import read_html

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "kb" / "guides" / "before_a_long_run.md"
COST = "python -m runner.probes.step_drill --topic late --cost"
ENTRY = a_runbook(
    Step(id="look", phase=Phase.DIAGNOSE, command="true", line=1),
    Step(id="cost", phase=Phase.VERIFY, command=COST.replace(" --cost", " \\\n  --cost"), line=2),
    Step(id="drill", phase=Phase.VERIFY, command=COST.replace(" --cost", ""), line=3),
)
CPU = machine().machine_class


def ran(*steps: object, entry: Runbook = ENTRY) -> Record:
    return record(*steps, runbook=RunbookRef(id=entry.id, number=entry.head.number, title="An entry"))  # type: ignore[arg-type]


def known(*found: Record) -> Known:
    return Known({ENTRY.id: ENTRY}, gather(found, [ENTRY]), strict=True)


def cells(table: Table) -> dict[str, dict[str, str]]:
    """By row and class, the number that is shown."""
    return {
        str(label): {
            name: (one.number.shown if one.number else "unmeasured") if isinstance(one, Reading) else one
            for name, one in zip(table.head[1:], row, strict=True)
        }
        for label, *row in table.rows
    }


def test_the_time_of_a_check_is_that_of_its_last_run_on_each_class_and_nothing_on_others() -> None:
    took = ran(step("look", duration_s=260.0))
    found = cells(step_times(known(took), [("reading", f"{ENTRY.id}/look"), ("drill", f"{ENTRY.id}/drill")]))
    assert found["reading"] == {CPU: "4 min 20 s", HEADLINE_CLASSES[0]: "unmeasured"}
    assert set(found["drill"].values()) == {"unmeasured"}


def test_a_step_that_did_not_finish_has_no_time_and_a_changed_one_is_stale() -> None:
    rows = [("reading", f"{ENTRY.id}/look")]
    broken = ran(step("look", status=StepStatus.TIMEOUT, duration_s=60.0))
    assert set(cells(step_times(known(broken), rows))["reading"].values()) == {"unmeasured"}
    (line,) = step_times(known(ran(step("look", duration_s=60.0))), rows).rows
    (reading,) = [one for one in line if isinstance(one, Reading) and one.number]
    assert reading.stale


def test_every_step_that_measures_the_cost_of_a_guard_has_a_row_measured_or_not() -> None:
    assert list(cells(guard_costs(known()))) == ["late, entry 7"]
    assert set(cells(guard_costs(known()))["late, entry 7"].values()) == {"unmeasured"}
    one = single("guard_cost", 1.012, guard="late")
    found = cells(guard_costs(known(ran(step("cost", one, probe="step_drill", method_version=1)))))
    assert found["late, entry 7"][CPU].startswith("1.01")
    assert found["late, entry 7"][HEADLINE_CLASSES[0]] == "unmeasured"


def test_without_such_a_step_the_table_says_that_nothing_is_measured() -> None:
    nothing = Known({}, gather([]))
    assert guard_costs(nothing).rows == (("none", "unmeasured"),)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("step_times([])", "step_times needs rows"),
        ('step_times([("a",)])', "('a',) is not a row of a table"),
        ('step_times([("a", "an-entri/look")])', "unknown entry 'an-entri' (did you mean 'an-entry'?)"),
        ('step_times([("a", "an-entry/loop")])', "unknown step 'loop' (did you mean 'look'?)"),
        ('step_times([("a", "an-entry")])', "unknown step ''"),
        ("guard_costs(1)", "guard_costs: too many positional arguments"),
    ],
)
def test_what_a_guide_asks_for_and_is_not_there_is_a_fault_in_one_line(call: str, fault: str) -> None:
    with pytest.raises(RunbookFaultsError) as caught:
        expand(f"{{{{ {call} }}}}", GUIDE, 1, known(), as_markdown)
    (found,) = caught.value.faults
    assert fault in found.message
    assert "\n" not in found.message


def test_both_tables_are_shown_on_the_site_and_in_plain_markdown() -> None:
    text = f'{{{{ step_times([("reading", "{ENTRY.id}/look")]) }}}}\n\n{{{{ guard_costs() }}}}\n'
    took = known(ran(step("look", duration_s=2.0)))
    assert "2 s" in read_html(expand(text, GUIDE, 1, took, partial(as_html, prefix="../"))).words
    assert "| reading |" in expand(text, GUIDE, 1, took, as_markdown)


GUARD_ROWS = re.findall(r"^\| `(\w+)` \|.*\| (.+) \| .+ \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("name", "lines"), GUARD_ROWS, ids=[name for name, _ in GUARD_ROWS])
def test_what_the_guide_calls_is_in_the_guard(name: str, lines: str) -> None:
    guards = {guard.name: guard.text for guard in guard_files()}
    if name not in guards:
        pytest.skip(f"this version has no guard {name}")
    called = set(re.findall(r"(?<=\.)\w+(?=\()|\b[A-Z]\w+(?=\()", lines))
    assert called
    missing = {one for one in called if not re.search(rf"\b(def|class) {one}\b", guards[name])}
    assert not missing
