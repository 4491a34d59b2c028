"""Whatever a record holds or stands in its place: refused in one line, or borne by every page and command."""

import copy
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from runner.base.bounds import LINE_CHARACTERS, RECORD_BYTES
from runner.base.errors import InputError, RecordError
from runner.cli.fleet_view import fleet_report
from runner.cli.main import main
from runner.cli.trend import change_line
from runner.entry.read import read_all
from runner.fleet.gathering import Gathered
from runner.history.campaigns import distributions, suspects
from runner.history.compare import compare_records
from runner.history.prune import needed
from runner.history.trend import trend
from runner.kit.precision.sweeps import read_sweep
from runner.pages.render import Page, render
from runner.record.gate import gate
from runner.record.model import Record
from runner.record.reading import parse_record
from runner.record.stamp import read_stamp
from runner.record.store import Store
from tests.hostile import EVERYTHING, HOSTILE
from tests.html_reader import read_html

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "kb" / "_templates"
RUNBOOKS = read_all(ROOT / "runbooks")
# One record of each entry, of one class: the shape that records have.
FILES = sorted((ROOT / "site_data").glob("cpu-amd-epyc-x86_64-v4-2c/*/*.json"))
GOOD = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]
NOW = datetime(2026, 12, 1, tzinfo=UTC)
PAYLOADS = (
    "<script>rb()</script>",
    '"><img src=x onerror=rb()>',
    "</pre></section></details>\n\n<script>rb()",
)
_RAW = re.compile(r"(?<!\\)<(?:script>rb|img src=x)")
# Of 60 KB are most; this is one whose record was made to be large.
LARGEST_PAGE = 4_000_000


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """A test that waits for a pipe, or reads without end, fails and does not hang."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("still waiting after two minutes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _leaves(value: object, place: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield place
    for key, one in items:
        yield from _leaves(one, (*place, key))


TEXTS = st.one_of(
    st.sampled_from((*PAYLOADS, *HOSTILE, "", "__proto__", "..", "a/b", "x" * 1900, "-", "\x00", "é" * 200)),
    st.text(max_size=30),
)
NUMBERS = st.one_of(
    st.sampled_from(
        (
            0,
            -1,
            1,
            2**53,
            -(2**53),
            2**53 + 1,
            10**400,
            0.0,
            -0.0,
            5e-324,
            1e-300,
            1.7e308,
            -1.7e308,
            1e30,
            0.1,
        )
    ),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)
MOMENTS = st.one_of(
    st.sampled_from(
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1900-01-01T00:00:00Z", "2026-11-26T14:30:00Z")
    ),
    st.sampled_from(
        ("8999-12-31T23:59:59+23:59", "1970-01-01T00:00:00Z", "2026-11-26T14:30:00", "2026-02-30T00:00:00Z")
    ),
    st.datetimes(datetime(1900, 1, 2), datetime(8999, 1, 1), timezones=st.just(UTC)).map(datetime.isoformat),  # noqa: DTZ001
)
LABELS = st.dictionaries(TEXTS, st.one_of(TEXTS, NUMBERS, st.booleans()), max_size=4)
FREE = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(TEXTS, inside, max_size=3)),
    max_leaves=8,
)


def _like(draw: st.DrawFn, place: tuple[object, ...], value: object) -> object:
    """Another value of the same kind, for this place in a record."""
    if place and isinstance(place[-1], str) and place[-1].endswith("_at"):
        return draw(MOMENTS)
    if "labels" in place and isinstance(value, dict):
        return draw(LABELS)
    if {"details", "requested", "effective"} & set(place):
        return draw(FREE)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return draw(TEXTS)
    if isinstance(value, int | float):
        return draw(NUMBERS)
    if isinstance(value, list):
        return draw(st.one_of(st.just([]), st.lists(NUMBERS, max_size=6), st.just(value * 2)))
    return draw(st.one_of(st.none(), TEXTS, NUMBERS)) if value is None else value


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A real record with other values at some of its places."""
    content: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(GOOD)))
    places = list(_leaves(content))
    for place in draw(st.lists(st.sampled_from(places), min_size=1, max_size=12, unique=True)):
        parent: Any = content
        try:
            for key in place[:-1]:
                parent = parent[key]
            if place:
                parent[place[-1]] = _like(draw, place, parent[place[-1]])
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return content


def parsed(content: object) -> Record | None:
    """The record, or None where it is refused, in one line."""
    try:
        return parse_record(json.dumps(content).encode(), "x.json")
    except RecordError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600
    return None


