"""Published records, falsified in every way that we could think of: what the gate refuses, and what it cannot know.

`python -m tests.test_gate_lies` tells every lie about every record and prints how many passed, type by type.
"""

import functools
import itertools
import json
import operator
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.base.errors import RecordError
from runner.hardware.gpus import Gpu
from runner.record.commits import NO_HISTORY, History
from runner.record.gate import identities, record_problems
from runner.record.model import Code, Measurement, Outcome, Record
from runner.record.reading import parse_record
from runner.record.store import Store
from tests.evidence_samples import machine, record, step
from tests.lies import LIES, UNKNOWABLE, Json

ROOT = Path(__file__).parents[1]
NOW = datetime(2027, 1, 1, tzinfo=UTC)
# Lies of one kind that the suite tells; all of them are told on request.
A_FEW = 2


def on_eight_b200() -> Record:
    """What stands for a record of a GPU node, of which none is published: its entry is out of reach."""
    gpus = tuple(
        Gpu(
            index=index,
            name="NVIDIA B200",
            memory_bytes=183_359 * 2**20,
            compute_capability="10.0",
            sm_clock_hz=1.965e9,
            memory_clock_hz=3.996e9,
            power_limit_w=1000.0,
        )
        for index in range(8)
    )
    here = machine(*["NVIDIA B200"] * 8, cuda="13.0", nccl="2.27.7")
    found = Measurement(
        name="bus_bandwidth",
        labels={"op": "all_reduce", "bytes": 2**30, "ranks": 8, "backend": "nccl", "arm": "caller"},
        value=830.3e9,
        unit="B/s",
        statistic="median",
        samples=(829.1e9, 830.2e9, 830.3e9, 830.9e9, 831.4e9),
    )
    ran = step(
        "busbw",
        found,
        probe="collectives",
        method_version=2,
        command="python -m runner.probes.collectives",
        gpus_used=8,
    )
    return record(ran, machine=here.model_copy(update={"gpus": gpus}))


@functools.cache
def published() -> tuple[tuple[Record, ...], History]:
    store, history = Store(ROOT / "site_data", secrets=()), History(ROOT / "site_data")
    records = tuple(store.examine(path)[0] for path in store.files())
    if not all(history.commit(one.code.commit or "") for one in records):
        pytest.skip("this clone does not have the commits of the records")
    # The newest first: they have most to lie about.
    return (*sorted(records, key=lambda one: one.moment, reverse=True), on_eight_b200()), history


@functools.cache
def theirs(run_id: str) -> frozenset[tuple[object, ...]]:
    """What the other published records have that this one may not."""
    return frozenset(
        key for other in published()[0] if other.run_id != run_id for key, _ in identities(other)
    )


def refusals(falsified: Json) -> list[str]:
    """What the gate says about a falsified record in the place of the true one, or beside it under another run id."""
    try:
        found = parse_record(json.dumps(falsified).encode(), "it", as_written=True)
    except RecordError as error:
        return [str(error)]
    history = published()[1] if found.code.commit in _commits() else _told_of(found.code)
    taken = theirs(found.run_id)
    shared = [f"has {what} another; delete one" for key, what in identities(found) if key in taken]
    # The first is enough, and the search for what redaction would take out comes last.
    return shared or list(itertools.islice(record_problems(found, NOW, (), history), 1))


@functools.cache
def _commits() -> frozenset[str | None]:
    return frozenset(one.code.commit for one in published()[0][:-1])


def _told_of(code: Code) -> History:
    # The stand-in's commit is nowhere; any other that a lie names is looked for in the history.
    return NO_HISTORY if code.commit == on_eight_b200().code.commit else published()[1]


def told(name: str, most: int | None = None) -> Iterator[tuple[Record, list[str]]]:
    """The lie of this name about one record after the other, with what the gate says."""
    *real, stand_in = published()[0]
    cases = ((one, LIES[name](_json(one))) for one in real)
    falsified = [(one, lie) for one, lie in itertools.islice(filter(operator.itemgetter(1), cases), most)]
    for one, lie in falsified or [(stand_in, LIES[name](_json(stand_in)))]:
        if lie is not None:
            yield one, refusals(lie)


def _json(one: Record) -> Json:
    return _dumped(one.run_id)


@functools.cache
def _dumped(run_id: str) -> Json:
    return next(one for one in published()[0] if one.run_id == run_id).model_dump(mode="json")


def test_the_records_are_fit_as_they_are() -> None:
    assert {one.run_id: refusals(one.model_dump(mode="json")) for one in published()[0]} == {
        one.run_id: [] for one in published()[0]
    }


def test_a_record_without_steps_that_calls_a_fix_proved_on_hardware_that_it_made_up_is_refused() -> None:
    made_up = on_eight_b200().model_copy(
        update={
            "steps": (),
            "outcome": Outcome.FIX_PROVED,
            "code": Code(commit="0" * 40, dirty=False, digest="d"),
        }
    )
    made_up = made_up.model_copy(update={"machine": made_up.machine.model_copy(update={"driver": "banana"})})
    said = list(record_problems(made_up, NOW))
    assert [line.partition("; ")[0] for line in said] == [
        f"names '{'0' * 40}' as its commit, which is not a commit id",
        "has the invalid driver version 'banana'",
        "has the outcome fix_proved, but its steps give not_applicable",
    ]


def test_there_are_more_than_a_hundred_kinds_of_lies() -> None:
    assert len(LIES) > 150
    assert UNKNOWABLE.keys() <= LIES.keys()
    page = (ROOT / "kb" / "reference" / "what-this-tool-promises.md").read_text(encoding="utf-8")
    assert f"falsified in {len(LIES)} ways. All are refused but {len(UNKNOWABLE)}, which" in page


@pytest.mark.parametrize("name", sorted(LIES.keys() - UNKNOWABLE.keys()))
def test_a_lie_is_refused_with_what_is_wrong_and_what_to_do(name: str) -> None:
    cases = list(told(name, A_FEW))
    assert cases, "no record has a place for this lie"
    assert [one.run_id for one, said in cases if not said] == []
    assert not any("\n" in line for _, said in cases for line in said)


@pytest.mark.parametrize("name", sorted(UNKNOWABLE))
def test_what_no_gate_can_know_passes_and_is_told_on_the_site(name: str) -> None:
    cases = list(told(name, A_FEW))
    assert cases, "no record has a place for this lie"
    assert {one.run_id: said for one, said in cases if said} == {}
    page = (ROOT / "kb" / "reference" / "how-numbers-are-taken.md").read_text(encoding="utf-8")
    assert UNKNOWABLE[name] in " ".join(page.split())


if __name__ == "__main__":
    total: Counter[str] = Counter()
    for kind in sorted(LIES):
        results = [bool(said) for _, said in told(kind)]
        note = f"  ({UNKNOWABLE[kind]})" if kind in UNKNOWABLE else ""
        sys.stdout.write(f"{kind:58} tried {len(results):2}, passed {results.count(False):2}{note}\n")
        total.update(tried=len(results), passed=results.count(False))
    sys.stdout.write(f"{len(LIES)} kinds, tried {total['tried']}, passed {total['passed']}\n")
