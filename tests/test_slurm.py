"""Campaigns over a real Slurm of eight nodes on this machine: what nodes may do, and what a campaign makes of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.fleet.script import MEANINGS, NOT_OURS
from runner.record.model import Record
from tests.cluster import Cluster, cluster, installed, until
from tests.test_cli import ROOT, step, write_entry
from tests.test_nox import WRAPPER

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not installed(), reason="needs Slurm: apt-get install slurm-wlm munge"),
]

# Some nodes are made to misbehave.
WRAP = """\
for word; do [ "$before" != --data ] || data=$word; before=$word; done
case "$SICK $SLURMD_NODENAME $*" in
    "yes n5 "*" run "*) ulimit -f 1;;
    "yes n6 "*" run "*) mkdir -p "$data/c/small"; echo rubbish > "$data/c/small/x.json"; exit 0;;
esac
exec "$@"
"""


class Site:
    """A cluster, a folder of entries and a place for records; `runbook` is the real program."""

    def __init__(self, slurm: Cluster, here: Path) -> None:
        self.slurm, self.here = slurm, here
        self.wrap, self.environment = slurm.prepared(here, WRAP)

    def entry(self, *steps: str, entry_id: str = "small", number: int = 1) -> None:
        write_entry(self.here / "runbooks", "\n\n".join(steps), entry_id=entry_id, number=number)

    def program(self, name: str, text: str) -> Path:
        """A program of this name in the place of the real one; the folder to put on PATH."""
        folder = self.here / "bin"
        folder.mkdir()
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
        return folder

    def words(self, *words: str) -> list[str]:
        places = ["--runbooks", str(self.here / "runbooks"), "--data", str(self.here / "data")]
        return [sys.executable, "-m", "runner.cli.main", *places, *words]

    def campaign(self, *words: str) -> list[str]:
        return self.words("run", *words, "--on", "slurm", "--prefix", str(self.wrap), "--json")

    def run(self, words: list[str], **variables: str) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode in {0, 1, 3}, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr

    def start(self, words: list[str], **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def records(self) -> list[Record]:
        files = sorted((self.here / "data").rglob("*.json"))
        return [Record.model_validate_json(path.read_bytes()) for path in files]

    def job_of(self, node: str) -> str:
        lines = self.slurm.run("squeue", "--noheader", f"--nodelist={node}", "--format=%i").stdout.split()
        return lines[0]

    def names(self) -> dict[str, str]:
        """Alias → node, as only the campaign's folder at home knows it."""
        newest = max((self.here / "scratch" / "campaigns").iterdir())
        jobs = json.loads((newest / "campaign.json").read_text())["jobs"]
        return {job["key"]: job["nodes"][0] for job in jobs if not job["joint"]}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def site(slurm: Cluster) -> Iterator[Site]:
    # Not pytest's own folder: it must be short enough for a path in a batch script, and jobs write to it.
    with tempfile.TemporaryDirectory(prefix="rb-site-", ignore_cleanup_errors=True) as folder:
        yield Site(slurm, Path(folder))
    assert slurm.queue() == []


def test_a_campaign_gives_each_node_one_record_of_each_entry(site: Site) -> None:
    for number in range(1, 6):
        site.entry(step("d", "echo on $SLURMD_NODENAME"), entry_id=f"entry-{number}", number=number)
    status, said, _ = site.run(site.campaign("1", "2", "3", "4", "5"))
    assert status == 0, said["nodes"]
    records = site.records()
    assert len(records) == len(said["records"]) == 40
    pairs = {(record.node_alias, record.runbook.id) for record in records}
    assert len(pairs) == 40
    assert len({alias for alias, _ in pairs}) == 8
    assert {record.campaign for record in records} == {said["campaign"]}
    assert [row["state"] for row in said["nodes"]] == ["done"] * 8
    # What ran is a copy of the code here, proved by its digest; nothing of it is left on the nodes.
    assert len({(record.code.package, record.code.entries) for record in records}) == 1
    assert list((site.here / "tmp").iterdir()) == []


GATE = 'while [ ! -e "$HERE/go" ]; do sleep 0.1; done'


