"""Build the site of 1,000 entries with 100 records of 8 KB each, beside bare mkdocs-material with as many pages.

    python benchmarks/thousand_entries.py [--entries 1000] [--records 100] [--rounds 1] [--bytes N]

Both are built cold (an empty folder, nothing cached), one after the other in one run. The bare side has the theme's
defaults, so every page in the navigation, and the same number of pages of prose. Each has as many bytes of Markdown as
an entry's page with all its records, which makes articles of nearly the same size in HTML; both sizes are printed. An
entry's page is mostly evidence, which is HTML before Markdown sees it and stays out of the search; the bare page's
prose is read by Markdown and by the search. `--bytes 4400` is the harsher question, a bare page with no more prose than
an entry has in plain Markdown, its tables and plots counted for nothing.

Printed: the seconds of both, on the clock and of the processor (on a busy machine only those can be compared), their
ratio (its 95 % interval from five rounds on), the most memory that each build held, and the largest page. The exit
status is 1 where a limit is missed: ratio 1.5, 2 GiB, 300 KB.

At full size one round takes two minutes or so. Fewer entries are another question: every bare page carries every page
in its navigation, so the bare side takes more than twice as long for twice the pages, and this site does not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner.base.stats import median_interval, spread
from runner.entry.digest import current_digest
from runner.entry.parse import parse
from runner.entry.read import read_all
from runner.pages.render import render
from runner.record.model import SCHEMA_VERSION
from runner.record.store import Store

ROOT = Path(__file__).parents[1]
RATIO, MEMORY, PAGE, RECORD = 1.5, 2 * 2**30, 300_000, 8_000
CLASSES = ("8xB200-180GB", "cpu-a-x86_64-2c")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

ENTRY = """\
---
id: entry-{number:04}
number: {number}
title: Generated entry {number}
severity: high
tags: [generated, nccl]
signatures:
  - pattern: 'NCCL WARN made-up failure {number}\\b'
    means: a line of this entry
expectations:
  - id: floor
    metric: measure.bus_bandwidth
    at: {{op: all_reduce}}
    min: 1
    evidence: chosen
    source: a generated entry needs one
proof: [measure-again.bus_bandwidth]
claims:
  - id: faster
    text: The second measurement is at least as fast as the first.
    evidence: unsourced
    source: made up
    confirmed_if: {{metric: measure-again.bus_bandwidth, over: measure.bus_bandwidth, min: 1}}
---

# Generated entry {number}

## Symptom

{prose}

## By hand

```bash
true
```

## Root cause

{prose}

## Diagnose

```bash {{#measure}}
python -m runner.probes.collectives --op all_reduce
```

## Fix

{prose}

```bash {{#mend}}
unset NCCL_P2P_DISABLE
```

## Verify

