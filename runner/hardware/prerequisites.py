"""Checks, before a step runs, that this host has what Inductor needs to compile, and names what is missing.

On a CPU, Inductor calls g++ (or the value of CXX, as one word) to build a shared object that includes Python.h and
omp.h, and openssl for a digest of the headers that it precompiles. On a GPU, Triton calls the value of CC, else gcc,
else clang, to build one that includes Python.h. This module builds a small object in the same way. Sources (torch
2.13): `cpp.cxx` in
torch/_inductor/config.py, `cpp_compiler_search` and `_get_openmp_args` in cpp_builder.py, `_precompile_header` in
codecache.py; `_build` in Triton's runtime/build.py.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runner.base.programs import run_program

_MARK = "missing prerequisite: "
_DEADLINE_S = 60.0
_ABSENT_HEADER = re.compile(r"fatal error: '?(?P<name>[^:'\n]+)'?(?::| file not found)")
_ERROR = re.compile(r"^.*\b(?:error|cannot)\b.*$", re.MULTILINE)
_OF_PYTHON = ("Python.h", "pyconfig.h")
_OF_OPENMP = ("omp.h",)
_NO_HEADERS = "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"
_FOR_TRITON = "#include <Python.h>\n"
_FOR_INDUCTOR = """#include <Python.h>
#include <omp.h>
#include <cmath>
int threads() { return omp_get_max_threads(); }
"""


@dataclass(frozen=True)
class Missing:
    """A missing prerequisite.

    Attributes:
        what: what is missing, as a noun.
        remedy: what to do about it, as an imperative.
    """

    what: str
    remedy: str

    @property
    def reason(self) -> str:
        """The reason, in one line, of a step that is skipped for this."""
        # The value of CXX may contain any character; it is printed and stored.
        return "".join(one if one.isprintable() else "?" for one in f"{_MARK}{self.what}; {self.remedy}")


_NO_OPENSSL = Missing(
    "openssl, which Inductor calls for a digest of its headers",
    "`apt-get install openssl` (Debian, Ubuntu) or `dnf install openssl` (Fedora, RHEL)",
)


@dataclass(frozen=True)
class Trial:
    """The result of building a small object.

    Attributes:
        language: `C++` (Inductor on a CPU) or `C` (Triton on a GPU).
        compiler: the compiler; None if none was found.
        variable: the variable that names it; None if it is the default.
        ran: whether it could be started.
        errors: its output if it failed; None if it built the object, or did not finish in time.
        openssl: whether there is an openssl program, or none is needed.
    """

    language: str
    compiler: str | None
    variable: str | None
    ran: bool = False
    errors: str | None = None
    openssl: bool = True


@dataclass(frozen=True)
class Python:
    """The Python whose headers are needed: the one that runs the probes.

    Attributes:
        version: `3.11`.
        distributions: whether the Linux distribution's package provides it.
        prefix: where it is installed.
    """

    version: str
    distributions: bool
    prefix: str


def missing_to_compile(*, gpu: bool) -> Missing | None:
    """What a compile lacks on this host, in this environment; None if nothing is known to be missing.

    Args:
        gpu: whether the compile is for a GPU.
    """
    environment = {
        **os.environ,
        # In every step, the programs of this Python come first on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "LC_ALL": "C",
    }
    return missing(_try(tuple(sorted(environment.items())), gpu=gpu), _python())


def missing_in(reason: str | None) -> Missing | None:
    """The missing prerequisite that a skip reason (`Missing.reason`) names; None for any other reason."""
    if reason is None or not reason.startswith(_MARK):
        return None
    what, _, remedy = reason.removeprefix(_MARK).rpartition("; ")
    return Missing(what, remedy)


def missing(trial: Trial, python: Python) -> Missing | None:
    """The missing prerequisite that a trial shows. Pure."""
    if not trial.ran:
        return _no_compiler(trial)
    if trial.errors is None:
        return None if trial.openssl else _NO_OPENSSL
    absent = _ABSENT_HEADER.search(trial.errors)
    header = Path(absent["name"]).name if absent else None
    if header in _OF_PYTHON:
        return Missing(f"the headers of Python {python.version} ({header})", _headers_remedy(python))
    if header in _OF_OPENMP or "gomp" in trial.errors:
        return Missing(
            f"OpenMP for {trial.compiler} ({header or 'libgomp'})",
            "`apt-get install libomp-dev` (Debian, Ubuntu) or `dnf install libomp-devel` (Fedora, RHEL) for clang, or"
            " unset CXX to use g++, which includes OpenMP",
        )
    said = _ERROR.search(trial.errors)
    why = said[0].strip() if said else f"{trial.compiler} failed"
    return Missing(f"a working {trial.language} compiler ({why})", _install(trial.language))


def _no_compiler(trial: Trial) -> Missing:
    if trial.variable is not None:
        return Missing(
            f"the {trial.language} compiler {trial.compiler!r} that {trial.variable} names",
            f"unset {trial.variable}, or set it to the name of a compiler, without arguments",
        )
    return Missing(f"a {trial.language} compiler", _install(trial.language))


def _install(language: str) -> str:
    debian, fedora = ("g++", "gcc-c++") if language == "C++" else ("gcc", "gcc")
    return f"`apt-get install {debian}` (Debian, Ubuntu) or `dnf install {fedora}` (Fedora, RHEL)"


def _headers_remedy(python: Python) -> str:
    if python.distributions:
        name = f"python{python.version}"
        return f"`apt-get install {name}-dev` (Debian, Ubuntu) or `dnf install {name}-devel` (Fedora: python3-devel)"
    return (
        f"the Python in {python.prefix} is not the distribution's: reinstall it with its headers, or set"
        " RUNBOOK_PYTHON to one that has them"
    )


def _python() -> Python:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Python(version, distributions=sys.base_prefix == "/usr", prefix=sys.base_prefix)


@functools.lru_cache(maxsize=4)
def _try(environment: tuple[tuple[str, str], ...], *, gpu: bool) -> Trial:
    variables = dict(environment)
    variable = "CC" if gpu else "CXX"
    compiler = variables.get(variable) or _default(variables["PATH"], gpu=gpu)
    trial = Trial("C" if gpu else "C++", compiler, variable if variable in variables else None)
    if compiler is None:
        return trial
    try:
        # As Inductor and Triton do: one word, never split at spaces.
        run_program([compiler, "--version"], env=variables, timeout=_DEADLINE_S).check_returncode()
        errors = _build(compiler, variables, gpu=gpu)
    except subprocess.TimeoutExpired:
        errors = None
    except (OSError, subprocess.SubprocessError):
        return trial
    openssl = (
        gpu or variables.get(_NO_HEADERS) == "0" or bool(shutil.which("openssl", path=variables["PATH"]))
    )
    return replace(trial, ran=True, errors=errors, openssl=openssl)


def _default(path: str, *, gpu: bool) -> str | None:
    names = ("gcc", "clang") if gpu else ("g++",)
    return next((name for name in names if shutil.which(name, path=path)), None)


def _build(compiler: str, variables: Mapping[str, str], *, gpu: bool) -> str | None:
    """Build a shared object; return the compiler's output if that failed, else None."""
    language, source, openmp = (
        ("c", _FOR_TRITON, []) if gpu else ("c++", _FOR_INDUCTOR, ["-fopenmp", "-lgomp"])
    )
    folders = dict.fromkeys(sysconfig.get_path("include", scheme) for scheme in _schemes())
    with tempfile.TemporaryDirectory(prefix="runbook-compiler-") as folder:
        done = run_program(
            [compiler, "-x", language, "-", "-shared", "-fPIC", *openmp, "-o", f"{folder}/built.so"]
            + [f"-I{place}" for place in folders],
            given=source,
            env=variables,
            text=True,
            timeout=_DEADLINE_S,
        )
    return None if done.returncode == 0 else done.stdout + done.stderr


def _schemes() -> tuple[str, str]:
    # Debian's default scheme is for /usr/local; Inductor and Triton use both schemes, or this one.
    return (sysconfig.get_default_scheme(), "posix_prefix")
