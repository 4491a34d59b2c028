"""`storage_drill` and its entry: kills, flips and full storage are real, and the guard takes nothing torn."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.entry.read import read_runbook
from runner.entry.signatures import match_log
from runner.probes.storage_drill import PROBE
from tests.logs import log_of

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[1]
ENTRY = read_runbook(ROOT / "runbooks/checkpoint-io.md")
Counts = Mapping[tuple[str, str, str], float]


def drill(folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "runner.probes.storage_drill",
            "--folder",
            str(folder),
            "--size",
            "2MiB",
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert list(folder.iterdir()) == [], "everything is removed"
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def counts(document: Mapping[str, Any]) -> Counts:
    found = {}
    for one in document["measurements"]:
        assert one["name"] in PROBE.emits
        assert set(one["labels"]) <= set(PROBE.labels)
        if "by" in one["labels"]:
            found[one["name"], one["labels"]["format"], one["labels"]["by"]] = one["value"]
    return found


FORMATS = ("torch", "dcp")


def test_a_plain_load_sees_no_flip_of_a_hundred_and_the_guard_sees_each(tmp_path: Path) -> None:
    status, document, _ = drill(tmp_path, "--fault", "flip", "--repeat", "100")
    assert status == 1
    assert {counts(document)["corruptions_unseen", name, "load"] for name in FORMATS} == {100}
    status, document, _ = drill(tmp_path, "--fault", "flip", "--repeat", "100", "--guarded")
    assert status == 0
    for name in FORMATS:
        assert counts(document)["corruptions_unseen", name, "guard"] == 0
        assert counts(document)["corruptions_unseen", name, "load"] == 100
        assert counts(document)["intact_refused", name, "guard"] == 0


def test_twenty_kills_leave_torn_folders_and_none_that_the_guard_takes(tmp_path: Path) -> None:
    status, document, _ = drill(tmp_path, "--fault", "kill")
    assert status == 1
    assert all(counts(document)["torn_checkpoints_accepted", name, "newest_name"] > 0 for name in FORMATS)
    status, document, _ = drill(tmp_path, "--fault", "kill", "--guarded")
    assert status == 0
    assert {one[2] for one in counts(document)} == {"newest_name", "newest_that_loads", "guard"}
    assert all(value == 0 for (_, _, by), value in counts(document).items() if by == "guard")


def test_a_kill_within_a_save_over_the_same_name_can_leave_no_checkpoint(tmp_path: Path) -> None:
    status, document, _ = drill(tmp_path, "--fault", "kill-overwrite", "--format", "torch")
    assert status == 1
    assert counts(document)["checkpoints_lost", "torch", "newest_that_loads"] > 0


def test_a_shard_of_an_older_save_loads_and_the_guard_refuses_it(tmp_path: Path) -> None:
    status, document, _ = drill(tmp_path, "--fault", "stale-shard", "--repeat", "1", "--guarded")
    assert status == 0
    assert counts(document)["corruptions_unseen", "dcp", "load"] == 1
    assert counts(document)["corruptions_unseen", "dcp", "guard"] == 0


@pytest.mark.parametrize("fault", ["truncate", "no-metadata"])
def test_what_ends_too_early_or_has_no_metadata_is_seen_by_all(tmp_path: Path, fault: str) -> None:
    status, document, _ = drill(tmp_path, "--fault", fault, "--repeat", "3", "--guarded")
    assert status == 0
    assert set(counts(document).values()) == {0}


def test_a_save_into_full_storage_leaves_a_torn_file_and_its_log_names_this_entry(tmp_path: Path) -> None:
    status, document, said = drill(tmp_path, "--fault", "full")
    assert status == 1
    assert counts(document)["torn_checkpoints_accepted", "torch", "newest_name"] == 1
    hits = [hit for match in match_log(log_of(said.splitlines()), [ENTRY]) for hit in match.hits]
    assert any("a write of torch.save failed" in (hit.means or "") for hit in hits), said
    status, document, _ = drill(tmp_path, "--fault", "full", "--guarded")
    assert status == 0
    assert set(counts(document).values()) == {0}


def test_sound_saves_are_believed_and_what_they_cost_is_measured(tmp_path: Path) -> None:
    status, document, said = drill(tmp_path, "--fault", "none", "--repeat", "2", "--guarded")
    assert status == 0
    assert set(counts(document).values()) == {0}
    taken = {
        (one["name"], one["labels"].get("format"), one["labels"].get("how"))
        for one in document["measurements"]
    }
    assert {("save_stall", "dcp", how) for how in ("plain", "flushed", "guarded", "async")} <= taken
    assert {("save_stall", "torch", how) for how in ("plain", "flushed", "guarded")} <= taken
    assert ("storage_write_rate", None, "flushed") in taken
    # A file system in memory has no cold reading, and the probe says so.
    assert (("storage_read_rate", None, "cold") in taken) == ("no cold reading" not in said)
    assert all(one["value"] > 0 for one in document["measurements"] if "how" in one["labels"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--fault", "kill-overwrite", "--guarded"), "overwrites nothing"),
        (("--fault", "no-metadata", "--format", "torch"), "needs --format dcp"),
        (("--size", "1"), "must be from"),
        (("--size", "much"), "is not a size"),
        (("--repeat", "0"), "above zero"),
        (("--size", "60GiB", "--folder", "/dev/shm"), "smaller --size"),
        (("--folder", "/dev/null/x"), "name a folder that can be written"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    status, _, said = drill(tmp_path, *words)
    assert status == 2
    assert why in said
    assert len(said.splitlines()) == 1


def test_an_interrupted_drill_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "runner.probes.storage_drill", "--fault", "kill", "--repeat", "1000"),
            *("--folder", str(tmp_path)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    while process.poll() is None and not list(tmp_path.glob("*/torch/root/step-2*")):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert list(tmp_path.iterdir()) == []
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)


@pytest.mark.parametrize("signature", ENTRY.head.signatures, ids=lambda one: one.pattern[:30])
def test_each_example_of_the_entry_is_recognised(signature: Any) -> None:
    if signature.example:
        hits = match_log(log_of([signature.example]), [ENTRY])[0].hits
        assert signature.means in {hit.means for hit in hits}


def test_lines_of_healthy_saves_match_nothing() -> None:
    healthy = [
        "saving checkpoint at iteration     100 to /ckpt in torch_dist format",
        "  successfully saved checkpoint from iteration     100 to /ckpt [ t 1/8, p 1/4 ]",
        "INFO: Saving model checkpoint to out/checkpoint-100",
        "Configuration saved in out/checkpoint-100/config.json",
        "Loading checkpoint shards: 100%|██████████| 4/4 [00:02<00:00]",
        "nfs: server store-7 OK",
        "UserWarning: Detected an existing checkpoint in out/step-1, overwriting since self.overwrite=True.",
        "kernel: NFS: Registering the id_resolver key type",
    ]
    assert match_log(log_of(healthy), [ENTRY]) == ()
