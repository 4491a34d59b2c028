import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from statistics import geometric_mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.base.significance import rank_shift
from runner.cli.main import main
from runner.entry.model import Phase
from runner.history.compare import ComparedNumber, compare_classes, compare_records
from runner.history.conditions import conditions_of, differences
from runner.history.endings import endings
from runner.history.series import read_series
from runner.history.trend import FEWEST, LEVEL, RECENT, WINDOW, newest_change, trend
from runner.history.verdict_changes import VerdictChange, verdict_changes
from runner.record.model import Measurement, Outcome, Record, StepStatus
from runner.record.store import Store, latest
from tests.evidence_samples import expectation, machine, measurement, record, runbook, step

START = datetime(2026, 1, 1, tzinfo=UTC)
LOOKED = runbook(busbw="diagnose")
Draw = Callable[[random.Random], float]
# Shapes that timings have: bell, long tail, outliers, few distinct values.
SHAPES: dict[str, Draw] = {
    "normal": lambda source: source.gauss(100, 3),
    "skewed": lambda source: source.lognormvariate(4.6, 0.1),
    "outliers": lambda source: 100 + source.gauss(0, 1) / max(abs(source.gauss(0, 1)), 1e-3),
    "tied": lambda source: float(source.choice((100, 101, 102))),
}


def bandwidth(value: float, *samples: float, name: str = "bus_bandwidth") -> Measurement:
    return measurement(value, *samples, name=name, op="all_reduce")


def runs(values: Sequence[float], **changes: object) -> list[Record]:
    """One run a day, each with this bus bandwidth."""
    return [
        record(
            step("busbw", bandwidth(value), probe="collectives"),
            run_id=f"{number:012x}",
            started_at=START + timedelta(days=number),
            ended_at=START + timedelta(days=number, minutes=1),
            **changes,
        )
        for number, value in enumerate(values)
    ]


def noisy(count: int, seed: int = 1, centre: float = 100.0) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(centre, 2) for _ in range(count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_steady_series_raises_an_alarm_no_oftener_than_the_test_says(shape: str) -> None:
    source = random.Random(7)
    trials = 3000
    alarms = 0
    for _ in range(trials):
        values = [SHAPES[shape](source) for _ in range(FEWEST + RECENT)]
        alarms += rank_shift(values[:FEWEST], values[FEWEST:]) <= LEVEL
    # Exact test: the rate is at most the level; four standard errors are left for the simulation itself.
    assert alarms / trials <= LEVEL + 4 * (LEVEL * (1 - LEVEL) / trials) ** 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_holds_for_a_full_window_and_the_whole_chain(shape: str) -> None:
    source = random.Random(11)
    trials = 250
    alarms = sum(
        newest_change(read_series(runs([SHAPES[shape](source) for _ in range(WINDOW + RECENT)]))[0])
        is not None
        for _ in range(trials)
    )
    assert alarms / trials <= LEVEL + 4 * (LEVEL * (1 - LEVEL) / trials) ** 0.5


def test_holding_each_run_against_the_one_before_would_cry_wolf() -> None:
    values = noisy(200)
    against_previous = sum(abs(b / a - 1) > 0.02 for a, b in pairwise(values))
    against_window = sum(
        newest_change(read_series(runs(values[: end + 1]))[0]) is not None for end in range(11, len(values))
    )
    assert against_previous > 60
    assert against_window <= 8


@pytest.mark.parametrize("earlier", [FEWEST, WINDOW])
def test_a_drop_of_a_tenth_is_found_within_three_runs_nearly_always(earlier: int) -> None:
    found = 0
    for seed in range(60):
        values = [*noisy(earlier, seed), *noisy(RECENT, seed + 1000, centre=90)]
        found += newest_change(read_series(runs(values))[0]) is not None
    assert found >= 50


def test_the_rank_test_is_the_share_of_choices_that_are_as_extreme() -> None:
    assert rank_shift([1, 2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12]) == 2 / 220
    assert rank_shift([5, 5, 5], [5, 5]) == 1.0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=6),
    st.lists(st.integers(0, 6).map(float), min_size=1, max_size=3),
)
def test_the_rank_test_agrees_with_counting_by_hand(earlier: list[float], recent: list[float]) -> None:
    values = [*earlier, *recent]

    def rank(value: float) -> float:
        return sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2

    def off_centre(chosen: Sequence[int]) -> float:
        return abs(sum(rank(values[index]) for index in chosen) - len(recent) * (len(values) + 1) / 2)

    seen = off_centre(range(len(earlier), len(values)))
    all_ways = [off_centre(chosen) for chosen in combinations(range(len(values)), len(recent))]
    assert rank_shift(earlier, recent) == sum(one >= seen - 1e-9 for one in all_ways) / len(all_ways)


