"""What a compile needs, looked for with real compilers, stand-ins for broken ones, and folders that lack them."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.hardware import prerequisites
from runner.hardware.prerequisites import Missing, Python, Trial, missing, missing_in, missing_to_compile
from runner.kit.probe import NOT_APPLICABLE
from runner.probes import compile_growth, torch_compile_repro
from runner.vocabulary import PROBES, Compiles

OURS = Python("3.12", distributions=False, prefix="/opt/python")
DEBIANS = Python("3.11", distributions=True, prefix="/usr")
needs_compilers = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("gcc")), reason="there is no g++ or no gcc here"
)


@pytest.fixture(autouse=True)
def _neither_cc_nor_cxx_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all there is on PATH, this Python's own programs included."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def a_compiler(folder: Path, name: str, prints: str) -> None:
    """A compiler that runs and that cannot build anything."""
    path = folder / name
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "{prints}" >&2\nexit 1\n')
    path.chmod(0o755)


@needs_compilers
@pytest.mark.parametrize("gpu", [False, True])
def test_a_host_with_compilers_and_headers_lacks_nothing(*, gpu: bool) -> None:
    assert missing_to_compile(gpu=gpu) is None


@pytest.mark.usefixtures("empty_path")
@pytest.mark.parametrize(
    ("gpu", "language", "debian", "fedora"),
    [(False, "C++", "g++", "gcc-c++"), (True, "C", "gcc", "gcc")],
)
def test_a_path_without_a_compiler_gives_the_package_that_has_one(
    language: str, debian: str, fedora: str, *, gpu: bool
) -> None:
    found = missing_to_compile(gpu=gpu)
    assert found is not None
    assert found.reason == (
        f"missing prerequisite: a {language} compiler; `apt-get install {debian}` (Debian, Ubuntu) or"
        f" `dnf install {fedora}` (Fedora, RHEL)"
    )


@needs_compilers
@pytest.mark.parametrize("gpu", [False, True])
def test_a_python_without_headers_is_found_by_the_real_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, gpu: bool
) -> None:
    prerequisites._try.cache_clear()
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    found = missing_to_compile(gpu=gpu)
    prerequisites._try.cache_clear()
    assert found is not None
    assert found.what.startswith(f"the headers of Python {sys.version_info.major}.{sys.version_info.minor}")


@needs_compilers
def test_a_compiler_beside_this_python_is_found_although_it_is_not_on_the_path(
    empty_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a conda environment that is not activated.
    monkeypatch.setenv("PATH", str(tmp_path))
    a_compiler(empty_path, "g++", "fatal error: omp.h: No such file or directory")
    found = missing_to_compile(gpu=False)
    assert found is not None
    assert found.what == "OpenMP for g++ (omp.h)"


def test_inductor_on_a_cpu_also_needs_openssl_where_it_precompiles_headers(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for compiler in ("g++", "gcc"):
        (empty_path / compiler).write_text("#!/bin/sh\nexit 0\n")
        (empty_path / compiler).chmod(0o755)
    found = missing_to_compile(gpu=False)
    assert found is not None
    assert (found.what.split(",")[0], "`apt-get install openssl`" in found.remedy) == ("openssl", True)
    assert missing_to_compile(gpu=True) is None
    monkeypatch.setenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")
    assert missing_to_compile(gpu=False) is None


@pytest.mark.parametrize("named", ["no-such-compiler", "g++ -m64"])
def test_a_variable_that_names_no_compiler_is_said_to(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", named)
    found = missing_to_compile(gpu=False)
    assert found is not None
    assert found.what == f"the C++ compiler {named!r} that CXX names"
    assert "unset CXX" in found.remedy


def test_a_compiler_that_the_variable_names_is_tried_in_place_of_the_default(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_compiler(empty_path, "clang++", "<stdin>:2:10: fatal error: 'omp.h' file not found")
    monkeypatch.setenv("CXX", "clang++")
    found = missing_to_compile(gpu=False)
    assert found is not None
    assert (found.what, "libomp-dev" in found.remedy) == ("OpenMP for clang++ (omp.h)", True)


def test_triton_takes_clang_where_there_is_no_gcc(empty_path: Path) -> None:
    a_compiler(empty_path, "clang", "error: unable to find linker")
    found = missing_to_compile(gpu=True)
    assert found is not None
    assert found.what == "a working C compiler (error: unable to find linker)"


@pytest.mark.parametrize(
    ("errors", "python", "what", "remedy"),
    [
        (
            "<stdin>:1:10: fatal error: Python.h: No such file or directory\n    1 | #include <Python.h>",
            DEBIANS,
            "the headers of Python 3.11 (Python.h)",
            "`apt-get install python3.11-dev`",
        ),
        (
            "/usr/include/python3.11/Python.h:5:10: fatal error: /x/python3.11/pyconfig.h: No such file or directory",
            DEBIANS,
            "the headers of Python 3.11 (pyconfig.h)",
            "`dnf install python3.11-devel`",
        ),
        (
            "<stdin>:1:10: fatal error: 'Python.h' file not found",
            OURS,
            "the headers of Python 3.12 (Python.h)",
            "the Python in /opt/python is not the distribution's: reinstall it with its headers",
        ),
        ("/usr/bin/ld: cannot find -lgomp: No such file", OURS, "OpenMP for g++ (libgomp)", "unset CXX"),
        (
            "g++: fatal error: cannot execute 'cc1plus': execvp: No such file or directory\ncompilation terminated.",
            OURS,
            "a working C++ compiler (g++: fatal error: cannot execute 'cc1plus': execvp: No such file or directory)",
            "`apt-get install g++`",
        ),
        (
            "<stdin>:3:10: fatal error: 'cmath' file not found",
            OURS,
            "a working C++ compiler (<stdin>:3:10: fatal error: 'cmath' file not found)",
            "g++",
        ),
        ("", OURS, "a working C++ compiler (g++ failed)", "g++"),
    ],
)
def test_what_a_compiler_prints_names_what_is_missing_and_what_installs_it(
    errors: str, python: Python, what: str, remedy: str
) -> None:
    found = missing(Trial("C++", "g++", None, ran=True, errors=errors), python)
    assert found is not None
    assert found.what == what
    assert remedy in found.remedy
    assert "\n" not in found.reason
    assert missing_in(found.reason) == found


def test_a_compiler_that_is_too_slow_to_tell_keeps_nothing_from_running() -> None:
    assert missing(Trial("C++", "g++", None, ran=True, errors=None), OURS) is None


@pytest.mark.parametrize("reason", [None, "needs 2 GPUs, this host has none", "exit status 3: missing"])
def test_another_reason_names_no_prerequisite(reason: str | None) -> None:
    assert missing_in(reason) is None


@pytest.mark.parametrize(
    ("probe", "words", "on_cpu", "on_gpu"),
    [
        ("torch_compile_repro", "--compile-mode whole", True, True),
        ("torch_compile_repro", "", True, True),
        ("torch_compile_repro", "--look 2", False, False),
        ("torch_compile_repro", "--look=2", False, False),
        ("torch_compile_repro", "--skip-compile", False, False),
        ("torch_compile_repro", "--compile-mode eager", False, False),
        ("torch_compile_repro", "--compile-mode=eager", False, False),
        ("torch_compile_repro", "--compile-mode whole --inject-stall --deadline 10", False, False),
        ("torch_compile_repro", "--deadline 9 -- python serve.py", False, False),
        ("compile_growth", "--curve operations", True, True),
        ("gpt_large_optimized", "--skip-compile", False, False),
        ("gpt_large_optimized", "--compile-mode whole", True, True),
        ("precision_power_sweep", "--modes bf16", False, True),
        ("precision_power_sweep", "--compile-mode smart", True, True),
        ("precision_power_sweep", "--compile-mode eager", False, False),
        ("capture_fp8_flexattention_traces", "", False, True),
        ("capture_fp8_flexattention_traces", "--skip-compile", False, False),
    ],
)
def test_only_calls_that_compile_need_a_compiler(
    probe: str, words: str, *, on_cpu: bool, on_gpu: bool
) -> None:
    compiles = PROBES[probe].compiles
    assert compiles is not None
    found = [compiles.by(words.split(), gpu=gpu) for gpu in (False, True)]
    assert found == [on_cpu, on_gpu]


PARSERS: Mapping[str, Compiles] = {name: info.compiles for name, info in PROBES.items() if info.compiles}


@pytest.mark.parametrize("name", PARSERS)
def test_the_words_that_decide_are_options_of_the_probe(name: str) -> None:
    module = __import__(f"runner.probes.{name}", fromlist=["PROBE"])
    known = module.PROBE.parser()._option_string_actions
    for word in (
        *PARSERS[name].unless,
        *(PARSERS[name].on_cpu_with or ()),
        *(PARSERS[name].only_with or ()),
    ):
        assert word == "--" or word.partition("=")[0] in known


@pytest.mark.usefixtures("empty_path")
@pytest.mark.parametrize(
    ("main", "words"),
    [
        (compile_growth.PROBE.main, ["--curve", "operations"]),
        (torch_compile_repro.PROBE.main, ["--preset", "tiny", "--compile-mode", "whole"]),
    ],
)
def test_a_probe_by_hand_stops_before_work_begins_and_says_what_installs_it(
    main: object, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNBOOK_RESULT", raising=False)
    assert callable(main)
    assert main(words) == NOT_APPLICABLE
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "not_applicable"
    assert Missing("a C++ compiler", "").reason.rstrip("; ") in json.loads(out)["reason"]
    assert "`apt-get install g++`" in err
    assert os.environ["PATH"]
