"""Options that mean something only beside another one: alone they are refused in one line, and nothing has run."""

import argparse
import os
import subprocess
from pathlib import Path

import pytest

from runner.cli.cluster_arguments import add_cluster_arguments
from tests.test_cli import ROOT, command, step, write_entry

# Every option of the group `with --on slurm`, with a value.
ON_SLURM = {
    "--nodes": ["2"],
    "--nodelist": ["n1"],
    "--partition": ["p"],
    "--account": ["a"],
    "--gpus": ["8"],
    "--time": ["10"],
    "--start-within": ["3600"],
    "--prefix": ["nice"],
    "--python": ["/usr/bin/python3"],
    "--no-shared-files": [],
    "--detach": [],
    "--campaigns": ["elsewhere"],
    "--confirm": [],
}
# Only a campaign that keeps records can be left alone and confirmed.
LASTING = {"--detach", "--confirm"}
CASES = [
    *(("run small", [name, *value], f"{name} requires --on slurm") for name, value in ON_SLURM.items()),
    *(
        ("diagnose", [name, *value], f"{name} requires --on slurm")
        for name, value in ON_SLURM.items()
        if name not in LASTING
    ),
    ("run small --on slurm", ["--detach", "--confirm"], "--confirm cannot be used with --detach"),
    ("diagnose --on slurm", ["--pid", "1"], "--on slurm prints text or --json;"),
    ("diagnose", ["--json", "--format", "prometheus"], "not allowed with"),
    (
        "run small",
        ["--phase", "diagnose", "--reproduce"],
        "--reproduce has no effect because --phase excludes",
    ),
    (
        "plan small",
        ["--phase", "diagnose", "--reproduce"],
        "--reproduce has no effect because --phase excludes",
    ),
    (
        "run small",
        ["--phase", "diagnose", "--step", "look", "--step", "see"],
        "not in the requested phases: see",
    ),
    ("publish", [".", "--branch", "main"], "--branch requires --push"),
    ("compare a b", ["--all", "--json"], "--all cannot be used with --json"),
]


@pytest.mark.parametrize(
    ("before", "words", "said"), CASES, ids=[f"{before} {' '.join(words)}" for before, words, _ in CASES]
)
def test_an_option_that_means_nothing_here_is_refused_in_one_line(
    tmp_path: Path, before: str, words: list[str], said: str
) -> None:
    write_entry(tmp_path / "runbooks", step("look", f"touch {tmp_path}/ran"), verify=step("see", "true"))
    done = subprocess.run(
        command(tmp_path, *before.split(), *words),
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "data").exists()


def test_every_option_of_a_campaign_is_among_them() -> None:
    parser = argparse.ArgumentParser()
    add_cluster_arguments(parser)
    group = next(one for one in parser._action_groups if one.title == "with --on slurm")
    assert {action.option_strings[0] for action in group._group_actions} == set(ON_SLURM)