def test_an_interrupt_cancels_the_jobs_of_the_campaign_and_no_others(site: Site) -> None:
    other = site.slurm.run("sbatch", "--parsable", "-w", "n8", "-o", "/dev/null", "--wrap", "sleep 300")
    site.entry(step("d", 'touch "$HERE/begun-$SLURMD_NODENAME"; sleep 300'))
    process = site.start(site.campaign("small", "--nodelist", "n[1-2]"))
    until(lambda: all((site.here / f"begun-{node}").exists() for node in ("n1", "n2")), "jobs to run")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=400)
    left = site.slurm.queue()
    site.slurm.run("scancel", other.stdout.strip())
    assert [line.split()[0] for line in left] == [other.stdout.strip()]
    assert process.returncode == 3, err
    assert {row["reason"].partition(";")[0] for row in json.loads(out)["nodes"]} == {
        "cancelled by an interrupt of this command"
    }
    until(lambda: site.slurm.queue() == [], "the other job to end")


def test_a_detached_campaign_is_collected_later_once_or_twice_without_duplicates(site: Site) -> None:
    site.entry(step("d", GATE))
    status, _, _ = site.run(site.campaign("small", "--nodes", "2", "--detach"))
    assert status == 0
    early, said, _ = site.run(site.words("collect", "--json"))
    assert (early, said["records"]) == (3, [])
    assert {row["state"] for row in said["nodes"]} <= {"waiting", "running"}
    (site.here / "go").touch()
    until(lambda: site.slurm.queue() == [], "jobs to end")
    files = []
    for _ in range(2):
        status, said, _ = site.run(site.words("collect", "--json", said["campaign"]))
        assert (status, len(said["records"])) == (0, 2)
        files.append(sorted((site.here / "data").rglob("*.json")))
    assert files[0] == files[1]
    assert len(files[0]) == 2


def test_without_shared_files_code_goes_with_the_job_and_results_are_fetched(site: Site) -> None:
    site.entry(step("d", 'pwd; echo "$SLURM_JOB_ID"'))
    status, said, _ = site.run(site.campaign("sma", "1", "--nodelist", "n[3-4]", "--no-shared-files"))
    assert (status, len(site.records())) == (0, 2), said["nodes"]
    newest = max((site.here / "scratch" / "campaigns").iterdir())
    assert len(list(newest.glob("jobs/*/data/*/*/*.json"))) == 2


def test_a_link_in_the_place_of_a_nodes_results_is_an_error_row_and_nothing_is_fetched_through_it(
    site: Site,
) -> None:
    site.entry(step("d", "true"))
    forged = site.here / "forged"
    forged.mkdir()
    (site.here / "tmp" / f"llm-runbooks-results-{os.geteuid()}").symlink_to(forged)
    status, said, _ = site.run(site.campaign("small", "--nodelist", "n3", "--no-shared-files"))
    assert (status, site.records(), list(forged.iterdir())) == (3, [], [])
    assert said["nodes"][0]["reason"] == f"its job failed: {MEANINGS[NOT_OURS]}"


ACROSS = """\
python -m torch.distributed.run --nnodes="$RUNBOOK_NODES" --nproc-per-node=1 --node-rank="$RUNBOOK_NODE_RANK" \\
  --rdzv-backend=static --rdzv-endpoint="$RUNBOOK_RENDEZVOUS" --local-addr=127.0.0.1 runbooks/across.py
"""
WORKER = """\
import json, os, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
data = torch.ones(1 << 16)
began = time.perf_counter()
dist.all_reduce(data)
took = time.perf_counter() - began
assert data[0].item() == dist.get_world_size() == int(os.environ["RUNBOOK_NODES"])
if dist.get_rank() == 0:
    rate = {"name": "bus_bandwidth", "value": data.nbytes / took, "unit": "B/s", "statistic": "single"}
    with open(os.environ["RUNBOOK_RESULT"], "w") as file:
        json.dump({"probe": "collectives", "method_version": 1, "status": "ok", "measurements": [rate]}, file)
dist.destroy_process_group()
"""


def test_steps_over_several_nodes_are_one_job_with_one_record_that_the_nodes_records_link_to(
    site: Site,
) -> None:
    site.entry(step("alone", "true"), step("across", ACROSS.rstrip(), "nodes=2 timeout=300"))
    (site.here / "runbooks" / "across.py").write_text(WORKER, encoding="utf-8")
    status, said, err = site.run(
        site.campaign("small", "--nodelist", "n[5-6]"), GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1"
    )
    assert status == 0, (said.get("nodes"), err, [r.model_dump_json() for r in site.records()])
    joint = [record for record in site.records() if record.members]
    single = [record for record in site.records() if not record.members]
    assert len(joint) == 1
    assert len(single) == 2
    assert set(joint[0].members) == {record.node_alias for record in single}
    assert {record.joint_runs for record in single} == {(joint[0].run_id,)}
    across = joint[0].steps[-1]
    assert (across.id, across.status, across.measurements[0].name) == ("across", "passed", "bus_bandwidth")
    # A number of two nodes never stands under the class of one.
    assert joint[0].machine.machine_class == f"2-nodes-of-{single[0].machine.machine_class}"
    skipped = next(one for one in single[0].steps if one.id == "across")
    assert skipped.status == "skipped"


