"""Campaigns without a cluster: what is submitted, what is made of Slurm's answers, what is believed of a node's return.

Slurm's commands are played by a small stand-in behind the injected command runner; the scripts that jobs would run are
run for real, by bash.
"""

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import BusyError, InputError, StoreError
from runner.fleet.alias import alias_key, cluster_alias
from runner.fleet.archive import pack_code, unpack
from runner.fleet.campaign import Campaign, CampaignJob, JobProgress, JointSteps, new_campaign_id
from runner.fleet.commands import Done, Slurm, SlurmError, run_command
from runner.fleet.folder import Folder, find_folder
from runner.fleet.follow import cancel_jobs, follow_jobs, refresh, why_no_answer
from runner.fleet.gathering import gather_records
from runner.fleet.joint import joint_block
from runner.fleet.retry import Fleet
from runner.fleet.script import NO_FOLDER, NO_PYTHON, NodeTask, batch_script
from runner.fleet.submit import Order, again, choose_nodes, prepare, submit
from runner.fleet.text import JobEnd
from runner.record.model import Code, Outcome, Record
from runner.record.source import folder_digest
from runner.record.stamp import Stamp, read_stamp
from runner.record.store import Store
from tests.builders import a_runbook
from tests.evidence_samples import record, step
from tests.test_cli import ROOT, command, write_entry
from tests.test_cli import step as step_block
from tests.test_slurm_text import a_job, a_node

CODE = Code(commit="c" * 40, dirty=False, package="d" * 64, entries="e" * 64)


