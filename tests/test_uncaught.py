"""What every program ends with where it cannot even start, or its streams are closed: never 1, the issue is here."""

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.test_cli import ROOT, step, write_entry
from tests.test_diagnose import ACTION, CLEAN

PROBES = sorted(path.stem for path in (ROOT / "runner" / "probes").glob("[a-z]*.py"))
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "the command": ("-m", "runner.cli.main", "diagnose"),
    "a probe": ("-m", "runner.probes.nccl_env"),
    "the script": ("runbook", "diagnose"),
}
# What a module of ours imports first, what it imports late, and what is said at the end by.
MODULES = ("argparse", "pydantic", "yaml", "dataclasses", "traceback", "json")
RAISING: Mapping[str, tuple[str, int]] = {
    "an error": ("raise RuntimeError('broken\\nin two lines')", 3),
    "a missing module": ("import no_such_module_of_anyone", 3),
    "a syntax error": ("def (:", 3),
    "no memory": ("raise MemoryError", 3),
    "recursion": ("def deep(): deep()\ndeep()", 3),
    "no threads": ('raise RuntimeError("can\'t start new thread")', 3),
    "an interrupt": ("raise KeyboardInterrupt", 130),
    "a read error": ("raise OSError(5, 'Input/output error')", 3),
}


def start(
    tmp_path: Path, program: str, *words: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    first, *rest = PROGRAMS[program]
    if first == "runbook":
        # What an installer makes of the project's entry point.
        script = tmp_path / "bin" / "runbook"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            "import sys\nfrom runner.cli.main import main\nsys.exit(main())\n", encoding="utf-8"
        )
        first = str(script)
    return subprocess.run(
        [sys.executable, first, *rest, *words],
        cwd=tmp_path,
        env={**CLEAN, "PYTHONPATH": f"{tmp_path}/hostile:{ROOT}", **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def break_(tmp_path: Path, module: str, raising: str) -> None:
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / f"{module}.py").write_text(raising + "\n", encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_cannot_be_imported_is_3_whichever_it_is(
    tmp_path: Path, module: str, program: str
) -> None:
    break_(tmp_path, module, RAISING["a missing module"][0])
    done = start(tmp_path, program)
    # A probe that does not need the module does its work.
    assert done.returncode == 3 or (program == "a probe" and done.returncode == 0), done.stderr
    if done.returncode:
        assert "no_such_module_of_anyone" in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kind", RAISING)
def test_whatever_an_import_raises_it_is_never_1(tmp_path: Path, kind: str, program: str) -> None:
    raising, status = RAISING[kind]
    break_(tmp_path, "pydantic", raising)
    done = start(tmp_path, program)
    assert done.returncode == status, done.stderr
    assert "\n" in done.stderr


@pytest.mark.parametrize("program", ["the command", "the script"])
@pytest.mark.parametrize("module", ["argparse", "pydantic", "dataclasses"])
def test_a_broken_installation_drains_no_node(tmp_path: Path, module: str, program: str) -> None:
    break_(tmp_path, module, RAISING["an error"][0])
    assert start(tmp_path, program, "--prolog").returncode == 0
    slurm = {"SLURM_SCRIPT_CONTEXT": "prolog_slurmd"}
    assert start(tmp_path, program, variables=slurm).returncode == 0
    assert start(tmp_path, program).returncode == 3


def test_the_guides_prolog_drains_no_node_where_the_package_itself_is_gone(tmp_path: Path) -> None:
    guide = (ROOT / "kb" / "guides" / "from_one_node_to_a_thousand.md").read_text(encoding="utf-8")
    (prolog,) = [part for part in guide.split("```bash\n") if part.rstrip().find("exit $(($? == 1))") >= 0]
    prolog = prolog.partition("```")[0]
    here = tmp_path / "runbook"
    # The project may be installed beside the Python that runs the tests: its name is then no module's any more.
    for gone, status in (("", 1), ("sys.modules['runner'] = None\n", 0)):
        here.write_text(
            f"#!{sys.executable} -I\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n{gone}"
            f"sys.argv[1:1] = ['--runbooks', {str(tmp_path / 'runbooks')!r}]\n"
            "from runner.cli.main import main\nsys.exit(main())\n",
            encoding="utf-8",
        )
        here.chmod(0o755)
        write_entry(tmp_path / "runbooks", step("d", ACTION % "drain"))
        text = prolog.replace("/opt/llm-runbooks/bin/runbook", str(here))
        assert str(here) in text
        done = subprocess.run(["bash", "-c", text], env=CLEAN, capture_output=True, check=False, timeout=200)
        assert done.returncode == status, done.stderr


def test_a_program_that_imports_this_package_keeps_its_own_way_with_errors() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import runner.probes, sys; assert sys.excepthook is sys.__excepthook__; 1 / 0",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


STREAMS = [
    *(
        " ".join(closed)
        for count in range(4)
        for closed in itertools.combinations(("<&-", ">&-", "2>&-"), count)
    ),
    ">/dev/full",
    "2>/dev/full",
    "<&- >/dev/full 2>&-",
]


def shell(words: str, redirection: str, tmp_path: Path) -> int:
    return subprocess.run(
        ["bash", "-c", f"exec {sys.executable} {words} {redirection}"],
        cwd=ROOT,
        env={**CLEAN, "PYTHONPATH": str(ROOT), "RUNBOOK_LOCK": str(tmp_path / "lock")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=200,
    ).returncode


@pytest.mark.parametrize("redirection", STREAMS)
def test_streams_that_are_closed_or_full_never_make_an_issue_of_a_healthy_node(
    tmp_path: Path, redirection: str
) -> None:
    write_entry(tmp_path / "runbooks", step("d", "echo out; echo err >&2; cat"))
    program = f"-m runner.cli.main --runbooks {tmp_path}/runbooks --data {tmp_path}/data"
    status = shell(f"{program} run small --json", redirection, tmp_path)
    full = ">/dev/full" in redirection.split()
    assert status == (3 if full else 0)
    assert shell(f"{program} run no-such-entry", redirection, tmp_path) == 2
    # What is written is the record, and nothing that was printed.
    for path in (tmp_path / "data").rglob("*.json"):
        assert path.read_bytes().startswith(b"{")
    assert shell("-m runner.probes.nccl_env", redirection, tmp_path) == (3 if full else 0)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_ends_with_3_where_it_cannot_be_imported(tmp_path: Path, name: str) -> None:
    break_(tmp_path, "pydantic", RAISING["an error"][0])
    done = subprocess.run(
        [sys.executable, "-m", f"runner.probes.{name}"],
        cwd=tmp_path,
        env={**CLEAN, "PYTHONPATH": f"{tmp_path}/hostile:{ROOT}"},
        capture_output=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 3


def test_a_reader_of_a_probe_that_went_away_is_no_bug_of_the_probe(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "runner.probes.nccl_env"],
        cwd=ROOT,
        env=CLEAN,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.splitlines()[-1] == "nccl_env: cannot write the document to standard output: Broken pipe"
    )


@pytest.mark.parametrize(("command", "said"), [("run", "exit status 7"), ("diagnose", "blocked: small/d")])
def test_a_step_that_fails_has_not_passed_where_the_caller_ignores_sigchld(
    tmp_path: Path, command: str, said: str
) -> None:
    # As some daemons start what they run: the kernel then keeps no child's exit status.
    write_entry(tmp_path / "runbooks", step("d", "exit 7", "safety=read-only"))
    program = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "os.execv(sys.executable, sys.argv[1:])"
    )
    words = [sys.executable, "-m", "runner.cli.main", "--runbooks", "runbooks", "--data", "data", command]
    done = subprocess.run(
        [sys.executable, "-c", program, *words, *(["small"] if command == "run" else [])],
        cwd=tmp_path,
        env={**CLEAN, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 3, done.stderr
    assert said in done.stdout
