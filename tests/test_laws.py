"""The laws of the house, each as a small test."""

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "runner").rglob("*.py"))

# Each room may import from itself and from the rooms before it. `kit` and `probes` stand after `record` because they
# speak in its models; `check` after `probes` because it reads their parsers.
ROOMS = (
    ("base",),
    ("vocabulary",),
    ("hardware",),
    ("node",),
    ("hang",),
    ("sizing",),
    ("guards",),
    ("entry",),
    ("record",),
    ("history",),
    ("run", "kit", "pages"),
    ("fleet", "probes"),
    ("check",),
    ("cli",),
)

MOST_LINES = 300
# One file on purpose: a reader copies it into a job's image.
MOST_LINES_OF_A_GUARD = 480
# A command or a worker is a module with one of these, and is named by its module.
NAMES_OF_ENTRY_POINTS = {"arguments", "main", "run"}


def room_of(module: str) -> str:
    return module.removeprefix("runner.").split(".")[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, at_top_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_is_on_the_plan() -> None:
    rooms = {room_of(name_of(path)) for path in MODULES} - {"runner"}
    assert rooms == {room for level in ROOMS for room in level}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    level = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    here = room_of(name_of(path))
    for imported in imports_of(path):
        if not imported.startswith("runner."):
            continue
        there = room_of(imported)
        if there == here or there not in level or here not in level:
            continue
        assert level[there] < level[here], f"{here} may not import {there}"


def reached_from(room: str) -> set[str]:
    paths = {name_of(path): path for path in MODULES}
    waiting = [name for name in paths if room_of(name) == room]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting += [imported for imported in imports_of(paths[name]) if imported in paths]
    return reached


def test_pages_never_reach_what_executes_or_prints() -> None:
    reached = {room_of(name) for name in reached_from("pages")}
    assert not reached & {"guards", "run", "fleet", "cli", "kit", "probes", "check"}
    for name in reached_from("pages"):
        if room_of(name) == "pages":
            path = next(path for path in MODULES if name_of(path) == name)
            assert not set(imports_of(path)) & {"subprocess", "os.system", "pty", "multiprocessing"}


def test_of_a_probe_all_other_rooms_read_its_declaration_alone() -> None:
    """`vocabulary` imports the module of a probe for its declaration; the parsers are for `check`."""
    for path in MODULES:
        called = {
            getattr(node.func, "attr", getattr(node.func, "id", ""))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        if called & {"import_module", "__import__", "run_module", "run_path"}:
            assert (
                room_of(name_of(path)) in {"vocabulary", "kit", "check", "cli"} or path.name == "failure.py"
            )


def test_torch_is_imported_only_by_probes_and_there_only_inside_functions() -> None:
    for path in MODULES:
        heavy = {name.split(".")[0] for name in imports_of(path)} & {"torch", "transformers", "numpy"}
        if room_of(name_of(path)) in {"guards", "kit", "probes"}:
            at_top = {name.split(".")[0] for name in imports_of(path, at_top_only=True)}
            assert not at_top & {"torch", "transformers"}, f"{path} imports torch at its top"
        else:
            assert not heavy, f"{path} imports {heavy}"


@pytest.mark.parametrize("path", sorted((ROOT / "runner" / "guards").glob("*.py")), ids=name_of)
def test_a_guard_is_one_file_that_needs_only_the_standard_library_and_torch(path: Path) -> None:
    needed = {name.split(".")[0] for name in imports_of(path)} - sys.stdlib_module_names
    assert needed <= {"torch"}, f"{path} cannot be copied into a job's image alone"


def test_only_commands_and_probes_and_what_they_end_with_print() -> None:
    for path in MODULES:
        if room_of(name_of(path)) in {"cli", "guards", "kit", "probes"} or path.name in {
            "failure.py",
            "screen.py",
        }:
            continue
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"print", "exit"}
        ]
        assert not calls, f"{path} prints"


def test_importing_everything_prints_nothing_and_looks_at_nothing() -> None:
    names = [name_of(path) for path in MODULES]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "sys.exit('torch' in sys.modules or 'pynvml' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_module_is_longer_than_can_be_read_in_one_sitting() -> None:
    long = {
        name_of(path)
        for path in MODULES
        if len(path.read_text().splitlines())
        > (MOST_LINES_OF_A_GUARD if room_of(name_of(path)) == "guards" else MOST_LINES)
    }
    assert not long


def modules_imported_at_the_top_of(path: Path, names: Collection[str]) -> set[str]:
    """A package that is only named on the way to one of its modules is not counted."""
    found = set(imports_of(path, at_top_only=True)) & set(names)
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    on_the_way = {
        node.module
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        and all(f"{node.module}.{alias.name}" in names for alias in node.names)
    }
    return {name for name in found if name not in on_the_way}


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {name_of(path): path for path in MODULES}
    imports = {name: modules_imported_at_the_top_of(path, paths) for name, path in paths.items()}
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_a_public_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice.keys() - NAMES_OF_ENTRY_POINTS, twice
