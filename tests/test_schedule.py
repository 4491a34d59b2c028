"""What fits into the time of a run, by a clock that the tests move: nothing here sleeps or measures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.entry.model import Phase, Step
from runner.entry.plan import Plan, Request, make_plan
from runner.record.durations import Expected
from runner.record.model import StepResult, StepStatus
from runner.run.pace import CLOSING_S, Schedule, TimeSlot, foreseen
from runner.run.schedule import MARGIN, SPARE_S, StepWork, Tier, correction, share_out, step_works
from tests.builders import a_machine, a_runbook
from tests.evidence_samples import step as a_stored_step

D, R, F, V = Phase.DIAGNOSE, Phase.REPRODUCE, Phase.FIX, Phase.VERIFY


def a_step(step_id: str, phase: Phase = D, **fields: Any) -> Step:
    return Step(id=step_id, phase=phase, command="true", line=1, **fields)


def a_plan(*steps: Step) -> Plan:
    return make_plan(a_runbook(*steps), a_machine(), Request(reproduce=True))


def durations(plan: Plan, **seconds: float) -> dict[str, Expected]:
    return {p.step.id: Expected(seconds.get(p.step.id, 10.0), measured=True) for p in plan.steps}


@dataclass
class Run:
    """Entries played on a clock: a step that is started takes what it takes, or its deadline."""

    within: float | None
    entries: Sequence[tuple[Plan, Mapping[str, Expected]]]
    takes: Callable[[str, float], float] = lambda _id, expected: expected
    now: float = 100.0
    slots: list[dict[str, TimeSlot]] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)

    def play(self) -> "Run":
        works = [step_works(*entry) for entry in self.entries]
        schedule = Schedule(self.within, works, lambda: self.now)
        for number, (plan, expected) in enumerate(self.entries):
            self.begun.append(self.now)
            pace, slots = schedule.entry(number), dict[str, TimeSlot]()
            for planned in plan.steps:
                step = planned.step
                slot = slots[step.id] = pace.slot(step)
                took = self.takes(step.id, expected[step.id].seconds)
                if slot.left_out is None:
                    self.now += min(took, slot.deadline_s)
                pace.ended(a_result(step, slot, took))
            self.slots.append(slots)
        return self

    def left_out(self, entry: int = 0) -> list[str]:
        return [name for name, slot in self.slots[entry].items() if slot.left_out is not None]

    def cut(self) -> list[str]:
        return [
            name
            for slots, (_, expected) in zip(self.slots, self.entries, strict=True)
            for name, slot in slots.items()
            if slot.left_out is None and self.takes(name, expected[name].seconds) > slot.deadline_s
        ]


def a_result(step: Step, slot: TimeSlot, took: float) -> StepResult:
    status = StepStatus.PASSED if took <= slot.deadline_s else StepStatus.TIMEOUT
    ran = slot.left_out is None
    if not ran:
        return a_stored_step(
            step.id, status=StepStatus.SKIPPED, phase=step.phase, left_out=True, reason="no time"
        )
    return a_stored_step(step.id, status=status, phase=step.phase, duration_s=min(took, slot.deadline_s))


def played(within: float | None, *steps: Step, takes: float = 1.0, **seconds: float) -> Run:
    """A run of one entry, each step taking `takes` times what is expected of it."""
    plan = a_plan(*steps)
    return Run(within, [(plan, durations(plan, **seconds))], lambda _id, due: takes * due).play()


FULL = (a_step("look"), a_step("more"), a_step("inject", R), a_step("again", R), a_step("undo", F))
PROVED = (*FULL, a_step("see", V), a_step("clean", V))


def test_without_a_limit_every_step_has_its_own_deadline() -> None:
    slots = played(None, *PROVED).slots[0]
    assert {(slot.deadline_s, slot.left_out, slot.cut) for slot in slots.values()} == {(300.0, None, None)}


def test_with_time_enough_nothing_is_left_out() -> None:
    assert not played(600, *PROVED).left_out()


def test_with_less_time_optional_steps_go_first_and_then_further_faults_and_never_the_proof_before_them() -> (
    None
):
    assert played(86, *PROVED).left_out() == ["more"]
    assert played(74, *PROVED).left_out() == ["look", "more"]
    assert played(62, *PROVED).left_out() == ["look", "more", "again"]


def test_a_diagnose_step_that_the_proof_needs_is_part_of_the_proof() -> None:
    steps = (a_step("look"), a_step("more"), a_step("inject", R), a_step("see", V, needs=("more",)))
    assert played(44, *steps).left_out() == ["look"]


def test_where_nothing_is_injected_diagnose_is_what_finds_the_fault() -> None:
    plan = a_plan(a_step("look"), a_step("undo", F), a_step("see", V))
    assert [work.tier for work in step_works(plan, durations(plan))] == [Tier.PROOF] * 3


def test_verify_is_not_started_when_its_fix_was_left_out() -> None:
    run = played(50, a_step("inject", R), a_step("undo", F), a_step("see", V), undo=100, see=1)
    assert run.left_out() == ["undo", "see"]
    assert run.slots[0]["see"].left_out == "left out: it follows undo, which was left out"


def test_a_step_whose_need_cannot_run_here_takes_nobodys_time() -> None:
    plan = a_plan(a_step("gpu", gpus=8), a_step("after", needs=("gpu",)), a_step("look"))
    assert [work.id for work in step_works(plan, durations(plan))] == ["look"]


def test_a_step_that_does_not_fit_says_what_it_takes_and_what_was_left() -> None:
    slot = played(300, a_step("long", timeout=900), long=400).slots[0]["long"]
    assert slot.left_out == "left out: expected 6 min 40 s, 4 min 55 s left of 5 min"


def test_a_step_that_would_only_just_fit_is_not_started_either_and_says_so() -> None:
    slot = played(60, a_step("long"), long=50).slots[0]["long"]
    assert slot.left_out == "left out: expected 50 s, 55 s left of 60 s, which leaves no margin"


def test_a_guess_is_called_one_where_it_leaves_a_step_out() -> None:
    plan = a_plan(a_step("a"))
    run = Run(10, [(plan, {"a": Expected(30.0, measured=False)})]).play()
    said = run.slots[0]["a"].left_out
    assert said == "left out: no record, assumed 30 s, 5 s left of 10 s"


def test_a_deadline_shortened_by_the_time_left_says_so_and_ones_own_says_nothing() -> None:
    slots = played(100, a_step("a", timeout=20), a_step("b")).slots[0]
    assert (slots["a"].deadline_s, slots["a"].cut) == (20, None)
    assert slots["b"].deadline_s == pytest.approx(100 - CLOSING_S - 10)
    assert slots["b"].cut is not None
    assert "ended after 87 s, all that was left of 100 s" in slots["b"].cut
    assert "its own deadline is 5 min" in slots["b"].cut


def test_a_slower_machine_is_noticed_and_less_is_started() -> None:
    steps = [a_step(f"s{number}") for number in range(10)]
    assert not played(200, *steps).left_out()
    run = played(200, *steps, takes=4.0)
    assert run.left_out()
    assert not run.cut()
    last = run.slots[0]["s9"]
    assert last.about_s == 40


def test_a_faster_machine_is_noticed_and_more_is_started() -> None:
    steps = [a_step(f"s{number}") for number in range(10)]
    assert len(played(60, *steps, takes=0.2).left_out()) < len(played(60, *steps).left_out())


def test_one_odd_step_does_not_make_a_machine_slow_and_several_do() -> None:
    assert correction([]) == 1
    assert correction([(10, 1000), (10, 10)]) == 1
    assert correction([(10, 30), (10, 32), (10, 29)]) == 2.9


def test_steps_of_a_moment_say_little_of_a_machines_speed() -> None:
    assert correction([(0.1, 5.0)] * 10) == 1


def test_a_guess_is_not_compared_with() -> None:
    plan = a_plan(a_step("a"), a_step("b"), a_step("c"))
    guessed = {p.step.id: Expected(10.0, measured=False) for p in plan.steps}
    run = Run(1000, [(plan, guessed)], lambda _id, due: 9 * due).play()
    assert [slot.about_s for slot in run.slots[0].values()] == [10, 10, 10]


def test_a_hanging_early_entry_leaves_the_later_ones_what_they_are_expected_to_need() -> None:
    hanging = a_plan(*(a_step(f"hangs-{step.id}", step.phase) for step in PROVED))
    entries = [(plan, durations(plan)) for plan in (hanging, a_plan(*PROVED), a_plan(*PROVED))]
    run = Run(300, entries, lambda step_id, due: 1000.0 if step_id.startswith("hangs") else due).play()
    # 48 s are what the proof of each of the other two is expected to need.
    assert run.begun[1] <= 100 + 300 - CLOSING_S - 2 * 48 + 1e-6
    assert not {"inject", "undo", "see", "clean"} & {*run.left_out(1), *run.left_out(2)}


def test_a_hanging_optional_step_leaves_the_proof_of_its_entry_what_it_is_expected_to_need() -> None:
    plan = a_plan(*PROVED)
    run = Run(
        200, [(plan, durations(plan))], lambda step_id, due: 1000.0 if step_id == "look" else due
    ).play()
    assert run.cut() == ["look"]
    assert not {"inject", "undo", "see", "clean"} & {*run.left_out()}


def test_steps_that_use_all_the_time_they_may_leave_the_later_ones_theirs() -> None:
    plan = a_plan(*PROVED)
    works = [step_works(plan, {step.id: Expected(10, measured=False) for step in PROVED})]
    now = 0.0
    pace = Schedule(130, works, lambda: now).entry(0)
    for planned in plan.steps:
        slot = pace.slot(planned.step)
        assert slot.left_out is None
        assert works[0][0].expected.seconds <= slot.work_s <= slot.deadline_s
        now += slot.work_s
        pace.ended(a_result(planned.step, slot, slot.work_s))
    assert 110 < now <= 130, "and the time is used"


def with_headline(plan: Plan, step_id: str | None) -> Plan:
    head = plan.runbook.head.model_copy(update={"headline": step_id})
    return replace(plan, runbook=plan.runbook.model_copy(update={"head": head}))


def share_of(step_id: str, entries: list[Plan], within: float) -> tuple[TimeSlot, float]:
    """The slot of a step of the first entry, whose steps before it take what is expected, and its start."""
    works, now = [step_works(plan, durations(plan)) for plan in entries], 0.0
    pace = Schedule(within, works, lambda: now).entry(0)
    for planned in entries[0].steps:
        slot = pace.slot(planned.step)
        if planned.step.id == step_id:
            return slot, now
        now += slot.about_s if slot.left_out is None else 0.0
        pace.ended(a_result(planned.step, slot, slot.about_s))
    raise AssertionError(step_id)


def test_the_headline_of_an_entry_may_take_the_time_of_optional_steps_and_not_that_of_a_proof() -> None:
    first, later = a_plan(*PROVED), a_plan(*PROVED)
    optional = 3 * MARGIN * 10
    plain, _ = share_of("see", [with_headline(first, None), later], 200)
    headline, began = share_of("see", [with_headline(first, "see"), later], 200)
    assert headline.work_s == pytest.approx(plain.work_s + optional)
    proofs = 4 * MARGIN * 10
    assert began + headline.work_s <= 200 - CLOSING_S - proofs - MARGIN * 10
    other, _ = share_of("see", [with_headline(first, "clean"), later], 200)
    assert other.work_s == plain.work_s


def test_after_a_headline_that_uses_all_its_time_the_rest_of_the_proof_is_still_started() -> None:
    plan = with_headline(a_plan(*PROVED), "see")
    entries = [(plan, durations(plan)), (plan, durations(plan))]
    works, now = [step_works(*entry) for entry in entries], 0.0
    schedule = Schedule(200, works, lambda: now)
    for number in range(2):
        pace = schedule.entry(number)
        for planned in plan.steps:
            slot = pace.slot(planned.step)
            took = slot.work_s if planned.step.id == "see" else slot.about_s
            assert slot.left_out is None or planned.step.id in {"look", "more", "again"}
            now += took if slot.left_out is None else 0.0
            pace.ended(a_result(planned.step, slot, took))


def test_what_an_entry_does_not_use_goes_to_the_later_ones() -> None:
    plan = a_plan(*PROVED)
    entries = [(plan, durations(plan))] * 2
    slow = Run(110, entries).play()
    quick = Run(110, entries, lambda _id, due: due / 2).play()
    assert len(quick.left_out(1)) < len(slow.left_out(1))


def test_what_is_foreseen_is_what_happens_on_a_machine_as_expected() -> None:
    plan = a_plan(*PROVED)
    run = Run(62, [(plan, durations(plan))]).play()
    assert foreseen([plan], [durations(plan)], 62) == (run.slots[0],)


# Whatever the entries are and however slow the machine is.

ON_ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SECONDS = st.floats(0.01, 200)
STEPS = st.lists(
    st.tuples(st.sampled_from(list(Phase)), SECONDS, st.floats(1, 3000), st.floats(0.01, 500)), max_size=6
)
RUNS = st.tuples(st.floats(1, 3000), st.lists(STEPS, min_size=1, max_size=4))
Drawn = tuple[float, list[list[tuple[Phase, float, float, float]]]]


def a_run(drawn: Drawn) -> Run:
    within, entries = drawn
    takes: dict[str, float] = {}
    made = []
    for place, steps in enumerate(entries):
        names = [f"e{place}s{number}" for number in range(len(steps))]
        plan = a_plan(
            *(
                a_step(name, phase, timeout=timeout)
                for name, (phase, _, timeout, _) in zip(names, steps, strict=True)
            )
        )
        due = {name: Expected(step[1], measured=True) for name, step in zip(names, steps, strict=True)}
        takes |= {name: step[3] for name, step in zip(names, steps, strict=True)}
        made.append((plan, due))
    return Run(within, made, lambda step_id, _due: takes[step_id])


@ON_ANY_MACHINE
@given(RUNS)
def test_a_run_never_exceeds_its_time_while_steps_keep_to_their_deadlines(drawn: Drawn) -> None:
    run = a_run(drawn).play()
    assert run.now <= 100 + max(0.0, drawn[0] - CLOSING_S) + 1e-6


@ON_ANY_MACHINE
@given(RUNS)
def test_a_step_that_is_started_has_room_for_what_is_expected_of_it(drawn: Drawn) -> None:
    for slots in a_run(drawn).play().slots:
        for slot in slots.values():
            assert slot.left_out is not None or 0 < slot.about_s <= slot.deadline_s + 1e-9


@ON_ANY_MACHINE
@given(RUNS)
def test_the_same_run_is_scheduled_the_same_way(drawn: Drawn) -> None:
    assert a_run(drawn).play().slots == a_run(drawn).play().slots


@ON_ANY_MACHINE
@given(st.floats(CLOSING_S, 3000), st.lists(STEPS, min_size=2, max_size=4))
def test_an_entry_that_hangs_takes_no_time_that_falls_to_the_proof_of_later_ones(
    within: float, entries: list[list[tuple[Phase, float, float, float]]]
) -> None:
    # Whatever the first entry starts hangs, so that nothing is learnt of the machine from it.
    hanging = [(phase, due, limit, math.inf) for phase, due, limit, _ in entries[0]]
    run = a_run((within, [hanging, *entries[1:]])).play()
    works = [step_works(*entry) for entry in run.entries]
    _, *theirs = share_out(within - CLOSING_S, works, 1.0)
    proofs = sum(
        work.room(1.0)
        for entry, ids in zip(works[1:], theirs, strict=True)
        for work in entry
        if work.id in ids and work.tier is Tier.PROOF
    )
    assert 100 + within - CLOSING_S - run.begun[1] >= proofs - 1e-3


@ON_ANY_MACHINE
@given(RUNS)
def test_what_is_shared_out_fits_and_an_entry_gets_what_its_share_holds(drawn: Drawn) -> None:
    works = [step_works(*entry) for entry in a_run(drawn).entries]
    seconds = drawn[0]
    chosen = share_out(seconds, works, 1.0)
    rooms = [
        [work.room(1.0) for work in entry if work.id in ids] for entry, ids in zip(works, chosen, strict=True)
    ]
    assert sum(map(sum, rooms)) <= max(0.0, seconds - SPARE_S) + 1e-3
    proofs = [[work for work in entry if work.tier is Tier.PROOF] for entry in works]
    total = sum(work.room(1.0) for entry in proofs for work in entry)
    for entry, ids in zip(proofs, chosen, strict=True):
        mine = sum(work.room(1.0) for work in entry)
        share = mine * min(1.0, max(0.0, seconds - SPARE_S) / total) if total else 0.0
        if entry and not entry[0].after and entry[0].room(1.0) <= share:
            assert entry[0].id in ids


def test_all_that_fits_is_chosen_and_what_no_share_holds_goes_where_least_is_lacking() -> None:
    def entry(*seconds: float) -> list[StepWork]:
        return [
            StepWork(f"s{number}", Expected(due / MARGIN, measured=True), 3000, Tier.PROOF)
            for number, due in enumerate(seconds)
        ]

    both, first, second = frozenset({"s0", "s1"}), frozenset({"s0"}), frozenset[str]()
    assert share_out(62, [entry(10, 20), entry(30)], 1.0) == (both, first)
    # 48 of 60 s: 24 s for each; the first keeps 10 s of them, and with the rest its other step, not the second's.
    assert share_out(50, [entry(10, 20), entry(30)], 1.0) == (both, second)
    assert share_out(math.inf, [entry(10, 20), entry(30)], 1.0) == (both, first)
    assert share_out(0, [entry(10)], 1.0) == (frozenset(),)


@ON_ANY_MACHINE
@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=20))
def test_a_correction_is_a_ratio_that_was_seen_or_one(compared: list[tuple[float, float]]) -> None:
    assert correction(compared) in {1.0, *(actual / due for due, actual in compared)}


@pytest.mark.parametrize("within", [0.001, 1.0, CLOSING_S])
def test_with_no_time_at_all_everything_is_left_out_and_nothing_fails(within: float) -> None:
    assert len(played(within, *PROVED).left_out()) == len(PROVED)
