"""What is installed is held by hash, and what may write or sign installs nothing; read from the workflows as data."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.record.store import Store
from tests.test_nox import noxfile
from tests.test_publish import Clone, a_run, clone, git, measured, origin, run_ids
from tests.test_workflows import PATHS, ROOT, jobs

# Fixtures of another file.
__all__ = ["clone", "origin"]

REQUIREMENTS = sorted((ROOT / ".github" / "requirements").glob("*.txt"))
HELD = re.compile(
    r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)(?: ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$",
    re.MULTILINE,
)
TOKEN = re.compile(r"github\.token|secrets\.|GITHUB_TOKEN|GH_TOKEN")
INSTALLS = re.compile(r"\b(?:pip|pipx|uv|npm|npx|apt-get|curl|wget|nox)\b")
EVERYTHING = [(path.stem, name, job) for path in PATHS for name, job in jobs(path)]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def held() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {
        normal(name): version for name, _, version in (line.partition("==") for line in lines if "==" in line)
    }


def writes(job: dict[str, Any]) -> bool:
    return "write" in job["permissions"].values()


def steps(job: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for step in job["steps"]:
        yield step, step.get("run", "")


def test_a_step_that_has_a_token_installs_nothing_and_runs_no_session() -> None:
    seen = 0
    for workflow, name, job in EVERYTHING:
        assert not TOKEN.search(str(job.get("env", ""))), (workflow, name)
        for step, run in steps(job):
            if TOKEN.search(str(step)):
                seen += 1
                assert not INSTALLS.search(run), (workflow, name, run)
                assert "python" not in run
    assert seen == 2


def test_a_job_that_may_write_or_sign_runs_no_code_of_third_parties() -> None:
    found = {(workflow, name) for workflow, name, job in EVERYTHING if writes(job)}
    assert found == {("refresh", "publish"), ("refresh", "attest"), ("refresh", "deploy")}
    for workflow, name, job in EVERYTHING:
        for step, run in steps(job) if writes(job) else ():
            assert not INSTALLS.search(run), (workflow, name, run)
            assert "uses" not in step or step["uses"].startswith("actions/")
            assert "setup-" not in step.get("uses", "")


def test_what_signs_or_deploys_has_no_code_beside_it() -> None:
    for workflow, name, job in EVERYTHING:
        if "id-token" in job["permissions"]:
            assert not any(run for _, run in steps(job)), (workflow, name)
            assert "contents" not in job["permissions"]


def test_everything_that_a_workflow_itself_installs_has_hashes() -> None:
    seen = 0
    for _, _, job in EVERYTHING:
        for _, run in steps(job):
            for line in run.splitlines():
                if re.search(r"\b(?:pip|pipx|uv|npm)\b", line):
                    seen += 1
                    assert "--require-hashes" in line
                    assert "--only-binary :all:" in line
    assert seen == 5


class EnvironmentAskedForError(Exception):
    """Carries the name of the environment that a session wants."""


@pytest.mark.parametrize("session", ["refresh", "check", "docs", "bundle", "lint", "workflows"])
def test_what_decides_on_records_or_builds_pages_is_installed_from_a_file_with_hashes(
    session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(_: object, name: str, *extras: str) -> Path:
        raise EnvironmentAskedForError(name)

    monkeypatch.setattr(noxfile(), "_environment", asked)
    with pytest.raises(EnvironmentAskedForError) as raised:
        getattr(noxfile(), session).func(None)
    assert str(raised.value) in noxfile().HASHED
    assert (noxfile().REQUIREMENTS / f"{raised.value}.txt").is_file()


def test_each_artifact_of_a_class_stays_in_a_folder_of_its_own() -> None:
    (gate,) = (job for _, name, job in EVERYTHING if name == "gate")
    (download,) = (step["with"] for step, _ in steps(gate) if "download-artifact" in step.get("uses", ""))
    assert download == {"pattern": "records-*", "path": "${{ runner.temp }}/records"}


def test_there_is_a_file_of_hashes_for_each_environment_that_has_no_torch_and_for_the_bundle() -> None:
    assert {path.stem for path in REQUIREMENTS} == {*noxfile().HASHED, noxfile().CARRIED}


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.stem)
def test_every_line_is_a_held_version_with_hashes_and_names_no_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = HELD.findall(text)
    assert HELD.sub("", text).strip() == "", "something else than `name==version` and its hashes"
    for name, version, hashes in found:
        assert held()[normal(name)] == version, f"{name}: run `nox -s hashes`"
        assert hashes.count("--hash=") >= 1
    assert not re.search(r"://|--(?:extra-)?index|--find-links|--trusted", text)
    assert "torch" not in {normal(name) for name, _, _ in found}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("site", noxfile()._needs("site", project=True)),
        ("lint", noxfile()._needs("lint")),
        ("workflows", noxfile()._needs("workflows")),
        ("nox", ["nox"]),
        ("bundle", noxfile().nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"]),
    ],
)
def test_a_file_of_hashes_has_everything_that_its_environment_needs(name: str, wanted: list[str]) -> None:
    text = (ROOT / ".github" / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    there = {normal(found[0]) for found in HELD.findall(text)}
    assert {normal(noxfile()._project_name(need)) for need in wanted} <= there


class Session:
    """Notes what a session would run."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    def run(self, *words: str, **_: object) -> None:
        self.ran.append(words)

    def log(self, message: str) -> None:
        pass


