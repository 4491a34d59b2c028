"""The bundle: one file that unpacks the wheels that fit and starts `runbook`, on hosts where much is missing.

The wheels here are small stand-ins; `test_installed.py` runs the bundle of the real ones.
"""

import ast
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
BASE = Path(getattr(sys, "_base_executable", sys.executable))
MAIN = """
import json, os, sys
import native
print(json.dumps({"words": sys.argv[1:], "python": sys.executable, "native": native.__file__,
                  "isolated": sys.flags.isolated, "mask": os.umask(0)}))
"""


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(f"bundle_{name}", ROOT / "bundle" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, start = load("build"), load("start")


def a_wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


def wheels_for(folder: Path, *targets: str) -> Path:
    for target in targets:
        a_wheel(
            folder / target,
            "llm_runbooks-1-py3-none-any",
            {
                "runner/__init__.py": "",
                "runner/cli/__init__.py": "",
                "runner/cli/main.py": MAIN,
                "llm_runbooks-1.data/scripts/unused.py": "",
                "llm_runbooks-1.dist-info/METADATA": "Name: llm-runbooks",
                "llm_runbooks-1.dist-info/RECORD": "",
            },
        )
        a_wheel(folder / target, f"native-1-{target}", {"native.py": f"TARGET = {target!r}\n"})
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    out = tmp_path / "runbook.pyz"
    build.build(wheels_for(tmp_path / "wheels", start.target(), "cp399-vax"), out)
    return out


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def run(
    bundle: Path, *words: str, python: Path = BASE, flags: tuple[str, ...] = ("-I", "-S"), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *flags, str(bundle), *words],
        env=variables, cwd=bundle.parent, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def places(home: Path) -> list[Path]:
    return [path for path in (home / ".cache" / "llm-runbooks" / "bundle").iterdir() if path.name != ".lock"]


def test_it_starts_with_an_empty_environment_from_a_cache_that_only_its_user_can_write_to(
    bundle: Path, home: Path
) -> None:
    done = run(bundle, "list", "--json", HOME=str(home))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    (place,) = places(home)
    assert said["words"] == ["list", "--json"]
    assert said["python"] == str(place / "bin" / "python")
    assert Path(said["native"]).is_relative_to(place)
    assert said["isolated"] == 1
    assert place.parent.stat().st_mode & 0o777 == 0o700


def test_the_python_of_a_step_has_what_the_bundle_brings(bundle: Path, home: Path) -> None:
    run(bundle, HOME=str(home))
    (place,) = places(home)
    for name in ("python", "python3"):
        done = subprocess.run(
            [name, "-c", "import native, runner; print(native.TARGET)"],
            env={"PATH": f"{place / 'bin'}"}, cwd=home, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == f"{start.target()}\n", done.stderr
    program = [str(place / "bin" / "runbook"), "x"]
    said = subprocess.check_output(program, env={"PATH": os.defpath}, text=True)
    assert json.loads(said)["words"] == ["x"]


def test_packages_of_a_virtual_environment_that_it_is_run_with_are_seen_behind_its_own(
    bundle: Path, home: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "virtualenv", "-q", "--no-download", tmp_path / "node"], check=True)
    (packages,) = (tmp_path / "node").glob("lib/python*/site-packages")
    (packages / "torch.py").write_text("CUDA = True\n")
    (packages / "native.py").write_text("raise SystemExit('the wrong one')\n")
    done = run(bundle, python=tmp_path / "node" / "bin" / "python", flags=(), HOME=str(home))
    assert done.returncode == 0, done.stderr
    (place,) = places(home)
    program = [str(place / "bin" / "python"), "-c", "import native, torch; print(torch.CUDA)"]
    assert subprocess.run(program, capture_output=True, text=True, check=True, cwd=home).stdout == "True\n"


def test_another_interpreter_has_an_environment_of_its_own(bundle: Path, home: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "virtualenv", "-q", "--no-download", tmp_path / "node"], check=True)
    run(bundle, HOME=str(home))
    run(bundle, python=tmp_path / "node" / "bin" / "python", flags=(), HOME=str(home))
    assert len(places(home)) == 2


def damaged(place: Path) -> Iterator[None]:
    """One kind of damage after the other, each to an environment that is whole again."""
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "native.py").write_text("raise SystemExit('tampered')\n")
    yield
    (packages / "native.py").unlink()
    yield
    (packages / "runner" / "cli" / "main.py").write_bytes(b"")
    yield
    (packages / "evil.pth").write_text("import sys; sys.exit('tampered')\n")
    yield
    (packages / "runner" / "cli" / "main").mkdir()
    (packages / "runner" / "cli" / "main" / "__init__.py").write_text("raise SystemExit('tampered')\n")
    yield
    (packages / "runner" / "more").symlink_to(place)
    yield
    (place / "pyvenv.cfg").write_text("")
    yield
    (place / "bin" / "python").unlink()
    (place / "bin" / "python").symlink_to("/bin/false")
    yield
    for path in sorted(place.rglob("*"), reverse=True)[:5]:
        path.unlink() if not path.is_dir() else None
    yield


