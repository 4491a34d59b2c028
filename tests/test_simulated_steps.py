"""A step that ran against a stand-in for its hardware counts for nothing, and the rest of its run may be published."""

import re
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import InputError
from runner.cli.progress import key_number
from runner.entry.model import Phase, ProofItem, Runbook, Step
from runner.history.campaigns import distributions
from runner.history.compare import compare_records
from runner.history.endings import outcome_words
from runner.history.prune import needed
from runner.history.series import read_series
from runner.kit.precision.sweeps import baseline_and_latest, read_sweep
from runner.pages.before_after import before_and_after
from runner.pages.claims import claim_views
from runner.pages.evidence import gather
from runner.pages.programs import latest_results
from runner.pages.view import matrix_row, step_evidence
from runner.record.diagnosis import Diagnosis, State, diagnose_entry, diagnosis_status
from runner.record.durations import expected_durations
from runner.record.gate import identities, record_problems
from runner.record.headline import key_measurement
from runner.record.judge import judge_claims, judge_expectations
from runner.record.model import (
    SCHEMA_VERSION,
    ClaimState,
    Document,
    Options,
    Outcome,
    Record,
    StepResult,
    StepStatus,
    Verdict,
)
from runner.record.outcomes import judge_run
from runner.record.proof import proof_gaps
from runner.record.reading import parse_record
from runner.record.simulated import NOT_COUNTED, was_simulated
from runner.record.store import Store, latest
from tests import golden_entry
from tests.builders import a_machine
from tests.evidence_samples import expectation, machine, measurement, record, runbook, step
from tests.nvml import EIGHT_B200, library_folder
from tests.test_recording import House, a_step

ROOT = Path(__file__).parents[1]
NOW = datetime(2027, 1, 1, tzinfo=UTC)
SMALL = golden_entry.entry()
HERE = machine().machine_class


def simulated(one: StepResult, *, now: bool = True) -> StepResult:
    return one.model_copy(update={"simulated": now})


# A run in which every consumer of a number finds one.


def a_run(*, fake: bool) -> Record:
    """A fault, its fix and its proof; each step that measured is simulated or real."""
    busbw = golden_entry.result(
        SMALL,
        "busbw",
        measurement(4.1e8, 3.9e8, 4.0e8, 4.1e8, 4.2e8, 4.6e8, bytes=8 * 2**30),
        measurement(1.1e8, 1.0e8, 1.1e8, 1.2e8, bytes=2**20),
        golden_entry.wrong_elements(7),
        status=StepStatus.SYMPTOM,
        reason="wrong",
        exit_status=1,
    )
    again = golden_entry.result(SMALL, "again", golden_entry.wrong_elements(0))
    return golden_entry.run(
        SMALL,
        simulated(busbw, now=fake),
        golden_entry.result(SMALL, "mend"),
        simulated(again, now=fake),
        outcome=Outcome.FIX_PROVED,
    )


def _beside(found: Record) -> Record:
    """The same run on another node, a day later."""
    later = {
        "run_id": "b" * 12,
        "node_alias": "node-0000b2",
        "started_at": found.started_at + timedelta(days=1),
    }
    return found.model_copy(update=later)


def _first_step(found: Record) -> StepResult:
    return found.steps[0]


