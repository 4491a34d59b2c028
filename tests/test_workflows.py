"""What must hold of every workflow, whatever the linters say of it (`nox -s workflows` runs those)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Not sessions: making nox, the hand-over of new records, git credentials, the issue that reports a changed verdict.
NO_SESSION = (
    r"python3 -m venv .*",
    r'"\$RUNNER_TEMP/nox/bin/pip" install .* --requirement .github/requirements/nox.txt',
    r'read -ra sessions <<< "\$SESSIONS"',
    r"\.github/new-records scratch/refresh",
    r"\.github/push-records scratch/refresh/site_data origin main",
    r"gh auth setup-git",
    r"gh issue create .*",
)


def read(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def jobs(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from read(path)["jobs"].items()


def triggers(path: Path) -> set[str]:
    # YAML 1.1 reads the key `on` as true.
    on = read(path)[True]
    return {on} if isinstance(on, str) else set(on)


def ids(path: Path) -> str:
    return path.stem


def test_there_is_a_refresh_and_a_pull_request_workflow() -> None:
    assert {path.stem: triggers(path) for path in PATHS} == {
        "refresh": {"schedule", "workflow_dispatch"},
        "pull-request": {"pull_request"},
    }


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_code_of_a_fork_never_reaches_a_node_of_ours(path: Path) -> None:
    assert not triggers(path) & {"pull_request_target", "workflow_run", "issue_comment"}
    for name, job in jobs(path):
        if "self-hosted" not in str(job["runs-on"]):
            continue
        assert triggers(path) <= {"schedule", "workflow_dispatch"}, f"{name} runs what a fork may send"
        assert "github.ref == 'refs/heads/main'" in job["if"]
        assert "github.repository == " in job["if"]


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_permissions_are_none_until_a_job_asks_and_nodes_may_only_read(path: Path) -> None:
    assert read(path)["permissions"] == {}
    for name, job in jobs(path):
        assert "write-all" not in str(job["permissions"])
        if "pull_request" in triggers(path) or "self-hosted" in str(job["runs-on"]):
            assert job["permissions"] == {"contents": "read"}, name
            assert "secrets." not in str(job)
            assert "github.token" not in str(job)


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_every_job_has_a_deadline_and_every_action_is_a_commit_with_its_version(path: Path) -> None:
    for name, job in jobs(path):
        assert job["timeout-minutes"] <= 240, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"\s*(?:- )?uses:", line):
            assert re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_an_action_has_one_commit_and_one_version_in_all_workflows() -> None:
    found = {
        match for path in PATHS for match in re.findall(r"uses: (\S+)@(\S+) # (\S+)", path.read_text("utf-8"))
    }
    assert len(found) == len({name for name, _, _ in found})


@pytest.mark.parametrize("path", PATHS, ids=ids)
def test_what_is_run_is_a_session_that_people_run_too(path: Path) -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^@nox\.session\ndef (\w+)", noxfile, re.MULTILINE))
    for _, job in jobs(path):
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                if any(re.fullmatch(pattern, line.strip()) for pattern in NO_SESSION):
                    continue
                called = re.fullmatch(
                    r'"\$RUNNER_TEMP/nox/bin/nox" -s ([\w ]+?|"\$\{sessions\[@\]\}")( -- .*)?', line
                )
                assert called, line
                names = called[1].split() if called[1][0] != '"' else []
                names += " ".join(job.get("strategy", {}).get("matrix", {}).get("sessions", [])).split()
                assert set(names) <= sessions
                assert names


def test_the_refresh_measures_one_job_a_node_and_one_at_a_time() -> None:
    refresh = ROOT / ".github" / "workflows" / "refresh.yml"
    assert read(refresh)["concurrency"] == {"group": "refresh", "cancel-in-progress": False}
    measure = dict(jobs(refresh))["measure"]
    assert measure["strategy"]["fail-fast"] is False
    assert "matrix.machine_class" in str(measure["runs-on"])
    assert not any("--allow" in step.get("run", "") for step in measure["steps"]), "busy GPUs are left alone"
