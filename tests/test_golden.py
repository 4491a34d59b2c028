"""The golden configuration of a fleet: what most nodes have, which nodes differ, and what cannot be told."""

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.base.words import folded_names
from runner.cli.fleet_view import fleet_report
from runner.fleet.gathering import Gathered
from runner.history.campaigns import NodeRow, distributions
from runner.history.golden import (
    ComparedSetting,
    NodeSettings,
    compare_settings,
    hardware_kind,
    settings_as_json,
    settings_of_records,
)
from runner.history.golden_text import MOST_DIFFERING, also_differ, setting_sentences
from runner.pages.render import render
from runner.record.model import Outcome, Record
from runner.record.settings import plain_settings
from tests.evidence_samples import machine, record, step
from tests.html_reader import read_html
from tests.test_fleet import a_run, sound
from tests.test_fleet_page import ENTRY, NOW

ROOT = Path(__file__).parents[1]


def node(number: int, kind: str = "xB200-180GB", **settings: str) -> NodeSettings:
    return NodeSettings(f"gpu-{number:03}", hardware_kind(f"8{kind}"), settings)


def fleet(count: int, odd: Mapping[int, str] | None = None, driver: str = "580.95.05") -> list[NodeSettings]:
    """So many nodes with this driver and kernel; some with another driver."""
    others = odd or {}
    return [node(number, driver=others.get(number, driver), kernel="6.8.0-60") for number in range(count)]


def told(nodes: Sequence[NodeSettings]) -> list[str]:
    return list(setting_sentences(compare_settings(nodes), folded_names))


def one(nodes: Sequence[NodeSettings], name: str) -> ComparedSetting:
    return next(found for found in compare_settings(nodes) if found.name == name)


# Fleets of 2, 3, 8 and 500 nodes.


def test_equal_nodes_have_nothing_to_name() -> None:
    for count in (2, 3, 8, 500):
        assert told(fleet(count)) == ["2 settings are equal on all nodes"]


def test_one_node_alone_is_compared_with_nothing() -> None:
    assert compare_settings(fleet(1)) == ()
    assert told([]) == []


def test_two_nodes_differ_and_neither_is_called_the_odd_one() -> None:
    found = one(fleet(2, {1: "570.86.15"}), "driver")
    assert (found.majority, found.differing) == (None, frozenset())
    assert told(fleet(2, {1: "570.86.15"}))[0] == (
        "driver: the 2 nodes differ: 570.86.15 (gpu-001), 580.95.05 (gpu-000)"
    )


def test_of_three_nodes_the_one_that_differs_is_named() -> None:
    assert told(fleet(3, {1: "570.86.15"}))[0] == (
        "driver: 580.95.05 on 2 of 3 nodes; 570.86.15 on 1 (gpu-001)"
    )


def test_of_three_different_nodes_none_is_the_odd_one() -> None:
    assert told(fleet(3, {0: "a", 1: "b", 2: "c"}))[0] == (
        "driver: no clear majority of 3 nodes: a on 1 (gpu-000); b on 1 (gpu-001); c on 1 (gpu-002)"
    )


@pytest.mark.parametrize(("others", "clear"), [(1, True), (2, True), (3, False), (4, False)])
def test_of_eight_nodes_a_majority_is_clear_from_two_thirds_on(others: int, clear: bool) -> None:
    nodes = fleet(8, dict.fromkeys(range(others), "570.86.15"))
    found = one(nodes, "driver")
    assert (found.majority is not None) is clear
    assert found.differing == (frozenset(f"gpu-{number:03}" for number in range(others)) if clear else set())
    said = told(nodes)[0]
    assert said.startswith(
        f"driver: 580.95.05 on {8 - others} of 8 nodes" if clear else "driver: no clear majority of 8 nodes"
    )


def test_of_500_nodes_the_two_that_differ_are_named_and_the_others_counted() -> None:
    assert told(fleet(500, {17: "570.86.15", 201: "570.86.15"})) == [
        "driver: 580.95.05 on 498 of 500 nodes; 570.86.15 on 2 (gpu-[017,201])",
        "1 setting is equal on all nodes",
    ]


def test_a_rollout_that_is_half_done_is_told_in_two_ranges() -> None:
    nodes = fleet(500, dict.fromkeys(range(250), "570.86.15"))
    assert told(nodes)[0] == (
        "driver: no clear majority of 500 nodes: 570.86.15 on 250 (gpu-[000-249]); 580.95.05 on 250 (gpu-[250-499])"
    )