def test_the_rank_test_needs_values_on_both_sides() -> None:
    with pytest.raises(ValueError, match="no samples"):
        rank_shift([], [1.0])


def test_a_change_says_how_much_which_way_and_what_is_new() -> None:
    before = runs(noisy(12), machine=machine(torch="2.12.0"))
    after = [
        one.model_copy(update={"started_at": one.started_at + timedelta(days=30), "run_id": f"z{one.run_id}"})
        for one in runs([80, 81, 79])
    ]
    (found,) = trend([*after, *before]).changes
    assert found.direction == "worse"
    assert found.ratio == pytest.approx(80 / median(noisy(12)))
    assert found.causes == ("torch 2.12.0 → 2.13.0",)
    assert (found.before.count, found.after.count) == (12, 3)


def test_a_version_that_some_earlier_run_had_is_no_cause() -> None:
    values = [*noisy(12), 80, 81, 79]
    mixed = [
        one.model_copy(update={"machine": machine(torch=f"2.1{number % 2}.0")})
        for number, one in enumerate(runs(values))
    ]
    (found,) = trend(mixed).changes
    assert found.causes == ()


def test_a_new_node_is_named() -> None:
    values = [*noisy(12), 80, 81, 79]
    moved = runs(values)[:-3] + runs(values, node_alias="node-ffffff")[-3:]
    (found,) = trend(moved).changes
    assert found.causes == ("another node (node-ffffff)",)


def test_too_few_runs_are_counted_and_not_tested() -> None:
    found = trend(runs([100.0] * (FEWEST + RECENT - 1)))
    assert (found.changes, found.tested, found.too_short) == ((), 0, 1)


def test_a_change_smaller_than_a_reader_would_heed_is_not_reported() -> None:
    assert trend(runs([100.0 + i / 100 for i in range(12)] + [101, 101.1, 101.2])).changes == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "f" * 16},
        {"phase": Phase.REPRODUCE},
        {"status": StepStatus.ERROR},
        {"fallback_reason": "no graphs"},
    ],
)
def test_other_digests_injected_faults_broken_steps_and_fallbacks_are_no_part_of_a_series(
    changes: dict[str, object],
) -> None:
    records = runs([*noisy(12), 80, 81, 79])
    records[-3:] = [
        one.model_copy(update={"steps": (one.steps[0].model_copy(update=changes),)}) for one in records[-3:]
    ]
    assert trend(records).changes == ()


def test_other_options_make_another_series() -> None:
    records = runs([*noisy(12), 80, 81, 79])
    options = records[0].options.model_copy(update={"preset": "8b"})
    records[-3:] = [one.model_copy(update={"options": options}) for one in records[-3:]]
    assert trend(records).changes == ()
    assert len(read_series(records)) == 2


def test_an_allowance_makes_no_other_series_and_is_named_as_a_cause() -> None:
    records = runs([*noisy(12), 80, 81, 79])
    options = records[0].options.model_copy(update={"allow": ("busy",)})
    records[-3:] = [one.model_copy(update={"options": options}) for one in records[-3:]]
    (found,) = trend(records).changes
    assert found.causes == ("allowed nothing → busy",)


def test_other_steps_that_changed_in_the_newest_runs_are_named_as_a_cause() -> None:
    records = runs([*noisy(12), 80, 81, 79])
    for place, one in enumerate(records):
        before = step("wiring", digest="a" * 16 if place < 12 else "b" * 16)
        records[place] = one.model_copy(update={"steps": (before, *one.steps)})
    (found,) = trend(records).changes
    assert found.causes == ("changed steps (wiring)",)


