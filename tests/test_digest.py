"""What makes a stored number stale: a changed command or method, and nothing else."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.entry import digest
from runner.entry.digest import current_digest, digest_before_schema_4, is_current, step_digest
from runner.entry.model import Phase, Runbook, Safety, Step
from runner.entry.read import read_all
from runner.record.commits import History
from runner.record.gate import record_problems
from runner.record.migrations import migrate
from runner.record.model import SCHEMA_VERSION, Record, StepResult
from runner.record.reading import parse_record
from runner.record.store import Store
from runner.vocabulary import PROBES
from runner.vocabulary.versions import method_version
from tests.evidence_samples import record
from tests.evidence_samples import step as result_of

ROOT = Path(__file__).parents[1]
STORED = sorted((ROOT / "site_data").rglob("*.json"))
ENTRIES = {entry.id: entry for entry in read_all(ROOT / "runbooks")}
EVERY_STEP = [(entry.id, step.id) for entry in ENTRIES.values() for step in entry.steps]
EVERY_PROBE = sorted({probe for entry in ENTRIES.values() for step in entry.steps for probe in step.probes})


def changed(entry: Runbook, change: Callable[[Step], Step]) -> Runbook:
    """The entry with its steps changed."""
    sections = tuple(
        section.model_copy(
            update={"body": tuple(change(part) if isinstance(part, Step) else part for part in section.body)}
        )
        for section in entry.sections
    )
    return entry.model_copy(update={"sections": sections})


def stale(before: Runbook, after: Runbook) -> set[str]:
    """The steps whose numbers become stale when the entry changes."""
    return {
        step.id
        for step, now in zip(before.steps, after.steps, strict=True)
        if not is_current(current_digest(before, step), after, now)
    }


def states(record: Record, entry: Runbook) -> Mapping[str, bool]:
    """Whether the numbers of each finished step of the record are current."""
    return {
        result.id: is_current(result.digest, entry, step)
        for result in record.steps
        if (step := entry.step(result.id)) is not None and result.status.finished
    }


class LaterStep(Step):
    """A step of a later version, with one more attribute."""

    retries: int = 0


CHANGES: Mapping[str, Callable[[Step], Step]] = {
    "another deadline": lambda step: step.model_copy(update={"timeout": step.timeout + 60}),
    "slow": lambda step: step.model_copy(update={"slow": not step.slow}),
    "drill": lambda step: step.model_copy(update={"drill": not step.drill}),
    "other needs": lambda step: step.model_copy(update={"needs": ()}),
    "another safety": lambda step: step.model_copy(update={"safety": Safety.CHANGES_HOST}),
    "another line": lambda step: step.model_copy(update={"line": step.line + 7}),
    "a new attribute": lambda step: LaterStep(**step.model_dump()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_no_attribute_besides_the_command_changes_the_state_of_a_stored_number(
    path: Path, change: Callable[[Step], Step]
) -> None:
    record = Store(ROOT / "site_data").load(path)
    entry = ENTRIES[record.runbook.id]
    assert states(record, changed(entry, change)) == states(record, entry)


@pytest.mark.parametrize(("entry_id", "step_id"), EVERY_STEP)
def test_a_changed_command_makes_the_step_stale_and_those_that_inherit_its_environment(
    entry_id: str, step_id: str
) -> None:
    entry = ENTRIES[entry_id]
    edited = changed(
        entry,
        lambda step: (
            step.model_copy(update={"command": f"export X=1; {step.command}"}) if step.id == step_id else step
        ),
    )
    order = [step.id for step in entry.steps]
    this = entry.steps[order.index(step_id)]
    phases = {this.phase, Phase.VERIFY} if this.phase is Phase.FIX else {this.phase}
    after = {step.id for step in entry.steps[order.index(step_id) :] if step.phase in phases}
    assert stale(entry, edited) == after


@pytest.mark.parametrize("probe", EVERY_PROBE)
def test_a_new_method_version_makes_exactly_the_steps_stale_that_start_the_probe(
    probe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        (entry.id, step.id): current_digest(entry, step) for entry in ENTRIES.values() for step in entry.steps
    }
    now = method_version
    newer = PROBES[probe].method_version + 1
    monkeypatch.setattr(digest, "method_version", lambda name: newer if name == probe else now(name))
    for entry in ENTRIES.values():
        for step in entry.steps:
            assert is_current(before[entry.id, step.id], entry, step) == (probe not in step.probes)


def test_a_digest_of_an_earlier_schema_is_compared_in_its_own_form() -> None:
    entry = ENTRIES["fp8-power-regression"]
    step = entry.steps[-1]
    methods = {name: PROBES[name].method_version for name in PROBES}
    before = digest_before_schema_4(entry, step, methods)
    assert is_current(before, entry, step)
    assert digest_before_schema_4(changed(entry, CHANGES["a new attribute"]), step, methods) == before
    for change in (CHANGES["another deadline"], lambda step: step.model_copy(update={"command": "true"})):
        assert not is_current(before, changed(entry, change), change(step))


def test_the_forms_of_stored_digests_never_change() -> None:
    step = Step(id="again", phase=Phase.FIX, command="python -m runner.probes.stale_env", line=3)
    entry = ENTRIES["fp8-power-regression"].model_copy(update={"sections": ()})
    assert step_digest(entry, step, {"stale_env": 1}) == "a5e342aa2c1731b1"
    assert digest_before_schema_4(entry, step, {"stale_env": 1}) == "277407679789355f"


# Records of earlier schemas.


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_record_has_the_digests_of_the_entry_at_its_commit_as_written_and_as_read(
    path: Path,
) -> None:
    store = Store(ROOT / "site_data")
    written, read = store.examine(path)[0], store.load(path)
    commit = History(path).commit(read.code.commit or "")
    entry = commit.entry(read.runbook.id) if commit else None
    if commit is None or entry is None:
        pytest.skip("this clone does not have the commit")
    assert read.model_copy(update={"schema_version": 0, "steps": ()}) == written.model_copy(
        update={"schema_version": 0, "steps": ()}
    )
    assert read.schema_version == SCHEMA_VERSION
    for result, before in zip(read.steps, written.steps, strict=True):
        step = entry.step(result.id)
        assert step is not None
        now, earlier = commit.digests_of(entry, step)
        assert result.model_copy(update={"digest": before.digest}) == before
        assert before.digest == (earlier if written.schema_version < 4 else now)
        # A step that was skipped may be the only one with its probe, whose method version is then unknown.
        assert result.digest == now or (result.digest == earlier and not result.status.finished)


def a_step(step_id: str, phase: Phase, command: str, *probe: object) -> StepResult:
    """A step of a record of schema 3."""
    name, version = probe or (None, None)
    return result_of(
        step_id,
        phase=phase,
        command=command,
        digest=f"old of {step_id}",
        probe=name,
        method_version=version,
    )


LOOK = a_step("look", Phase.DIAGNOSE, "python -m runner.probes.stale_env", "stale_env", 1)
MEND = a_step("mend", Phase.FIX, "unset A")
AGAIN = a_step(
    "again",
    Phase.VERIFY,
    "python -m runner.probes.stale_env && python -m runner.probes.collectives",
    "collectives",
    2,
)


def digests_of(*steps: StepResult, schema: int = 3) -> dict[str, str]:
    """The digests of these steps after the migration."""
    before = record(*steps, schema_version=schema)
    migrated = migrate(before)
    undone = [
        after.model_copy(update={"digest": step.digest})
        for step, after in zip(before.steps, migrated.steps, strict=True)
    ]
    assert migrated.schema_version == SCHEMA_VERSION
    assert before == migrated.model_copy(update={"schema_version": schema, "steps": tuple(undone)})
    return {step.id: step.digest for step in migrated.steps}


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_record_of_an_earlier_schema_has_the_digests_of_its_commands_and_methods(schema: int) -> None:
    found = digests_of(LOOK, MEND, AGAIN, schema=schema)
    assert found == {
        "look": digest.commands_digest([LOOK.command], {"stale_env": 1}),
        "mend": digest.commands_digest(["unset A"], {}),
        "again": digest.commands_digest(["unset A", AGAIN.command], {"stale_env": 1, "collectives": 2}),
    }


def test_a_step_of_several_probes_keeps_its_digest_if_no_step_of_the_record_tells_a_method_version() -> None:
    assert digests_of(MEND, AGAIN)["again"] == "old of again"


def test_a_skipped_step_has_the_method_versions_of_the_steps_that_ran() -> None:
    skipped = a_step("skipped", Phase.DIAGNOSE, "python -m runner.probes.stale_env --again")
    assert digests_of(LOOK, skipped)["skipped"] == digest.commands_digest(
        [LOOK.command, skipped.command], {"stale_env": 1}
    )
    assert digests_of(skipped)["skipped"] == "old of skipped"


def test_a_redacted_command_keeps_the_digest_of_its_step_and_of_those_that_inherit_it() -> None:
    redacted = a_step("mend", Phase.FIX, "ssh [host] true")
    found = digests_of(LOOK, redacted, AGAIN)
    assert (found["mend"], found["again"]) == ("old of mend", "old of again")
    assert found["look"] != "old of look"


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_record_without_its_optional_fields_is_read_as_with_their_defaults(schema: int) -> None:
    content = json.loads(STORED[0].read_bytes()) | {"schema_version": schema}
    for step in content["steps"]:
        step.update(method_version=None)
    written = parse_record(json.dumps(content).encode(), "it", as_written=True)
    short = written.model_dump(mode="json", exclude_defaults=True)
    assert any("probe" in step and "method_version" not in step for step in short["steps"])
    read, read_short = (parse_record(json.dumps(one).encode(), "it") for one in (content, short))
    assert read_short == read


def test_the_gate_expects_the_digest_in_the_form_of_the_schema() -> None:
    # Digests have another form from schema 4 on.
    path = next(one for one in STORED if json.loads(one.read_bytes())["schema_version"] < 4)
    store, history = Store(ROOT / "site_data", secrets=()), History(path)
    written, read = store.examine(path)[0], store.load(path)
    if history.commit(read.code.commit or "") is None:
        pytest.skip("this clone does not have the commit")
    assert written.schema_version < read.schema_version == SCHEMA_VERSION
    now = datetime(2027, 1, 1, tzinfo=UTC)
    for one, foreign in ((written, 4), (read, 3)):
        assert list(record_problems(one, now, (), history)) == []
        other = one.model_copy(update={"schema_version": foreign})
        assert {problem.partition(": ")[2] for problem in record_problems(other, now, (), history)} == {
            "has a different digest than its commit's entry; run the entry again"
        }


def test_a_record_of_the_current_schema_stays_as_it_is() -> None:
    assert migrate(record(LOOK)) == record(LOOK)


def test_a_record_without_steps_is_migrated() -> None:
    assert migrate(record(schema_version=1)) == record(schema_version=SCHEMA_VERSION)