def test_a_setting_with_a_value_of_its_own_on_each_of_500_nodes_is_one_short_line() -> None:
    nodes = [node(number, serial=str(number)) for number in range(500)]
    (said,) = told(nodes)
    assert said.endswith("; and 495 more values")
    assert len(said) < 300


# Order.


def test_a_value_of_few_nodes_among_many_comes_first_and_a_split_last() -> None:
    nodes = [
        node(
            number,
            split="a" if number % 2 else "b",
            twenty="a" if number < 20 else "b",
            lone="odd" if number == 77 else "even",
            pair="odd" if number in {3, 4} else "even",
            same="x",
        )
        for number in range(100)
    ]
    assert [found.name for found in compare_settings(nodes)] == ["lone", "pair", "twenty", "split", "same"]


def test_more_settings_than_a_reader_can_read_are_counted() -> None:
    nodes = [
        NodeSettings(f"n{number}", "k", {f"s{place:02}": str(number == 0) for place in range(60)})
        for number in range(3)
    ]
    lines = told(nodes)
    assert len(lines) == MOST_DIFFERING + 1
    assert lines[-1] == "20 more settings differ"


# What is not known.


def test_a_setting_that_some_nodes_do_not_tell_is_not_equal_and_not_different_there() -> None:
    nodes = [*fleet(7), node(7, kernel="6.8.0-60")]
    assert one(nodes, "driver").unknown == ("gpu-007",)
    assert told(nodes) == [
        "not known on 1 of 8 nodes (gpu-007): driver",
        "1 setting is equal on all nodes",
    ]


def test_settings_that_the_same_node_does_not_tell_are_one_line() -> None:
    nodes = [node(number, **{f"s{place:02}": "x" for place in range(30)}) for number in range(8)]
    assert told([*nodes, node(9)]) == [
        "not known on 1 of 9 nodes (gpu-009): s00, s01, s02, s03, s04 and 25 more"
    ]


def test_a_majority_counts_only_nodes_that_tell_and_says_how_many_do_not() -> None:
    nodes = [*fleet(3, {0: "570.86.15"}), *(node(number, kernel="6.8.0-60") for number in range(3, 10))]
    assert told(nodes)[0] == (
        "driver: 580.95.05 on 2 of 10 nodes; 570.86.15 on 1 (gpu-000); not known on 7 (gpu-[003-009])"
    )
    assert told(nodes[:2] + nodes[5:])[0] == (
        "driver: only 2 nodes tell it and differ: 570.86.15 (gpu-000), 580.95.05 (gpu-001); "
        "not known on 5 (gpu-[005-009])"
    )


def test_values_from_which_redaction_took_a_part_are_not_known_and_never_equal() -> None:
    nodes = [node(number, fw="[ip]", kernel="6.8") for number in range(4)]
    assert told(nodes) == [
        "not known on 4 of 4 nodes (gpu-[000-003]): fw",
        "1 setting is equal on all nodes",
    ]


# Which nodes are compared.


def test_nodes_of_other_hardware_are_compared_apart() -> None:
    nodes = [
        *fleet(3, {0: "570.86.15"}),
        *(NodeSettings(f"h{number}", "xH100-80GB", {"driver": "550.1"}) for number in range(3)),
    ]
    assert told(nodes) == [
        "B200-180GB: driver: 580.95.05 on 2 of 3 nodes; 570.86.15 on 1 (gpu-000)",
        "2 settings are equal on all nodes of a kind",
    ]


def test_a_node_that_lost_a_gpu_is_compared_with_its_like_and_named() -> None:
    assert hardware_kind("8xB200-180GB") == hardware_kind("7xB200-180GB") == "B200-180GB"
    assert hardware_kind("4xA+4xB-2xC") == "A+B-2xC"
    assert hardware_kind("cpu-amd-epyc-x86_64-v4-2c") == "cpu-amd-epyc-x86_64-v4-2c"
    records = [a_record(number, machine(*["NVIDIA B200"] * (8 - (number == 2)))) for number in range(4)]
    assert told(settings_of_records(records))[0] == (
        "machine class: 8xB200-180GB on 3 of 4 nodes; 7xB200-180GB on 1 (node-000002)"
    )


# Records.


def a_record(number: int, here: Any = None, *, settings: object = None, **changes: Any) -> Record:
    details = {} if settings is None else {"settings": settings}
    probed = step("probed", probe="gpu_state", method_version=1, details=details, **changes)
    return record(
        probed,
        run_id=f"{number:012x}",
        node_alias=f"node-{number:06}",
        campaign="c",
        machine=here or machine("NVIDIA B200"),
    )


