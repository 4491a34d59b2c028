"""Lies about numbers: values, samples, statistics, units, labels, and whose they are."""

import statistics
from collections.abc import Callable

from tests.lies.told import Json, NoPlaceError, a_number, a_number_of, a_step, lie, numbers, retell


def _number(name: str, change: Callable[[Json], object], /, *, samples: int = 0, **wanted: object) -> None:
    def told(record: Json) -> None:
        change(a_number(record, samples=samples, **wanted))

    told.__name__ = name
    lie(told)


def _told_alike(
    name: str, change: Callable[[Json], object], /, *, samples: int = 0, **wanted: object
) -> None:
    """The same, with an output that tells it too."""

    def told(record: Json) -> None:
        step, found = a_number_of(record, samples=samples, **wanted)
        change(found)
        retell(step)

    told.__name__ = f"{name}_in_output_too"
    lie(told)


for _way in (_number, _told_alike):
    _way("value_doubled", lambda one: one.update(value=one["value"] * 2 + 1e-9), samples=2)
    _way("value_a_tenth_more", lambda one: one.update(value=one["value"] * 1.1), samples=2)
    _way("value_a_millionth_more", lambda one: one.update(value=one["value"] * 1.000001), samples=1)
    _way("value_the_least", lambda one: one.update(value=min(one["samples"])), samples=3, statistic="median")
    _way("value_below_zero", lambda one: one.update(value=-1.0), unit="s")
    _way("rate_below_zero", lambda one: one.update(value=-1.0), unit="token/s")
    _way("bytes_below_zero", lambda one: one.update(value=-1.0), name="peak_memory")
    _way("count_below_zero", lambda one: one.update(value=-1.0), name="wrong_elements")
    _way("count_with_a_fraction", lambda one: one.update(value=0.5), name="stale_variables")
    _way("ratio_below_zero", lambda one: one.update(value=-0.5, samples=[-0.5]), name="speed_ratio")
    _way("share_beyond_one", lambda one: one.update(value=1.5), name="fp8_share")
    _way("share_of_work_beyond_one", lambda one: one.update(value=2.0), name="prompt_done")
    _way("flag_of_two", lambda one: one.update(value=2.0), name="compile_finished")
    _way("memory_beyond_the_machine", lambda one: one.update(value=1e15), name="peak_memory")
    _way("samples_dropped", lambda one: one.update(samples=[]), samples=2)
    _way(
        "sample_dropped",
        lambda one: one["samples"].remove(max(one["samples"])),
        samples=3,
        statistic="median",
    )
    _way("sample_added", lambda one: one["samples"].extend([0.0] * 3), samples=1)
    _way("sample_below_zero", lambda one: one["samples"].append(-1.0), samples=1, unit="s")
    _way("samples_scaled", lambda one: one.update(samples=[2 * s for s in one["samples"]]), samples=1)
    _way(
        "reading_with_samples", lambda one: one.update(samples=[1.0, 2.0, 3.0]), statistic="single", unit="s"
    )
    _way("statistic_single", lambda one: one.update(statistic="single"), samples=2)
    _way("statistic_p95", lambda one: one.update(statistic="p95"), samples=3, statistic="median")
    _way("statistic_made_up", lambda one: one.update(statistic="typical"), samples=1)
    _way("statistic_of_a_reading", lambda one: one.update(statistic="median"), statistic="single")
    _way("unit_exchanged", lambda one: one.update(unit="W"))
    _way("unit_made_up", lambda one: one.update(unit="furlong"))
    _way("metric_made_up", lambda one: one.update(name="goodness"))
    _way("metric_of_another_probe", lambda one: one.update(name="rendezvous_time"), unit="s")
    _way("label_foreign", lambda one: one["labels"].update(blessed=True))
    _way("over_nccl_without_gpus", lambda one: one["labels"].update(backend="nccl"), name="bus_bandwidth")
    _way(
        "statistic_best_of",
        lambda one: one.update(statistic="min", value=min(one["samples"])),
        samples=2,
        unit="s",
    )
    _way(
        "statistic_mean_of",
        lambda one: one.update(statistic="mean", value=statistics.fmean(one["samples"])),
        samples=2,
    )