# n3 is slow every time; n5 only the first time.
SPEED = """\
speed=100
case $SLURMD_NODENAME in
  n3) speed=70;;
  n5) [ -e "$HERE/tried" ] || speed=60; touch "$HERE/tried";;
esac
echo '{"probe": "collectives", "method_version": 1, "status": "ok", "measurements": [
  {"name": "bus_bandwidth", "value": '$speed'e9, "unit": "B/s", "statistic": "single"}]}' > "$RUNBOOK_RESULT"
"""


def test_suspects_are_run_again_before_anyone_calls_them_slow(site: Site) -> None:
    site.entry(step("d", SPEED.rstrip()))
    status, said, err = site.run(site.campaign("small", "--confirm"))
    assert status == 0, said["nodes"]
    assert len(said["records"]) == 10
    aliases = {node: alias for alias, node in site.names().items()}
    line = next(line for line in err.splitlines() if "below the median" in line)
    assert line.startswith("small/d bus_bandwidth: 2 of 8 nodes are 35% below the median")
    assert line.endswith("confirmed by a second run: 1 of 2")
    assert aliases["n3"] in line
    assert aliases["n5"] in line


def test_an_entry_s_own_session_runs_it_on_slurm(site: Site) -> None:
    site.entry(step("d", "true"), entry_id="nvlink-bandwidth", number=2)
    programs = site.program("runbook", f'#!/bin/sh\nexec "{sys.executable}" -m runner.cli.main "$@"\n')
    wrapper = site.here / "noxfile.py"
    wrapper.write_text(WRAPPER.format(noxfile=str(ROOT / "noxfile.py"), programs=str(programs)))
    nox = [sys.executable, "-m", "nox", "-f", str(wrapper), "-s", "runbook-2", "--", "--nodes", "2"]
    places = ["--runbooks", str(site.here / "runbooks"), "--data", str(site.here / "data")]
    done = subprocess.run(
        [*nox, *places, "--on", "slurm", "--prefix", str(site.wrap)],
        cwd=ROOT,
        env=site.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(site.records()) == 2


def test_a_look_at_many_nodes_ranks_the_nodes_and_stores_nothing(site: Site) -> None:
    found = (
        'if [ "$SLURMD_NODENAME" = n7 ]; then echo \'{"probe": "topology", "method_version": 1, '
        '"status": "symptom", "reason": "links are down"}\' > "$RUNBOOK_RESULT"; fi'
    )
    site.entry(step("d", found), step("e", 'touch "$HERE/loaded"', "safety=loads-device"))
    words = site.words(
        "diagnose", "--on", "slurm", "--prefix", str(site.wrap), "--nodelist", "n[6-8]", "--json"
    )
    done = subprocess.run(words, cwd=ROOT, env=site.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    rows = json.loads(done.stdout)
    names = {row["node_alias"]: row["exit_status"] for row in rows}
    assert [names[row["node_alias"]] for row in rows] == [1, 0, 0]
    assert rows[0]["node_alias"] == next(alias for alias, node in site.names().items() if node == "n7")
    assert rows[0]["entries"][0]["finding"] == "links are down"
    assert not (site.here / "loaded").exists()
    assert not (site.here / "data").exists()


def settings_step(odd: str) -> str:
    """A step whose probe reads a VBIOS that is another one on this node, and a setting that only this node has not."""
    return (
        f'vbios=96.00.A5; odd=; [ "$SLURMD_NODENAME" = {odd} ] && vbios=96.00.68 || odd=\', "IOMMU": "on"\'\n'
        'echo "{\\"probe\\": \\"host_paths\\", \\"method_version\\": 1, \\"status\\": \\"ok\\", '
        '\\"details\\": {\\"settings\\": {\\"VBIOS\\": \\"$vbios\\"$odd}}}" > "$RUNBOOK_RESULT"'
    )


def test_a_campaign_names_the_node_whose_settings_differ_from_those_of_the_fleet(site: Site) -> None:
    site.entry(step("d", settings_step("n7")))
    status, said, printed = site.run(site.campaign("small"))
    assert status == 0, said["nodes"]
    odd = next(alias for alias, node in site.names().items() if node == "n7")
    vbios, *rest = said["settings"]
    assert (vbios["name"], vbios["majority"], vbios["nodes"]) == ("VBIOS", "96.00.A5", 8)
    assert vbios["held"][1] == {"value": "96.00.68", "count": 1, "nodes": [odd]}
    iommu = next(one for one in rest if one["name"] == "IOMMU")
    assert (iommu["equal"], iommu["unknown"]) == (True, [odd])
    assert {"kernel", "operating system", "Python"} <= {one["name"] for one in rest if one["equal"]}
    # Names of nodes only on the terminal, where those that agree are not listed.
    assert "VBIOS: 96.00.A5 on 7 of 8 nodes; 96.00.68 on 1 (n7)" in printed
    assert "not known on 1 of 8 nodes (n7): IOMMU" in printed


def test_a_look_at_many_nodes_names_the_one_whose_settings_differ(site: Site) -> None:
    site.entry(step("d", settings_step("n2")))
    words = site.words("diagnose", "--on", "slurm", "--prefix", str(site.wrap), "--nodelist", "n[1-4]")
    done = subprocess.run(words, cwd=ROOT, env=site.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "VBIOS: 96.00.A5 on 3 of 4 nodes; 96.00.68 on 1 (n2)" in done.stdout
    rows = json.loads(
        subprocess.run(
            [*words, "--json"], cwd=ROOT, env=site.environment, capture_output=True, text=True, check=False
        ).stdout
    )
    odd = next(alias for alias, node in site.names().items() if node == "n2")
    assert {row["node_alias"]: row["differs"] for row in rows if row["differs"]} == {
        odd: {"VBIOS": {"value": "96.00.68", "majority": "96.00.A5"}}
    }
    assert {row["settings"]["VBIOS"] for row in rows} == {"96.00.A5", "96.00.68"}


# The third answer is lost on its way, and the fifth question finds no controller.
LOSSY = """\
#!/bin/bash
calls=$(($(cat "$HERE/calls" 2>/dev/null) + 1)); echo $calls > "$HERE/calls"
case $calls in
    3) {sbatch} "$@" > /dev/null
       echo "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received" >&2; exit 1;;
    5) touch "$HERE/fifth"; until [ -e "$HERE/away" ]; do sleep 0.05; done;;
esac
exec {sbatch} "$@"
"""


def test_a_controller_that_restarts_during_submission_costs_no_node_and_doubles_no_job(site: Site) -> None:
    site.entry(step("d", 'echo ran >> "$HERE/ran-$SLURMD_NODENAME"'))
    programs = site.program("sbatch", LOSSY.format(sbatch=shutil.which("sbatch")))
    said, told = site.here / "out", site.here / "err"
    with said.open("w") as out, told.open("w") as err:
        process = subprocess.Popen(
            site.campaign("small"),
            cwd=ROOT,
            env=site.environment | {"PATH": f"{programs}:{os.environ['PATH']}"},
            stdout=out,
            stderr=err,
        )
    try:
        until((site.here / "fifth").exists, "the fifth submission")
        until(lambda: not site.slurm.queue(), "the first four jobs to be over")
        site.slurm.stop_controller()
        (site.here / "away").touch()
        until(
            lambda: told.read_text().count("waiting for the controller") == 2,
            "the campaign to miss the controller",
        )
        site.slurm.start_controller()
        assert process.wait(timeout=400) == 0, told.read_text()
    finally:
        process.kill()
        process.wait()
    assert [row["state"] for row in json.loads(said.read_text())["nodes"]] == ["done"] * 8
    assert [(site.here / f"ran-n{number}").read_text() for number in range(1, 9)] == ["ran\n"] * 8
    assert len(site.records()) == 8


# The first job is accepted twice; by the time that the second answer arrives, the first one runs.
TWICE = """\
#!/bin/bash
cat > "$HERE/script"
if mkdir "$HERE/twice" 2>/dev/null; then
    first=$({sbatch} "$@" < "$HERE/script")
    until [ "$(squeue --noheader --jobs="$first" --format=%T)" = RUNNING ]; do sleep 0.1; done
fi
exec {sbatch} "$@" < "$HERE/script"
"""


def test_a_job_that_was_accepted_twice_runs_once_and_costs_no_node(site: Site) -> None:
    gate = 'until [ -e "$HERE/go" ]; do sleep 0.1; done; '
    site.entry(step("d", gate + 'echo ran >> "$HERE/ran-$SLURMD_NODENAME"'))
    programs = site.program("sbatch", TWICE.format(sbatch=shutil.which("sbatch")))
    process = site.start(
        site.campaign("small", "--nodelist", "n[1-2]"), PATH=f"{programs}:{os.environ['PATH']}"
    )

    def twice() -> set[str]:
        said = site.slurm.run("squeue", "--noheader", "--states=all", "--format=%j %n %T").stdout.splitlines()
        campaigns = [line.split() for line in said if line.startswith("runbook-")]
        newest = max((words[0] for words in campaigns), default="")
        return {words[2] for words in campaigns if words[:2] == [newest, "n1"]}

    try:
        until(lambda: twice() == {"CANCELLED", "RUNNING"}, "the one that waits to be cancelled")
        (site.here / "go").touch()
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert [row["state"] for row in json.loads(out)["nodes"]] == ["done"] * 2
    assert [(site.here / f"ran-{node}").read_text() for node in ("n1", "n2")] == ["ran\n"] * 2
    assert len(site.records()) == 2


# Last, since two nodes are not what they were afterwards.

MIDWAY = 'case $SLURMD_NODENAME in n1|n3|n4) touch "$HERE/begun-$SLURMD_NODENAME"; sleep 300;; esac'


@pytest.fixture(scope="module")
def sick(slurm: Cluster) -> Iterator[dict[str, Any]]:
    """One campaign in which six of eight nodes fail, each in its own way, and the controller is restarted."""
    with tempfile.TemporaryDirectory(prefix="rb-site-", ignore_cleanup_errors=True) as folder:
        site = Site(slurm, Path(folder))
        site.entry(step("first", GATE), step("second", MIDWAY, "timeout=600"))
        slurm.run("scontrol", "update", "nodename=n2", "state=drain", "reason=bad link; ticket=5 Comment=x")
        process = site.start(site.campaign("small"), SICK="yes")
        try:
            until(lambda: sum("RUNNING" in line for line in slurm.queue()) >= 5, "jobs to run")
            slurm.stop_controller()
            slurm.start_controller()
            (site.here / "go").touch()
            for node in ("n1", "n3", "n4"):
                until((site.here / f"begun-{node}").exists, f"{node} to be midway")
            cancelled, limited = site.job_of("n3"), site.job_of("n4")
            slurm.run("scontrol", "update", f"jobid={limited}", "EndTime=now+1")
            slurm.run("scancel", cancelled)
            slurm.kill_node("n1")
            out, err = process.communicate(timeout=400)
            said = json.loads(out)
            names = site.names()
            rows = {names[row["node_alias"]]: row for row in said["nodes"]}
            yield {"status": process.returncode, "rows": rows, "said": said, "err": err, "site": site}
        finally:
            process.kill()
            process.communicate()


REASONS = {
    "n1": "its node failed while the job ran (Slurm: NODE_FAIL); 0 finished records, 1 steps of small are stored",
    "n2": "not started: node state in Slurm is IDLE+DRAIN, bad link; ticket=5 Comment=x",
    "n3": "its job was cancelled from outside this campaign",
    "n4": "its job reached its time limit",
    "n5": "returned no record of small; last output line: runbook: cannot write",
    "n6": "returned x.json, which is not JSON",
}


@pytest.mark.parametrize("node", REASONS)
def test_a_sick_node_is_one_error_row_with_its_reason(sick: dict[str, Any], node: str) -> None:
    row = sick["rows"][node]
    assert row["state"] == "error"
    assert row["reason"].startswith(REASONS[node]), row["reason"]
    assert "\n" not in row["reason"]


@pytest.mark.parametrize("node", ["n7", "n8"])
def test_all_other_nodes_count_even_though_the_controller_was_restarted(
    sick: dict[str, Any], node: str
) -> None:
    assert sick["rows"][node]["state"] == "done", sick["rows"][node]["reason"]
    assert sick["rows"][node]["outcomes"] == {"small": "healthy"}


def test_a_campaign_with_sick_nodes_cannot_say_and_loses_no_finished_step(sick: dict[str, Any]) -> None:
    assert sick["status"] == 3
    kept = {record.node_alias: record for record in sick["site"].records()}
    names = {node: row["node_alias"] for node, row in sick["rows"].items()}
    for node in ("n1", "n3", "n4", "n7", "n8"):
        assert kept[names[node]].steps[0].status == "passed", node
    assert kept[names["n1"]].outcome is None
    assert sick["site"].slurm.queue() == []