# By the consumer, whether it takes anything from the measured steps of this run.
CONSUMERS: dict[str, Callable[[Record], object]] = {
    "the key number of a step": lambda run: key_measurement(_first_step(run)),
    "the line of a step in the terminal": lambda run: key_number(_first_step(run)),
    "the newest results of classes": lambda run: {key[2] for key in latest([run])} & {"busbw", "again"},
    "the comparison of two runs": lambda run: [
        row
        for row in compare_records(run, _beside(run)).rows
        if row.first is not None or row.second is not None
    ],
    "numbers over time": lambda run: read_series([run], [SMALL]),
    "the spread over nodes": lambda run: distributions([run, _beside(run)]),
    "durations": lambda run: expected_durations(SMALL, "tiny", run.machine, [run])["busbw"].measured,
    "the records to keep for their results": lambda run: needed(
        [], [run.model_copy(update={"outcome": None, "steps": run.steps[:1]})]
    ),
    "expectations": lambda run: [
        one for one in judge_expectations(SMALL, run.steps, run.machine) if one.value is not None
    ],
    "claims": lambda run: [
        state
        for state, _ in judge_claims(SMALL, run.steps, run.machine).values()
        if state is not ClaimState.UNDECIDED
    ],
    "the proof": lambda run: (
        not proof_gaps(SMALL, run.steps, judge_expectations(SMALL, run.steps, run.machine))
    ),
    "the outcome": lambda run: judge_run(SMALL, run.steps, run.machine)[0].outcome is Outcome.FIX_PROVED,
    "the identity of its readings": lambda run: [key for key, _ in identities(run) if key[0] == "readings"],
    "the evidence of pages": lambda run: (
        {step_id for _, _, step_id, _ in gather([run], [SMALL]).finished} & {"busbw", "again"}
    ),
    "the trends of pages": lambda run: gather([run], [SMALL]).series,
    "the matrix": lambda run: [
        cell.key for cell in matrix_row(SMALL, gather([run], [SMALL])) if cell.key is not None
    ],
    "before and after": lambda run: before_and_after(SMALL, gather([run], [SMALL])),
    "claims on pages": lambda run: [
        shown
        for view in claim_views(SMALL, gather([run], [SMALL]))
        for _, _, shown, *_ in view.states
        if shown
    ],
    "the file of newest results": lambda run: [
        one for one in _steps_of(latest_results([SMALL], gather([run], [SMALL]))) if one["measurements"]
    ],
}


def _steps_of(document: dict[str, object]) -> list[dict[str, object]]:
    steps = document["steps"]
    assert isinstance(steps, list)
    return steps


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_nothing_is_taken_from_a_simulated_step(consumer: str) -> None:
    takes = CONSUMERS[consumer]
    assert takes(a_run(fake=False))
    assert not takes(a_run(fake=True))


# Modules that read the measurements of steps: each leaves out simulated ones, is given none, or only stores them.
READERS = {
    "history/campaigns", "history/compare", "kit/precision/sweeps", "record/evaluation", "record/gate/machine",
    "record/gate/record", "record/headline", "record/looked", "record/proof", "pages/before_after",
    # Only results that `pages.evidence` or `record.headline` let through.
    "cli/progress", "pages/numbers", "pages/programs", "pages/readings", "pages/view",
    # They check, redact and write what is there.
    "record/documents", "record/gate/printed", "record/gate/steps", "record/model", "record/redaction/redact",
    "record/writing",
    # Measurements of the probe's own, before they are a step's.
    "kit/drill/findings", "kit/rendezvous_path", "kit/repro/stack_compile", "kit/running",
    "kit/steps/nonfinite/drill", "kit/steps/nonfinite/faults", "kit/storage/drill",
}  # fmt: skip


def test_every_module_that_reads_measurements_is_known_here() -> None:
    found = {
        path.relative_to(ROOT / "runner").with_suffix("").as_posix()
        for path in (ROOT / "runner").rglob("*.py")
        if re.search(r"\.measurements\b", path.read_text(encoding="utf-8"))
    }
    assert found == READERS, "decide what a simulated step means for it, hold it above, and list it"


# What a run with such steps comes to.


def ran(step_id: str, phase: str, **changes: Any) -> StepResult:
    return step(step_id, phase=Phase(phase), **changes)


SYMPTOM: dict[str, Any] = {"status": StepStatus.SYMPTOM, "reason": "it is there", "exit_status": 1}
ENTRY = runbook(look="diagnose", other="diagnose", provoke="reproduce", mend="fix", again="verify")


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ((ran("look", "diagnose", simulated=True),), Outcome.INCONCLUSIVE),
        ((ran("look", "diagnose", simulated=True, **SYMPTOM),), Outcome.INCONCLUSIVE),
        ((ran("look", "diagnose", simulated=True, **SYMPTOM), ran("other", "diagnose")), Outcome.HEALTHY),
        ((ran("look", "diagnose", simulated=True), ran("other", "diagnose", **SYMPTOM)), Outcome.SYMPTOM),
        (
            (
                ran("provoke", "reproduce", simulated=True, **SYMPTOM),
                ran("mend", "fix"),
                ran("again", "verify"),
            ),
            Outcome.INCONCLUSIVE,
        ),
        (
            (ran("look", "diagnose", **SYMPTOM), ran("mend", "fix"), ran("again", "verify", simulated=True)),
            Outcome.SYMPTOM,
        ),
    ],
)
def test_the_status_of_a_simulated_step_shows_neither_a_fault_nor_health(
    steps: tuple[StepResult, ...], outcome: Outcome
) -> None:
    assert judge_run(ENTRY, steps, machine())[0].outcome is outcome