@pytest.mark.parametrize("command", ["true", "python -m runner.probes.topology", "ping [host]"])
@pytest.mark.parametrize("same", [True, False])
def test_a_step_whose_digest_may_be_of_an_earlier_form_has_changed_only_if_its_command_has(
    command: str, *, same: bool
) -> None:
    before, after = (
        record(step("wiring", digest=digest, command=text, status=status))
        for digest, text, status in (
            ("a" * 16, command, StepStatus.TIMEOUT),
            ("b" * 16, command if same else f"{command} # changed", StepStatus.PASSED),
        )
    )
    told = command == "true" or not same
    for one, other in ((before, after), (after, before)):
        found = differences([conditions_of(one)], [conditions_of(other)])
        assert found == (("changed steps (wiring)",) if told else ())


def test_runs_under_a_former_id_are_in_the_series_of_the_entry() -> None:
    records = runs([*noisy(12), 80, 81, 79])
    renamed = records[0].runbook.model_copy(update={"id": "wires"})
    records[-3:] = [one.model_copy(update={"runbook": renamed}) for one in records[-3:]]
    entry = LOOKED.model_copy(
        update={"head": LOOKED.head.model_copy(update={"id": "wires", "formerly": ("nvlink",)})}
    )
    assert (trend(records).changes, trend(records).too_short) == ((), 1)
    (found,) = trend(records, (entry,)).changes
    assert (found.series.runbook, found.before.count, found.after.count) == ("wires", 12, 3)


def test_a_change_of_decibels_is_measured_in_power_and_has_no_ratio() -> None:
    def decibels(value: float) -> Measurement:
        return bandwidth(value, name="signal_to_noise").model_copy(update={"unit": "dB"})

    def precise(values: Sequence[float]) -> list[Record]:
        probe = {"probe": "fp8_transformer_engine"}
        return [
            one.model_copy(
                update={"steps": (one.steps[0].model_copy(update={"measurements": (of,)} | probe),)}
            )
            for one, of in zip(runs(values), map(decibels, values), strict=True)
        ]

    # 0.5 dB of 40 dB are 1 % of the logarithm and 11 % of the power.
    (found,) = trend(precise([40.0 + n / 1000 for n in range(12)] + [39.5, 39.501, 39.502])).changes
    assert (found.direction, found.ratio) == ("worse", None)
    assert trend(precise([40.0 + n / 1000 for n in range(12)] + [39.95, 39.951, 39.952])).changes == ()


def test_simulated_runs_are_no_part_of_a_trend() -> None:
    assert read_series(runs([1.0] * 3, simulated=True)) == ()


def test_a_verdict_that_turned_is_found_with_what_else_changed() -> None:
    bound = expectation(min=90e9, unit="B/s")
    entry = runbook(expectations=(bound,), busbw="diagnose")
    first, second = runs([100e9, 80e9])
    second = second.model_copy(update={"machine": machine(torch="2.14.0")})
    found = verdict_changes(endings((entry,), (second, first)))[1:]
    assert [(turn.what, turn.before, turn.after) for turn in found] == [
        ("outcome", "healthy", "symptom"),
        ("faq-floor", "met", "missed"),
    ]
    assert found[0].causes == ("torch 2.13.0 → 2.14.0",)
    assert str(found[0]) == (
        "cpu-example-x86_64-2c nvlink: outcome healthy → symptom (run 000000000001); "
        "other differences: torch 2.13.0 → 2.14.0"
    )


def turned(*records: Record) -> list[VerdictChange]:
    """What turned, the first run of an entry left out."""
    return [turn for turn in verdict_changes(endings((LOOKED,), records)) if turn.earlier]


def ended(*statuses: StepStatus, **changes: object) -> list[Record]:
    """One run a day of one step that ended so."""
    return [
        one.model_copy(update={"steps": (step("busbw", status=status),)})
        for one, status in zip(runs([1.0] * len(statuses), **changes), statuses, strict=True)
    ]


