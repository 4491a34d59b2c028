"""Lies about steps: which there are, how they ended, what ran in them."""

import json
from typing import Any

from tests.lies.aboutruns import later
from tests.lies.told import Json, NoPlaceError, a_step, lie, retell


@lie
def no_steps(record: Json) -> None:
    record["steps"] = []


@lie
def first_step_dropped(record: Json) -> None:
    record["steps"] = record["steps"][1:]


@lie
def last_step_dropped(record: Json) -> None:
    record["steps"] = record["steps"][:-1]


@lie
def symptom_dropped(record: Json) -> None:
    record["steps"].remove(a_step(record, status="symptom"))


@lie
def step_twice(record: Json) -> None:
    record["steps"].append(record["steps"][-1])


@lie
def steps_exchanged(record: Json) -> None:
    record["steps"].reverse()


@lie
def step_added(record: Json) -> None:
    record["steps"].append(record["steps"][-1] | {"id": "another"})


@lie
def step_renamed(record: Json) -> None:
    record["steps"][0]["id"] = "another"


def _change(name: str, where: Json, **changes: Any) -> None:
    def told(record: Json) -> None:
        a_step(record, **where).update(changes)

    told.__name__ = name
    lie(told)


PASSED: Json = {"status": "passed", "numbers": True}
SYMPTOM: Json = {"status": "symptom"}
# It never ran; and it ran and found itself not applicable.
SKIPPED: Json = {"status": "skipped", "exit_status": None}
NOT_APPLICABLE: Json = {"status": "skipped", "exit_status": 80}

_change("passed_called_symptom", PASSED, status="symptom", reason="it is there")
_change("passed_called_failed", PASSED, status="failed", reason="expectation x missed")
_change("passed_called_error", PASSED, status="error", reason="crashed")
_change("passed_called_timeout", PASSED, status="timeout", reason="too long")
_change("passed_called_interrupted", PASSED, status="interrupted", reason="stopped")
_change("passed_called_skipped", PASSED, status="skipped", reason="not here")
_change("symptom_called_passed", SYMPTOM, status="passed", reason=None)
_change("symptom_called_passed_with_its_exit_status", SYMPTOM, status="passed", reason=None, exit_status=0)
_change("symptom_called_failed", SYMPTOM, status="failed")
_change("symptom_without_a_reason", SYMPTOM, reason=None)
_change("symptom_without_a_document", SYMPTOM | {"numbers": True}, probe=None)
_change("skipped_called_passed", SKIPPED, status="passed", reason=None)
_change("skipped_called_passed_with_all_it_takes", SKIPPED, status="passed", reason=None, exit_status=0)
_change("skipped_called_symptom", SKIPPED, status="symptom")
_change("skipped_without_a_reason", SKIPPED, reason=None)
_change("skipped_with_seconds", SKIPPED, duration_s=1.0)
_change("skipped_with_output", SKIPPED, stdout_tail="hello\n")
_change("skipped_with_gpus", SKIPPED, gpus_used=1)
_change("skipped_by_an_exit_status_that_is_none", SKIPPED, exit_status=1)
_change("exit_status_of_a_passed_step", PASSED, exit_status=1)
_change("exit_status_of_a_crash", PASSED, exit_status=139)
_change("exit_status_missing", PASSED, exit_status=None)
_change("exit_status_not_applicable", PASSED, exit_status=80)
_change("status_made_up", PASSED, status="splendid")
_change("start_missing", PASSED, started_at=None)
_change("duration_missing", PASSED, duration_s=None)
_change("duration_below_zero", PASSED, duration_s=-1.0)
_change("duration_beyond_its_run", PASSED, duration_s=86400.0)
_change("duration_endless", PASSED, duration_s=1e300)
_change("gpus_of_a_host_without", PASSED, gpus_used=8)
_change("gpus_below_zero", PASSED, gpus_used=-1)
_change("left_out_though_it_ran", PASSED, left_out=True)
_change("left_out_though_it_was_not_applicable", NOT_APPLICABLE, left_out=True)
_change("dropped_bytes_below_zero", PASSED, stdout_dropped_bytes=-1)
_change("processes_below_zero", PASSED, processes_ended=-3)
_change("probe_missing", PASSED, probe=None)
_change("probe_made_up", PASSED, probe="clairvoyance")
_change("method_version_of_the_future", PASSED, method_version=99)
_change("method_version_missing", PASSED, method_version=None)
_change("method_version_nought", PASSED, method_version=0)
_change("digest_made_up", PASSED, digest="0123456789abcdef")
_change("digest_empty", PASSED, digest="")
_change("command_that_does_nothing", PASSED, command="true")
_change("fallback_that_was_not_asked_for", PASSED, fallback_reason="no FP8 here", fallback_asked=False)
_change("phase_exchanged", PASSED | {"phase": "verify"}, phase="diagnose")
_change(
    "output_of_a_symptom", PASSED, stdout_tail='{"probe": "x", "measurements": [], "status": "symptom"}\n'
)


