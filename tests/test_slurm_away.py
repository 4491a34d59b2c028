"""A controller that is away, or restarts: no job is lost, none is submitted twice, and none survives a cancellation.

Slurm's commands are played here; `test_slurm.py` restarts a real controller.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.fleet import retry
from runner.fleet.campaign import Campaign, JobProgress
from runner.fleet.commands import ControllerAwayError, Done, Slurm, SlurmError, Wish
from runner.fleet.folder import Folder
from runner.fleet.follow import cancel_jobs, follow_jobs, refresh
from runner.fleet.retry import Fleet
from runner.fleet.submit import prepare, submit
from tests.test_campaign import Notes, Play, an_order, started

# As a real slurmctld of version 22.05 that was stopped, killed and started again under load made its commands end.
SEEN = [
    "sbatch: error: Batch job submission failed: Connection reset by peer",
    "sbatch: error: Batch job submission failed: Transport endpoint is not connected",
    "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
    "sbatch: error: Batch job submission failed: Unexpected missing socket error",
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Connection reset by peer",
    "slurm_load_node error: Transport endpoint is not connected",
    "slurm_load_partitions error: Unexpected missing socket error",
]
# As slurm_errno.c has them beside.
LISTED = [
    "Communication connection failure",
    "Communication shutdown failure",
    "Message send failure",
    "Message receive failure",
    "Unable to contact slurm controller (shutdown failure)",
    "Socket timed out on send/recv operation",
    "Slurm backup controller in standby mode",
    "Rate limit exceeded, please retry momentarily",
]
REFUSALS = [
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Batch job submission failed: Access/permission denied",
    "slurm_load_jobs error: Invalid job id specified",
]


class Losing(Play):
    """Plays a controller that loses answers: `lost` says, of each command, whether it is `kept`, `lost` or `never`.

    `lost`: it was carried out, the answer did not arrive. `never`: it did not arrive itself.
    """

    def __init__(self, lost: Callable[[list[str]], str], **nodes: str) -> None:
        super().__init__(**nodes)
        self.lost = lost

    def __call__(self, words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        fate = self.lost(list(words))
        if fate == "never":
            self.asked.append(list(words))
            return Done(1, b"", SEEN[0])
        done = super().__call__(words, stdin=stdin, timeout=timeout)
        if words[0] == "sbatch" and done.status == 0:
            self.queue[str(len(self.scripts))] = "PENDING|Priority"
        return Done(1, b"", SEEN[2]) if fate == "lost" else done


def lossy(*fates: str, program: str = "sbatch") -> Callable[[list[str]], str]:
    """The fates of this program's first calls; all others are kept."""
    left = list(fates)
    return lambda words: left.pop(0) if words[0] == program and left else "kept"


def submitted(tmp_path: Path, play: Play, notes: Notes) -> tuple[Folder, Campaign, Slurm]:
    slurm = Slurm(play)
    folder, campaign = prepare(an_order(tmp_path), tmp_path / "campaigns", slurm)
    return folder, submit(campaign, Fleet(folder, slurm, notes, lambda _: None)), slurm


@pytest.mark.parametrize("said", SEEN + LISTED)
def test_every_word_of_a_lost_connection_means_that_the_controller_is_away(said: str) -> None:
    play = Play(n1="IDLE")
    play.away = said
    with pytest.raises(ControllerAwayError):
        Slurm(play).queue("any")


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_is_no_controller_that_is_away(said: str) -> None:
    with pytest.raises(SlurmError) as raised:
        Slurm(lambda *_, **__: Done(1, b"", said)).queue("any")
    assert not isinstance(raised.value, ControllerAwayError)


def test_words_of_a_site_s_plugin_before_a_refusal_are_no_controller_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_PATIENCE_S", 0.0)
    play = Play(n1="IDLE")
    plugin, own = "job_submit: licences: Connection refused", "sbatch: error: Batch job submission failed: No"
    play.refuse = f"{plugin}\n{own}"
    _, campaign, _ = submitted(tmp_path, play, Notes())
    assert campaign.jobs[0].reason == f"sbatch failed: {own}"


