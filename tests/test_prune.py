from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from runner.cli.main import main
from runner.history.endings import endings
from runner.history.prune import needed
from runner.history.trend import RECENT, WINDOW, trend
from runner.history.verdict_changes import verdict_changes
from runner.pages.evidence import gather
from runner.record.model import Outcome, Record
from runner.record.store import Store, latest
from tests.evidence_samples import expectation, measurement, record, runbook, step

START = datetime(2026, 1, 1, tzinfo=UTC)
ENTRY = runbook(expectations=(expectation(min=95.0, unit="B/s"),), busbw="diagnose")


def history(days: int, seed: int = 3) -> list[Record]:
    """Two nodes and two presets, a changed step, a drop at the end, and verdicts that turn now and then."""
    source = Random(seed)
    found = []
    for day in range(days):
        value = source.gauss(100 if day < days - 3 else 80, 2)
        base = record()
        options = base.options.model_copy(update={"preset": source.choice(("tiny", "tiny", "tiny", "8b"))})
        found.append(
            record(
                step(
                    "busbw",
                    measurement(value, op="all_reduce"),
                    probe="collectives",
                    digest="old" if day < days // 4 else "new",
                ),
                run_id=f"{day:012x}",
                node_alias=source.choice(("node-aaaaaa", "node-aaaaaa", "node-bbbbbb")),
                started_at=START + timedelta(days=day),
                ended_at=START + timedelta(days=day, minutes=1),
                options=options,
                outcome=source.choice((Outcome.HEALTHY,) * 30 + (Outcome.SYMPTOM, None)),
            )
        )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_says_the_same_as_all_of_it(seed: int) -> None:
    records = history(160, seed)
    keep = needed((ENTRY,), records)
    kept = [one for one in records if one.run_id in keep]
    assert len(kept) < len(records) * 0.7
    assert latest(kept) == latest(records)
    for node in ("node-aaaaaa", "node-bbbbbb"):
        of_node = [one for one in records if one.node_alias == node]
        assert latest([one for one in kept if one.node_alias == node]) == latest(of_node)
    assert gather(kept, (ENTRY,)).standings == gather(records, (ENTRY,)).standings
    assert [str(change.before) for change in trend(kept).changes] == [
        str(change.before) for change in trend(records).changes
    ]
    said = {str(turn) for turn in verdict_changes(endings((ENTRY,), records))}
    assert said == {str(turn) for turn in verdict_changes(endings((ENTRY,), kept))}
    # Pruning twice takes nothing more.
    assert needed((ENTRY,), kept) == keep


def test_the_window_of_the_trend_stays() -> None:
    steady = [
        one.model_copy(
            update={"outcome": Outcome.HEALTHY, "node_alias": "node-aaaaaa", "options": record().options}
        )
        for one in history(200)
    ]
    assert len(needed((), steady)) == WINDOW + RECENT


def test_a_run_with_an_allowance_replaces_the_run_before_it_of_the_same_scope() -> None:
    first, second, third = (
        one.model_copy(update={"steps": (), "outcome": Outcome.HEALTHY, "node_alias": "node-aaaaaa"})
        for one in history(3)
    )
    options = record().options
    first, third = (one.model_copy(update={"options": options}) for one in (first, third))
    allowed = options.model_copy(update={"allow": ("busy",)})
    second = second.model_copy(update={"options": allowed})
    assert needed((), (first, second, third)) == {third.run_id}


def test_nothing_is_deleted_unasked_and_nothing_else_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "data", secrets=())
    for one in history(60):
        store.save(one)
    broken = store.files()[0].with_name("20200101T000000Z-broken.json")
    broken.write_text("{")
    before = {path: path.read_bytes() for path in store.files()}
    assert main(["--data", str(store.root), "prune"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {path: path.read_bytes() for path in store.files()} == before
    assert "none was deleted, use --delete to delete them" in listed[-1]
    assert main(["--data", str(store.root), "prune", "--delete"]) == 0
    after = {path: path.read_bytes() for path in store.files()}
    assert set(before) - set(after) == {Path(line) for line in listed[:-1]}
    assert after.items() <= before.items()
    assert broken in after
    assert main(["--data", str(store.root), "prune"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("prune: all ")