def settings_of(one_record: Record) -> Mapping[str, str]:
    (found,) = settings_of_records([one_record])
    return found.settings


def test_settings_come_from_the_machine_and_from_the_probes_of_all_records_of_a_node() -> None:
    first = a_record(1, settings={"VBIOS": "96.00.A5", "driver": "580.95.05"})
    second = a_record(1, settings={"GSP firmware": "580.95.05"})
    (found,) = settings_of_records([first, second])
    assert found.settings == {
        "machine class": "1xB200-180GB",
        "driver": "580.95.05",
        "kernel": "6.1.0",
        "operating system": "Example Linux 12",
        "processor": "Example CPU",
        "torch": "2.13.0",
        "Python": "3.11.2",
        "VBIOS": "96.00.A5",
        "GSP firmware": "580.95.05",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"simulated": True},
        {"effective": {"source": "captured"}},
        {"status": "error", "reason": "crashed", "exit_status": 3},
    ],
)
def test_a_step_that_says_nothing_about_this_node_has_no_settings_of_it(changes: dict[str, Any]) -> None:
    assert "VBIOS" in settings_of(a_record(1, settings={"VBIOS": "x"}))
    assert "VBIOS" not in settings_of(a_record(1, settings={"VBIOS": "x"}, **changes))


@pytest.mark.parametrize("rubbish", [[], "text", {"VBIOS": 7}, {"VBIOS": ""}, {"VBIOS": {"a": "b"}}])
def test_what_is_no_setting_is_left_out(rubbish: object) -> None:
    assert "VBIOS" not in settings_of(a_record(1, settings=rubbish))


def test_a_run_over_several_nodes_tells_no_settings_of_one() -> None:
    joint = a_record(1).model_copy(update={"members": ("node-000001", "node-000002")})
    assert settings_of_records([joint]) == ()


# Next to outliers.


def with_driver(taken: Record, driver: str) -> Record:
    return taken.model_copy(update={"machine": taken.machine.model_copy(update={"driver": driver})})


def a_fleet_with_two_slow_nodes(count: int = 20) -> list[Record]:
    """All with one driver but the two slow ones, and one that is as fast as the others."""
    healthy = [with_driver(one_run, "580.95.05") for one_run in sound(count)]
    slow = [with_driver(a_run(number, 70e9), "570.86.15") for number in (900, 901)]
    return [*healthy[1:], with_driver(healthy[0], "570.86.15"), *slow]


def test_a_setting_in_which_all_slow_nodes_differ_is_told_next_to_them() -> None:
    records = a_fleet_with_two_slow_nodes()
    (found,) = distributions(records)
    said = also_differ(found, compare_settings(settings_of_records(records)))
    assert said == "these 2 nodes also differ from most in driver (570.86.15; 3 of 22 nodes differ)"


def test_a_setting_in_which_only_one_of_two_slow_nodes_differs_is_not() -> None:
    records = a_fleet_with_two_slow_nodes()
    records[-1] = with_driver(records[-1], "580.95.05")
    (found,) = distributions(records)
    assert found.suspects
    assert also_differ(found, compare_settings(settings_of_records(records))) is None


def test_without_a_slow_node_no_setting_is_told_next_to_it() -> None:
    records = [
        with_driver(one_run, "570" if place == 3 else "580") for place, one_run in enumerate(sound(20))
    ]
    (found,) = distributions(records)
    assert also_differ(found, compare_settings(settings_of_records(records))) is None


# The report, the page, and the document for programs.


def test_the_report_on_the_terminal_names_nodes_as_slurm_does() -> None:
    records = a_fleet_with_two_slow_nodes()
    names = {one_run.node_alias: f"gpu{place:02}" for place, one_run in enumerate(records)}
    rows = tuple(NodeRow(alias, "done", None, {"nvlink": Outcome.HEALTHY}) for alias in names)
    out = io.StringIO()
    gathered = Gathered(rows, tuple(records), (), names)
    fleet_report(Console(file=out, width=100), "c", gathered, distributions(records))
    text = out.getvalue()
    assert "these 2 nodes also differ from most in driver (570.86.15; 3 of 22 nodes differ)" in text
    assert "  driver: 580.95.05 on 19 of 22 nodes; 570.86.15 on 3 (gpu[19-21])\n" in text
    assert "settings are equal on all nodes\n" in text


