"""Lies about the run: its commit, entry, options, times, verdicts and outcome."""

from datetime import datetime, timedelta

from runner.record.model import Outcome
from tests.lies.told import Json, NoPlaceError, lie


def _outcome(name: str) -> None:
    def told(record: Json) -> None:
        record["outcome"] = name

    told.__name__ = f"outcome_{name}"
    lie(told)


for _name in Outcome:
    _outcome(_name.value)


def later(text: str, seconds: float) -> str:
    return (datetime.fromisoformat(text) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


@lie
def outcome_missing(record: Json) -> None:
    record["outcome"] = None


@lie
def outcome_made_up(record: Json) -> None:
    record["outcome"] = "splendid"


@lie
def reasons_of_proof_added(record: Json) -> None:
    record["unproved"] = ["verify/x: not measured"]


@lie
def reasons_of_proof_dropped(record: Json) -> None:
    record["unproved"] = []


@lie
def commit_of_zeros(record: Json) -> None:
    record["code"]["commit"] = "0" * 40


@lie
def commit_that_never_was(record: Json) -> None:
    record["code"]["commit"] = "c0ffee" * 6 + "c0ff"


@lie
def commit_is_a_branch(record: Json) -> None:
    record["code"]["commit"] = "main"


@lie
def commit_missing(record: Json) -> None:
    record["code"]["commit"] = None


@lie
def code_with_changes(record: Json) -> None:
    record["code"]["dirty"] = True


@lie
def code_not_said_to_be_clean(record: Json) -> None:
    record["code"]["dirty"] = None


@lie
def package_of_another(record: Json) -> None:
    if record["code"]["package"] is None:
        raise NoPlaceError
    record["code"]["package"] = "ab" * 32


@lie
def entries_of_another(record: Json) -> None:
    if record["code"]["entries"] is None:
        raise NoPlaceError
    record["code"]["entries"] = "ab" * 32


@lie
def one_digest_of_another(record: Json) -> None:
    if record["code"]["digest"] is None:
        raise NoPlaceError
    record["code"]["digest"] = "ab" * 8


@lie
def entry_of_another_name(record: Json) -> None:
    record["runbook"]["id"] = "no-such-entry"


@lie
def entry_of_another_number(record: Json) -> None:
    record["runbook"]["number"] += 1


@lie
def entry_of_another_title(record: Json) -> None:
    record["runbook"]["title"] = "All is well"


@lie
def entry_exchanged(record: Json) -> None:
    other = {"nvlink-bandwidth": "fp8-power-regression"}.get(record["runbook"]["id"], "nvlink-bandwidth")
    record["runbook"]["id"] = other


@lie
def schema_of_the_future(record: Json) -> None:
    record["schema_version"] = 99


@lie
def schema_of_digests_in_another_form(record: Json) -> None:
    record["schema_version"] = 3 if record["schema_version"] > 3 else 5


@lie
def simulated(record: Json) -> None:
    record["simulated"] = True


@lie
def preset_made_up(record: Json) -> None:
    record["options"]["preset"] = "405b"


@lie
def phases_exchanged(record: Json) -> None:
    record["options"]["phases"].reverse()


@lie
def phases_fewer(record: Json) -> None:
    record["options"]["phases"] = ["diagnose"]


@lie
def phases_none(record: Json) -> None:
    record["options"]["phases"] = []


@lie
def reproduce_not_asked_for(record: Json) -> None:
    # A step that is asked for by name runs without it.
    if record["options"]["steps"]:
        raise NoPlaceError
    record["options"]["reproduce"] = False


@lie
def steps_asked_for_made_up(record: Json) -> None:
    record["options"]["steps"] = ["no-such-step"]


@lie
def fewer_steps_asked_for(record: Json) -> None:
    record["options"]["steps"] = [record["steps"][0]["id"]]


@lie
def allowance_made_up(record: Json) -> None:
    record["options"]["allow"] = ["everything"]


@lie
def within_no_time(record: Json) -> None:
    record["options"]["within"] = 0.0


@lie
def within_less_than_no_time(record: Json) -> None:
    record["options"]["within"] = -5.0


@lie
def ended_before_it_started(record: Json) -> None:
    record["ended_at"] = later(record["started_at"], -10)


@lie
def never_ended(record: Json) -> None:
    record["ended_at"] = None


@lie
def ended_before_its_last_step(record: Json) -> None:
    record["ended_at"] = later(record["ended_at"], -2)


@lie
def in_the_future(record: Json) -> None:
    _shift(record, 3.2e9)


@lie
def before_its_commit(record: Json) -> None:
    _shift(record, -3600)


@lie
def before_torch(record: Json) -> None:
    _shift(record, -3.2e8)


@lie
def time_shifted_later(record: Json) -> None:
    _shift(record, 60)


@lie
def started_later_than_its_steps(record: Json) -> None:
    record["started_at"] = later(record["started_at"], 2)


def _shift(record: Json, seconds: float) -> None:
    for place in ("started_at", "ended_at"):
        record[place] = later(record[place], seconds)
    for step in record["steps"]:
        if step["started_at"]:
            step["started_at"] = later(step["started_at"], seconds)


@lie
def run_id_made_up(record: Json) -> None:
    record["run_id"] = "f" * 12


@lie
def campaign_named(record: Json) -> None:
    record["campaign"] = "autumn"


@lie
def verdicts_dropped(record: Json) -> None:
    record["verdicts"] = []


@lie
def a_verdict_dropped(record: Json) -> None:
    record["verdicts"][:] = record["verdicts"][1:]


@lie
def verdict_twice(record: Json) -> None:
    record["verdicts"] += record["verdicts"][:1]


@lie
def verdict_flipped(record: Json) -> None:
    for verdict in record["verdicts"]:
        verdict["verdict"] = {"met": "missed", "missed": "met"}.get(verdict["verdict"], verdict["verdict"])


@lie
def verdict_met_though_nothing_was_judged(record: Json) -> None:
    for verdict in record["verdicts"]:
        if verdict["verdict"] == "not_evaluated":
            verdict["verdict"] = "met"


@lie
def verdict_of_another_value(record: Json) -> None:
    for verdict in record["verdicts"]:
        if verdict["value"]:
            verdict["value"] *= 1.5


@lie
def verdict_of_another_unit(record: Json) -> None:
    for verdict in record["verdicts"]:
        verdict["unit"] = "W"


@lie
def verdict_that_decides_otherwise(record: Json) -> None:
    for verdict in record["verdicts"]:
        verdict["decides"] = not verdict["decides"]


@lie
def verdict_of_other_evidence(record: Json) -> None:
    for verdict in record["verdicts"]:
        verdict["evidence"] = "unsourced" if verdict["evidence"] != "unsourced" else "measured"


@lie
def verdict_of_no_expectation(record: Json) -> None:
    for verdict in record["verdicts"][:1]:
        verdict["id"] = "made-up"


@lie
def verdict_without_its_note(record: Json) -> None:
    for verdict in record["verdicts"]:
        verdict["note"] = None