def test_a_simulated_step_of_the_proof_makes_a_drill_of_the_run_and_is_named() -> None:
    two = runbook(
        proof=(ProofItem(metric="again"), ProofItem(metric="fast")),
        look="diagnose",
        mend="fix",
        again="verify",
        fast="verify",
    )
    steps = [ran("look", "diagnose", **SYMPTOM), ran("mend", "fix"), ran("again", "verify")]
    found, _ = judge_run(two, [*steps, ran("fast", "verify", simulated=True)], machine())
    assert found.outcome is Outcome.DRILL_PASSED
    assert found.unproved == ("verify/fast: simulated, which proves nothing",)
    assert judge_run(two, [*steps, ran("fast", "verify")], machine())[0].outcome is Outcome.FIX_PROVED


def test_a_run_that_is_simulated_as_a_whole_is_rehearsed_like_a_real_one_and_proves_nothing() -> None:
    stand_in = machine("NVIDIA B200", simulated=True)
    look, mend = ran("look", "diagnose", simulated=True, **SYMPTOM), ran("mend", "fix", simulated=True)
    assert judge_run(ENTRY, [look], stand_in)[0].outcome is Outcome.SYMPTOM
    again = ran("again", "verify", simulated=True)
    assert judge_run(ENTRY, [look, mend, again], stand_in)[0].outcome is Outcome.DRILL_PASSED


def test_an_expectation_on_a_simulated_step_is_not_evaluated_and_says_why() -> None:
    bound = runbook(expectations=(expectation(min=1e9, unit="B/s"),), busbw="diagnose")
    taken = step("busbw", measurement(1e6), simulated=True)
    (verdict,) = judge_expectations(bound, [taken], machine())
    assert (verdict.verdict, verdict.note) == (Verdict.NOT_EVALUATED, "step busbw: simulated, not counted")
    (rehearsed,) = judge_expectations(bound, [taken], machine(simulated=True))
    assert rehearsed.verdict is Verdict.MISSED


def test_a_simulated_number_is_compared_with_nothing() -> None:
    fake, real = a_run(fake=True), _beside(a_run(fake=False))
    found = compare_records(fake, real)
    verdicts = {row.verdict for row in found.rows}
    assert verdicts == {"only in B; not comparable: simulated"}
    whole = real.model_copy(update={"simulated": True})
    assert not compare_records(whole, fake).rows


def test_a_step_that_was_asked_for_and_simulated_is_not_called_healthy() -> None:
    asked = record(
        step("look", simulated=True),
        step("other"),
        options=Options(preset="tiny", phases=tuple(Phase), steps=("look", "other")),
    )
    assert outcome_words(Outcome.HEALTHY, asked) == "healthy in step other only"


def test_a_page_says_that_the_step_was_simulated_and_shows_none_of_its_output() -> None:
    (row,) = [
        one
        for one in step_evidence(SMALL, _step(SMALL, "busbw"), gather([a_run(fake=True)], [SMALL]))
        if one.machine_class == HERE
    ]
    assert (row.state, row.reason, row.result) == ("simulated", NOT_COUNTED, None)


def test_a_page_shows_an_older_real_number_and_not_a_newer_simulated_one() -> None:
    older, newer = a_run(fake=False), _beside(a_run(fake=True))
    evidence = gather([older, newer], [SMALL])
    found = evidence.step(HERE, SMALL.id, "busbw")
    assert found is not None
    assert found[0].run_id == older.run_id


def _step(entry: Runbook, step_id: str) -> Step:
    found = entry.step(step_id)
    assert found is not None
    return found


# Diagnose.


def diagnosed(*, rehearsed: bool) -> Diagnosis:
    look = step("look", simulated=True, **SYMPTOM)
    return diagnose_entry(ENTRY, [look], rehearsed=rehearsed)


def test_a_finding_of_a_simulated_step_is_unknown_on_a_real_node_and_a_finding_on_a_simulated_one() -> None:
    found = diagnosed(rehearsed=False)
    assert (found.state, found.findings) == (State.UNKNOWN, ())
    assert [(blind.step, blind.why) for blind in found.not_looked] == [("look", NOT_COUNTED)]
    assert diagnosis_status([found]) == 3
    assert diagnosed(rehearsed=True).state is State.FOUND


