"""What every command prints of text that strangers wrote: nothing that steers a terminal, hides, or forges a line.

The real command on a data folder, entries, a log and a lock full of escape codes; its standard output and standard
error are read as bytes from a pipe, and from a terminal of its own.
"""

import fcntl
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, cast

import pytest
from rich.console import RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from runner.base.screen import Screen
from runner.cli.console import console_on
from runner.hardware.machine import look
from runner.record.model import Record, StepStatus, StoredVerdict
from runner.record.redaction.redact import host_secrets
from runner.run.lock import PLACE_VARIABLE
from tests.evidence_samples import machine, measurement, record, step
from tests.test_cli import ROOT, write_entry
from tests.test_cli import step as block

# Colours that this project never uses, concealed text, a title, a link, the clipboard, a cleared screen, all of one
# byte too, a turned direction, backspaces, a bell, and lines of their own: one for GitHub, one that looks like ours.
HOSTILE = (
    "\x1b[5;45mBLINK\x1b[8mconcealed\x1b[0m\x1b]0;title\x07\x1b]8;;http://evil.example/\x1b\\link\x1b]8;;\x1b\\"
    "\x1b]52;c;aWQK\x07\x1b[2J\x1b[1;1H\x9b2J\x9d0;c1\x9c\x1bP+q\x1b\\\x1bc\u202egpj\u202c\u2066x\u2069\x08\x08\x7f\x07"
    "\r::error::FORGED\n::error::FORGED\nverify-data: 7 records fit to publish FORGED\x85FORGED\u2028FORGED\x0bFORGED"
)
TOKEN = "hf_" + "ZyXwVuTsRqPoNmLkJiHgFeDcBa987654"
SECRETS = (TOKEN, "10.21.32.43", "trillian9")
PRIVATE = f"\x1b[31m{TOKEN}\x1b[0m 10.21.32.43 /home/trillian9/x"
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
# What Rich itself writes on a terminal: colours and styles, a hidden cursor, a line redrawn.
_RICH = re.compile(r"\x1b\[(?:\d{1,3}(?:;\d{1,3})*)?m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r")
_STYLES_OF_THEIRS = re.compile(r"\x1b\[(?:[^m]*;)?(?:5|8|45)(?:;[^m]*)?m")
# One process for all, so that Python starts once.
_MANY = """
import json, os, sys
from runner.cli.main import main
for number, words in enumerate(json.loads(sys.argv[1])):
    for stream in (1, 2):
        os.write(stream, f"\\n=====COMMAND {number}=====\\n".encode())
    main(words)
    sys.stdout.flush()
"""


@dataclass(frozen=True)
class House:
    """Entries, records, a log and a lock that a stranger filled."""

    root: Path

    def words(self, *words: str) -> list[str]:
        return ["--runbooks", str(self.root / "runbooks"), "--data", str(self.root / "data"), *words]


def _entry(folder: Path, entry_id: str, number: int, **blocks: str) -> None:
    path = write_entry(folder, **blocks, entry_id=entry_id, number=number)
    text = path.read_text(encoding="utf-8")
    text = text.replace("title: A small entry", f"title: {json.dumps('A title ' + _one_line(HOSTILE))}")
    text = text.replace(
        "---\n\n## Symptom", "signatures:\n  - pattern: a fault of kind\n---\n\n## Symptom", 1
    )
    path.write_text(text.replace("It is slow.", f"It is slow. {_one_line(HOSTILE)}"), encoding="utf-8")


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n\x0b\x85\u2028]", " ", text)


