"""What other users of a node may do to the folders of a campaign's job: its script is run for real, by bash.

Another user is played where the tests run as root (`nox -s system`); the rest needs nobody else.
"""

import base64
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.fleet.archive import unpack
from runner.fleet.script import (
    MEANINGS,
    NO_PORT,
    NOT_OURS,
    OTHER_CODE,
    NodeTask,
    batch_script,
    fetch_command,
)
from tests.cluster import free_ports
from tests.test_campaign import a_task

NOBODY, VICTIM = 65534, 65533
RESULTS = f"llm-runbooks-results-{os.geteuid()}"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to play other users")


@pytest.fixture
def node() -> Iterator[Path]:
    """A temporary folder as a node has it: everyone may write to it, and it is sticky."""
    with tempfile.TemporaryDirectory(prefix="rb-node-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder)


def run_bash(
    script: str, node: Path, user: int | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    as_user: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(
        ["bash", "-s"],
        input=script.encode(),
        env={**os.environ, "TMPDIR": str(node), "HOME": "/nonexistent", **variables},
        capture_output=True,
        check=False,
        timeout=100,
        cwd="/",
        **as_user,
    )


def a_job(tmp_path: Path, **changes: Any) -> NodeTask:
    """A job without shared files that runs no entry: its Python is a `true`."""
    given = {"place": None, "prefix": "bash -c true", "key": "1-node-1"} | changes
    return a_task(tmp_path, **given)


def run_job(tmp_path: Path, node: Path, user: int | None = None, **changes: Any) -> int:
    return run_bash(batch_script(a_job(tmp_path, **changes)), node, user).returncode


def by_nobody(script: str, node: Path) -> None:
    done = run_bash(f"set -e; umask 0; cd '{node}'; {script}", node, NOBODY)
    assert done.returncode == 0, done.stderr


def test_results_are_kept_in_a_folder_of_this_user_alone_and_found_again(tmp_path: Path, node: Path) -> None:
    for key in ("1-node-1", "2-node-1"):
        assert run_job(tmp_path, node, key=key) == 0
    assert [path.name for path in node.iterdir()] == [RESULTS]
    assert (node / RESULTS).stat().st_mode & 0o777 == 0o700
    fetched = run_bash(fetch_command("it's @home@", "2-node-1"), node)
    assert fetched.returncode == 0, fetched.stderr
    unpack(base64.b64decode(fetched.stdout), tmp_path / "home")
    assert json.loads((tmp_path / "home" / "end.json").read_text()) == {"exit_status": 0}


def test_a_link_in_the_place_of_the_results_is_refused_and_what_it_leads_to_is_left_as_it_is(
    tmp_path: Path, node: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    for leads_to in (target, tmp_path / "missing"):
        (node / RESULTS).symlink_to(leads_to)
        assert run_job(tmp_path, node) == NOT_OURS
        fetched = run_bash(fetch_command("c", "1-node-1"), node)
        assert (fetched.returncode, fetched.stdout) == (NOT_OURS, b"")
        (node / RESULTS).unlink()
    assert list(target.iterdir()) == []
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o710, 0o704])
def test_a_folder_for_results_that_is_open_to_others_is_refused(
    tmp_path: Path, node: Path, mode: int
) -> None:
    (node / RESULTS).mkdir()
    (node / RESULTS).chmod(mode)
    assert run_job(tmp_path, node) == NOT_OURS
    assert run_bash(fetch_command("c", "1-node-1"), node).returncode == NOT_OURS


@pytest.mark.parametrize(("mode", "status"), [(0o777, NOT_OURS), (0o1777, 0), (0o2770, 0), (0o755, 0)])
def test_a_temporary_folder_in_which_others_can_replace_things_is_refused(
    tmp_path: Path, node: Path, mode: int, status: int
) -> None:
    node.chmod(mode)
    assert run_job(tmp_path, node) == status
    shared = a_job(tmp_path, place=str(tmp_path / "place"))
    assert run_bash(batch_script(shared), node).returncode == status
    assert not list(node.glob("llm-runbooks-????????"))


@pytest.mark.parametrize(("mode", "status"), [(0o777, NOT_OURS), (0o1777, 0), (0o755, 0)])
def test_a_temporary_folder_that_others_can_replace_is_refused(
    tmp_path: Path, node: Path, mode: int, status: int
) -> None:
    # As a job's own folder in a scratch folder that everybody may write to, without the sticky bit.
    (node / "scratch" / "job" / "tmp").mkdir(parents=True)
    (node / "scratch").chmod(mode)
    for place in ("scratch/job", "scratch/job/tmp"):
        assert run_job(tmp_path, node / place) == status


def test_results_older_than_two_weeks_go_and_what_their_links_lead_to_stays(
    tmp_path: Path, node: Path
) -> None:
    assert run_job(tmp_path, node) == 0
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    names = ["old", "-rf", "a\nb"]
    for name in names:
        (node / RESULTS / name).mkdir()
        (node / RESULTS / name / "link").symlink_to(target)
    (node / RESULTS / "way").symlink_to(target)
    long_ago = time.time() - 20 * 86400
    for name in [*names, "way"]:
        os.utime(node / RESULTS / name, (long_ago, long_ago), follow_symlinks=False)
    assert run_job(tmp_path, node) == 0
    assert [path.name for path in (node / RESULTS).iterdir()] == ["it's @home@"]
    assert (target / "kept").exists()


def test_code_that_is_not_what_was_submitted_is_not_run(tmp_path: Path, node: Path) -> None:
    stored = tmp_path / "code.tar.gz"
    task = a_job(tmp_path, code=str(stored))
    stored.write_bytes(task.archive)
    assert run_bash(batch_script(task), node).returncode == 0
    stored.write_bytes(task.archive + b"\0")
    assert run_bash(batch_script(task), node).returncode == OTHER_CODE
    stored.write_bytes(b"")
    assert run_bash(batch_script(task), node).returncode == OTHER_CODE


@pytest.mark.parametrize("status", [NOT_OURS, OTHER_CODE, NO_PORT])
def test_what_a_script_refuses_has_a_meaning_of_one_line(status: int) -> None:
    assert "\n" not in MEANINGS[status]


def test_a_link_in_the_place_of_a_shared_folder_is_refused(tmp_path: Path, node: Path) -> None:
    task = a_job(tmp_path, place=str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(tmp_path / "place")
    assert run_bash(batch_script(task), node).returncode == NOT_OURS
    assert list((tmp_path / "place").iterdir()) == []


# Another user of the node.


@pytest.mark.system
@as_root
def test_another_user_who_makes_the_folder_first_gets_no_results_and_forges_none(
    tmp_path: Path, node: Path
) -> None:
    forged = """{ mkdir -p "$1" && echo '{"exit_status": 0}' > "$1/end.json"; }; forge"""
    by_nobody(f'forge() {forged} "llm-runbooks-results-{VICTIM}/it\'s @home@/1-node-1"', node)
    assert run_job(tmp_path, node, VICTIM) == NOT_OURS
    assert not list(node.rglob("output.txt"))
    fetched = run_bash(fetch_command("it's @home@", "1-node-1"), node, VICTIM)
    assert (fetched.returncode, fetched.stdout) == (NOT_OURS, b"")


@pytest.mark.system
@as_root
def test_a_link_of_another_user_to_a_folder_of_the_jobs_own_is_refused(tmp_path: Path, node: Path) -> None:
    done = run_bash(f"mkdir -m 755 '{node}/own'", node, VICTIM)
    assert done.returncode == 0
    by_nobody(f"ln -s '{node}/own' llm-runbooks-results-{VICTIM}", node)
    assert run_job(tmp_path, node, VICTIM) == NOT_OURS
    assert list((node / "own").iterdir()) == []
    assert (node / "own").stat().st_mode & 0o777 == 0o755


@pytest.mark.system
@as_root
def test_a_temporary_folder_of_another_user_is_refused_even_if_it_is_sticky(
    tmp_path: Path, node: Path
) -> None:
    by_nobody("mkdir theirs; chmod 1777 theirs", node)
    assert run_job(tmp_path, node / "theirs", VICTIM) == NOT_OURS
    assert run_job(tmp_path, node, VICTIM) == 0


@pytest.mark.system
@as_root
def test_a_shared_folder_of_another_user_takes_no_results(tmp_path: Path, node: Path) -> None:
    by_nobody("mkdir campaign", node)
    assert run_job(tmp_path, node, VICTIM, place=str(node / "campaign")) == NOT_OURS
    assert list((node / "campaign").iterdir()) == []


# Steps over several nodes; srun and scontrol are played.


@pytest.fixture
def nodes(node: Path) -> Path:
    """Two nodes, n1 and n2, with a temporary folder each at one path: `srun` makes n2's appear in n1's place.

    There is one file system here, so `srun` moves the folder that stands at the path away while the other node's part
    runs, as another machine would have another one there.
    """
    programs = node / "programs"
    for folder in (programs, node / "tmp", node / "tmp-of-n2"):
        folder.mkdir()
    for folder in (node / "tmp", node / "tmp-of-n2"):
        folder.chmod(0o1777)
    (programs / "scontrol").write_text("#!/bin/bash\necho NodeName=n1 NodeAddr=127.0.0.1 State=IDLE\n")
    (programs / "srun").write_text(f"""#!/bin/bash
shift
stdin=$(mktemp '{node}/stdin-XXXX'); cat > "$stdin"
SLURMD_NODENAME=n1 "$@" < "$stdin"; first=$?
[ ! -e '{node}/attack' ] || name="${{RUNBOOK_ROOTS%/nodes}}" bash '{node}/attack'
mv '{node}/tmp' '{node}/tmp-of-n1'; mv '{node}/tmp-of-n2' '{node}/tmp'
SLURMD_NODENAME=n2 "$@" < "$stdin"; second=$?
mv '{node}/tmp' '{node}/tmp-of-n2'; mv '{node}/tmp-of-n1' '{node}/tmp'
exit $(( first > second ? first : second ))
""")
    for program in programs.iterdir():
        program.chmod(0o755)
    return node


def run_joint(tmp_path: Path, nodes: Path, prefix: str = "bash -c true") -> int:
    task = a_job(tmp_path, joint=True, place=str(tmp_path / "place"), prefix=prefix)
    done = run_bash(
        batch_script(task),
        nodes / "tmp",
        PATH=f"{nodes / 'programs'}:{os.environ['PATH']}",
        SLURM_JOB_NUM_NODES="2",
        SLURM_JOB_ID="7",
        SLURMD_NODENAME="n1",
        HERE=str(nodes),
    )
    return done.returncode


def test_each_node_unpacks_the_code_in_a_folder_of_its_own_and_leaves_nothing(
    tmp_path: Path, nodes: Path
) -> None:
    look = """bash -c 'find "$HERE"/tmp*/llm-runbooks-*/nodes -maxdepth 2 -name runner > "$HERE/seen"'"""
    assert run_joint(tmp_path, nodes, look) == 0
    assert {line.split("/")[-2] for line in (nodes / "seen").read_text().split()} == {"n1", "n2"}
    assert list((nodes / "tmp").iterdir()) == list((nodes / "tmp-of-n2").iterdir()) == []


@pytest.mark.parametrize(
    "attack",
    [
        'mkdir -m 777 "$2"',
        'mkdir -p "$1/elsewhere"; ln -s "$1/elsewhere" "$2"',
        pytest.param(
            f'setpriv --reuid {NOBODY} --clear-groups mkdir -m 700 "$2"', marks=[pytest.mark.system, as_root]
        ),
    ],
)
def test_a_folder_that_another_node_finds_already_there_takes_no_code(
    tmp_path: Path, nodes: Path, attack: str
) -> None:
    place = nodes / "tmp-of-n2"
    (nodes / "attack").write_text(
        f"""set -- '{nodes}' '{place}'/"${{name##*/}}"; [ -e "$2" ] || {{ {attack}; }}"""
    )
    assert run_joint(tmp_path, nodes) == NOT_OURS
    assert not list(place.rglob("runner"))
    assert not (nodes / "elsewhere").exists() or not list((nodes / "elsewhere").iterdir())


def test_nodes_meet_on_a_port_that_is_drawn_and_on_which_nobody_listens(tmp_path: Path, nodes: Path) -> None:
    look = """bash -c 'echo "$RUNBOOK_RENDEZVOUS" >> "$HERE/meet"'"""
    for _ in range(2):
        assert run_joint(tmp_path, nodes, look) == 0
    drawn = [line.rpartition(":") for line in (nodes / "meet").read_text().split()]
    assert {host for host, _, _ in drawn} == {"127.0.0.1"}
    for _, _, port in drawn:
        assert 20000 <= int(port) < 32000
        with socket.socket() as meeting:
            meeting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            meeting.bind(("127.0.0.1", int(port)))


def test_a_port_that_somebody_listens_on_is_passed_over(tmp_path: Path, node: Path) -> None:
    script = batch_script(a_job(tmp_path, joint=True))
    found = script[script.index("free_port() {") :]
    function = found[: found.index("\n}\n") + 3]
    with socket.socket() as taken:
        (port,) = free_ports(1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        only = function.replace("20000 +", f"{port} + 0 *")
        assert run_bash(only + "free_port", node).returncode == 1
    done = run_bash(only + "free_port", node)
    assert (done.returncode, done.stdout.strip()) == (0, str(port).encode())