def _told(name: str, *, cut: bool, **changes: Any) -> None:
    """The same about a step whose output still holds its document, or where that was cut off."""

    def told(record: Json) -> None:
        for step in record["steps"]:
            held = step["stdout_tail"].rstrip().rpartition("\n")[2].startswith("{")
            if step["probe"] and step["status"] == "passed" and held is not cut:
                step.update(changes)
                return
        raise NoPlaceError

    told.__name__ = name
    lie(told)


_told("effective_changed", cut=False, effective={"precision": "fp8"})
_told("requested_changed", cut=False, requested={"precision": "fp8"})
_told("details_changed", cut=False, details={"well": True})
_told("details_changed_where_output_was_cut", cut=True, details={"well": True})


@lie
def passed_emptied(record: Json) -> None:
    step = a_step(record, **PASSED)
    step.update(measurements=[], probe=None, method_version=None, requested={}, effective={}, details={})
    step.update(fallback_reason=None, fallback_asked=False)


@lie
def document_and_output_removed(record: Json) -> None:
    step = next(
        (one for one in reversed(record["steps"]) if one["phase"] == "diagnose" and one["probe"]), None
    )
    if step is None or step["status"] != "passed" or record["verdicts"]:
        raise NoPlaceError
    step.update(measurements=[], probe=None, method_version=None, requested={}, effective={}, details={})
    step.update(fallback_reason=None, fallback_asked=False, stdout_tail="", reason=None)


@lie
def symptom_told_as_passed_in_output_too(record: Json) -> None:
    step = a_step(record, **SYMPTOM)
    if record["outcome"] != "fix_proved":
        raise NoPlaceError
    step.update(status="passed", reason=None, exit_status=0)
    step["stdout_tail"] = step["stdout_tail"].replace('"status": "symptom"', '"status": "ok"')


@lie
def fallback_hidden(record: Json) -> None:
    for step in record["steps"]:
        step.update(fallback_reason=None, fallback_asked=False)


@lie
def method_version_of_the_past(record: Json) -> None:
    for step in record["steps"]:
        if (step["method_version"] or 0) > 1:
            step["method_version"] -= 1
            retell(step)
            return
    raise NoPlaceError


@lie
def probe_exchanged(record: Json) -> None:
    step = a_step(record, **PASSED)
    step["probe"] = "stale_env" if step["probe"] != "stale_env" else "nccl_env"
    step["method_version"] = 1


@lie
def command_with_another_option(record: Json) -> None:
    a_step(record, **PASSED)["command"] += " --preset tiny"


@lie
def digests_exchanged(record: Json) -> None:
    one, other = record["steps"][0], record["steps"][-1]
    one["digest"], other["digest"] = other["digest"], one["digest"]


@lie
def steps_at_once(record: Json) -> None:
    ran = [step for step in record["steps"] if step["started_at"] and step["duration_s"] > 2]
    if not ran or ran[0] is [step for step in record["steps"] if step["started_at"]][-1]:
        raise NoPlaceError
    place = record["steps"].index(ran[0])
    following = next(step for step in record["steps"][place + 1 :] if step["started_at"])
    following["started_at"] = ran[0]["started_at"]


@lie
def started_before_its_run(record: Json) -> None:
    step = a_step(record, **PASSED)
    step["started_at"] = later(record["started_at"], -5)


@lie
def started_after_its_run(record: Json) -> None:
    step = a_step(record, **PASSED)
    step["started_at"] = later(record["ended_at"], 5)


@lie
def step_took_a_little_longer(record: Json) -> None:
    a_step(record, **PASSED)["duration_s"] += 0.001


@lie
def text_printed(record: Json) -> None:
    a_step(record, **PASSED)["stderr_tail"] += "all is well\n"


@lie
def printed_json_removed(record: Json) -> None:
    step = a_step(record, **PASSED)
    step["stdout_tail"] = step["stdout_tail"].rstrip().rpartition("\n")[0]


@lie
def reason_changed(record: Json) -> None:
    step = a_step(record, **SYMPTOM)
    step["reason"] = "something else"


_change("step_called_simulated", PASSED, simulated=True)
_change("skipped_called_simulated", SKIPPED, simulated=True)


@lie
def step_called_simulated_in_the_schema_that_has_the_mark(record: Json) -> None:
    a_step(record, **PASSED)["simulated"] = True
    record["schema_version"] = max(5, record["schema_version"])


@lie
def simulated_step_called_real(record: Json) -> None:
    """The output still tells that the probe read a stand-in."""
    step = a_step(record, **PASSED)
    retell(step)
    before, _, last = step["stdout_tail"].rstrip().rpartition("\n")
    step["stdout_tail"] = f"{before}\n{json.dumps(json.loads(last) | {'simulated': True})}\n"


_told("passed_for_an_invented_reason", cut=False, reason="everything is fast here")
_told("passed_for_an_invented_reason_where_output_was_cut", cut=True, reason="everything is fast here")
_change("passed_for_a_reason_without_a_document", {"status": "passed", "probe": None}, reason="all is well")


@lie
def effective_changed_with_output(record: Json) -> None:
    step = a_step(record, **PASSED)
    step["effective"] = {**step["effective"], "backend": "nccl"}
    retell(step)


@lie
def left_out_without_a_limit(record: Json) -> None:
    """Left out for lack of time, in a run that had no limit."""
    a_step(record, **SKIPPED)["left_out"] = True
    record["options"]["within"] = None
