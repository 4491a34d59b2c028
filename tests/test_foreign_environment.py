"""`diagnose --pid` of a process whose owner set every variable that makes a program load code: none of it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.kit import judged
from tests.test_cli import ROOT, step
from tests.test_diagnose import CLEAN, diagnose, small
from tests.test_foreign_files import waiting

NOBODY = 65534
LAUNCH = {"WORLD_SIZE": "8", "RANK": "0", "NCCL_P2P_DISABLE": "1"}
# A Python outside of any virtual environment reads its user's own packages, from HOME.
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"

# What steps of an entry may well start.
PROGRAMS = (
    f"{BASE_PYTHON} -c pass",
    "python -c pass",
    "bash -c true; sh -c true",
    "command -v perl >/dev/null && perl -e 1; true",
    "cd {repository} && git diff >/dev/null; true",
    "env > {seen}",
    "true > ${{RUNBOOK_RESULT}}; python -m runner.probes.stale_env",
    "python -m runner.probes.nccl_env --running --units",
)


def traps(folder: Path) -> dict[str, str]:
    """Variables each of which makes some program run a line that leaves `folder/canary-NAME`."""

    def touching(name: str, *, python: bool) -> str:
        place = folder / f"canary-{name}"
        return f"import os; open({str(place)!r}, 'w').close()\n" if python else f"touch {place}\n"

    home = folder / "home"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / ".local" / "lib" / version / "site-packages"
    modules, programs = folder / "modules", folder / "bin"
    for place in (packages, modules, programs):
        place.mkdir(parents=True)
    (packages / "evil.pth").write_text(touching("pth", python=True))
    (packages / "usercustomize.py").write_text(touching("usercustomize", python=True))
    (modules / "sitecustomize.py").write_text(touching("sitecustomize", python=True))
    (modules / "Evil.pm").write_text(f'system("touch {folder}/canary-perl"); 1;\n')
    (folder / "startup").write_text(touching("bash-env", python=False))
    (home / ".gitconfig").write_text(f"[diff]\n\texternal = touch {folder}/canary-gitconfig\n")
    for name in ("python", "bash", "env", "git", "touch-git"):
        (programs / name).write_text(f"#!/bin/sh\n{touching(f'path-{name}', python=False)}")
        (programs / name).chmod(0o755)
    source = folder / "plugin.c"
    source.write_text(
        f'#include <fcntl.h>\n__attribute__((constructor)) static void ran(void) {{ open("{folder}/canary-library",'
        " O_CREAT | O_WRONLY, 0600); }\n"
    )
    library = folder / "plugin.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "PYTHONUSERBASE": str(home / ".local"),
        "PYTHONPATH": str(modules),
        "PYTHONSTARTUP": str(modules / "sitecustomize.py"),
        "PYTHONHOME": str(modules),
        "PERL5LIB": str(modules),
        "PERL5OPT": "-MEvil",
        "BASH_ENV": str(folder / "startup"),
        "ENV": str(folder / "startup"),
        "BASH_FUNC_env%%": f"() {{  touch {folder}/canary-function\n}}",
        "GIT_EXTERNAL_DIFF": str(programs / "touch-git"),
        "GIT_PAGER": str(programs / "touch-git"),
        "LD_AUDIT": str(library),
        "NCCL_NET_PLUGIN": str(library),
        "NCCL_TUNER_PLUGIN": str(library),
        "NCCL_ENV_PLUGIN": str(library),
        "OMP_TOOL_LIBRARIES": str(library),
        "TORCHINDUCTOR_CACHE_DIR": str(modules),
        "TMPDIR": str(folder),
        "PATH": f"{programs}:/usr/bin:/bin",
    }


@pytest.fixture(
    params=[
        pytest.param(None, id="of the same user"),
        pytest.param(
            NOBODY,
            id="of another user",
            marks=[
                pytest.mark.system,
                pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process"),
            ],
        ),
    ]
)
def user(request: pytest.FixtureRequest) -> int | None:
    return request.param  # type: ignore[no-any-return]


def canaries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("canary-*"))


def test_nothing_of_a_process_that_is_judged_runs_and_its_leftovers_are_found(
    tmp_path: Path, user: int | None
) -> None:
    hostile, repository = tmp_path / "hostile", tmp_path / "repository"
    hostile.mkdir()
    subprocess.run(["git", "init", "-q", repository], check=True)
    (repository / "file").write_text("one\n")
    subprocess.run(["git", "-C", repository, "add", "file"], check=True)
    (repository / "file").write_text("two\n")
    seen = tmp_path / "seen"
    environment = traps(hostile)
    before = small(
        tmp_path,
        *(
            step(f"s{number}", command.format(seen=seen, repository=repository))
            for number, command in enumerate(PROGRAMS)
        ),
    )
    # A loader's variable works only in what is started now: `cat` itself would leave that canary.
    with waiting({**environment, **LAUNCH}, user) as pid:
        for path in hostile.glob("canary-*"):
            path.unlink()
        done = diagnose("--json", "--pid", str(pid), before=before)
    assert canaries(hostile) == []
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = json.loads(done.stdout)["entries"]
    assert [finding["step"] for finding in entry["findings"]] == ["s6", "s7"]
    assert "WORLD_SIZE" in entry["findings"][0]["said"]
    assert "NCCL_P2P_DISABLE" in entry["findings"][1]["said"]
    assert f"restart process {pid} without NCCL_P2P_DISABLE" in entry["findings"][1]["undo"][0]
    steps = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert steps[judged.VARIABLE] == str(pid)
    assert not {name for name, value in environment.items() if steps.get(name) == value}
    assert not LAUNCH.keys() & steps.keys()


def test_the_traps_work_where_a_program_is_started_in_that_environment(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    environment = traps(hostile)
    subprocess.run(["/bin/bash", "-c", "true"], env=environment, check=True)
    if BASE_PYTHON.exists():
        home = {name: environment[name] for name in ("HOME", "PYTHONPATH")}
        subprocess.run([BASE_PYTHON, "-c", "pass"], env=home, check=True)
    assert {"canary-bash-env", "canary-library"} <= set(canaries(hostile))
    assert not BASE_PYTHON.exists() or "canary-pth" in canaries(hostile)


def test_a_healthy_process_is_found_well_beside_a_caller_that_is_not(tmp_path: Path) -> None:
    before = small(tmp_path, step("a", "python -m runner.probes.stale_env"))
    with waiting({"PATH": "/usr/bin:/bin"}) as pid:
        assert diagnose("--pid", str(pid), before=before, variables=LAUNCH).returncode == 0
    assert diagnose(before=before, variables=LAUNCH).returncode == 1


def test_a_process_that_ends_during_the_look_is_not_called_well(tmp_path: Path) -> None:
    with waiting({"PATH": "/usr/bin:/bin"}) as pid:
        before = small(tmp_path, step("a", f"kill {pid}; sleep 0.2; python -m runner.probes.stale_env"))
        done = diagnose("--json", "--pid", str(pid), before=before)
    assert done.returncode == 3, done.stdout


def test_a_process_of_another_user_that_may_not_be_read_is_said_in_one_line() -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    done = diagnose("--pid", "1")
    assert (done.returncode, done.stderr) == (
        3,
        "runbook: cannot read the environment of process 1; run this as its user, or as root\n",
    )


@pytest.mark.parametrize("given", ["x", "-1", "1\n2", "9" * 5000, "self"])
def test_a_process_id_that_is_none_is_bad_input(given: str) -> None:
    for probe in ("stale_env", "nccl_env"):
        done = subprocess.run(
            [sys.executable, "-m", f"runner.probes.{probe}"],
            cwd=ROOT,
            env={**CLEAN, judged.VARIABLE: given},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