def test_two_nodes_that_differ_do_not_turn_at_every_run() -> None:
    good = ended(*[StepStatus.PASSED] * 6)
    bad = ended(*[StepStatus.SYMPTOM] * 6, node_alias="node-ffffff")
    mixed = [(bad if number % 2 else good)[number] for number in range(6)]
    (once,) = turned(*mixed)
    assert once.causes == ("another node (node-ffffff)",)


def test_nodes_of_one_campaign_turn_nothing_against_each_other() -> None:
    statuses = [StepStatus.PASSED, StepStatus.SYMPTOM, StepStatus.PASSED, StepStatus.SYMPTOM]
    nodes = [
        one.model_copy(update={"node_alias": f"node-{place}", "campaign": "c"})
        for place, one in enumerate(ended(*statuses))
    ]
    assert turned(*nodes) == []


@pytest.mark.parametrize(
    "options",
    [
        {"reproduce": True},
        {"slow": False},
        {"within": 300.0},
        {"steps": ("busbw",)},
        {"phases": (Phase.DIAGNOSE,)},
    ],
)
def test_runs_of_another_scope_do_not_turn(options: dict[str, object]) -> None:
    first, second = ended(StepStatus.PASSED, StepStatus.SYMPTOM)
    other = second.model_copy(update={"options": second.options.model_copy(update=options)})
    assert turned(first, other) == []
    assert [turn.what for turn in turned(first, second)] == ["outcome"]


def test_what_was_allowed_is_no_scope_and_is_named_as_a_cause() -> None:
    first, second = ended(StepStatus.PASSED, StepStatus.SYMPTOM)
    options = second.options.model_copy(update={"allow": ("busy",)})
    (turn,) = turned(first, second.model_copy(update={"options": options}))
    assert turn.causes == ("allowed nothing → busy",)


def test_runs_that_were_cut_off_and_entries_that_are_gone_do_not_turn() -> None:
    first, second = ended(StepStatus.PASSED, StepStatus.SYMPTOM)
    assert turned(first, second.model_copy(update={"outcome": None})) == []
    assert verdict_changes(endings((), (first, second))) == ()


def test_the_first_run_of_an_entry_on_a_class_is_no_turn_and_is_said() -> None:
    first, second = ended(StepStatus.PASSED, StepStatus.PASSED)
    (turn,) = verdict_changes(endings((LOOKED,), (second, first)))
    assert (turn.before, turn.after, turn.earlier) == ("unmeasured", "healthy", None)
    assert str(turn) == (
        "cpu-example-x86_64-2c nvlink: outcome unmeasured → healthy (run 000000000000); first run"
    )


def test_a_stored_outcome_is_judged_by_the_entry_as_it_is_now() -> None:
    """What was stored as proved before the entry named its proof is a drill that passed, and turned nothing."""
    entry = runbook(busbw="diagnose", again="verify", graphs="verify")
    steps = (step("busbw", status=StepStatus.SYMPTOM), step("again", phase=Phase.VERIFY))
    before, after = runs([1.0, 1.0], outcome=Outcome.FIX_PROVED)
    skipped = step("graphs", phase=Phase.VERIFY, status=StepStatus.SKIPPED, reason="needs 1 GPU")
    found = verdict_changes(
        endings(
            (entry,),
            (
                before.model_copy(update={"steps": steps}),
                after.model_copy(update={"steps": (*steps, skipped), "outcome": Outcome.DRILL_PASSED}),
            ),
        )
    )
    assert [(turn.before, turn.after) for turn in found] == [("unmeasured", "drill_passed")]
    assert found[0].why.endswith("its effect was not measured (verify/graphs: not part of this run)")


def test_a_run_under_a_former_id_is_one_of_the_entry() -> None:
    first, second = ended(StepStatus.PASSED, StepStatus.SYMPTOM)
    head = LOOKED.head.model_copy(update={"id": "wires", "formerly": ("nvlink",)})
    now = second.model_copy(update={"runbook": second.runbook.model_copy(update={"id": "wires"})})
    found = verdict_changes(endings((LOOKED.model_copy(update={"head": head}),), (first, now)))
    assert [(turn.later.runbook.id, turn.after) for turn in found] == [
        ("wires", "healthy"),
        ("wires", "symptom"),
    ]