# The gate, and records of earlier schemas.


def complaints(found: Record) -> list[str]:
    """What the gate says besides that nothing is known of the commit."""
    return [said for said in record_problems(found, NOW) if "commit" not in said]


def test_a_record_with_a_simulated_step_is_fit_to_publish() -> None:
    fake = step("fake", measurement(9e30), simulated=True, gpus_used=0)
    assert complaints(record(step("look"), fake)) == []
    assert complaints(record(fake, outcome=Outcome.INCONCLUSIVE)) == []


def test_a_run_that_is_simulated_as_a_whole_is_still_refused() -> None:
    assert "was simulated; run the entry on real GPUs" in complaints(record(step("look"), simulated=True))


def test_an_outcome_that_rests_on_simulated_steps_is_refused() -> None:
    (said,) = complaints(record(step("fake", measurement(1.0), simulated=True)))
    assert said == "has the outcome healthy, but its steps give inconclusive; run the entry again"


def test_a_mark_without_a_document_and_one_in_an_earlier_schema_are_refused() -> None:
    assert any("no probe" in said for said in complaints(record(step("look", simulated=True), step("b"))))
    old = record(step("look", measurement(1.0), simulated=True), step("b"), schema_version=4)
    assert any("schema 4, which has no such mark" in said for said in complaints(old))


def test_no_step_of_an_earlier_record_is_simulated() -> None:
    old = record(step("look", measurement(1.0)), schema_version=4).model_dump(mode="json")
    for one in old["steps"]:
        del one["simulated"]
    read = parse_record(record(schema_version=4).model_dump_json().encode(), "it")
    assert read.schema_version == SCHEMA_VERSION
    assert [one.simulated for one in Record.model_validate(old).steps] == [False]


# Sweeps that the precision tools compare.


def test_a_simulated_sweep_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    document = Document(
        probe="precision_power_sweep",
        method_version=1,
        status="ok",
        measurements=(measurement(1.0),),
        simulated=True,
    )
    path.write_text(document.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="simulated, so it measured nothing"):
        read_sweep(path)
    with pytest.raises(InputError):
        baseline_and_latest(tmp_path)


# The real thing: a stand-in for NVML that only one step of a run sees.

PROBE = f"{shlex.quote(sys.executable)} -m runner.probes.topology"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return House(tmp_path)


def with_stand_in(folder: Path, command: str) -> str:
    board = folder / "board.txt"
    board.write_text(EIGHT_B200, encoding="utf-8")
    variables = {"LD_LIBRARY_PATH": str(library_folder()), "RUNBOOK_STAND_IN_NVML": str(board)}
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), command])


def test_a_stand_in_that_only_one_step_sees_makes_that_step_simulated_and_not_the_run(
    house: House, tmp_path: Path
) -> None:
    kept = house.run(a_step("real"), a_step("fake", with_stand_in(tmp_path, PROBE)), machine=a_machine())
    real, fake = kept.record.steps
    assert not was_simulated(kept.record)
    assert (real.simulated, fake.simulated) == (False, True)
    assert fake.status is StepStatus.PASSED, fake.stderr_tail
    assert fake.measurements
    assert kept.record.outcome is Outcome.HEALTHY
    assert [said for said in complaints(kept.record) if "checkout" not in said] == []
    (stored,) = house.records()
    assert [one.simulated for one in stored.steps] == [False, True]


def test_a_run_of_that_step_alone_says_nothing_about_the_node(house: House, tmp_path: Path) -> None:
    kept = house.run(a_step("fake", with_stand_in(tmp_path, PROBE)), machine=a_machine())
    assert kept.record.outcome is Outcome.INCONCLUSIVE


def test_a_probe_that_judges_captured_input_is_not_simulated(house: House, tmp_path: Path) -> None:
    matrix = ROOT / "tests" / "topo"
    captured = min(matrix.glob("*.txt"))
    kept = house.run(a_step("pasted", f"{PROBE} --from {shlex.quote(str(captured))}"), machine=a_machine())
    (pasted,) = kept.record.steps
    assert pasted.probe == "topology", pasted.stderr_tail
    assert not pasted.simulated


def test_the_store_keeps_the_mark(tmp_path: Path) -> None:
    store = Store(tmp_path)
    taken = record(step("fake", measurement(1.0), simulated=True), step("look"))
    assert store.load(store.save(taken)).steps[0].simulated
