"""A controller that is away, or restarts: no job is lost, none is submitted twice, and none survives a cancellation.

Slurm's commands are played here; `test_slurm.py` restarts a real controller.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from runner.launch.slurm import patient
from runner.launch.slurm.campaign import Campaign, Folder, Progress
from runner.launch.slurm.commands import ControllerAwayError, Done, Slurm, SlurmError
from runner.launch.slurm.follow import follow, give_up, refresh
from runner.launch.slurm.submit import prepare, submit
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
    return folder, submit(campaign, folder, slurm, notes, pause=lambda _: None), slurm


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


@pytest.mark.parametrize("fates", [["lost"], ["never"], ["never", "lost"], ["lost", "never"], ["never"] * 4])
def test_a_job_whose_answer_is_lost_is_submitted_once_and_no_node_is_given_up(
    fates: list[str], tmp_path: Path
) -> None:
    play, notes = Losing(lossy(*fates), n1="IDLE", n2="IDLE", n3="IDLE"), Notes()
    _, campaign, _ = submitted(tmp_path, play, notes)
    assert [job.job_id for job in campaign.jobs] == ["1", "2", "3"]
    assert [(job.progress, job.reason) for job in campaign.jobs] == [(Progress.WAITING, None)] * 3
    assert [play.tags[job.job_id or ""] for job in campaign.jobs] == [job.tag for job in campaign.jobs]
    assert notes.troubles[0].endswith("; waiting for it, jobs go on without it")


def test_what_was_submitted_by_a_shell_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    # The second id was not written down yet, and its node is down by now.
    play.states["n2"] = "DOWN"
    forgotten = campaign.jobs[1].model_copy(update={"job_id": None, "submitted_at": None})
    campaign = submit(campaign.with_job(forgotten), folder, slurm, Notes())
    assert [job.job_id for job in campaign.jobs] == ["1", "2"]
    assert len(play.scripts) == 2


def test_a_job_that_was_accepted_too_late_is_cancelled_and_the_first_goes_on(tmp_path: Path) -> None:
    play = Losing(lossy(), n1="IDLE", n2="IDLE")
    folder, campaign, slurm = submitted(tmp_path, play, Notes())
    play.tags |= {"7": play.tags["1"], "8": "(null)", "9": play.tags["2"]}
    play.queue |= {"7": "PENDING|Resources", "8": "RUNNING|None", "9": "COMPLETED|None"}
    refresh(campaign, folder, slurm, Notes())
    cancelled = [words for words in play.asked if words[0] == "scancel"]
    assert cancelled == [["scancel", "--quiet", f"--name={campaign.job_name}", "7"]]


def test_a_controller_that_stays_away_ends_the_wait_and_what_was_submitted_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient, "_PATIENCE_S", 0.0)
    play = Losing(lossy("kept", *["never"] * 9), n1="IDLE", n2="IDLE")
    slurm = Slurm(play)
    folder, campaign = prepare(an_order(tmp_path), tmp_path / "campaigns", slurm)
    with pytest.raises(ControllerAwayError, match="Connection reset by peer"):
        submit(campaign, folder, slurm, Notes(), pause=lambda _: None)
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
    campaign = give_up(campaign, folder, slurm, notes, end_within_s=600.0)
    assert (len(tries), notes.troubles) == (2, [])
    assert campaign.jobs[0].reason == "cancelled here: interrupted"


def test_jobs_that_could_not_be_cancelled_are_named_and_not_waited_for_without_end(tmp_path: Path) -> None:
    play, notes = Play(n1="IDLE"), Notes()
    folder, campaign, slurm = started(tmp_path, play)
    play.away = SEEN[0]
    give_up(campaign, folder, slurm, notes, end_within_s=0.0)
    assert notes.troubles == [
        f"Slurm has not ended every job of this campaign yet; squeue --name={campaign.job_name} shows them"
    ]


def test_a_wait_begins_anew_after_each_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("runner.launch.slurm.patient.time.monotonic", lambda: clock[0])
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

    campaign = follow(campaign, folder, slurm, notes, pause=pause)
    assert campaign.jobs[0].state == "COMPLETED"
    assert len(notes.troubles) == 2
