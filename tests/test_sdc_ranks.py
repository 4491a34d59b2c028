"""Real ranks that vote: in a DDP job of `rank_drill`, and in transformers' Trainer."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.base.errors import InputError, RankError
from runner.kit.drill.vote_report import KINDS, VoteDrill, _drill_of
from runner.kit.drill.voting import bit_of
from runner.kit.probe import NOT_APPLICABLE, OK, SYMPTOM
from runner.kit.ranks import World
from runner.probes.rank_drill import PROBE

RANK = Path(__file__).with_name("vote_trainer_rank.py")
# Guards against a hang only; nothing is judged by it.
HANG_S = 500


def drill(*arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "runner.probes.rank_drill", "--backend", "gloo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.returncode in {OK, SYMPTOM}, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def value(document: Mapping[str, Any], name: str) -> float:
    (found,) = [one["value"] for one in document["measurements"] if one["name"] == name]
    return float(found)


@pytest.mark.system
@pytest.mark.parametrize("ranks", ["3", "4"])
def test_each_kind_of_flip_is_named_by_its_rank_and_no_other_rank_is(ranks: str) -> None:
    status, document = drill("--fault", "flip", "--ranks", ranks, "--repeat", str(len(KINDS)))
    assert status == SYMPTOM
    assert value(document, "culprit_named") == len(KINDS), document["details"]
    assert value(document, "wrong_certain") == 0
    assert value(document, "votes_unknown") == 0
    for kind, seen in zip(KINDS, document["details"]["drills"], strict=True):
        assert kind in seen["flip"]
    first_parameter = next(one for one in document["details"]["drills"][2]["replicas"] if one["named"])
    assert "2.weight differs" in first_parameter["sentence"]


@pytest.mark.system
def test_healthy_ranks_agree_and_the_job_ends_with_the_same_bits_as_without_votes() -> None:
    status, document = drill("--fault", "none", "--vote", "--ranks", "3")
    assert status == OK, document["reason"]
    assert value(document, "job_state_changed") == 0
    assert value(document, "wrong_certain") == 0
    (seen,) = document["details"]["drills"]
    assert {one["outcome"] for one in [*seen["votes"], *seen["replicas"]]} == {"agree"}
    assert len(seen["votes"]) == 5


@pytest.mark.system
def test_of_two_ranks_a_difference_is_seen_and_nobody_is_named() -> None:
    status, document = drill("--fault", "flip", "--ranks", "2", "--repeat", str(len(KINDS)))
    assert status == SYMPTOM
    assert value(document, "culprit_named") == value(document, "wrong_certain") == 0
    assert value(document, "votes_unknown") == len(KINDS)
    assert "unknown for 2 ranks" in document["reason"]
    for seen in document["details"]["drills"]:
        assert any(one["differs"] for one in [*seen["votes"], *seen["replicas"]])


def test_two_healthy_ranks_are_not_called_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROBE.main(["--backend", "gloo", "--vote", "--ranks", "2"]) == NOT_APPLICABLE
    assert "two ranks decide nothing" in json.loads(capsys.readouterr().out)["reason"]


def test_a_vote_during_another_fault_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROBE.main(["--backend", "gloo", "--fault", "skip", "--vote"]) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert "--vote is for --fault none and flip, not for skip" in line


def told(step: int, named: list[int], *, sticky: bool = True) -> dict[str, Any]:
    outcome = "differ" if named else "agree"
    return {
        "step": step, "outcome": outcome, "differs": bool(named), "named": named, "sticky": [sticky] * len(named),
        "sentence": f"rank {named}",
    }  # fmt: skip


FLIP = {"kind": "sticky", "rank": 1, "step": 4, "place": 0, "bit": 9}


@pytest.mark.parametrize(
    ("votes", "replicas", "named", "wrong"),
    [
        ([told(3, []), told(6, [1])], [told(3, []), told(6, [])], True, False),
        ([told(3, []), told(6, [1], sticky=False)], [told(6, [])], False, False),
        ([told(3, []), told(6, [1, 2])], [told(6, [])], False, True),
        ([told(3, []), told(6, [])], [told(6, [])], False, False),
        ([told(3, [1]), told(6, [1])], [told(6, [])], False, False),
        ([told(6, [1])], [told(6, [1])], False, False),
        ([told(3, [])], [told(3, [])], False, False),
    ],
    ids=[
        "right",
        "wrong kind",
        "two named",
        "missed",
        "before the flip",
        "also replicas",
        "no vote after it",
    ],
)
def test_a_culprit_counts_as_named_only_if_all_votes_are_right(
    votes: list[dict[str, Any]], replicas: list[dict[str, Any]], named: bool, wrong: bool
) -> None:
    one = VoteDrill(FLIP, votes, replicas)
    assert (one.named, one.wrong) == (named, wrong)


def test_ranks_that_decide_differently_are_an_error() -> None:
    answers = [{"votes": [told(3, [])], "replicas": []}, {"votes": [told(3, [1])], "replicas": []}]
    with pytest.raises(RankError, match="rank 1 decided otherwise"):
        _drill_of(None, answers)


def test_the_flipped_bit_is_in_the_mantissa() -> None:
    assert {bit_of(seed) for seed in range(100)} == set(range(8, 23))


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    folder = tmp_path_factory.mktemp("trainer")
    with World([str(RANK), str(folder)], 3, environment, time.monotonic() + HANG_S) as world:
        world.ask(None, "joining the group")
        yield world


@pytest.mark.system
def test_a_trainer_whose_callback_votes_names_the_rank_and_trains_to_the_same_bits(trainers: World) -> None:
    bare = trainers.ask({"every": 0, "culprit": None}, "training")
    healthy = trainers.ask({"every": 2, "culprit": None}, "training")
    faulty = trainers.ask({"every": 3, "culprit": 2}, "training")
    for answers in (healthy, faulty):
        assert [one["state"] for one in answers] == [one["state"] for one in bare]
    for one in healthy:
        assert one["said"] == [{"outcome": "agree", "named": [], "replicas": "agree"}] * 3
    for one in faulty:
        assert one["said"] == [{"outcome": "differ", "named": [2], "replicas": "agree"}] * 2