class Play:
    """Plays Slurm's commands: nodes by state, jobs as they are put into `queue`; notes what was asked."""

    def __init__(self, **nodes: str) -> None:
        self.states = nodes or {"n1": "IDLE", "n2": "ALLOCATED", "n3": "IDLE+DRAIN", "n4": "IDLE"}
        self.asked: list[list[str]] = []
        self.scripts: list[str] = []
        self.tags: dict[str, str] = {}
        self.queue: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        self.refuse = self.away = ""

    def __call__(self, words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        assert timeout > 0
        self.asked.append(list(words))
        if self.away:
            return Done(1, b"", f"error: {self.away}\n")
        return self._answer(list(words), stdin)

    def _answer(self, words: list[str], stdin: bytes) -> Done:
        match words:
            case ["scontrol", "show", "node", "-o"]:
                said = "".join(
                    a_node(name, state, "bad link [ops@2026]") for name, state in self.states.items()
                )
            case ["scontrol", "show", "hostnames", given]:
                said = given.replace(",", "\n")
            case ["scontrol", "show", "job", "-o", job_id] if job_id in self.ends:
                said = self.ends[job_id]
            case ["scontrol", "show", "job", *_]:
                return Done(1, b"", "slurm_load_jobs error: Invalid job id specified\n")
            case ["sinfo", *_]:
                said = "".join(f"main*|{name}\n" for name in self.states)
            case ["sbatch", *_] if self.refuse:
                return Done(1, b"", f"sbatch: error: {self.refuse}\n")
            case ["sbatch", *_]:
                self.scripts.append(stdin.decode())
                job_id = str(len(self.scripts))
                self.tags[job_id] = next(word[10:] for word in words if word.startswith("--comment="))
                said = f"{job_id};cluster\n"
            case ["squeue", *_]:
                lines = [(job, *state.partition("|")) for job, state in self.queue.items()]
                said = "".join(
                    f"{job}|{state}|{reason}|{self.tags.get(job, '(null)')}\n"
                    for job, state, _, reason in lines
                )
            case _:
                said = ""
        return Done(0, said.encode(), "")

    def end(self, job_id: str, state: str, exit_code: str = "0:0") -> None:
        """The job is over, and the controller still remembers it."""
        self.queue[job_id] = f"{state}|None"
        self.ends[job_id] = a_job(state, exit_code=exit_code)


class Notes:
    """Observer that writes down what it is told."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.changes: list[tuple[str, JobProgress]] = []

    def job_changed(self, job: CampaignJob, said: str) -> None:
        del said
        self.changes.append((job.nodes[0], job.progress))

    def trouble(self, message: str) -> None:
        self.troubles.append(message)


def an_order(tmp_path: Path, **changes: Any) -> Order:
    runbooks = tmp_path / "runbooks"
    runbooks.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "runbooks": runbooks,
        "entries": (a_runbook().id,),
        "arguments": ("--preset", "tiny"),
        "longest_s": 90.0,
        "code": CODE,
        "archive": pack_code(ROOT, runbooks),
        "alias_key": b"key",
        "home_python": sys.executable,
    }
    return Order(**given | changes)


def started(
    tmp_path: Path, play: Play, notes: Notes | None = None, **changes: Any
) -> tuple[Folder, Campaign, Slurm]:
    slurm = Slurm(play)
    folder, campaign = prepare(an_order(tmp_path, **changes), tmp_path / "campaigns", slurm)
    return folder, submit(campaign, Fleet(folder, slurm, notes or Notes())), slurm


def node_of(campaign: Campaign, name: str) -> CampaignJob:
    return next(job for job in campaign.jobs if job.nodes[0] == name and job.round == 1)


# Which nodes, and what is asked of Slurm.


def test_so_many_nodes_are_the_idle_ones_first_and_the_unfit_ones_last(tmp_path: Path) -> None:
    def names(count: int | None) -> list[str]:
        return [node.name for node in choose_nodes(Slurm(Play()), an_order(tmp_path, count=count))]

    assert names(None) == ["n1", "n2", "n3", "n4"]
    assert names(2) == ["n1", "n4"]
    assert names(3) == ["n1", "n2", "n4"]
    with pytest.raises(InputError, match="--nodes 5: the partition has only 4"):
        names(5)


def test_named_nodes_are_taken_as_named_and_an_unknown_one_is_bad_input(tmp_path: Path) -> None:
    chosen = choose_nodes(Slurm(Play()), an_order(tmp_path, nodelist="n3,n1"))
    assert [node.name for node in chosen] == ["n3", "n1"]
    with pytest.raises(InputError, match="no node n9, n8"):
        choose_nodes(Slurm(Play()), an_order(tmp_path, nodelist="n1,n9,n8"))


def test_each_node_gets_a_job_of_its_own_that_is_never_started_twice(tmp_path: Path) -> None:
    play = Play()
    _, campaign, _ = started(tmp_path, play, partition="main", account="ops", gpus=8)
    jobs = [words for words in play.asked if words[0] == "sbatch"]
    assert [next(w for w in words if w.startswith("--nodelist")) for words in jobs] == [
        "--nodelist=n1",
        "--nodelist=n2",
        "--nodelist=n4",
    ]
    for words in jobs:
        assert {"--parsable", "--no-requeue", "--exclusive", f"--job-name={campaign.job_name}"} <= set(words)
        assert {"--partition=main", "--account=ops", "--gpus-per-node=8", "--time=7"} <= set(words)


def test_a_drained_node_is_refused_at_once_with_what_was_noted(tmp_path: Path) -> None:
    _, campaign, _ = started(tmp_path, Play())
    job = node_of(campaign, "n3")
    assert (job.progress, job.job_id) == (JobProgress.REFUSED, None)
    assert job.reason == "not started: node state in Slurm is IDLE+DRAIN, bad link"


def test_a_job_that_slurm_refuses_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    play = Play(n1="IDLE")
    play.refuse = "Invalid account or account/partition combination specified"
    _, campaign, _ = started(tmp_path, play)
    assert "Invalid account" in (campaign.jobs[0].reason or "")


def test_commands_that_are_not_there_say_so_in_one_line() -> None:
    with pytest.raises(SlurmError, match="no-such-slurm is not on PATH"):
        run_command(["no-such-slurm"], stdin=b"", timeout=5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "slurm"], "sbatch is not on PATH"),
        (["--nodes", "2"], "--nodes requires --on slurm; add --on slurm"),
        (["--no-shared-files"], "--no-shared-files requires --on slurm"),
    ],
)
def test_what_cannot_be_done_here_is_bad_input_in_one_line(
    tmp_path: Path, words: list[str], said: str
) -> None:
    write_entry(tmp_path / "runbooks", step_block("d", "true"))
    done = subprocess.run(
        command(tmp_path, "run", "small", *words),
        cwd=ROOT,
        env={**os.environ, "PATH": "/nonexistent", "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "data").exists()


# What is made of Slurm's answers.


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (JobEnd("COMPLETED", "None", 0, 0, "1"), None),
        (JobEnd("CANCELLED by 0", "None", 0, 15, "1"), "cancelled from outside"),
        (JobEnd("TIMEOUT", "TimeLimit", 0, 15, "00:10:00"), "time limit (00:10:00)"),
        (JobEnd("NODE_FAIL", "NodeDown", 0, 0, "1"), "node failed"),
        (JobEnd("OUT_OF_MEMORY", "None", 0, 125, "1"), "memory"),
        (JobEnd("FAILED", "NonZeroExitCode", NO_FOLDER, 0, "1"), "start with --no-shared-files"),
        (JobEnd("FAILED", "NonZeroExitCode", NO_PYTHON, 0, "1"), "name one with --python"),
        (JobEnd("FAILED", "RaisedSignal:9", 0, 9, "1"), "killed by SIGKILL"),
        (JobEnd("FAILED", "NonZeroExitCode", 127, 0, "1"), "exit status 127"),
        (JobEnd("PREEMPTED", "None", 0, 0, "1"), "ended as PREEMPTED"),
    ],
)
def test_each_end_of_a_job_has_its_own_reason(end: JobEnd, said: str | None) -> None:
    why = why_no_answer(end)
    assert (why is None) if said is None else (said in (why or ""))


def test_jobs_are_followed_to_their_ends_and_a_forgotten_one_is_no_success(tmp_path: Path) -> None:
    play, notes = Play(n1="IDLE", n2="IDLE", n3="IDLE"), Notes()
    folder, campaign, slurm = started(tmp_path, play, notes)
    play.queue = {"1": "PENDING|Priority", "2": "RUNNING|None"}
    campaign = refresh(campaign, Fleet(folder, slurm, notes))
    assert [job.progress for job in campaign.jobs] == [
        JobProgress.WAITING,
        JobProgress.RUNNING,
        JobProgress.OVER,
    ]
    assert "no longer knows its job" in (node_of(campaign, "n3").reason or "")
    play.end("1", "COMPLETED")
    play.end("2", "NODE_FAIL")
    campaign = follow_jobs(campaign, Fleet(folder, slurm, notes, lambda _: None))
    assert [job.state for job in campaign.jobs] == ["COMPLETED", "NODE_FAIL", "UNKNOWN"]
    assert folder.load() == campaign


def test_a_forgotten_job_that_left_a_note_of_its_end_is_over_in_peace(tmp_path: Path) -> None:
    play = Play(n1="IDLE")
    folder, campaign, slurm = started(tmp_path, play)
    (folder.place(campaign.jobs[0]) / "end.json").write_text('{"exit_status": 0}')
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert (campaign.jobs[0].progress, campaign.jobs[0].reason) == (JobProgress.OVER, None)


def test_a_job_waiting_for_a_node_that_was_drained_meanwhile_is_cancelled_and_named(tmp_path: Path) -> None:
    play = Play(n1="IDLE")
    folder, campaign, slurm = started(tmp_path, play)
    play.states["n1"] = "DOWN"
    play.queue = {"1": "PENDING|ReqNodeNotAvail, UnavailableNodes:n1"}
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert campaign.jobs[0].reason == "not started: node state in Slurm is DOWN, bad link"
    assert ["scancel", "--quiet", f"--name={campaign.job_name}", "1"] in play.asked


def test_a_job_that_never_starts_is_given_up_after_its_time_with_slurms_reason(tmp_path: Path) -> None:
    play = Play(n1="ALLOCATED")
    folder, campaign, slurm = started(tmp_path, play, start_within_s=60.0)
    play.queue = {"1": "PENDING|Resources"}
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert campaign.jobs[0].live
    campaign = refresh(submitted_ago(campaign, 61), Fleet(folder, slurm, Notes()))
    assert campaign.jobs[0].reason == "did not start within 60 s; Slurm's reason: Resources"


def submitted_ago(campaign: Campaign, seconds: float) -> Campaign:
    """The campaign as if it and every job so far were that old."""
    ago = timedelta(seconds=seconds)
    jobs = [
        job.model_copy(update={"submitted_at": job.submitted_at - ago}) if job.submitted_at else job
        for job in campaign.jobs
    ]
    return campaign.model_copy(update={"created_at": campaign.created_at - ago, "jobs": tuple(jobs)})


def test_a_second_run_that_is_submitted_hours_after_the_first_has_its_own_time_to_start(
    tmp_path: Path,
) -> None:
    play = Play(n1="IDLE", n2="IDLE")
    folder, campaign, slurm = started(tmp_path, play, start_within_s=60.0)
    for job_id in ("1", "2"):
        play.end(job_id, "COMPLETED")
    campaign = submitted_ago(refresh(campaign, Fleet(folder, slurm, Notes())), 7200)
    campaign = submit(again(campaign, {campaign.jobs[1].key: ("an-entry",)}), Fleet(folder, slurm, Notes()))
    play.queue["3"] = "PENDING|Priority"
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert (campaign.jobs[-1].progress, campaign.jobs[-1].reason) == (JobProgress.WAITING, None)
    assert not [words for words in play.asked if words[0] == "scancel"]
    campaign = refresh(submitted_ago(campaign, 61), Fleet(folder, slurm, Notes()))
    assert campaign.jobs[-1].reason == "did not start within 60 s; Slurm's reason: Priority"


def test_a_joint_job_that_is_submitted_hours_after_the_first_has_its_own_time_to_start(
    tmp_path: Path,
) -> None:
    play = Play(n1="IDLE", n2="IDLE")
    two = JointSteps(entry="an-entry", steps=("across",), nodes=2)
    folder, campaign, slurm = started(tmp_path, play, joint=(two,), start_within_s=60.0)
    for job_id in ("1", "2"):
        play.end(job_id, "COMPLETED")
    campaign = refresh(submitted_ago(campaign, 7200), Fleet(folder, slurm, Notes()))
    play.queue["3"] = "PENDING|Resources"
    campaign = refresh(folder.load(), Fleet(folder, slurm, Notes()))
    assert (campaign.jobs[-1].joint, campaign.jobs[-1].progress) == (True, JobProgress.WAITING)


def test_jobs_that_slurm_cannot_end_are_waited_for_no_longer_than_it_takes_to_end_a_job(
    tmp_path: Path,
) -> None:
    play, notes = Play(n1="IDLE"), Notes()
    folder, campaign, slurm = started(tmp_path, play)
    play.queue = {"1": "COMPLETING|None"}
    campaign = cancel_jobs(campaign, Fleet(folder, slurm, notes), end_within_s=0.0)
    assert campaign.jobs[0].reason == "cancelled by an interrupt of this command"
    assert notes.troubles == [
        f"some jobs of this campaign are still running; list them with squeue --name={campaign.job_name}"
    ]


def test_a_controller_that_is_away_is_waited_for_and_mentioned_once(tmp_path: Path) -> None:
    play, notes = Play(n1="IDLE"), Notes()
    folder, campaign, slurm = started(tmp_path, play, notes)
    play.away = "Unable to contact slurm controller (connect failure)"
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            play.away = ""
            play.end("1", "COMPLETED")

    campaign = follow_jobs(campaign, Fleet(folder, slurm, notes, pause))
    assert campaign.jobs[0].state == "COMPLETED"
    assert len(notes.troubles) == 1


def test_joint_steps_run_over_those_that_came_through_and_need_enough_of_them(tmp_path: Path) -> None:
    play = Play(n1="IDLE", n2="IDLE", n3="IDLE")
    two = JointSteps(entry="an-entry", steps=("across",), nodes=2)
    folder, campaign, slurm = started(tmp_path, play, joint=(two,))
    for job_id, state in (("1", "COMPLETED"), ("2", "NODE_FAIL"), ("3", "COMPLETED")):
        play.end(job_id, state)
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert campaign.jobs[-1].nodes == ("n1", "n3")
    assert "--nodes=2" in [words for words in play.asked if words[0] == "sbatch"][-1]
    assert "--step across" in play.scripts[-1]
    three = JointSteps(entry="an-entry", steps=("across",), nodes=3)
    alone = campaign.model_copy(update={"joint": (three,), "jobs": campaign.jobs[:-1]})
    campaign = refresh(alone, Fleet(folder, slurm, Notes()))
    assert campaign.jobs[-1].reason == "its joint steps need 3 nodes, only 2 succeeded"


def test_a_second_round_reruns_suspects_alone_and_only_once(tmp_path: Path) -> None:
    _, campaign, _ = started(tmp_path, Play(n1="IDLE", n2="IDLE"))
    key = node_of(campaign, "n2").key
    second = again(campaign, {key: ("an-entry",)})
    assert [(job.nodes, job.round) for job in second.jobs] == [(("n1",), 1), (("n2",), 1), (("n2",), 2)]
    assert again(second, {key: ("an-entry",)}) == second


# The folder.


def test_a_campaign_is_found_by_its_id_or_as_the_newest_and_held_by_one_at_a_time(tmp_path: Path) -> None:
    base = tmp_path / "campaigns"
    with pytest.raises(InputError, match="or start one with"):
        find_folder(base, None)
    older, first, _ = started(tmp_path, Play())
    newer = Folder(base / "99990101-000000-aaaa")
    newer.save(first.model_copy(update={"id": newer.path.name}))
    assert find_folder(base, None).path == newer.path
    assert find_folder(base, first.id).path == older.path
    with pytest.raises(InputError, match="no campaign nonsense"):
        find_folder(base, "nonsense")
    with older.held(), pytest.raises(BusyError, match="another shell"), older.held():
        pass
    (newer.path / "campaign.json").write_text("{}")
    with pytest.raises(InputError, match="not a campaign of this version"):
        newer.load()


# As earlier versions of this program wrote it.
EARLIER_CAMPAIGN = """{
 "id": "20261127-213827-2bc1", "created_at": "2026-11-27T21:38:27.600121Z", "command": "run",
 "runbooks": "/home/ops/runbooks", "entries": ["small"], "arguments": ["--preset", "tiny"],
 "code": "CODE",
 "shared": true, "prefix": "", "python": null, "home_python": "python3", "partition": "main",
 "account": null, "gpus": 8, "minutes": 7, "start_within_s": 3600.0,
 "joint": [{"entry": "small", "steps": ["a"], "nodes": 2}],
 "jobs": [
  {"key": "node-150429", "nodes": ["n1"], "aliases": ["node-150429"], "entries": ["small"], "round": 1,
   "joint": false, "job_id": "1", "submitted_at": "2026-11-27T21:38:27.610604Z", "progress": "waiting",
   "state": null, "reason": null, "fetched": false},
  {"key": "joint-small", "nodes": [], "aliases": ["none"], "entries": ["small"], "round": 1, "joint": true,
   "job_id": null, "submitted_at": null, "progress": "refused", "state": null, "reason": "too few",
   "fetched": false}
 ]
}
""".replace('"CODE"', CODE.model_dump_json())


def test_a_campaign_that_an_earlier_version_started_can_be_collected(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "20261127-213827-2bc1")
    folder.path.mkdir(mode=0o700)
    (folder.path / "campaign.json").write_text(EARLIER_CAMPAIGN, encoding="utf-8")
    (folder.place(folder.load().jobs[0])).mkdir(parents=True)
    play = Play()
    play.queue = {"1": "RUNNING|None"}
    play.tags = {"1": "1-node-150429"}
    campaign = refresh(folder.load(), Fleet(folder, Slurm(play), Notes()))
    assert [job.progress for job in campaign.jobs] == [JobProgress.RUNNING, JobProgress.REFUSED]
    stored = json.loads((folder.path / "campaign.json").read_text(encoding="utf-8"))
    before = json.loads(EARLIER_CAMPAIGN)
    assert stored | {"jobs": before["jobs"]} == before
    assert [job.keys() for job in stored["jobs"]] == [job.keys() for job in before["jobs"]]


def test_ids_of_campaigns_sort_by_time() -> None:
    early, late = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
    assert new_campaign_id(early) < new_campaign_id(late)


def test_aliases_are_stable_and_cannot_be_told_without_the_key(tmp_path: Path) -> None:
    key = alias_key(tmp_path)
    assert alias_key(tmp_path) == key
    assert len(key) == 32
    assert (tmp_path / "alias-key").stat().st_mode & 0o077 == 0
    assert cluster_alias("gpu001", key) == cluster_alias("gpu001", key) != cluster_alias("gpu002", key)
    assert cluster_alias("gpu001", b"another") != cluster_alias("gpu001", key)
    with pytest.raises(StoreError, match="cannot store the key"):
        alias_key(tmp_path / "alias-key" / "below")


def packed(*members: tarfile.TarInfo) -> bytes:
    held = BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for member in members:
            member.size = 2 if member.isreg() else 0
            archive.addfile(member, BytesIO(b"{}"))
    return held.getvalue()


def a_link(name: str, target: str) -> tarfile.TarInfo:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    return link


@pytest.mark.parametrize("name", ["../out.json", "/tmp/out.json", "a/../../out.json"])
def test_what_a_node_returns_cannot_be_written_outside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(tarfile.TarError, match="leads out of the folder"):
        unpack(packed(tarfile.TarInfo(name)), tmp_path / "node")


def test_links_of_an_archive_are_left_out_and_its_files_kept(tmp_path: Path) -> None:
    unpack(
        packed(a_link("way", "/"), tarfile.TarInfo("way/a.json"), tarfile.TarInfo("b.json")),
        tmp_path / "node",
    )
    assert sorted(path.name for path in (tmp_path / "node").rglob("*.json")) == ["a.json", "b.json"]
    assert not (tmp_path / "node" / "way").is_symlink()


def test_packed_code_has_the_digest_of_the_code_here(tmp_path: Path) -> None:
    unpack(pack_code(ROOT, ROOT / "runbooks"), tmp_path)
    for folder in ("runner", "runbooks"):
        assert folder_digest(tmp_path / folder) == folder_digest(ROOT / folder)
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_node_takes_the_commit_from_home_only_with_the_same_code(tmp_path: Path) -> None:
    stamp = Stamp(campaign="c", node_alias="node-1", code=CODE)
    same = CODE.model_copy(update={"commit": None, "dirty": None})
    assert stamp.code_here(same) == CODE
    # A checkout of its own speaks for itself.
    own = CODE.model_copy(update={"dirty": True})
    assert stamp.code_here(own) == own
    assert stamp.code_here(clean := CODE.model_copy(update={"commit": "e" * 40})) == clean
    # A copy of the files beside a repository that is at another commit.
    beside_another_commit = own.model_copy(update={"commit": "e" * 40})
    assert stamp.code_here(beside_another_commit) == CODE
    for changed in ("package", "entries"):
        other = same.model_copy(update={changed: "f" * 64})
        assert stamp.code_here(other) == other
    with pytest.raises(InputError, match="campaign's stamp"):
        read_stamp(tmp_path / "none")


# What a node returns is believed only where it fits.


def a_return(folder: Folder, campaign: Campaign, job: CampaignJob, /, **changes: Any) -> Record:
    given = {"campaign": campaign.id, "node_alias": job.aliases[0], "code": campaign.code, **changes}
    returned = record().model_copy(update=given)
    Store(folder.place(job) / "data", ()).save(returned)
    return returned


def over(campaign: Campaign) -> Campaign:
    done = {"progress": JobProgress.OVER, "state": "COMPLETED"}
    entry = (record().runbook.id,)
    jobs = tuple(job.model_copy(update={**done, "entries": entry}) for job in campaign.jobs)
    return campaign.model_copy(update={"jobs": jobs})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"campaign": "another"}, "of another campaign"),
        ({"campaign": None}, "of another campaign"),
        ({"node_alias": "node-ffffff"}, "of another node"),
        ({"members": ("node-1", "node-2")}, "of different nodes"),
        (
            {"runbook": record().runbook.model_copy(update={"id": "other"})},
            "of an entry that was not requested",
        ),
    ],
)
def test_a_record_that_does_not_belong_is_rubbish(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    campaign = over(campaign)
    a_return(folder, campaign, campaign.jobs[0], **changes)
    found = gather_records(campaign, folder, tmp_path / "data")
    assert (found.rows[0].state, found.records, found.exit_status) == ("error", (), 3)
    assert said in (found.rows[0].reason or "")
    assert not (tmp_path / "data").exists()


def test_a_drill_that_passed_on_a_node_comes_home_with_what_was_not_measured(tmp_path: Path) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    campaign = over(campaign)
    reason = "verify/graphs: needs 1 GPU, this host has none"
    a_return(folder, campaign, campaign.jobs[0], outcome=Outcome.DRILL_PASSED, unproved=(reason,))
    found = gather_records(campaign, folder, tmp_path / "data")
    entry = record().runbook.id
    assert (found.rows[0].outcomes, found.rows[0].unproved) == (
        {entry: Outcome.DRILL_PASSED},
        {entry: (reason,)},
    )
    assert found.exit_status == 0


@pytest.mark.parametrize("rubbish", [b"", b"\x00\xff", b"{}", b'{"schema_version": 99}', b"[1]"])
def test_rubbish_is_one_line_and_the_good_record_beside_it_counts(tmp_path: Path, rubbish: bytes) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE"))
    campaign = over(campaign)
    job = campaign.jobs[0]
    good = a_return(folder, campaign, job)
    where = Store(folder.place(job) / "data", ()).path_of(good).with_name("zzz.json")
    where.write_bytes(rubbish)
    found = gather_records(campaign, folder, tmp_path / "data")
    assert found.rows[0].state == "error"
    reason = found.rows[0].reason or ""
    assert reason.startswith("returned zzz.json, which ")
    assert str(tmp_path) not in reason
    assert "\n" not in reason
    assert [one.run_id for one in found.records] == [good.run_id]


def test_collecting_twice_changes_no_file_and_links_joint_records(tmp_path: Path) -> None:
    folder, campaign, _ = started(tmp_path, Play(n1="IDLE", n2="IDLE"))
    campaign = over(campaign)
    aliases = tuple(job.key for job in campaign.jobs)
    joint = campaign.jobs[0].model_copy(
        update={"key": "joint-x", "nodes": ("n1", "n2"), "aliases": aliases, "joint": True}
    )
    campaign = campaign.with_job(joint)
    for number, job in enumerate(campaign.jobs):
        members = aliases if job.joint else ()
        a_return(folder, campaign, job, run_id=f"run{number}", members=members)
    store = Store(tmp_path / "data", ())
    first = gather_records(campaign, folder, store.root)
    before = {path: path.stat().st_mtime_ns for path in store.files()}
    time.sleep(0.01)
    assert gather_records(campaign, folder, store.root).records == first.records
    assert {path: path.stat().st_mtime_ns for path in store.files()} == before
    assert len(before) == 3
    links = {one.run_id: one.joint_runs for one in store.records()}
    assert links == {"run0": ("run2",), "run1": ("run2",), "run2": ()}


def test_a_nodes_name_is_taken_out_of_what_it_returned(tmp_path: Path) -> None:
    folder, campaign, _ = started(tmp_path, Play(gpunode7="IDLE"))
    campaign = over(campaign)
    spoke = step(stdout_tail="rank 0 on gpunode7 is slow\n")
    a_return(folder, campaign, campaign.jobs[0], steps=(spoke,))
    gather_records(campaign, folder, tmp_path / "data")
    (stored,) = Store(tmp_path / "data", ()).records()
    assert stored.steps[0].stdout_tail == "rank 0 on [redacted] is slow\n"


# The script, run by the real bash.


def run_script(tmp_path: Path, task: NodeTask, **variables: str) -> int:
    script = tmp_path / "script"
    script.write_text(batch_script(task), encoding="utf-8")
    done = subprocess.run(
        ["bash", script],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), **variables},
        check=False,
        timeout=400,
    )
    return done.returncode


def a_task(tmp_path: Path, **changes: Any) -> NodeTask:
    for name in ("tmp", "place"):
        (tmp_path / name).mkdir(exist_ok=True)
    runbooks = tmp_path / "runbooks"
    runbooks.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "stamp": Stamp(campaign="it's @home@", node_alias="node-1", code=CODE),
        "key": "1-node-1",
        "place": str(tmp_path / "place"),
        "code": None,
        "archive": pack_code(ROOT, runbooks),
        "command": "run",
        "arguments": ("--help",),
        "prefix": "",
        "python": None,
        "home_python": sys.executable,
    }
    return NodeTask(**given | changes)


def test_the_script_runs_the_code_that_it_carries_and_leaves_only_its_results(tmp_path: Path) -> None:
    assert run_script(tmp_path, a_task(tmp_path)) == 0
    assert (tmp_path / "place" / "output.txt").read_text().startswith("usage: runbook run")
    assert json.loads((tmp_path / "place" / "end.json").read_text()) == {"exit_status": 0}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_script_keeps_what_steps_wrote_for_a_reader(tmp_path: Path) -> None:
    writes = "bash -c '[ $PWD = / ] || { mkdir -p artifacts/b; echo 1 > artifacts/b/c; }; exec \"$@\"' prefix"
    assert run_script(tmp_path, a_task(tmp_path, prefix=writes)) == 0
    assert (tmp_path / "place" / "artifacts" / "b" / "c").read_text() == "1\n"


def test_the_script_hands_the_stamp_over_as_it_is(tmp_path: Path) -> None:
    task = a_task(tmp_path, prefix='bash -c \'cp "${@: -1}" "$HERE" 2>/dev/null; exec "$@"\' prefix')
    assert run_script(tmp_path, task, HERE=str(tmp_path)) == 0
    assert read_stamp(tmp_path / "stamp.json") == task.stamp


@pytest.mark.parametrize(
    ("changes", "variables", "status"),
    [
        ({"place": "/nonexistent/campaign"}, {}, NO_FOLDER),
        ({}, {"TMPDIR": "/nonexistent"}, 71),
        ({"code": "/nonexistent/code.tar.gz"}, {}, 71),
        ({"python": "/nonexistent/python"}, {}, NO_PYTHON),
        ({"arguments": ("--no-such-flag",)}, {}, 2),
    ],
)
def test_what_goes_wrong_before_the_entry_has_an_exit_status_of_its_own(
    tmp_path: Path, changes: dict[str, Any], variables: dict[str, str], status: int
) -> None:
    assert run_script(tmp_path, a_task(tmp_path, **changes), **variables) == status


def test_a_joint_block_is_one_line_of_shell_that_keeps_the_block_as_it_is() -> None:
    command = "echo 'a b' \"$RUNBOOK_NODE_RANK\"\nfor x in 1 2; do :; done\n"
    show = "srun() { printf '%s\\n' \"${@: -1}\"; }; " + joint_block(command)
    done = subprocess.run(["bash", "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(command + "\n")