# As srun 22.05 ended: the first two said by the node's own command, the third of a node whose slurmd was gone.
OF_THE_NODE = [
    "srun: error: n4: task 0: Exited with exit code 2\ntar: x: Transport endpoint is not connected\n",
    "base64: write error: Broken pipe\nsrun: error: n4: task 0: Exited with exit code 1\n",
    "srun: error: Task launch failed on node n4: Communication connection failure\nsrun: Job step aborted\n",
]


@pytest.mark.parametrize("said", [*OF_THE_NODE, None])
def test_a_node_from_which_nothing_can_be_fetched_is_one_row_and_no_controller_that_is_away(
    said: str | None, tmp_path: Path
) -> None:
    play, notes = Play(n1="IDLE", n2="IDLE"), Notes()
    folder, campaign, _ = started(tmp_path, play, notes, shared=False)
    play.end("1", "COMPLETED")
    play.end("2", "COMPLETED")

    def broken(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        if words[0] != "srun":
            return play(words, stdin=stdin, timeout=timeout)
        if said is None:
            # As `run_command` does with a command that hangs.
            raise ControllerAwayError("srun gave no answer within 240 s")
        return Done(2, b"", said)

    campaign = refresh(campaign, Fleet(folder, Slurm(broken), notes))
    assert [job.fetched for job in campaign.jobs] == [True, True]
    assert "its results could not be fetched: srun " in (campaign.jobs[0].reason or "")


@pytest.mark.parametrize("step", ["allocate resources", "create step for job 12"])
def test_a_fetch_that_finds_no_controller_is_tried_again(step: str) -> None:
    said = f"srun: error: Unable to {step}: Zero Bytes were transmitted or received\n"
    with pytest.raises(ControllerAwayError, match="Zero Bytes"):
        Slurm(lambda *_, **__: Done(1, b"", said)).bring("n1", "any", "true", Wish(), 1.0)


@pytest.mark.parametrize("fates", [["lost"], ["never"], ["never", "lost"], ["lost", "never"], ["never"] * 4])
def test_a_job_whose_answer_is_lost_is_submitted_once_and_no_node_is_given_up(
    fates: list[str], tmp_path: Path
) -> None:
    play, notes = Losing(lossy(*fates), n1="IDLE", n2="IDLE", n3="IDLE"), Notes()
    _, campaign, _ = submitted(tmp_path, play, notes)
    assert [job.job_id for job in campaign.jobs] == ["1", "2", "3"]
    assert [(job.progress, job.reason) for job in campaign.jobs] == [(JobProgress.WAITING, None)] * 3
    assert [play.tags[job.job_id or ""] for job in campaign.jobs] == [job.tag for job in campaign.jobs]
    assert notes.troubles[0].endswith("; waiting for the controller, running jobs are not affected")


def test_what_was_submitted_by_a_shell_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    # The second id was not written down yet, and its node is down by now.
    play.states["n2"] = "DOWN"
    forgotten = campaign.jobs[1].model_copy(update={"job_id": None, "submitted_at": None})
    campaign = submit(campaign.with_job(forgotten), Fleet(folder, slurm, Notes()))
    assert [job.job_id for job in campaign.jobs] == ["1", "2"]
    assert len(play.scripts) == 2


def test_a_job_that_was_accepted_too_late_is_cancelled_and_the_first_goes_on(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    play.tags |= {"7": play.tags["1"], "8": "(null)", "9": play.tags["2"]}
    play.queue |= {"7": "PENDING|Resources", "8": "RUNNING|None", "9": "CANCELLED|None"}
    refresh(campaign, Fleet(folder, slurm, Notes()))
    cancelled = [words for words in play.asked if words[0] == "scancel"]
    assert cancelled == [["scancel", "--quiet", f"--name={campaign.job_name}", "7"]]


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED"])
def test_of_two_jobs_of_one_task_the_one_that_began_is_kept(state: str, tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE")
    # The first answer came too late: by then a second job was submitted, which waits behind the first one on the node.
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    own = campaign.jobs[0].model_copy(update={"job_id": "10"})
    play.tags |= {"9": own.tag, "10": own.tag}
    play.queue = {"10": "PENDING|Resources"}
    play.queue["9"] = f"{state}|None"
    campaign = refresh(campaign.with_job(own), Fleet(folder, slurm, Notes()))
    assert [words[3:] for words in play.asked if words[0] == "scancel"] == [["10"]]
    assert campaign.jobs[0].job_id == "9"
    assert folder.load() == campaign


def test_a_second_job_that_is_being_ended_or_is_over_ends_no_campaign(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    play.tags["2"] = campaign.jobs[0].tag
    play.queue = {"1": "RUNNING|None", "2": "RUNNING|None"}

    def as_scancel_is(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        done = play(words, stdin=stdin, timeout=timeout)
        # `scancel --quiet` of a job that is over, or is being ended: without a word, and with exit status 1.
        return Done(1, b"", "") if words[0] == "scancel" else done

    slurm = Slurm(as_scancel_is)
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    play.queue["2"] = "COMPLETING|None"
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert len([words for words in play.asked if words[0] == "scancel"]) == 1
    assert (campaign.jobs[0].job_id, campaign.jobs[0].progress) == ("1", JobProgress.RUNNING)


def test_a_look_at_a_campaign_that_is_half_submitted_takes_over_what_slurm_has_and_gives_nothing_up(
    tmp_path: Path,
) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE", n3="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    # Its shell was killed: the second id was not written down, and the third job not submitted.
    for job in campaign.jobs[1:]:
        campaign = campaign.with_job(job.model_copy(update={"job_id": None, "submitted_at": None}))
    del play.queue["3"]
    play.queue["2"] = "RUNNING|None"
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert [(job.job_id, job.progress) for job in campaign.jobs] == [
        ("1", JobProgress.WAITING),
        ("2", JobProgress.RUNNING),
        (None, JobProgress.WAITING),
    ]
    assert [job.job_id for job in submit(campaign, Fleet(folder, slurm, Notes())).jobs] == ["1", "2", "4"]


def test_what_ran_and_was_forgotten_by_slurm_is_not_submitted_again(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    (folder.place(campaign.jobs[0]) / "end.json").write_text('{"exit_status": 0}')
    play.queue.clear()
    forgotten = campaign.jobs[0].model_copy(update={"job_id": None, "submitted_at": None})
    campaign = submit(campaign.with_job(forgotten), Fleet(folder, slurm, Notes()))
    assert (campaign.jobs[0].progress, campaign.jobs[0].reason, len(play.scripts)) == (
        JobProgress.OVER,
        None,
        1,
    )


def test_an_id_that_a_controller_gave_out_twice_is_not_taken_for_the_first_task(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    # A controller that crashed had kept nothing of job 1 yet, and gave its id to what came next.
    _, second = campaign.jobs
    campaign = campaign.with_job(second.model_copy(update={"job_id": "1"}))
    play.tags, play.queue = {"1": second.tag}, {"1": "PENDING|Priority"}
    long_ago = campaign.jobs[0].model_copy(update={"submitted_at": datetime(2026, 1, 1, tzinfo=UTC)})
    campaign = refresh(campaign.with_job(long_ago), Fleet(folder, slurm, Notes()))
    assert not [words for words in play.asked if words[0] == "scancel"]
    assert [job.progress for job in campaign.jobs] == [JobProgress.OVER, JobProgress.WAITING]
    assert "Slurm no longer knows its job" in (campaign.jobs[0].reason or "")


def test_a_task_that_was_refused_after_slurm_had_accepted_it_unheard_goes_on(tmp_path: Path) -> None:
    play = Losing(lossy("never"), n1="IDLE", n2="IDLE")
    play.refuse = "Batch job submission failed: Job violates accounting/QOS policy"
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    assert [job.progress for job in campaign.jobs] == [JobProgress.REFUSED] * 2
    # The first submission, late: it took the last place that the account has.
    play.tags["1"] = campaign.jobs[0].tag
    play.tags["2"] = campaign.jobs[1].tag
    play.queue = {"1": "RUNNING|None", "2": "PENDING|Priority"}
    second = campaign.jobs[1].model_copy(
        update={"job_id": "2", "progress": JobProgress.WAITING, "reason": None}
    )
    campaign = refresh(campaign.with_job(second), Fleet(folder, slurm, Notes()))
    assert [(job.job_id, job.progress, job.reason) for job in campaign.jobs] == [
        ("1", JobProgress.RUNNING, None),
        ("2", JobProgress.WAITING, None),
    ]


def test_jobs_of_an_earlier_version_have_no_comment_and_are_followed_by_their_ids(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    play.tags = {"1": "(null)", "2": ""}
    play.queue = {"1": "RUNNING|None", "2": "PENDING|Priority"}
    campaign = refresh(campaign, Fleet(folder, slurm, Notes()))
    assert [job.progress for job in campaign.jobs] == [JobProgress.RUNNING, JobProgress.WAITING]
    assert not [words for words in play.asked if words[0] == "scancel"]


def test_a_controller_that_stays_away_ends_the_wait_and_what_was_submitted_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_PATIENCE_S", 0.0)
    play = Losing(lossy("kept", *["never"] * 9), n1="IDLE", n2="IDLE")
    slurm = Slurm(play)
    folder, campaign = prepare(an_order(tmp_path), tmp_path / "campaigns", slurm)
    with pytest.raises(ControllerAwayError, match="Connection reset by peer"):
        submit(campaign, Fleet(folder, slurm, Notes(), lambda _: None))
    assert [job.job_id for job in folder.load().jobs] == ["1", None]


@pytest.mark.parametrize("away", [True, False], ids=["refused", "exit status 0"])
def test_a_cancellation_that_was_lost_is_sent_again(away: bool, tmp_path: Path) -> None:
    play = Play(n1="IDLE")
    folder, campaign, slurm = started(tmp_path, play)
    play.queue = {"1": "RUNNING|None"}
    tries: list[str] = []

    def lose_the_first(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        if words[0] == "scancel":
            tries.append(words[0])
            if len(tries) == 1:
                return Done(
                    int(away), b"", "scancel: error: slurm_msg_sendto: Unexpected missing socket error"
                )
            play.end("1", "CANCELLED")
        return play(words, stdin=stdin, timeout=timeout)

    slurm, notes = Slurm(lose_the_first), Notes()
    campaign = cancel_jobs(campaign, Fleet(folder, slurm, notes), end_within_s=600.0)
    assert (len(tries), notes.troubles) == (2, [])
    assert campaign.jobs[0].reason == "cancelled by an interrupt of this command"


def test_a_job_that_comes_late_after_an_interrupt_is_cancelled_too(tmp_path: Path) -> None:
    play, notes = Play(n1="IDLE", n2="IDLE"), Notes()
    folder, campaign, _ = started(tmp_path, play)
    play.queue = {"1": "RUNNING|None"}

    def accept_the_second_late(words: Sequence[str], *, stdin: bytes, timeout: float) -> Done:
        done = play(words, stdin=stdin, timeout=timeout)
        if words[0] == "scancel":
            for job_id in play.queue:
                play.end(job_id, "CANCELLED")
            # sbatch was ended by the interrupt, the controller had its request all the same.
            play.queue.setdefault("2", "PENDING|None")
        return done

    cancel_jobs(campaign, Fleet(folder, Slurm(accept_the_second_late), notes), end_within_s=5.0)
    assert {job_id: state.partition("|")[0] for job_id, state in play.queue.items()} == {
        "1": "CANCELLED",
        "2": "CANCELLED",
    }
    assert notes.troubles == []


def test_jobs_that_could_not_be_cancelled_are_named_and_not_waited_for_without_end(tmp_path: Path) -> None:
    play, notes = Play(n1="IDLE"), Notes()
    folder, campaign, slurm = started(tmp_path, play)
    play.away = SEEN[0]
    cancel_jobs(campaign, Fleet(folder, slurm, notes), end_within_s=0.0)
    assert notes.troubles == [
        f"some jobs of this campaign are still running; list them with squeue --name={campaign.job_name}"
    ]


def test_a_wait_begins_anew_after_each_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("runner.fleet.retry.time.monotonic", lambda: clock[0])
    play, notes = Play(n1="IDLE"), Notes()
    folder, campaign, slurm = started(tmp_path, play, notes)
    play.queue = {"1": "RUNNING|None"}
    looks: list[float] = []

    def pause(seconds: float) -> None:
        # Away for ten minutes, back for one look, away for ten minutes again: never a quarter of an hour.
        looks.append(seconds)
        clock[0] += 300.0
        play.away = "" if len(looks) in {3, 4, 7} else SEEN[1]
        if len(looks) == 7:
            play.end("1", "COMPLETED")

    campaign = follow_jobs(campaign, Fleet(folder, slurm, notes, pause))
    assert campaign.jobs[0].state == "COMPLETED"
    assert len(notes.troubles) == 2