BUNDLED = (ROOT / ".github" / "requirements" / "bundle.txt").read_text(encoding="utf-8")


class Fetching(Session):
    """Puts an empty wheel for each requirement where pip would put it: two of them fit one machine alone."""

    requirements: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.requirements = []

    def run(self, *words: str, **options: object) -> None:
        super().run(*words, **options)
        if "wheel" in words:
            folder = Path(words[words.index("--wheel-dir") + 1])
            folder.mkdir(parents=True)
            (folder / "llm_runbooks-1-py3-none-any.whl").touch()
        if "download" in words:
            folder = Path(words[words.index("--dest") + 1])
            folder.mkdir(parents=True)
            self.requirements.append(
                Path(words[words.index("--requirement") + 1]).read_text(encoding="utf-8")
            )
            for name, version, _ in HELD.findall(self.requirements[-1]):
                fits = folder.name if name in {"pydantic-core", "pyyaml"} else "none-any"
                (folder / f"{name.replace('-', '_')}-{version}-py3-{fits}.whl").touch()


def installed_by(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *extras: str
) -> list[tuple[str, ...]]:
    """What pip is called with for an environment."""
    session = Session()
    monkeypatch.setattr(noxfile(), "ENVIRONMENTS", folder / ".nox")
    monkeypatch.setattr(noxfile(), "ROOT", folder)
    for kept in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / kept, folder)
    (folder / ".nox" / name).mkdir(parents=True)
    monkeypatch.setattr(noxfile(), "_make", lambda *_: (folder / ".nox" / name).mkdir())
    noxfile()._environment(session, name, *extras)
    return [words[words.index("install") + 1 :] for words in session.ran]


def test_the_site_is_installed_by_hash_and_the_project_without_isolation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = installed_by(monkeypatch, tmp_path, "site", "site")
    assert {"--require-hashes", "--only-binary", ":all:"} <= set(first)
    assert first[-2:] == ("--requirement", str(noxfile().REQUIREMENTS / "site.txt"))
    assert {"--no-deps", "--no-build-isolation"} <= set(second)


def test_where_torch_is_needed_constraints_hold_and_the_project_is_built_without_isolation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    first, second = installed_by(monkeypatch, tmp_path, "node", "probes")
    assert "--constraint" in first
    assert {"hatchling", "editables"} <= set(first)
    assert not any(word.startswith(str(ROOT)) for word in first)
    assert {"--no-deps", "--no-build-isolation"} <= set(second)


def test_each_wheel_of_the_bundle_is_fetched_by_hash_and_those_for_all_machines_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Fetching()
    monkeypatch.setattr(noxfile(), "_environment", lambda *_: Path("programs"))
    monkeypatch.setattr(noxfile(), "ROOT", tmp_path)
    noxfile().bundle.func(session)
    fetched = [words for words in session.ran if "download" in words]
    assert len(fetched) == 8
    for words in fetched:
        assert {"--no-deps", "--require-hashes", "--only-binary", ":all:"} <= set(words)
    asked = [HELD.findall(text) for text in session.requirements]
    names = [{normal(name) for name, _, _ in one} for one in asked]
    assert names[0] == {normal(found[0]) for found in HELD.findall(BUNDLED)}
    assert all(one == {"pydantic-core", "pyyaml"} for one in names[1:])
    assert all(hashes for one in asked for _, _, hashes in one)
    folders = sorted((tmp_path / "build" / "bundle" / "wheels").iterdir())
    assert [folder.name for folder in folders] == sorted(
        f"cp3{minor}-{machine}" for minor in (11, 12, 13, 14) for machine in ("x86_64", "aarch64")
    )
    for folder in folders:
        held_here = {normal(path.name.partition("-")[0]) for path in folder.glob("*.whl")}
        assert held_here == {*names[0], "llm-runbooks"}


def has_a_registry(folder: Path) -> bool:
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        "hatchling==1.27.0",
    ]
    return subprocess.run(words, capture_output=True, check=False, timeout=120).returncode == 0