def bears(record: Record) -> dict[str, Page]:
    """Every page and every look at records, with this one beside the one it was made of and beside its like."""
    at = {"campaign": "c", "started_at": record.started_at}
    others = [
        record.model_copy(update={"run_id": f"{number:012x}", "node_alias": f"node-{number:06x}"} | at)
        for number in range(6)
    ]
    good = next(parse_record(json.dumps(one).encode(), "x") for one in GOOD)
    records = [good, record, *others]
    pages = render(RUNBOOKS, records, NOW, TEMPLATES)
    for path, page in pages.items():
        page.text.encode()
        if path.endswith((".md", ".txt")):
            assert not _RAW.search(page.text), path
        elif path.endswith(".json"):
            json.loads(page.text)
    ET.fromstring(pages["feed.xml"].text)
    assert max(len(page.text) for path, page in pages.items() if path.endswith(".md")) < LARGEST_PAGE
    for change in trend(records).changes:
        change_line(change)
    compare_records(good, record)
    needed(RUNBOOKS, records)
    found = distributions(others)
    suspects(found)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        fleet_report(Console(file=nowhere), "c", Gathered((), tuple(others), (), {}), found)
    return pages


@settings(
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(mutated())
def test_a_record_that_can_be_read_can_be_shown(content: dict[str, Any]) -> None:
    record = parsed(content)
    if record is not None:
        bears(record)


def _set(*place: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = to

    return change


def _everywhere(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for place in list(_leaves(content)):
            if place and place[-1] == name:
                _set(*place, to=value)(content)

    return change


def _labels(value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for one in itertools.chain(*(step["measurements"] for step in content["steps"])):
            one["labels"] |= {"bytes": value}

    return change


def _samples(count: int) -> Callable[[dict[str, Any]], None]:
    return _everywhere("measurements", [_measured(samples=[1.0] * count)])


def _measured(**changes: object) -> dict[str, object]:
    return {
        "name": "bus_bandwidth",
        "value": 1.0,
        "unit": "B/s",
        "statistic": "median",
        "samples": [],
    } | changes


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


# What a record says, and what is wrong with it.
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no start of a finished step": (_everywhere("started_at", None), "started_at"),
    "no duration of a finished step": (_everywhere("duration_s", None), "without a start, a duration"),
    "no exit status of a finished step": (_everywhere("exit_status", None), "without a start, a duration"),
    "an integer label of 400 digits": (_labels(10**400), "less than or equal to 9007199254740992"),
    "an integer label of 5000 digits": (_labels("DIGITS"), "is not JSON"),
    "a label beyond a double": (_labels(2**60), "less than or equal to 9007199254740992"),
    "a label of a page": (_labels("x" * 2_001), "at most 2000 characters"),
    "a label that is a list": (_labels([1]), "labels"),
    "21 labels": (_everywhere("labels", {str(n): n for n in range(21)}), "at most 20 items"),
    "32 MB of output": (_everywhere("stdout_tail", "<\n" * 1_200_000), "is larger than 2MiB"),
    "6,000 samples": (_samples(6_000), "at most 5000 items"),
    "80,000 samples": (
        _everywhere("measurements", [_measured(labels={"n": n}, samples=[1.0] * 4_000) for n in range(5)]),
        "more than the 75000 of any run",
    ),
    "6,000 measurements": (_everywhere("measurements", [_measured()] * 6_000), "is larger than 2MiB"),
    "600 steps": (lambda content: content.update(steps=content["steps"][:1] * 600), "at most 500 items"),
    "year 9999": (_set("ended_at", to="9999-12-31T23:59:59Z"), "ended_at: Input should be less than 9000"),
    "year 1": (_set("started_at", to="0001-01-01T00:00:00Z"), "started_at: Input should be greater"),
    "no zone": (_set("started_at", to="2026-11-26T14:29:28"), "started_at: Input should have timezone info"),
    "a year of seconds": (_everywhere("duration_s", 1e12), "duration_s"),
    "a lone surrogate": (_set("campaign", to="\ud800"), "lone surrogate"),
    "details 40 deep": (_everywhere("details", {"a": _nested(40)}), "nested more than 32 deep"),
    "details 5,000 deep": (_everywhere("details", {"a": "DEEP"}), "nested"),
    "a number of 70 bits in details": (_everywhere("details", {"a": 2**70}), "more than 64 bits"),
    "infinity in details": (_everywhere("details", {"a": "HUGE"}), "out of range of a float"),
    "a number that no sum may hold": (_everywhere("value", 1.7e308), "value: Input should be less than"),
    "NaN": (_everywhere("value", float("nan")), "contains NaN"),
    "a number as text": (_everywhere("value", "3"), "value: Input should be a valid number"),
    "truth as a number": (_everywhere("exit_status", True), "exit_status: Input should be a valid integer"),
    "an unknown key": (_set("__proto__", to={}), "__proto__: Extra inputs are not permitted"),
    "a hostile key": (_set("<b>\n\x1b[31m" * 9000, to={}), "Extra inputs are not permitted"),
    "a run id of 240 characters": (_set("run_id", to="a" * 240), "run_id: String should have at most 64"),
    "a run id that climbs": (_set("run_id", to="../../x"), "run_id: String should match"),
    "a list": (lambda content: content.clear(), "is not a record"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_record_out_of_bounds_is_refused_in_one_line_and_no_page_fails(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, why = REFUSED[name]
    content = copy.deepcopy(GOOD[-1])
    change(content)
    text = json.dumps(content).replace('"DIGITS"', "9" * 5000).replace('"DEEP"', "[" * 5000 + "]" * 5000)
    place = _place(tmp_path)
    place.write_text(text.replace('"HUGE"', "1e999"), encoding="utf-8")
    (line,) = [str(problem) for problem in gate(Store(tmp_path, secrets=()), NOW)]
    assert why in line
    assert "\n" not in line
    assert len(line) < 600
    assert main(["--data", str(tmp_path), "verify-data"]) == 1
    _, first, last = ["", *capsys.readouterr().err.splitlines()]
    assert why in first
    assert last.startswith("verify-data: 1 problem")


def _place(data: Path) -> Path:
    path = data.joinpath(*FILES[-1].parts[-3:])
    path.parent.mkdir(parents=True)
    return path


def _bytes_name(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path.parent) + b"/\xff\xfe.json")).write_bytes(b"{}")


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 40 << 30)


def _linked_folder(path: Path) -> None:
    real = path.parents[2].with_name("elsewhere")
    shutil.copytree(FILES[-1].parent, real)
    path.parent.rmdir()
    path.parent.symlink_to(real)


def _deep(path: Path) -> None:
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


# What stands in the place of a record.
PLACED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "is a pipe, not a regular file"),
    "a link to an endless device": (lambda path: path.symlink_to("/dev/zero"), "is a symbolic link"),
    "a link to a record": (lambda path: path.symlink_to(FILES[-1]), "is a symbolic link"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "is a symbolic link"),
    "a link to itself": (lambda path: path.symlink_to(path), "is a symbolic link"),
    "a folder": (Path.mkdir, "is a folder, not a regular file"),
    "a folder of links in a circle": (
        lambda path: (path.parent / "x").symlink_to(".."),
        "is a symbolic link",
    ),
    "a folder that is a link": (_linked_folder, "is a symbolic link"),
    "40 GB of nothing": (_sparse, "is larger than 2MiB"),
    "an empty file": (Path.touch, "is not JSON"),
    "a name with a line end": (
        lambda path: path.with_name("a\nb\x1b[31m.json").write_text("{}"),
        r"a\nb\x1b[31m.json",
    ),
    "a name that is not UTF-8": (_bytes_name, r"\udcff\udcfe.json"),
    "a name of 255 characters": (
        lambda path: path.with_name("x" * 250 + ".json").write_text("{}"),
        "is not a record",
    ),
    "a name that is an option": (
        lambda path: path.with_name("--force.json").write_text("{}"),
        "is not a record",
    ),
    "JSON nested 100,000 deep": (_deep, "nested too deeply"),
    "a page": (lambda path: path.write_text(EVERYTHING), "is not JSON"),
    "half of a record": (lambda path: path.write_bytes(FILES[-1].read_bytes()[:9000]), "is truncated"),
    "another place's record": (
        lambda path: path.with_name("x.json").write_bytes(FILES[-1].read_bytes()),
        "belongs at",
    ),
}


@pytest.mark.parametrize("name", PLACED)
def test_what_stands_in_the_place_of_a_record_is_refused_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place, why = PLACED[name]
    data = tmp_path / "data"
    place(_place(data))
    assert main(["--data", str(data), "verify-data"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert any(why in line for line in said[:-1]), said
    assert said[-1].startswith("verify-data: ")
    # Every other look at the folder goes on without it.
    store = Store(data, secrets=())
    list(store.records())
    render(RUNBOOKS, store.read([]), NOW, TEMPLATES)
    for words in (["trend"], ["list"], ["prune"]):
        assert main(["--data", str(data), *words]) == 0


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = FILES[-1].read_text(encoding="utf-8")
    _place(tmp_path).write_text(text.replace('"outcome":', '"outcome": "fix_proved",\n  "outcome":', 1))
    (line,) = [str(problem) for problem in gate(Store(tmp_path, secrets=()), NOW)]
    assert "has the duplicate key 'outcome'" in line


def test_a_hard_link_is_a_file_like_any_other(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(FILES[-1].read_bytes())
    place = _place(tmp_path / "data")
    place.hardlink_to(other)
    assert gate(Store(tmp_path / "data", secrets=()), NOW) == ()


def test_a_record_whose_every_text_is_hostile_is_shown_and_reaches_no_page_as_markup() -> None:
    for payload in (PAYLOADS[0] + PAYLOADS[1], PAYLOADS[2], EVERYTHING[:1800]):
        content = copy.deepcopy(GOOD[-1])
        for step in content["steps"]:
            step |= {"stdout_tail": payload * 20, "stderr_tail": payload * 20, "command": payload}
            step["reason"] = step["fallback_reason"] = (payload * 20)[:LINE_CHARACTERS]
            for one in step["measurements"]:
                one["labels"] |= {payload: payload}
        for name in ("cpu", "os", "kernel", "python", "torch"):
            content["machine"][name] = payload
        content["node_alias"] = content["campaign"] = content["code"]["commit"] = payload
        record = parsed(content)
        assert record is not None
        page = bears(record)[f"entries/{record.runbook.id}.md"]
        harmless = json.loads(json.dumps(content).replace(json.dumps(payload)[1:-1], "x"))
        other = parsed(harmless)
        assert other is not None
        plain = bears(other)[f"entries/{record.runbook.id}.md"]
        assert read_html(page.text).skeleton == read_html(plain.text).skeleton


EXTREMES = {
    "the largest": (1e100, [1e100, -1e100, 1e100, 0.0, 1e100]),
    "the smallest": (5e-324, [5e-324] * 5),
    "nothing": (0.0, [0.0, -0.0, 0.0, 0.0, 0.0]),
    "below nothing": (-1e100, [-1e100] * 6),
    "both": (5e-324, [1e100, 5e-324, 1e100, 5e-324]),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_numbers_at_the_edge_of_what_a_float_holds_are_shown(name: str) -> None:
    value, samples = EXTREMES[name]
    for number, content in enumerate(GOOD[:2]):
        changed = copy.deepcopy(content)
        for change in (_everywhere("value", value), _everywhere("samples", samples), _labels(2**53)):
            change(changed)
        _everywhere("statistic", ("median", "geometric mean")[number % 2])(changed)
        record = parsed(changed)
        assert record is not None
        bears(record)


@pytest.mark.parametrize(
    "moment", ["1900-01-01T00:00:00Z", "8999-12-31T23:59:59+00:00", "1969-12-31T23:59:59Z"]
)
def test_dates_far_from_today_are_shown(moment: str) -> None:
    for content in GOOD[:2]:
        changed = copy.deepcopy(content)
        for place in list(_leaves(changed)):
            if place and str(place[-1]).endswith("_at") and _at(changed, place) is not None:
                _set(*place, to=moment)(changed)
        record = parsed(changed)
        assert record is not None
        bears(record)


def _at(content: Any, place: tuple[object, ...]) -> object:
    for key in place:
        content = content[key]
    return content


def test_the_largest_record_makes_no_huge_page() -> None:
    content = copy.deepcopy(GOOD[-1])
    for step in content["steps"]:
        step["stdout_tail"] = step["stderr_tail"] = "<\n" * (RECORD_BYTES // 10 // len(content["steps"]))
        step["measurements"] = [
            _measured(labels={"n": n, "t": "<" * 200}, value=float(n)) for n in range(120)
        ]
    record = parsed(content)
    assert record is not None
    bears(record)


@pytest.mark.parametrize("read", [read_stamp, read_sweep], ids=["stamp", "sweep"])
@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_a_file_that_somebody_names_is_read_without_waiting_and_without_end(
    tmp_path: Path, read: Callable[[Path], object], kind: str
) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        _sparse(path)
    with pytest.raises(InputError) as raised:
        read(path)
    assert "\n" not in str(raised.value)