def test_a_cache_that_was_changed_or_is_half_there_is_made_again(bundle: Path, home: Path) -> None:
    assert run(bundle, HOME=str(home)).returncode == 0
    (place,) = places(home)
    kinds = 0
    for _ in damaged(place):
        done = run(bundle, "x", HOME=str(home))
        assert done.returncode == 0, (kinds, done.stderr)
        assert json.loads(done.stdout)["words"] == ["x"]
        assert places(home) == [place]
        kinds += 1
    assert kinds == 9


def test_a_whole_cache_is_used_as_it_is(bundle: Path, home: Path) -> None:
    run(bundle, HOME=str(home))
    (place,) = places(home)
    before = place.stat().st_ino
    run(bundle, HOME=str(home))
    assert place.stat().st_ino == before


def test_processes_that_unpack_at_once_all_start_from_one_environment(bundle: Path, home: Path) -> None:
    words = [str(BASE), "-I", "-S", str(bundle), "x"]
    started = [
        subprocess.Popen(words, env={"HOME": str(home)}, stdout=subprocess.PIPE, text=True, cwd=home)
        for _ in range(6)
    ]
    said = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert [process.returncode for process in started] == [0] * 6
    (place,) = places(home)
    assert {one["python"] for one in said} == {str(place / "bin" / "python")}


def test_ctrl_c_while_it_unpacks_is_one_line_and_leaves_nothing_half_made(
    bundle: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(archive: object, wheels: object, files: object, new: Path) -> None:
        (new / "environment").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "path", [str(bundle), *sys.path])
    monkeypatch.setattr(start, "_unpack", interrupted)
    with pytest.raises(SystemExit) as raised:
        start.main()
    assert raised.value.code == 130
    assert capsys.readouterr().err == "runbook: interrupted\n"
    assert places(home) == []


def test_what_a_killed_start_left_is_removed_by_the_next_one_that_unpacks(bundle: Path, home: Path) -> None:
    left = home / ".cache" / "llm-runbooks" / "bundle" / ".new-killed" / "environment"
    left.mkdir(parents=True)
    left.parents[1].chmod(0o700)
    done = run(bundle, HOME=str(home))
    assert done.returncode == 0, done.stderr
    (place,) = places(home)
    assert json.loads(done.stdout)["python"] == str(place / "bin" / "python")


