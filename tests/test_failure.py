"""What the program says and ends with where it fails itself: never the status that means the issue is here."""

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, NoReturn

import pytest

from runner.probes import nccl_env
from runner.run import diagnosing
from tests.cluster import until
from tests.test_cli import ROOT, step
from tests.test_diagnose import ACTION, CLEAN, SYMPTOM, small

NOTHING: Mapping[str, str] = MappingProxyType({})


def run(
    tmp_path: Path,
    *words: str,
    variables: Mapping[str, str] = NOTHING,
    program: tuple[str, ...] = ("-m", "runner.cli.main"),
    stdout: "int | IO[str]" = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=ROOT,
        env={**CLEAN, "XDG_CACHE_HOME": str(tmp_path / "cache"), **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=100,
    )


def broken_by(raising: str) -> tuple[str, ...]:
    """The program, with the look at the machine replaced by something that nobody foresaw."""
    program = (
        f"import sys\nfrom runner.cli import diagnose, list, main\ndef broken():\n    {raising}\n"
        "list.look_class = diagnose.LookApart = broken\nsys.exit(main.main())"
    )
    return ("-c", program)


def test_a_secret_in_an_error_that_nobody_foresaw_is_neither_printed_nor_kept(tmp_path: Path) -> None:
    secret = "hf_" + "ZyXwVuTsRqPoNmLkJiHgFeDcBa987654"
    done = run(
        tmp_path,
        "list",
        program=broken_by(f"raise KeyError('ssh: connect to host gandalf7 port 22 {secret}')"),
    )
    assert done.returncode == 3
    (kept,) = (tmp_path / "cache").rglob("tracebacks/*.txt")
    for text in (done.stderr, kept.read_text(encoding="utf-8")):
        assert "KeyError" in text
        assert secret not in text
        assert "gandalf7" not in text


BUGS = (
    "1 / 0",
    "broken()",
    "raise OSError(28, 'No space left on device')",
    "raise BrokenPipeError(32, 'Broken')",
)


@pytest.mark.parametrize("raising", BUGS)
def test_an_error_that_nobody_foresaw_is_3_with_one_line_and_a_kept_traceback(
    tmp_path: Path, raising: str
) -> None:
    for _ in range(2):
        done = run(tmp_path, "list", program=broken_by(raising))
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert line.startswith("runbook: a bug in this program: ")
    # The same bug again makes no second file.
    (kept,) = (tmp_path / "cache" / "llm-runbooks" / "tracebacks").iterdir()
    assert str(kept) in line
    assert kept.read_text(encoding="utf-8").startswith("Traceback (most recent call last):")
    assert "broken" in kept.read_text(encoding="utf-8")


def test_a_traceback_that_cannot_be_kept_is_printed_before_the_line(tmp_path: Path) -> None:
    done = run(tmp_path, "list", program=broken_by("1 / 0"), variables={"XDG_CACHE_HOME": "/dev/null"})
    assert done.returncode == 3
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "ZeroDivisionError" in done.stderr.splitlines()[-1]
    assert "the traceback is above" in done.stderr.splitlines()[-1]


def test_a_lack_of_memory_is_said_and_is_no_bug(tmp_path: Path) -> None:
    done = run(tmp_path, "list", program=broken_by("raise MemoryError"))
    assert (done.returncode, done.stderr.splitlines()) == (
        3,
        ["runbook: out of memory; free some memory, or run this on another machine"],
    )


def test_a_module_that_cannot_be_imported_is_3(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("import no_such_module_of_anyone\n", encoding="utf-8")
    done = run(tmp_path, "diagnose", variables={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert done.returncode == 3
    assert "no_such_module_of_anyone" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "words", [["nonsense"], ["diagnose", "--nonsense"], ["diagnose", "--deadline", "0"], []]
)
def test_bad_arguments_are_bad_input_in_one_line(tmp_path: Path, words: list[str]) -> None:
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "; see `runbook" in line
    assert "--help`" in line


FAILING: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = MappingProxyType(
    {
        "an option that does not exist": (("--nonsense",), ("-m", "runner.cli.main"), False),
        "an option with a bad value": (("--deadline", "-5"), ("-m", "runner.cli.main"), False),
        "a process that does not exist": (("--pid", "4194305"), ("-m", "runner.cli.main"), False),
        "an option that needs another": (("--nodes", "2"), ("-m", "runner.cli.main"), False),
        "an output that cannot be written": (("--output", "/no/place"), ("-m", "runner.cli.main"), False),
        "a broken installation": ((), ("-m", "runner.cli.main"), True),
        "a bug": ((), broken_by("1 / 0"), False),
        "no memory": ((), broken_by("raise MemoryError"), False),
        "an interrupt": ((), broken_by("raise KeyboardInterrupt"), False),
    }
)


def fail(
    tmp_path: Path, name: str, *words: str, variables: Mapping[str, str] = NOTHING
) -> subprocess.CompletedProcess[str]:
    more, program, poisoned = FAILING[name]
    if poisoned:
        (tmp_path / "yaml.py").write_text("import no_such_module_of_anyone\n", encoding="utf-8")
        variables = {**variables, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    return run(tmp_path, "diagnose", *words, *more, program=program, variables=variables)


@pytest.mark.parametrize("name", FAILING)
def test_no_failure_of_the_check_makes_slurm_drain_a_node(tmp_path: Path, name: str) -> None:
    done = fail(tmp_path, name, "--prolog")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "runbook: the checks could not run; exit status 0, so that Slurm does not drain the node"
    )
    assert fail(tmp_path, name).returncode in {2, 3, 130}


def test_not_even_a_misspelt_prolog_option_drains_a_node_where_slurm_says_who_asks(tmp_path: Path) -> None:
    words = ("diagnose", "--prologue")
    for context, status in (("prolog_slurmd", 0), ("epilog_slurmd", 0), ("prolog_srun", 2)):
        assert run(tmp_path, *words, variables={"SLURM_SCRIPT_CONTEXT": context}).returncode == status
    assert run(tmp_path, *words).returncode == 2
    assert run(tmp_path, "diagnos", "--prolog").returncode == 0


@pytest.mark.parametrize("name", FAILING)
def test_every_failure_of_the_check_is_unknown_to_nagios(tmp_path: Path, name: str) -> None:
    form = ("--format=nagios",) if name == "a bug" else ("--format", "nagios")
    done = fail(tmp_path, name, *form)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("RUNBOOK UNKNOWN - ")
    assert len(done.stdout.splitlines()) == 1


def test_two_readers_that_each_want_an_exit_status_of_their_own_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "diagnose", "--prolog", "--format", "nagios")
    assert done.returncode == 0
    assert "both set the exit status" in done.stderr


@pytest.mark.parametrize("name", ["a process that does not exist", "a bug", "an interrupt"])
def test_a_look_that_failed_does_not_leave_an_older_answer_for_node_exporter(
    tmp_path: Path, name: str
) -> None:
    target = tmp_path / "runbook.prom"
    target.write_text("runbook_diagnose_exit_status 0\n", encoding="utf-8")
    done = fail(tmp_path, name, "--format", "prometheus", "--output", str(target))
    assert done.returncode in {2, 3, 130}
    text = target.read_text(encoding="utf-8")
    assert "runbook_diagnose_exit_status 3\n" in text
    assert "findings{" not in text


@pytest.mark.parametrize("out", ["/dev/full", "closed", "nobody reads"])
@pytest.mark.parametrize(
    ("command", "words", "status"),
    [
        (ACTION % "drain", ("--prolog",), 1),
        ("true", ("--prolog",), 0),
        (SYMPTOM % "critical", ("--format", "nagios"), 2),
        (SYMPTOM % "critical", (), 1),
    ],
)
def test_what_was_found_is_the_exit_status_whatever_becomes_of_the_output(
    tmp_path: Path, out: str, command: str, words: tuple[str, ...], status: int
) -> None:
    arguments = (*small(tmp_path, step("d", command)), "diagnose", *words)
    if out == "closed":
        shell = 'exec "$0" "$@" >&-'
        done = subprocess.run(
            ["bash", "-c", shell, sys.executable, "-m", "runner.cli.main", *arguments],
            cwd=ROOT,
            env=CLEAN,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    elif out == "nobody reads":
        read, write = os.pipe()
        os.close(read)
        done = run(tmp_path, *arguments, stdout=write)
        os.close(write)
    else:
        with Path(out).open("w", encoding="utf-8") as full:
            done = run(tmp_path, *arguments, stdout=full)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "words", [("list",), ("list", "--json"), ("check",), ("diagnose",), ("match", "/dev/null")]
)
def test_a_full_disk_behind_standard_output_is_not_good(tmp_path: Path, words: tuple[str, ...]) -> None:
    arguments = (*small(tmp_path, step("d", "true")), "--data", str(tmp_path / "data"), *words)
    healthy = run(tmp_path, *arguments)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = run(tmp_path, *arguments, stdout=full)
    assert done.returncode == (healthy.returncode or 3)
    if not healthy.returncode:
        (line,) = done.stderr.splitlines()
        assert line == "runbook: could not write all output to standard output: No space left on device"


def test_a_reader_that_left_early_is_no_proof_that_all_is_well(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    # A short answer and one that is longer than any buffer.
    for words in (("list",), ("diagnose", "--json"), ("show", "1")):
        done = run(tmp_path, *words, stdout=write)
        assert (done.returncode, done.stderr) == (141, ""), words
    os.close(write)


def test_standard_error_that_takes_nothing_changes_no_exit_status(tmp_path: Path) -> None:
    words = ("diagnose", "--nonsense", "--prolog")
    for redirection in ("2>&-", "2>/dev/full"):
        done = subprocess.run(
            ["bash", "-c", f'exec {sys.executable} -m runner.cli.main "$@" {redirection}', "bash", *words],
            cwd=ROOT,
            env=CLEAN,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("number", "words", "status"),
    [
        (signal.SIGINT, (), 130),
        (signal.SIGHUP, (), 130),
        (signal.SIGTERM, ("--prolog",), 0),
        (signal.SIGTERM, ("--format", "nagios"), 3),
    ],
)
def test_after_an_interrupt_a_look_starts_nothing_more(
    tmp_path: Path, number: signal.Signals, words: tuple[str, ...], status: int
) -> None:
    at_once = diagnosing._MOST_AT_ONCE
    for entry in range(1, at_once + 3):
        before = small(
            tmp_path,
            step("first", f"touch {tmp_path}/begun-{entry}; sleep 600; true"),
            *(step(f"more-{count}", f"touch {tmp_path}/started-{entry}-{count}") for count in range(3)),
            entry_id=f"entry-{entry}",
            number=entry,
        )
    with subprocess.Popen(
        [sys.executable, "-m", "runner.cli.main", *before, "diagnose", *words],
        cwd=ROOT,
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        # Two more entries wait for the first ones.
        until(lambda: len(list(tmp_path.glob("begun-*"))) == at_once, "the first ones to begin")
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
    assert process.returncode == status, err
    assert err.splitlines()[0] == "runbook: interrupted"
    assert not list(tmp_path.glob("started-*"))
    assert len(list(tmp_path.glob("begun-*"))) == at_once


def test_what_a_json_reader_gets_is_json_or_nothing(tmp_path: Path) -> None:
    arguments = (*small(tmp_path, step("d", "true")), "diagnose", "--json")
    assert json.loads(run(tmp_path, *arguments).stdout)["exit_status"] == 0
    assert run(tmp_path, *arguments, "--pid", "4194305").stdout == ""


def test_a_python_without_torch_is_no_bug_of_a_probe(tmp_path: Path) -> None:
    program = (
        "import dataclasses, sys\nsys.modules['torch'] = None\nfrom runner.kit.probe import base_parser\n"
        "from runner.probes.nccl_env import PROBE\n"
        "def work(_):\n    import torch.distributed\n"
        "probe = dataclasses.replace(PROBE, parser=lambda: base_parser('A probe.'), run=work)\n"
        "sys.exit(probe.main([]))"
    )
    done = run(tmp_path, program=("-c", program))
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("nccl_env: torch is not installed; start runbook with a Python that has it")


@pytest.mark.parametrize("words", [["rendezvous"], ["gpt_large_optimized", "--skip-compile"]])
def test_a_probe_whose_processes_need_torch_reports_that_it_is_missing_before_it_starts_one(
    tmp_path: Path, words: list[str]
) -> None:
    program = (
        f"import sys\nsys.modules['torch'] = None\nfrom runner.probes.{words[0]} import PROBE\n"
        f"sys.exit(PROBE.main({words[1:]!r}))"
    )
    done = run(tmp_path, program=("-c", program))
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{words[0]}: torch is not installed; ")


def test_bad_arguments_of_a_probe_are_refused_in_one_line_that_names_its_help(tmp_path: Path) -> None:
    done = run(tmp_path, "--curve", "none", program=("-m", "runner.probes.compile_growth"))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("compile_growth: error: argument --curve: invalid choice: 'none'")
    assert line.endswith("; see `python -m runner.probes.compile_growth --help`")


def test_a_bug_in_a_probe_is_3_and_never_its_symptom(tmp_path: Path) -> None:
    program = (
        "import dataclasses, sys\nfrom runner.kit.probe import base_parser\n"
        "from runner.probes.nccl_env import PROBE\n"
        "probe = dataclasses.replace(PROBE, parser=lambda: base_parser('A probe.'), run=lambda _: 1 / 0)\n"
        "sys.exit(probe.main([]))"
    )
    done = run(tmp_path, program=("-c", program))
    assert (done.returncode, done.stdout) == (3, "")
    first, *_, last = done.stderr.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "nccl_env: bug in this probe: ZeroDivisionError: division by zero; traceback above"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        OSError(errno.ENOSPC, "No space left on device", "/tmp/a"),
        OSError(errno.EROFS, "Read-only file system", "/a"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
    ids=["no folder", "full", "read-only", "open files"],
)
def test_a_host_without_space_for_files_is_no_bug_of_the_probe(
    error: OSError, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: argparse.Namespace) -> NoReturn:
        raise error

    probe = replace(nccl_env.PROBE, run=fail)
    assert probe.main([]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nccl_env: {error.strerror}")
    assert "TMPDIR" in line


def test_an_os_error_that_the_probe_did_not_expect_is_a_bug_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: argparse.Namespace) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/a")

    assert replace(nccl_env.PROBE, run=fail).main([]) == 3
    assert "bug in this probe: FileNotFoundError" in capsys.readouterr().err
