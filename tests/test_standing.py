"""Which run speaks for an entry on a class: the newest of the widest scope; what a narrower one may say beside it."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.entry.model import Phase
from runner.history.endings import Standing, ending_of, scope_words, standing, width
from runner.pages.render import render
from runner.record.model import Options, Outcome, Record
from runner.record.store import Store
from tests.evidence_samples import machine
from tests.golden_entry import NOW, START, TEXT, ended_as, entry, run
from tests.html_reader import read_html

ROOT = Path(__file__).parents[1]
FULL = Options(preset="tiny", phases=tuple(Phase), reproduce=True)
DIAGNOSE = Options(preset="tiny", phases=(Phase.DIAGNOSE,))
NARROWER: dict[str, Options] = {
    "only diagnose": DIAGNOSE,
    "no fault injected": FULL.model_copy(update={"reproduce": False}),
    "no slow steps": FULL.model_copy(update={"slow": False}),
    "within 300 s": FULL.model_copy(update={"within": 300.0}),
    "only step busbw": FULL.model_copy(update={"steps": ("busbw",)}),
}


def a_run(day: int, outcome: Outcome, options: Options = FULL, **changes: Any) -> Record:
    return run(
        entry(),
        *ended_as(entry(), outcome),
        options=options,
        outcome=outcome,
        started_at=START + timedelta(days=day / 10),
        run_id=f"day{day}",
        **changes,
    )


def stands(*records: Record) -> Standing:
    found = standing((one, ending.judged) for one in records if (ending := ending_of(entry(), one)))
    assert found is not None
    return found


@pytest.mark.parametrize("words", NARROWER)
def test_a_narrower_scope_is_narrower_and_says_what_it_left_out(words: str) -> None:
    assert width(NARROWER[words]) < width(FULL)
    assert scope_words(NARROWER[words]) == words
    assert scope_words(FULL) == ""


@pytest.mark.parametrize("words", NARROWER)
def test_a_newer_narrower_run_that_found_nothing_takes_nothing_from_a_proof(words: str) -> None:
    found = stands(a_run(1, Outcome.FIX_PROVED), a_run(2, Outcome.HEALTHY, NARROWER[words]))
    assert (found.record.run_id, found.judged.outcome, found.beside) == ("day1", Outcome.FIX_PROVED, ())


@pytest.mark.parametrize("words", NARROWER)
def test_a_newer_narrower_run_that_found_the_issue_is_beside_the_proof(words: str) -> None:
    found = stands(a_run(2, Outcome.SYMPTOM, NARROWER[words]), a_run(1, Outcome.FIX_PROVED))
    assert found.record.run_id == "day1"
    assert [(one.run_id, what.outcome) for one, what in found.beside] == [("day2", Outcome.SYMPTOM)]


def test_the_newest_of_the_widest_scope_speaks_whatever_it_says() -> None:
    found = stands(a_run(1, Outcome.FIX_PROVED), a_run(3, Outcome.NOT_FIXED), a_run(2, Outcome.DRILL_PASSED))
    assert (found.record.run_id, found.judged.outcome) == ("day3", Outcome.NOT_FIXED)


def test_what_a_narrower_run_found_is_gone_once_the_same_or_a_wider_scope_no_longer_finds_it() -> None:
    proof, found = a_run(1, Outcome.FIX_PROVED), a_run(2, Outcome.SYMPTOM, DIAGNOSE)
    assert stands(proof, found, a_run(3, Outcome.HEALTHY, DIAGNOSE)).beside == ()
    assert stands(proof, found, a_run(3, Outcome.FIX_PROVED)).beside == ()
    other = a_run(3, Outcome.HEALTHY, NARROWER["only step busbw"])
    assert len(stands(proof, found, other).beside) == 1


def test_a_narrow_run_speaks_where_there_is_no_wider_one() -> None:
    assert stands(a_run(1, Outcome.HEALTHY, DIAGNOSE)).judged.outcome is Outcome.HEALTHY
    assert standing(()) is None


def test_what_was_allowed_makes_no_other_scope() -> None:
    allowed = FULL.model_copy(update={"allow": ("busy",)})
    found = stands(a_run(1, Outcome.FIX_PROVED, allowed), a_run(2, Outcome.NOT_FIXED))
    assert found.record.run_id == "day2"


def pages(*records: Record) -> dict[str, str]:
    made = render([entry()], records, NOW, ROOT / "kb" / "_templates")
    return {path: page.text for path, page in made.items()}


def matrix(text: str) -> str:
    (cell,) = [
        one.words
        for one in read_html(text).one("table").one("tbody").all("td")
        if one.attributes["data-head"].startswith("cpu")
    ]
    return cell


def test_a_diagnosis_that_found_nothing_leaves_the_proof_on_every_page_and_turns_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = (a_run(1, Outcome.FIX_PROVED), a_run(2, Outcome.HEALTHY, DIAGNOSE))
    found = pages(*records)
    assert matrix(found["index.md"]).startswith("fix proved")
    assert "no verdicts changed" in read_html(found["index.md"]).words
    assert found["feed.xml"].count("<entry>") == 1, "the first run there, and no turn"
    (place,) = json.loads(found["data/latest.json"])["entries"]
    assert (place["outcome"], place["narrower"]) == ("fix_proved", [])
    said = trend(tmp_path, records, capsys, status=0)
    assert [(turn["before"], turn["after"]) for turn in said] == [("unmeasured", "fix_proved")]


def test_a_diagnosis_that_found_the_issue_is_shown_beside_the_proof() -> None:
    found = pages(a_run(1, Outcome.FIX_PROVED), a_run(2, Outcome.SYMPTOM, DIAGNOSE))
    cell = matrix(found["index.md"])
    assert cell.startswith("fix proved")
    assert "symptom 2 days ago, by a newer, narrower run (only diagnose)" in cell
    assert "symptom" in read_html(found["entries/small.md"]).one("section", class_="rb-standing").words
    for path in ("index.md.txt", "entries/small.md.txt"):
        assert "symptom by a newer, narrower run (only diagnose)" in found[path]
    (place,) = json.loads(found["data/latest.json"])["entries"]
    assert [one["outcome"] for one in place["narrower"]] == ["symptom"]
    assert "data/records/day2.json" in found


def test_start_page_feed_and_trend_name_the_same_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = (
        a_run(1, Outcome.FIX_PROVED),
        a_run(2, Outcome.HEALTHY, DIAGNOSE),
        a_run(3, Outcome.NOT_FIXED),
        a_run(4, Outcome.SYMPTOM, DIAGNOSE),
        a_run(5, Outcome.DRILL_PASSED),
    )
    found = pages(*records)
    turned = [
        (one["what"], one["before"], one["after"]) for one in trend(tmp_path, records, capsys, status=1)
    ]
    assert turned == [
        ("outcome", "unmeasured", "fix_proved"),
        ("outcome", "fix_proved", "not_fixed"),
        ("outcome", "healthy", "symptom"),
        ("outcome", "not_fixed", "drill_passed"),
    ]
    words = read_html(found["index.md"]).words
    assert "3 verdicts changed, 1 entry measured for the first time" in words
    for _, before, after in turned:
        said = f"{before} → {after}".replace("_", " ")
        assert said in words
        assert said in found["feed.xml"]
    assert found["feed.xml"].count("<entry>") == len(turned)


def trend(
    tmp_path: Path, records: tuple[Record, ...], capsys: pytest.CaptureFixture[str], status: int
) -> list[dict[str, Any]]:
    store = Store(tmp_path / "data", secrets=())
    for one in records:
        store.save(one)
    entries = tmp_path / "entries"
    entries.mkdir()
    (entries / "small.md").write_text(TEXT, encoding="utf-8")
    assert main(["--runbooks", str(entries), "--data", str(store.root), "trend", "--json"]) == status
    turned: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["turned"]
    return turned


def test_a_drill_that_passed_says_what_was_not_measured_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = (a_run(1, Outcome.DRILL_PASSED),)
    found = pages(*records)
    why = "the fault was found and undone; its effect was not measured"
    item = "verify/again: wrong_elements was not measured"
    assert matrix(found["index.md"]).startswith("drill passed")
    for path in ("index.md", "entries/small.md", "entries/index.md"):
        words = read_html(found[path]).words
        assert why in words
        assert item in words
        assert "fix proved" not in words.replace("Fix proved", "")
        assert not read_html(found[path]).all("span", class_="rb-fix_proved")
    for path in ("index.md.txt", "entries/small.md.txt", "feed.xml"):
        assert why in found[path]
    (place,) = json.loads(found["data/latest.json"])["entries"]
    assert (place["outcome"], place["unproved"]) == ("drill_passed", [item])
    (turn,) = trend(tmp_path, records, capsys, status=0)
    assert (turn["after"], turn["unproved"]) == ("drill_passed", [item])


def test_a_proof_by_a_step_that_has_changed_since_has_no_tick() -> None:
    changed = [
        one.model_copy(update={"digest": "feedfeedfeedfeed"}) if one.id == "again" else one
        for one in ended_as(entry(), Outcome.FIX_PROVED)
    ]
    stale = a_run(1, Outcome.FIX_PROVED).model_copy(update={"steps": tuple(changed)})
    text = pages(stale)["index.md"]
    assert matrix(text).startswith("fix proved stale")
    assert read_html(text).all("span", class_="rb-then")


def test_the_list_shows_the_outcome_judged_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.cli.list.look_class", lambda: machine().machine_class)
    drilled = a_run(1, Outcome.DRILL_PASSED).model_copy(update={"outcome": Outcome.FIX_PROVED})
    trend(tmp_path, (drilled, a_run(2, Outcome.SYMPTOM, DIAGNOSE)), capsys, status=0)
    words = ["--runbooks", str(tmp_path / "entries"), "--data", str(tmp_path / "data"), "list"]
    assert main([*words, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["outcome"] == "drill_passed"
    assert listed["unproved"] == ["verify/again: wrong_elements was not measured"]
    assert listed["narrower"] == ["symptom"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "small: drill passed: the fault was found and undone" in said
    assert "small: symptom in a newer, narrower run (only diagnose)" in said