def test_root_makes_nothing_in_the_home_folder_of_another_user(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(home, 12345, -1)
    else:
        monkeypatch.setattr(start.os, "geteuid", lambda: 0)
    with pytest.raises(OSError, match="belongs to another user"):
        start._demand_own(home / ".cache" / "llm-runbooks" / "bundle")
    assert not list(home.iterdir())


def test_a_mask_that_lets_everyone_write_does_not_open_the_cache_and_is_kept_for_the_program(
    bundle: Path, home: Path
) -> None:
    words = [str(BASE), "-I", "-S", str(bundle)]
    said = subprocess.check_output(words, env={"HOME": str(home)}, cwd=home, text=True, umask=0)
    assert json.loads(said)["mask"] == 0
    # What Python compiles there later is made under the caller's mask, behind a folder that nobody else can enter.
    made = [path for path in home.rglob("*") if not path.is_symlink() and "__pycache__" not in path.parts]
    assert made
    assert not [path for path in made if path.stat().st_mode & 0o022]


def test_a_home_folder_that_takes_nothing_is_replaced_by_a_temporary_folder_of_this_user_alone(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file")
    (tmp_path / "tmp").mkdir()
    done = run(bundle, HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    (base,) = (tmp_path / "tmp").iterdir()
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert json.loads(done.stdout)["python"].startswith(str(base))


@pytest.mark.parametrize("words", [(), ("--prolog",), ("--format", "nagios")])
def test_where_no_folder_takes_it_one_line_says_so_and_what_to_set(
    bundle: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    planted = tmp_path / "tmp" / f"llm-runbooks-bundle-{os.geteuid()}"
    planted.mkdir(parents=True)
    planted.chmod(0o777)
    (tmp_path / "home").write_text("a file")
    done = run(bundle, *words, HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == (0 if words == ("--prolog",) else 3)
    (line,) = done.stderr.splitlines()
    assert line.startswith("runbook: cannot unpack into ")
    assert line.endswith("set XDG_CACHE_HOME to a folder with 50 MB free")
    assert not list(planted.iterdir()), "nothing is put where another user could replace it"
    assert done.stdout.startswith("RUNBOOK UNKNOWN - ") == ("nagios" in words)


def test_an_empty_home_is_not_the_root_of_the_file_system(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    done = run(bundle, HOME="", TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["python"].startswith(str(tmp_path / "tmp"))
    assert not Path("/.cache/llm-runbooks").exists()


def test_a_python_that_the_bundle_has_nothing_for_is_one_line(tmp_path: Path, home: Path) -> None:
    out = tmp_path / "runbook.pyz"
    build.build(wheels_for(tmp_path / "wheels", "cp399-vax"), out)
    done = run(out, HOME=str(home))
    assert done.returncode == 3
    said = f"this bundle has nothing for {start.target()}, only for cp399-vax"
    assert done.stderr.splitlines() == [f"runbook: {said}; run it with another Python"]


def test_a_damaged_bundle_is_one_line(bundle: Path, home: Path) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data.replace(b"TARGET = ", b"TARGET ? "))
    done = run(bundle, HOME=str(home))
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.endswith("copy it again")
    assert places(home) == []


def test_a_c_library_that_is_too_old_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = {"targets": {start.target(): []}, "glibc": [2, 28]}
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.17")
    with pytest.raises(start.StartError, match=r"needs glibc 2\.28 or newer"):
        start.fitting(manifest)
    monkeypatch.setattr(os, "confstr", lambda _: None)
    with pytest.raises(start.StartError, match="needs glibc"):
        start.fitting(manifest)
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.28")
    assert start.fitting(manifest) == []


def test_an_older_python_can_parse_the_first_file_and_says_what_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "bundle" / "__main__.py").read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(sys, "argv", ["runbook.pyz", "list"])
    with pytest.raises(SystemExit) as raised:
        exec(compile(text, "__main__.py", "exec"), {})
    assert raised.value.code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"runbook: this needs Python 3.11 or newer, and {sys.executable} is 3.10; run it with a newer one: "
        "python3.12 runbook.pyz"
    )


@pytest.mark.parametrize(
    ("words", "context", "status", "printed"),
    [
        (["diagnose", "--prolog"], "", 0, ""),
        (["diagnose"], "epilog_slurmd", 0, ""),
        (["diagnose", "--format", "nagios"], "", 3, "RUNBOOK UNKNOWN - this needs Python 3.11"),
    ],
)
def test_an_older_python_drains_no_node_and_raises_no_alarm(
    words: list[str],
    context: str,
    status: int,
    printed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "bundle" / "__main__.py").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(sys, "argv", ["runbook.pyz", *words])
    monkeypatch.setenv("SLURM_SCRIPT_CONTEXT", context)
    with pytest.raises(SystemExit) as raised:
        exec(compile(text, "__main__.py", "exec"), {})
    assert raised.value.code == status
    said = capsys.readouterr()
    assert said.out.startswith(printed)
    assert bool(said.out) == bool(printed)
    assert len(said.err.splitlines()) == 1


def test_the_same_wheels_make_the_same_bytes(tmp_path: Path) -> None:
    wheels = wheels_for(tmp_path / "wheels", "cp311-x86_64", "cp312-x86_64")
    first, second = tmp_path / "first.pyz", tmp_path / "second" / "second.pyz"
    assert build.build(wheels, first) == build.build(wheels, second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o755
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names)) == 6, "a wheel of two targets is in it once"


def test_wheels_that_are_missing_for_one_target_or_install_elsewhere_are_refused(tmp_path: Path) -> None:
    wheels = wheels_for(tmp_path / "wheels", "cp311-x86_64", "cp312-x86_64")
    a_wheel(wheels / "cp312-x86_64", "more-1-py3-none-any", {"more.py": ""})
    with pytest.raises(build.BuildError, match="differ in more"):
        build.build(wheels, tmp_path / "out.pyz")
    a_wheel(wheels / "cp311-x86_64", "more-1-py3-none-any", {"more-1.data/data/etc/x": ""})
    with pytest.raises(build.BuildError, match="differ"):
        build.build(wheels, tmp_path / "out.pyz")
    a_wheel(wheels / "cp312-x86_64", "more-1-py3-none-any", {"more-1.data/data/etc/x": ""})
    with pytest.raises(build.BuildError, match="outside of site-packages"):
        build.build(wheels, tmp_path / "out.pyz")
    assert not (tmp_path / "out.pyz").exists()
