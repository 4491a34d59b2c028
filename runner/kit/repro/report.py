"""The report of a guarded compile: its measurements, and details of each rung."""

import math
from collections.abc import Iterator
from dataclasses import asdict

from runner.base.errors import RunbookError
from runner.kit.compile_guard import Attempt, Guarded, processes
from runner.kit.compile_guard.budget import LEAST_S, start_limit
from runner.kit.probe import single
from runner.record.model import Measurement

_CURVE_POINTS = 40


def measurements(attempt: Attempt, preset: str) -> Iterator[Measurement]:
    """The measurements of one rung, labelled with its mode and the preset."""
    labels = {"preset": preset, "mode": attempt.mode.value}
    ended = attempt.compile_ended
    if attempt.mode != "eager" and (ended or attempt.outcome == "deadline"):
        yield single("compile_finished", float(ended), **labels)
        if attempt.cpu_share is not None:
            # A busy CPU has a different meaning in a compile that finished and in one that did not.
            yield single("compile_cpu_share", attempt.cpu_share, **labels, ended=ended)
    if attempt.outcome != "finished":
        return
    yield single("compile_setup_time", attempt.start_s, **labels)
    yield single("compile_peak_rss", attempt.peak_rss_bytes, **labels)
    if attempt.compile_s is not None and attempt.compile_cpu_s is not None:
        yield single("compile_time", attempt.compile_s, **labels)
        yield single("compile_cpu_time", attempt.compile_cpu_s, **labels)
        yield single("compile_cache", attempt.cache_bytes, **labels)
        yield single("graph_breaks", float(attempt.facts["graph_breaks"]), **labels)
        yield single("recompiles", float(attempt.facts["recompiles"]), **labels)
        yield single("compiled_difference", attempt.facts["difference"], **labels)


def warm_measurements(guarded: Guarded, preset: str) -> Iterator[Measurement]:
    """The measurements of the start from the cache, if requested.

    Raises:
        RunbookError: it failed, although the compile before it worked.
    """
    warm = guarded.warm
    if warm is None:
        return
    if warm.outcome != "finished" or warm.compile_s is None:
        raise RunbookError(f"the start from the cache failed: {warm.reason}")
    labels = {"preset": preset, "mode": warm.mode.value}
    yield single("warm_start_time", warm.compile_s, **labels)
    # The first child compiled only a block; this one holds the whole model.
    yield single("compiled_difference", warm.facts["difference"], **labels, start="warm")
    yield single("warm_cache_misses", float(warm.facts["cache_misses"]), **labels)


def overrun_s(guarded: Guarded, guard_s: float, deadline_s: float) -> float | None:
    """Seconds from the time limit of compiling until the guard returned; None if it was within the limit.

    The limit is the deadline, `LEAST_S` at least, from when the first child began to compile; if it never did, the
    limit of its start.
    """
    if all(one.outcome != "deadline" for one in guarded.attempts):
        return None
    first = guarded.attempts[0]
    if not first.compile_began:
        return guard_s - start_limit(deadline_s)
    return guard_s - (first.start_s + max(deadline_s, LEAST_S))


def processes_left(guarded: Guarded) -> int:
    """Living processes of the guarded compiles, by the guard's token and by this run's RUNBOOK_RUN_ID."""
    marked = sum(one.left for one in (*guarded.attempts, *filter(None, [guarded.warm])))
    return max(marked, len(processes.leftover_processes_of_run()))


def account(attempt: Attempt) -> dict[str, object]:
    """Details of one rung other than its measurements, as JSON; the growth is thinned to a few dozen points."""
    step = max(1, math.ceil(len(attempt.samples) / _CURVE_POINTS))
    return {
        "mode": attempt.mode,
        "outcome": attempt.outcome,
        "verdict": attempt.verdict,
        "reason": attempt.reason,
        "start_s": attempt.start_s,
        "given_s": attempt.compile_s,
        "processes_ended": attempt.ended,
        "said": dict(attempt.facts),
        "growth": [asdict(sample) for sample in attempt.samples[::step]],
    }