def test_two_runs_are_compared_number_by_number() -> None:
    first = record(
        step("busbw", bandwidth(100, 99, 100, 101, 100, 100), bandwidth(5, name="wrong_elements"), probe="x")
    )
    second = record(
        step("busbw", bandwidth(80, 79, 80, 81, 80, 80), bandwidth(5, name="wrong_elements"), probe="x"),
        run_id="b" * 12,
        machine=machine(torch="2.14.0"),
    )
    found = compare_records(first, second)
    assert found.differences == ("torch 2.13.0 → 2.14.0",)
    assert [row.verdict for row in found.rows] == ["lower (worse)", "same"]
    assert found.rows[0].ratio == pytest.approx(0.8)
    assert found.rows[0].interval is not None
    assert found.rows[0].interval.high < 0.85


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"digest": "f" * 16}, "not comparable: the step has changed between them"),
        ({"status": StepStatus.TIMEOUT, "reason": "60 s"}, "not comparable: timeout (60 s)"),
        ({"fallback_reason": "no graphs"}, "not comparable: one of them used a fallback"),
        ({"measurements": ()}, "only in A"),
        ({"measurements": (), "status": StepStatus.TIMEOUT}, "only in A; not comparable: timeout"),
        ({"measurements": (bandwidth(101, 101),)}, "unknown: no interval for the median of 1 samples"),
        ({"measurements": (bandwidth(101, 99, 101, 102),)}, "no difference shown"),
        ({"measurements": (bandwidth(200, 199, 200, 201),)}, "higher (better)"),
        ({"measurements": (bandwidth(200, 199, 201),)}, "unknown: no verdict from fewer than 3 samples"),
    ],
)
def test_what_cannot_be_compared_says_why(changes: dict[str, object], says: str) -> None:
    one = step("busbw", bandwidth(100, *([100] if "1 samples" in says else [98, 100, 102])))
    found = compare_records(record(one), record(one.model_copy(update=changes), run_id="b" * 12))
    assert [row.verdict for row in found.rows] == [says]


def compared(before: Measurement, after: Measurement) -> ComparedNumber:
    first = record(step("busbw", before))
    (row,) = compare_records(first, record(step("busbw", after), run_id="b" * 12)).rows
    return row


@pytest.mark.parametrize(
    ("name", "before", "after", "says"),
    [
        ("bus_bandwidth", 61.09, 61.13, "higher (one reading each)"),
        ("wrong_elements", 0.0, 5.0, "higher (one reading each)"),
        ("compile_finished", 1.0, 0.0, "lower (one reading each)"),
    ],
)
def test_one_reading_each_shows_a_direction_and_neither_better_nor_worse(
    name: str, before: float, after: float, says: str
) -> None:
    assert compared(bandwidth(before, name=name), bandwidth(after, name=name)).verdict == says


def test_decibels_of_two_runs_are_compared_by_their_power_and_have_no_ratio() -> None:
    def decibels(*samples: float) -> Measurement:
        return bandwidth(median(samples), *samples, name="signal_to_noise").model_copy(update={"unit": "dB"})

    row = compared(decibels(40.0, 40.01, 40.02), decibels(39.7, 39.71, 39.72))
    assert (row.ratio, row.interval, row.verdict) == (None, None, "lower (worse)")
    row = compared(decibels(40.0, 40.01, 40.02), decibels(39.93, 39.94, 39.95))
    assert row.verdict == "no difference shown"


def test_geometric_means_are_compared_by_their_own_intervals() -> None:
    def mean(*samples: float) -> Measurement:
        return bandwidth(geometric_mean(samples), *samples).model_copy(update={"statistic": "geometric mean"})

    row = compared(mean(100, 101, 99, 100), mean(50, 51, 49, 50))
    assert row.verdict == "lower (worse)"
    assert row.interval is not None
    assert (row.interval.low < 0.5 < row.interval.high, row.interval.confidence) == (True, 0.9)