def _record(number: int, machine_class: str, value: float) -> Record:
    found = measurement(value, value, value * 1.01, value * 0.99, op="all_reduce", note=HOSTILE)
    here = machine(
        machine_class=machine_class,
        driver=HOSTILE,
        cpu=HOSTILE,
        os=HOSTILE,
        kernel=f"6.1.{number // 30}{HOSTILE}",
    )
    note = StoredVerdict(
        id="x", verdict="inconclusive", value=1.0, unit="1", evidence="reported", decides=True, note=HOSTILE
    )
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    failing = StepStatus.SYMPTOM if number % 7 == 6 else StepStatus.PASSED
    return record(
        step(
            "look",
            found,
            status=failing,
            reason=HOSTILE,
            stdout_tail=HOSTILE,
            details={"undo": [HOSTILE]},
            probe="collectives",
        ),
        step("look" + _one_line(HOSTILE), found),
        run_id=f"{number:012x}",
        campaign=HOSTILE,
        node_alias=HOSTILE,
        machine=here,
        verdicts=(note,),
        unproved=(HOSTILE,),
        started_at=began,
        ended_at=began + timedelta(minutes=1),
        runbook={"id": "hostile", "number": 1, "title": HOSTILE},
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("house")
    folder = root / "runbooks"
    said = {"probe": "nccl_env", "method_version": 2, "status": "symptom", "reason": HOSTILE + PRIVATE}
    said["details"] = {"findings": [{"severity": "high"}], "undo": [HOSTILE], "by_hand": [HOSTILE]}
    passed = {"probe": "nccl_env", "method_version": 2, "status": "ok", "reason": HOSTILE + PRIVATE}
    (root / "said.json").write_text(json.dumps(said))
    (root / "passed.json").write_text(json.dumps(passed))
    (root / "loud.txt").write_text(HOSTILE + PRIVATE + "\n", encoding="utf-8")
    found, hint, loud = (f"cat {root}/{name}" for name in ("said.json", "passed.json", "loud.txt"))
    _entry(
        folder,
        "hostile",
        1,
        diagnose=block("look", f'{found} > "$RUNBOOK_RESULT"; exit 1', "safety=read-only")
        + "\n\n"
        + block("hint", f'{hint} > "$RUNBOOK_RESULT"', "safety=read-only")
        + "\n\n"
        + block("loud", f"{loud}; {loud} >&2; exit 9", "safety=read-only")
        + "\n\n"
        + block("left", "true", "gpus=64"),
        fix=block("mend", f"true # {_one_line(HOSTILE)}"),
        verify=block("see", "true"),
    )
    here = look().machine_class
    for number in range(40):
        for machine_class in (here, "8xB200-180GB"):
            one = _record(number, machine_class, 100.0 if number < 30 else 200.0 + number)
            place = root / "data" / machine_class / "hostile" / f"20260101T000000Z-{one.run_id}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(one.model_dump_json(), encoding="utf-8")
    name = HOSTILE.replace("/", "")[:200]
    (root / "data" / here / "hostile" / f"20260101T000000Z-{name}.json").write_text("{", encoding="utf-8")
    (root / "data" / f"{name}.json").write_text("{", encoding="utf-8")
    (root / "log.txt").write_text(f"{HOSTILE} a fault of kind {HOSTILE}\n", encoding="utf-8")
    (root / "faulty").mkdir()
    (root / "faulty" / f"{name}.md").write_text(f"---\nid: {HOSTILE}\n---\n# {HOSTILE}\n", encoding="utf-8")
    return House(root)


def commands(house: House) -> Mapping[str, list[str]]:
    """Every command that prints what it was given, by what it is called here."""
    root = house.root
    here = look().machine_class
    faulty = ["--runbooks", str(root / "faulty"), "--data", str(root / "data")]
    first, last = (f"{here}/hostile/20260101T000000Z-{number:012x}.json" for number in (0, 39))
    return {
        "list": house.words("list"),
        "list as JSON": house.words("list", "--json"),
        "show": house.words("show", "hostile"),
        "plan": house.words("plan", "hostile"),
        "check": house.words("check"),
        "check, faults": [*faulty, "check"],
        "list, faults": [*faulty, "list"],
        "no such entry": house.words("show", HOSTILE),
        "diagnose": house.words("diagnose"),
        "diagnose as JSON": house.words("diagnose", "--json"),
        "diagnose for Nagios": house.words("diagnose", "--format", "nagios"),
        "diagnose for Prometheus": house.words("diagnose", "--format", "prometheus"),
        "match": house.words("match", str(root / "log.txt")),
        "match as JSON": house.words("match", str(root / "log.txt"), "--json"),
        "verify-data": house.words("verify-data"),
        "trend": house.words("trend"),
        "trend as JSON": house.words("trend", "--json"),
        "compare records": house.words("compare", f"{root}/data/{first}", f"{root}/data/{last}", "--all"),
        "compare classes": house.words("compare", here, "8xB200-180GB", "--all"),
        "compare as JSON": house.words("compare", here, "8xB200-180GB", "--json"),
        "prune": house.words("prune"),
        "pages": house.words("pages", "--out", str(root)),
        "run": [*house.words("run", "hostile")[:3], str(root / "fresh"), "run", "hostile"],
        "run as JSON": [*house.words("run", "hostile")[:3], str(root / "fresh"), "run", "hostile", "--json"],
        "bad usage": house.words("run", "hostile", "--phase", HOSTILE),
    }


def _parts(data: bytes, names: list[str]) -> dict[str, str]:
    text = data.decode("utf-8")
    parts = re.split(r"\n=====COMMAND \d+=====\n", text.replace("\r\n", "\n"))
    assert len(parts) == len(names) + 1
    return dict(zip(names, parts[1:], strict=True))


@pytest.fixture(scope="module")
def piped(house: House) -> dict[str, tuple[str, str]]:
    """Standard output and standard error of every command, from pipes."""
    wanted = commands(house)
    done = subprocess.run(
        [sys.executable, "-c", _MANY, json.dumps(list(wanted.values()))],
        cwd=ROOT,
        env=os.environ
        | {PLACE_VARIABLE: str(house.root / "lock"), "XDG_CACHE_HOME": str(house.root / "cache")},
        capture_output=True,
        check=True,
        timeout=300,
    )
    out, err = (_parts(data, list(wanted)) for data in (done.stdout, done.stderr))
    return {name: (out[name], err[name]) for name in wanted}


@pytest.fixture(scope="module")
def on_a_terminal(house: House) -> dict[str, str]:
    """What a terminal is given by every command."""
    wanted = {name: words for name, words in commands(house).items() if "JSON" not in name}
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", _MANY, json.dumps(list(wanted.values()))],
        cwd=ROOT,
        env=os.environ
        | {"TERM": "xterm-256color", "COLUMNS": "120", "COLORTERM": "truecolor"}
        | {PLACE_VARIABLE: str(house.root / "lock2"), "XDG_CACHE_HOME": str(house.root / "cache")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        data = b""
        try:
            while piece := os.read(terminal, 1 << 16):
                data += piece
        except OSError:
            pass  # Linux says so when the other end has been closed
        assert process.wait(300) == 0
    os.close(terminal)
    # Both streams announce each command; a terminal has one of them behind the other.
    text = re.sub(rb"(\r?\n=====COMMAND \d+=====\r?\n)\1", rb"\1", data)
    return _parts(text, list(wanted))


NAMES = tuple(commands(House(Path("/nowhere"))))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_steers_a_terminal_comes_out_of_a_pipe(
    name: str, piped: dict[str, tuple[str, str]]
) -> None:
    out, err = piped[name]
    assert _STEERS.findall(out) == []
    assert _STEERS.findall(err) == []
    assert out or err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", [name for name in NAMES if "JSON" not in name])
def test_a_terminal_is_given_styles_of_this_project_alone(name: str, on_a_terminal: dict[str, str]) -> None:
    text = on_a_terminal[name]
    assert _STYLES_OF_THEIRS.findall(text) == []
    assert "evil.example/\x1b" not in text
    assert _STEERS.findall(_RICH.sub("", text)) == []


def test_colours_of_this_project_reach_a_terminal(on_a_terminal: dict[str, str]) -> None:
    assert "\x1b[1m" in on_a_terminal["list"]
    assert "\x1b[31m" in on_a_terminal["run"]


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_forged(name: str, piped: dict[str, tuple[str, str]]) -> None:
    # An entry's prose and commands have lines of their own.
    for line in [] if name == "show" else [*piped[name][0].splitlines(), *piped[name][1].splitlines()]:
        assert not re.match(r"\s*(::|verify-data: 7|FORGED)", line), line


@pytest.mark.parametrize("name", [name for name in NAMES if "JSON" in name])
def test_json_says_what_was_there_and_is_json(name: str, piped: dict[str, tuple[str, str]]) -> None:
    out = piped[name][0]
    assert json.loads(out)
    if not name.startswith(("run", "diagnose")):
        # Of records and logs as they lie; what this host says is redacted.
        assert "\\u001b[5;45m" in out
        assert "\\u009b2J" in out
        assert "\\u202e" in out


@pytest.mark.parametrize(
    "name", ["run", "run as JSON", "diagnose", "diagnose as JSON", "diagnose for Nagios"]
)
def test_what_a_step_says_is_redacted_before_anybody_sees_it(
    name: str, piped: dict[str, tuple[str, str]], on_a_terminal: dict[str, str]
) -> None:
    shown = "".join((*piped[name], on_a_terminal.get(name, "")))
    assert "BLINK" in shown
    for secret in (*SECRETS, *host_secrets()):
        assert secret not in shown.replace(str(Path.home()), "")
    assert "[token]" in shown


def test_who_holds_the_node_is_told_without_what_a_stranger_wrote_into_the_lock(house: House) -> None:
    lock = house.root / "held.lock"
    lock.write_text(json.dumps({"run_id": HOSTILE + PRIVATE, "pid": HOSTILE + PRIVATE}), encoding="utf-8")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "runner.cli.main", *house.words("run", "hostile")],
            cwd=ROOT,
            env=os.environ | {PLACE_VARIABLE: str(lock)},
            capture_output=True,
            check=False,
            timeout=300,
        )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 3
    assert "holds this node" in said
    assert _STEERS.findall(said) == []
    assert not any(secret in said for secret in SECRETS)
    assert not any(line.startswith("::") for line in said.splitlines())


