"""The wheel and the bundle as people get them: installed for themselves, in an empty folder, without a checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.record.store import Store
from runner.run.lock import PLACE_VARIABLE
from tests.test_bundle import BASE
from tests.test_cli import step, write_entry
from tests.test_nox import WRAPPER

ROOT = Path(__file__).parents[1]
IDS = sorted(path.stem for path in (ROOT / "runbooks").glob("*.md"))
GUARD = '"""A guard, in µs."""\n\n\nclass SampleGuard:\n    pass\n'
LOG = "node7:4711:4711 [0] NCCL INFO NCCL_P2P_DISABLE set by environment to 1\n"

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the bundle, made by the session that makes them, out of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("built")
    tracked = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "-z"], text=True).split("\0")
    for name in filter(None, tracked):
        if not name.startswith(("tests/", "benchmarks/", "site_data/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "runner" / "guards" / "sample_guard.py").write_text(GUARD, encoding="utf-8")
    words = ["-m", "virtualenv", "-q", str(folder / "tools")]
    subprocess.run([sys.executable, *words], check=True)
    tools = folder / "tools" / "bin"
    install = [str(tools / "pip"), "install", "-q", "hatchling", "editables"]
    if subprocess.run(install, check=False, capture_output=True).returncode:
        pytest.skip("needs a package registry")
    noxfile = folder / "wrapped.py"
    text = WRAPPER.format(noxfile=str(folder / "noxfile.py"), programs=str(tools))
    noxfile.write_text(f"{text}\nbundle = real.bundle\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-f", str(noxfile), "-s", "bundle"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " MB, sha256 " in done.stdout
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`runbook` in a bare virtual environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "virtualenv", "-q", str(folder)], check=True)
    (wheel,) = built.glob("*.whl")
    subprocess.run([str(folder / "bin" / "pip"), "install", "-q", str(wheel)], check=True, timeout=500)
    return [str(folder / "bin" / "runbook")]


@pytest.fixture(scope="module")
def bundled(built: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The bundle, copied alone into a folder, and run by a Python that is told to look at no site-packages."""
    alone = tmp_path_factory.mktemp("node")
    shutil.copy(built / "runbook.pyz", alone)
    return [str(BASE), "-I", "-S", str(alone / "runbook.pyz")]


@pytest.fixture(params=["installed", "bundled"])
def program(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.getfixturevalue(request.param)
    return found


class Node:
    """A user with an empty home folder, in an empty folder, with nothing else in the environment."""

    def __init__(self, folder: Path, program: list[str]) -> None:
        self.program, self.home, self.cwd = program, folder / "home", folder / "empty"
        self.home.mkdir()
        self.cwd.mkdir()
        self.variables = {
            "HOME": str(self.home),
            PLACE_VARIABLE: str(folder / "lock"),
            # No index can be reached, should anything try to install something.
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *words], env=self.variables | variables, cwd=self.cwd,
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, program: list[str]) -> Node:
    return Node(tmp_path, program)


def test_in_an_empty_folder_every_reading_command_knows_the_entries(node: Node) -> None:
    listed = node.run("list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert sorted(entry["id"] for entry in json.loads(listed.stdout)) == IDS
    shown = node.run("show", "2")
    assert shown.returncode == 0, shown.stderr
    assert "NVLink bandwidth looks like PCIe" in shown.stdout
    (node.home / "log").write_text(LOG)
    matched = node.run("match", str(node.home / "log"))
    assert matched.returncode == 0, matched.stderr
    assert "nvlink-bandwidth" in matched.stdout
    planned = node.run("plan", "nvlink-bandwidth")
    assert planned.returncode == 0, planned.stderr
    checked = node.run("check")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(IDS)} entries" in checked.stdout
    assert node.run("--version").stdout.startswith("runbook ")
    assert not list(node.cwd.iterdir())


def test_the_guards_are_printed_to_be_copied_and_can_be_imported(node: Node) -> None:
    listed = node.run("guard", "--json")
    assert listed.returncode == 0, listed.stderr
    names = {path.stem for path in (ROOT / "runner" / "guards").glob("*.py")} - {"__init__"}
    found = {one["name"]: one for one in json.loads(listed.stdout)}
    assert found.keys() == names | {"sample_guard"}
    assert node.run("guard", "sample_guard").stdout == GUARD
    for name in names:
        text = (ROOT / "runner" / "guards" / f"{name}.py").read_text(encoding="utf-8")
        assert node.run("guard", name).stdout == text
    unknown = node.run("guard", "no_guard")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert found["sample_guard"]["import"] == "from runner.guards.sample_guard import SampleGuard"


def test_diagnose_runs_the_probes_of_the_installation(node: Node) -> None:
    done = node.run("diagnose", "--json", NCCL_P2P_DISABLE="1")
    assert done.returncode == 1, done.stderr
    entries = {entry["entry"]: entry for entry in json.loads(done.stdout)["entries"]}
    assert sorted(entries) == IDS
    assert "NCCL_P2P_DISABLE" in json.dumps(entries["nvlink-bandwidth"])
    assert not list(node.cwd.iterdir())


def test_a_record_lands_in_the_users_data_folder_and_cannot_be_published(node: Node) -> None:
    ran = node.run("run", "nvlink-bandwidth", "--step", "settings", "--json", NCCL_P2P_DISABLE="1")
    assert ran.returncode == 1, ran.stderr
    (record,) = json.loads(ran.stdout)
    assert record["code"]["commit"] is None
    data = node.home / ".local" / "share" / "llm-runbooks" / "records"
    (path,) = Store(data).files()
    assert path.stem.endswith(record["run_id"])
    assert not list(node.cwd.iterdir())
    refused = node.run("verify-data")
    assert refused.returncode == 1
    assert "names no commit; run it from a git checkout" in refused.stderr
    assert node.run("trend").returncode == 0


def test_own_entries_are_added_and_run_beside_the_built_in_ones(node: Node) -> None:
    own = node.home / "own" / "runbooks"
    own.parent.mkdir()
    write_entry(
        own,
        step(
            "look", "python -c 'import runner, pathlib; pathlib.Path(\"module\").write_text(runner.__file__)'"
        ),
        entry_id="mine",
        number=99,
    )
    listed = node.run("list", "--json", "--runbooks", str(own))
    assert sorted(entry["id"] for entry in json.loads(listed.stdout)) == sorted([*IDS, "mine"])
    ran = node.run("run", "mine", "--json", "--runbooks", str(own), "--data", str(node.home / "kept"))
    assert ran.returncode == 0, ran.stderr
    assert "/site-packages/runner/" in (node.home / "kept" / ".work" / "module").read_text()
    assert len(Store(node.home / "kept").files()) == 1


def test_a_home_folder_that_takes_nothing_is_one_line_that_names_the_option(node: Node) -> None:
    (node.home / ".local").write_text("a file where a folder should be")
    done = node.run("run", "nvlink-bandwidth", "--step", "settings")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "name a folder for records with --data DIR" in line


def test_the_bundle_uses_nothing_but_what_it_brings(bundled: list[str], tmp_path: Path) -> None:
    node = Node(tmp_path, bundled)
    assert node.run("list").returncode == 0
    (python,) = node.home.glob(".cache/llm-runbooks/bundle/*/bin/python")
    program = "import sys, pydantic, yaml, rich, runner; print(*(m.__file__ for m in (pydantic, yaml, rich, runner)))"
    done = subprocess.run([str(python), "-I", "-c", program], capture_output=True, text=True, check=True)
    assert all(name.startswith(str(python.parents[1])) for name in done.stdout.split())