def test_the_page_names_nodes_by_alias_and_shows_what_most_have() -> None:
    records = a_fleet_with_two_slow_nodes()
    text = render((ENTRY,), records, NOW, ROOT / "kb" / "_templates")["fleet.md"].text
    words = html.unescape(read_html(text).words)
    assert (
        "driver: 580.95.05 on 19 of 22 nodes; 570.86.15 on 3 (node-000000, node-000900, node-000901)" in words
    )
    assert "these 2 nodes also differ from most in driver" in words
    assert "driver 580.95.05 19 of 22" in words


def test_what_a_node_calls_its_settings_stays_text() -> None:
    evil = "<b>x</b>{{ 7 * 7 }}\x1b[2J\nline"
    records = [a_record(number, settings={evil: f"{evil}{number == 1}"}) for number in range(3)]
    page = render((ENTRY,), records, NOW, ROOT / "kb" / "_templates")
    text = page["fleet.md"].text
    assert "3 nodes" in text
    assert "<b>" not in text
    assert "{{" not in text
    for said in told(settings_of_records(records)):
        assert said.isprintable()


def test_programs_get_every_setting_with_the_nodes_that_differ() -> None:
    (found, *_) = settings_as_json(compare_settings(fleet(4, {2: "570.86.15"})))
    assert json.loads(json.dumps(found)) == {
        "name": "driver",
        "hardware": "B200-180GB",
        "nodes": 4,
        "majority": "580.95.05",
        "equal": False,
        "held": [
            {"value": "580.95.05", "count": 3, "nodes": None},
            {"value": "570.86.15", "count": 1, "nodes": ["gpu-002"]},
        ],
        "unknown": [],
    }


def test_long_values_are_shown_from_where_they_differ() -> None:
    common = " ".join(f"word{place}" for place in range(40))
    nodes = [
        node(number, cmdline=f"{common} {'iommu=pt' if number else 'iommu=off'} quiet") for number in range(4)
    ]
    assert told(nodes)[0] == "cmdline: … iommu=pt quiet on 3 of 4 nodes; … iommu=off quiet on 1 (gpu-000)"


# Properties.

VALUES = st.sampled_from(["a", "b", "c", None, "[ip]"])


@given(st.lists(VALUES, min_size=2, max_size=40))
def test_each_node_is_counted_once_whatever_it_tells(values: list[str | None]) -> None:
    nodes = [
        NodeSettings(f"n{place}", "k", {} if value is None else {"s": value})
        for place, value in enumerate(values)
    ]
    for found in compare_settings(nodes):
        everywhere = [name for held in found.held for name in held.nodes] + list(found.unknown)
        assert sorted(everywhere) == sorted(one_node.node for one_node in nodes)
        assert len(found.differing) <= found.known // 3
        assert found.majority is None or found.known >= 3
    assert len(told(nodes)) <= 2


@given(st.sets(st.tuples(st.sampled_from(["gpu", "n-", "rack1-n"]), st.integers(0, 1200)), min_size=1))
def test_folded_names_lose_no_node(names: set[tuple[str, int]]) -> None:
    for width in (0, 4):
        written = {f"{before}{number:0{width}}" for before, number in names}
        assert unfolded(folded_names(written, most=10**6)) == written


def unfolded(text: str) -> set[str]:
    found: set[str] = set()
    for part in text.split(", "):
        before, bracket, rest = part.partition("[")
        if not bracket:
            found.add(part)
            continue
        for span in rest.rstrip("]").split(","):
            start, _, end = span.partition("-")
            for number in range(int(start), int(end or start) + 1):
                found.add(f"{before}{number:0{len(start) if start[0] == '0' or len(start) == 4 else 0}}")
    return found


def test_names_that_cannot_be_folded_are_listed_up_to_a_number() -> None:
    assert folded_names(["login", "gpu-009", "gpu-010", "n9", "n10", "n12"]) == (
        "gpu-[009-010], n[9-10,12], login"
    )
    assert folded_names(map(str, range(0, 100, 2)), most=3) == "[0,2,4] and 47 more"
    assert folded_names("abcdef", most=2) == "a, b and 4 more"


def test_a_setting_is_never_longer_than_a_record_should_hold() -> None:
    found = plain_settings({"n" * 1000: "v" * 10_000_000, "number": 3, "empty": "", "list": ["x"]})
    assert [(len(name), len(value)) for name, value in found.items()] == [(100, 4000)]