def test_a_screen_writes_text_alone_and_a_console_on_it_its_own_styles() -> None:
    out = io.StringIO()
    screen = Screen(out)
    print(HOSTILE, file=cast("IO[str]", screen))
    screen.writelines(["\x1b[3", "1mred\n", HOSTILE])
    assert _STEERS.findall(out.getvalue()) == []
    console = console_on(screen, 80)
    console.print(Text(HOSTILE), HOSTILE, Markdown(HOSTILE), style="bold link http://evil.example/\x1b[8m")
    console.print("[link=http://evil.example/]here[/link]")
    assert _STEERS.findall(out.getvalue()) == []


@pytest.mark.parametrize(
    "what", [HOSTILE, Text(HOSTILE), Markdown(HOSTILE), Text(HOSTILE, "link http://e\x1b[8mx")]
)
def test_a_console_on_a_terminal_gives_it_styles_of_this_project_alone(what: RenderableType) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    console = console_on(out, 80)
    with Live(what, console=console, refresh_per_second=1):
        console.print(what, style="bold")
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(what)
    console.print(table)
    assert "\x1b[1m" in out.getvalue()
    assert _STYLES_OF_THEIRS.findall(out.getvalue()) == []
    assert _STEERS.findall(_RICH.sub("", out.getvalue())) == []