_number("value_no_number", lambda one: one.update(value="NaN"))
_number("value_true", lambda one: one.update(value="fast"))
_number("value_missing", lambda one: one.pop("value"))
_number("sample_no_number", lambda one: one["samples"].append("Infinity"), samples=1)
_number("label_of_its_value", lambda one: one["labels"].update(model="405b"), samples=1)
_number("reading_changed", lambda one: one.update(value=one["value"] + 1), statistic="single", unit="s")
_number("label_dropped", lambda one: one["labels"].popitem() if one["labels"] else None, samples=1)


@lie
def measured_twice(record: Json) -> None:
    step, found = a_number_of(record)
    step["measurements"].append(found)


@lie
def measurement_dropped(record: Json) -> None:
    step, found = a_number_of(record)
    step["measurements"].remove(found)


@lie
def numbers_of_a_skipped_step(record: Json) -> None:
    a_step(record, status="skipped")["measurements"] = a_step(record, numbers=True)["measurements"]


@lie
def samples_exchanged_between_numbers(record: Json) -> None:
    found = [one for _, one in numbers(record, samples=2, statistic="median")]
    if len(found) < 2 or found[0]["samples"] == found[-1]["samples"]:
        raise NoPlaceError
    found[0]["samples"], found[-1]["samples"] = found[-1]["samples"], found[0]["samples"]


@lie
def samples_of_another_step(record: Json) -> None:
    """Verify has what Diagnose measured."""
    steps: dict[str, tuple[Json, Json]] = {}
    for step, one in numbers(record, samples=5):
        if one["unit"] in {"s", "B/s", "token/s"} and len(set(one["samples"])) > 4:
            steps.setdefault(step["id"], (step, one))
    for step, one in steps.values():
        for other, found in steps.values():
            if step is not other and one["name"] == found["name"] and one["statistic"] == found["statistic"]:
                found.update(value=one["value"], samples=one["samples"])
                retell(other)
                return
    raise NoPlaceError


@lie
def the_record_again(record: Json) -> None:
    """Another run that has the same readings."""
    record["run_id"] = "e" * 12
    record["node_alias"] = "node-eeeeee"
    if not any(
        len(set(one["samples"])) > 4 and one["unit"] in {"s", "B/s", "FLOP/s"} for _, one in numbers(record)
    ):
        raise NoPlaceError


@lie
def number_samples_and_output_scaled(record: Json) -> None:
    """Little enough for every verdict to stay."""
    for step in record["steps"]:
        found = [one for one in step["measurements"] if one["unit"] == "s" and one["samples"]]
        if not found or _judged(record, step):
            continue
        for one in found:
            one["value"] *= 1 + 1e-5
            one["samples"] = [sample * (1 + 1e-5) for sample in one["samples"]]
        retell(step)
        return
    raise NoPlaceError


@lie
def one_reading_and_output_changed(record: Json) -> None:
    for step, one in numbers(record, statistic="single", unit="s"):
        if not _judged(record, step):
            one["value"] *= 1 + 1e-5
            retell(step)
            return
    raise NoPlaceError


@lie
def samples_reordered_with_output(record: Json) -> None:
    for step, one in numbers(record, samples=3, statistic="median", unit="s"):
        if not _judged(record, step) and one["samples"] != one["samples"][::-1]:
            one["samples"].reverse()
            retell(step)
            return
    raise NoPlaceError


@lie
def label_value_with_output(record: Json) -> None:
    for step, one in numbers(record):
        for name, value in one["labels"].items():
            if isinstance(value, str) and name in {"kernel", "model"} and not _judged(record, step):
                one["labels"][name] = f"{value}-2"
                retell(step)
                return
    raise NoPlaceError


def _judged(record: Json, step: Json) -> bool:
    """Whether a verdict of the run has a number of this step."""
    values = {one["value"] for one in step["measurements"]}
    return any(verdict["value"] in values for verdict in record["verdicts"])


@lie
def rate_that_another_number_of_its_step_contradicts(record: Json) -> None:
    for step, one in numbers(record, name="bus_bandwidth"):
        one["value"] *= 0.5
        one["samples"] = [value * 0.5 for value in one["samples"]]
        retell(step)
        return
    raise NoPlaceError