```bash {{#measure-again}}
python -m runner.probes.collectives --op all_reduce
```
"""
PROSE = " ".join(["A link that is down halves what a collective can move, and nothing crashes."] * 6)
BARE = "site_name: bare\ntheme: {name: material, font: false}\n"


@dataclass(frozen=True)
class Built:
    """What one build took: seconds on the clock and of the processor, the most resident memory in bytes."""

    seconds: float
    cpu: float
    memory: int


def write_entries(folder: Path, entries: int) -> None:
    """The entries, one file each."""
    folder.mkdir(parents=True)
    for number in range(1, entries + 1):
        text = ENTRY.format(number=number, prose=PROSE)
        (folder / f"entry-{number:04}.md").write_text(text, encoding="utf-8")


def write_records(data: Path, runbooks: Path, entries: int, records: int) -> None:
    """So many records of about 8 KB for every entry, taken in turn on two classes and two nodes of each."""
    text = (runbooks / "entry-0001.md").read_text(encoding="utf-8")
    runbook = parse(text, runbooks / "entry-0001.md")
    digests = {step.id: current_digest(runbook, step) for step in runbook.steps}
    for number in range(1, entries + 1):
        for count in range(records):
            record = a_record(number, count, digests)
            when = BEGAN + timedelta(hours=count)
            folder = data / record["machine"]["machine_class"] / record["runbook"]["id"]
            folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(record)
            # What is missing of the size is output that the step printed.
            record["steps"][0]["stdout_tail"] = ("busbw 838 GB/s, all ranks agree\n" * 300)[
                : RECORD - len(content)
            ]
            name = f"{when:%Y%m%dT%H%M%SZ}-{record['run_id']}.json"
            (folder / name).write_text(json.dumps(record), encoding="utf-8")


def a_record(number: int, count: int, digests: dict[str, str]) -> dict[str, Any]:
    """One record as JSON."""
    gpus = 8 if count % 2 else 0
    started = BEGAN + timedelta(hours=count)
    value = 8.3e11 + 1e9 * ((number + count) % 7)
    machine = {
        "machine_class": CLASSES[0] if gpus else CLASSES[1],
        "gpus": [
            {"index": index, "name": "NVIDIA B200", "memory_bytes": 191_500_000_000} for index in range(gpus)
        ],
        "gpu_error": None,
        "driver": "580.95.05" if gpus else None,
        "cpu": "A CPU",
        "cores": 2,
        "arch": "x86_64",
        "memory_bytes": 24 * 2**30,
        "os": "Debian GNU/Linux 12",
        "kernel": "6.1",
        "python": "3.11.7",
        "torch": "2.13.0",
        "cuda": "13.0" if gpus else None,
        "nccl": "2.27.7" if gpus else None,
        "load": 0.1,
        "simulated": False,
    }
    labels = {"op": "all_reduce", "bytes": 8 * 2**30, "ranks": 8}
    steps = [
        {
            "id": step_id,
            "phase": {"measure": "diagnose", "mend": "fix"}.get(step_id, "verify"),
            "command": "python -m runner.probes.collectives --op all_reduce\n",
            "digest": digest,
            "status": "passed",
            "exit_status": 0,
            "started_at": started.isoformat(),
            "duration_s": 5.0,
            "probe": "collectives" if step_id != "mend" else None,
            "stdout_tail": "",
            "measurements": [
                {
                    "name": "bus_bandwidth",
                    "labels": labels,
                    "value": value,
                    "unit": "B/s",
                    "statistic": "median",
                    "samples": [value + 1e8 * (place % 5 - 2) for place in range(10)],
                }
            ]
            if step_id != "mend"
            else [],
        }
        for step_id, digest in digests.items()
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"{number:06x}{count:06x}",
        "campaign": None,
        "node_alias": f"node-{count // 2 % 2:06x}",
        "runbook": {"id": f"entry-{number:04}", "number": number, "title": f"Generated entry {number}"},
        "code": {"commit": "0" * 40, "package": "0" * 64, "entries": "0" * 64, "dirty": False},
        "machine": machine,
        "started_at": started.isoformat(),
        "ended_at": (started + timedelta(minutes=1)).isoformat(),
        "options": {
            "preset": "70b" if gpus else "tiny",
            "phases": ["diagnose", "reproduce", "fix", "verify"],
        },
        "steps": steps,
        "outcome": "healthy",
        "simulated": False,
    }


def size_of_a_page(folder: Path, records: int) -> int:
    """Bytes of Markdown of one entry's page with all its records; every generated entry is alike."""
    write_entries(folder / "runbooks", 1)
    write_records(folder / "data", folder / "runbooks", 1, records)
    runbooks, store = read_all(folder / "runbooks"), Store(folder / "data")
    pages = render(runbooks, store.read([]), datetime.now(UTC), ROOT / "kb" / "_templates")
    return len(pages["entries/entry-0001.md"].text.encode())


