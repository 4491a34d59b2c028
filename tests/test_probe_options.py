"""The probes' options as the site shows them are those of their parsers.

Where a parser has changed, write them anew:

    UPDATE_GOLDEN=1 python -m pytest tests/test_probe_options.py
"""

import json
import os
from pathlib import Path

import pytest

from runner.catalogue import PROBES
from runner.check.commands import probe_options

ROOT = Path(__file__).parents[1]
STORED = ROOT / "kb" / "data" / "probe_options.json"


def test_the_site_shows_the_options_that_the_parsers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNBOOK_PRESET", raising=False)
    found = json.dumps(probe_options(), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        STORED.write_text(found, encoding="utf-8")
    assert found == STORED.read_text(encoding="utf-8"), "renew it: see the top of this test"


def test_every_probe_and_what_every_option_takes_is_there() -> None:
    found = probe_options()
    assert set(found) == {name for name in PROBES if (ROOT / "runner" / "probes" / f"{name}.py").exists()}
    usages = {str(option["usage"]) for option in found["collectives"]}
    assert {"--preset tiny|8b|40b|70b", "--backend auto|gloo|nccl", "--ranks N"} <= usages
    assert any(usage.startswith("--sizes SIZE …") for usage in usages)


def test_every_option_of_every_probe_is_described() -> None:
    silent = [
        f"{probe} {option['usage']}"
        for probe, options in probe_options().items()
        for option in options
        if not str(option["help"] or "").strip()
    ]
    assert not silent