def test_two_classes_are_compared_at_presets_that_both_ran() -> None:
    here = record(step("busbw", bandwidth(100, 100, 100, 100)))
    there = record(
        step("busbw", bandwidth(300, 300, 300, 300)), machine=machine("NVIDIA B200"), run_id="b" * 12
    )
    alone = record(step("other", bandwidth(1)), run_id="c" * 12)
    found = compare_classes(latest((here, there, alone)), "cpu-example-x86_64-2c", "1xB200-180GB")
    assert [(row.step, row.verdict) for row in found.rows] == [
        ("busbw", "higher (better)"),
        ("other", "only in A"),
    ]
    assert (found.only_first, found.only_second) == (("nvlink other",), ())
    assert "driver none → 580.95.05" in found.differences


def test_numbers_and_steps_that_one_run_alone_has_are_shown_whichever_it_is() -> None:
    few = record(step("busbw", bandwidth(100)), step("gone"))
    many = record(
        step("busbw", bandwidth(100), bandwidth(5, name="wrong_elements")),
        step("copies", bandwidth(7), bandwidth(8, name="algorithm_bandwidth")),
        step("wiring", status=StepStatus.SKIPPED, reason="no GPU"),
        run_id="b" * 12,
    )
    found, back = compare_records(few, many), compare_records(many, few)
    assert [(row.step, row.metric, row.first, row.second, row.verdict) for row in found.rows] == [
        ("busbw", "bus_bandwidth", 100, 100, "same"),
        ("busbw", "wrong_elements", None, 5, "only in B"),
        ("copies", "bus_bandwidth", None, 7, "only in B"),
        ("copies", "algorithm_bandwidth", None, 8, "only in B"),
    ]
    assert (found.only_first, found.only_second) == (("nvlink gone",), ("nvlink copies", "nvlink wiring"))
    assert sorted(
        (row.step, row.metric, row.second, row.first) for row in back.rows if not row.in_both
    ) == sorted((row.step, row.metric, row.first, row.second) for row in found.rows if not row.in_both)


def test_two_runs_of_other_presets_are_paired_and_say_why_they_cannot_be_compared() -> None:
    one = record(step("busbw", bandwidth(100)))
    options = one.options.model_copy(update={"preset": "8b"})
    found = compare_records(one, one.model_copy(update={"options": options}))
    assert [row.verdict for row in found.rows] == ["not comparable: preset tiny against 8b"]
    assert (found.only_first, found.only_second) == ((), ())


def test_the_table_has_the_rows_of_one_alone_and_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "data", secrets=())
    store.save(record(step("busbw", bandwidth(100)), run_id="few"))
    more = record(step("busbw", bandwidth(100)), step("copies", bandwidth(7e9)), run_id="many")
    store.save(more.model_copy(update={"started_at": START}))
    words = ["--data", str(store.root), "compare", "few", "many"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "only in B" in said
    assert "1 number in both, 1 of them equal; 0 only in A, 1 only in B" in said
    assert "steps only in B: nvlink copies" in said
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["only_second"] == ["nvlink copies"]
    assert [row["verdict"] for row in document["rows"]] == ["same", "only in B"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    store = Store(tmp_path / "data", secrets=())
    for one in runs([*noisy(12), 80, 81, 79]):
        store.save(one)
    return store.root


def test_the_commands_read_the_data_folder(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(data), "trend"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("cpu-example-x86_64-2c nvlink busbw: Bus bandwidth (op=all_reduce) worse: ")
    assert said[0].endswith("no recorded version changed")
    assert "; 1 number changed of 1 tested (each at 1%: up to 0.01 by chance), " in said[-1]
    assert main(["--data", str(data), "trend", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["changes"][0]["direction"] == "worse"
    assert main(["--data", str(data), "compare", "00000000000b", "00000000000c", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["verdict"] == "lower (one reading each)"
    path = next(data.rglob("*-00000000000b.json"))
    assert main(["--data", str(data), "compare", str(path), "00000000000c"]) == 0
    assert "lower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "00000000000b", "nothing"], "is not a file, a run id in"),
        (
            ["compare", "cpu-example-x86_64-2c", "cpu-example-x86_64-2d"],
            "is not a machine class with records",
        ),
        (["trend", "--since", "yesterday"], "is not a date; write it as 2026-11-01"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["--data", str(data), *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