def write_bare(folder: Path, pages: int, size: int) -> None:
    """A project of mkdocs-material with nothing but pages of this size, in bytes of Markdown."""
    docs = folder / "docs"
    docs.mkdir(parents=True)
    (folder / "mkdocs.yml").write_text(BARE, encoding="utf-8")
    section = "\n\n".join([PROSE] * 5)
    paragraphs = "\n\n".join(f"## Part {part}\n\n{section}" for part in range(size // len(section) + 1))
    for number in range(pages):
        name = "index.md" if number == 0 else f"page-{number:04}.md"
        (docs / name).write_text(f"# Page {number}\n\n{paragraphs}"[:size], encoding="utf-8")


def build(project: Path, site: Path, **variables: str) -> Built:
    """Build a project into an empty folder."""
    shutil.rmtree(site, ignore_errors=True)
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    words = ["build", "--quiet", "--config-file", str(project / "mkdocs.yml"), "--site-dir", str(site)]
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "mkdocs", *words], env={**os.environ, **quiet, **variables}
    )
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"mkdocs ended with exit status {child.returncode} in {project}")
    return Built(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def main() -> int:
    """Generate, build both, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(
        description="The site of a thousand entries beside bare mkdocs-material."
    )
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--records", type=int, default=100, help="of every entry")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--bytes", type=int, help="of Markdown of a bare page; those of an entry's when left out"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return measure(Path(name), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    """Build both in turn and print what they took."""
    ours, bare = folder / "ours", folder / "bare"
    write_entries(ours / "runbooks", arguments.entries)
    write_records(ours / "site_data", ours / "runbooks", arguments.entries, arguments.records)
    shutil.copytree(ROOT / "kb", ours / "kb")
    # Guides of this project speak of its own entries.
    shutil.rmtree(ours / "kb" / "guides")
    shutil.copy(ROOT / "mkdocs.yml", ours)
    size = arguments.bytes or size_of_a_page(folder / "sample", arguments.records)
    write_bare(bare, arguments.entries, size)
    rounds: list[tuple[Built, Built]] = []
    for _ in range(arguments.rounds):
        data = {"RUNBOOK_DATA": str(ours / "site_data"), "PYTHONPATH": str(ROOT)}
        rounds.append((build(ours, folder / "site", **data), build(bare, folder / "bare-site")))
    largest = max((path for path in (folder / "site").rglob("*.html")), key=lambda path: path.stat().st_size)
    entry, page = (
        folder / "site" / "entries" / "entry-0001.html",
        folder / "bare-site" / "page-0001" / "index.html",
    )
    print(f"article of an entry {article(entry) / 1000:.0f} KB, of a bare page {article(page) / 1000:.0f} KB")
    return report(rounds, largest, folder / "site", arguments)


def article(page: Path) -> int:
    """Bytes of what a page says, without navigation and the rest of the theme."""
    return len(page.read_bytes().partition(b"<article")[2].partition(b"</article>")[0])


def report(
    rounds: Sequence[tuple[Built, Built]], largest: Path, site: Path, arguments: argparse.Namespace
) -> int:
    """Print the figures; 1 where a limit is missed."""
    ratios = [one.seconds / other.seconds for one, other in rounds]
    ratio = spread(ratios).median
    memory = max(one.memory for one, _ in rounds)
    size = largest.stat().st_size
    interval = median_interval(ratios)
    shown = f" [{interval.low:.2f} … {interval.high:.2f}]" if interval and interval.confidence else ""
    print(
        f"{arguments.entries} entries with {arguments.records} records of {RECORD / 1000:g} KB, {len(rounds)} rounds"
    )
    for label, place in (("this site", 0), ("bare mkdocs-material", 1)):
        seconds = spread([pair[place].seconds for pair in rounds]).median
        cpu = spread([pair[place].cpu for pair in rounds]).median
        most = max(pair[place].memory for pair in rounds) / 2**20
        print(f"{label:22} median {seconds:6.1f} s   processor {cpu:6.1f} s   at most {most:6.0f} MiB")
    print(f"ratio {ratio:.2f}{shown} (limit {RATIO}); {memory / 2**30:.2f} GiB (limit {MEMORY / 2**30:g})")
    print(f"largest page {largest.relative_to(site)}: {size / 1000:.0f} KB (limit {PAGE / 1000:g})")
    return 0 if ratio <= RATIO and memory <= MEMORY and size < PAGE else 1


if __name__ == "__main__":
    sys.exit(main())