@pytest.mark.system
def test_a_real_build_uses_the_version_that_is_held_and_not_the_newest(tmp_path: Path) -> None:
    if not has_a_registry(tmp_path / "wheels"):
        pytest.skip("needs a package registry")
    for name in ("runner", ".github/requirements"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("noxfile.py", "hatch_build.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    constraints = tmp_path / "constraints.txt"
    older = re.sub(r"(?m)^hatchling==.*", "hatchling==1.27.0", constraints.read_text())
    constraints.write_text(older)
    with (tmp_path / "noxfile.py").open("a") as file:
        file.write("\n\n@nox.session\ndef small(session):\n    _environment(session, 'small')\n")
        file.write("\n\n@nox.session\ndef hashed(session):\n    _environment(session, 'site', 'site')\n")
    for session, version in (("small", "1.27.0"), ("hashed", held()["hatchling"])):
        done = subprocess.run(
            [sys.executable, "-m", "nox", "-f", str(tmp_path / "noxfile.py"), "-s", session],
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        folder = tmp_path / ".nox" / ("small" if session == "small" else "site")
        (built,) = folder.glob("lib/python*/site-packages/llm_runbooks-*.dist-info/WHEEL")
        assert f"Generator: hatchling {version}\n" in built.read_text()


# The hand-over from the job that gates to the job that pushes: both scripts, against a bare repository.

NEW, PUSH = ROOT / ".github" / "new-records", ROOT / ".github" / "push-records"


def push_records(folder: Path, checkout: Path) -> subprocess.CompletedProcess[str]:
    words = [str(PUSH), str(folder), "origin", "main"]
    return subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)


def gated(tmp_path: Path, checkout: Path, *numbers: int) -> Path:
    """What the gate's job sets aside: the records that it committed in its own checkout."""
    store = Store(checkout / "site_data", secrets=())
    for number in numbers:
        store.save(a_run(number))
    git(checkout, "add", "site_data")
    git(checkout, "commit", "--quiet", "--allow-empty", "-m", "Publish")
    (tmp_path / "aside").mkdir(exist_ok=True)
    subprocess.run([NEW, str(tmp_path / "aside")], cwd=checkout, check=True)
    return tmp_path / "aside" / "site_data"


def test_new_records_are_handed_over_and_pushed_on_top_of_what_others_pushed(
    tmp_path: Path, origin: Path, clone: Clone
) -> None:
    gate, person = clone("gate"), clone("person")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{origin}", "shallow")
    (person / "README.md").write_text("second\n")
    git(person, "commit", "--quiet", "-am", "Say it better")
    git(person, "push", "--quiet")
    aside = gated(tmp_path, gate, 1, 2)
    done = push_records(aside, tmp_path / "shallow")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("push-records: 2 new records in ")
    assert run_ids(origin) == {f"{number:012x}" for number in range(3)}
    assert git(origin, "show", "main:README.md") == "second"
    names = git(origin, "show", "--format=", "--name-status", "main").splitlines()
    assert all(name.startswith("A\tsite_data/") for name in names)
    again = push_records(aside, tmp_path / "shallow")
    assert (again.returncode, again.stdout) == (0, "push-records: no new record\n")


def test_where_there_is_nothing_new_nothing_is_pushed(tmp_path: Path, origin: Path, clone: Clone) -> None:
    before = git(origin, "rev-parse", "main")
    assert not gated(tmp_path, clone("gate")).exists()
    assert push_records(tmp_path / "missing", clone("publisher")).returncode == 0
    assert git(origin, "rev-parse", "main") == before


@pytest.mark.parametrize(
    "name",
    ["../.github/workflows/evil.yml", ".gitattributes", "c/e/.hidden.json", "c/e/x.py", "c/x.json", "c/e/f/x.json",
     "-c/e/x.json", "c/e/x\ny.json"],
)  # fmt: skip
def test_what_is_no_record_in_its_place_is_not_pushed(
    tmp_path: Path, origin: Path, clone: Clone, name: str
) -> None:
    before, publisher = git(origin, "rev-parse", "main"), clone("publisher")
    aside = tmp_path / "aside" / "site_data"
    (aside / name).parent.mkdir(parents=True)
    (aside / name).write_text("{}")
    done = push_records(aside, publisher)
    if name.startswith(".."):
        # It lies outside the folder that is looked at.
        assert done.stdout == "push-records: no new record\n"
    else:
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    assert git(origin, "rev-parse", "main") == before
    assert not (publisher / ".github").exists()


def test_a_link_and_a_changed_record_are_not_pushed(tmp_path: Path, origin: Path, clone: Clone) -> None:
    before, publisher = git(origin, "rev-parse", "main"), clone("publisher")
    aside = measured(tmp_path, "aside", a_run(0))
    (record,) = aside.files()
    assert push_records(aside.root, publisher).stdout == "push-records: no new record\n"
    record.write_bytes(record.read_bytes() + b" ")
    assert "is there with another content" in push_records(aside.root, publisher).stderr
    record.unlink()
    record.with_name("z.json").symlink_to("/etc/passwd")
    assert "is no record" in push_records(aside.root, publisher).stderr
    assert git(origin, "rev-parse", "main") == before
