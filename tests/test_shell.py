from pathlib import Path

import pytest

from runner.entry.read import read_all
from runner.entry.shell import calls_of

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("block", "calls"),
    [
        ("python -m runner.probes.topology", [(1, "topology", ())]),
        ("python3.11 -m runner.probes.topology --from x > out 2>&1", [(1, "topology", ("--from", "x"))]),
        (
            'eval "$(python -m runner.probes.stale_env --shell)"\npython -m runner.probes.stale_env',
            [(1, "stale_env", ("--shell",)), (2, "stale_env", ())],
        ),
        ("A=1 python -m runner.probes.a_b --x \\\n  --y && true", [(1, "a_b", ("--x", "--y"))]),
        ("python -m runner.probes.a -- python serve.py", [(1, "a", ("--", "python", "serve.py"))]),
        ("cat x | python -m runner.probes.a --from - || exit 3", [(1, "a", ("--from", "-"))]),
        ("python -m runner.cli.main list", [(1, None, ("list",))]),
        ("python -m pytest; echo python -m", []),
        ("true # python -m runner.probes.a", []),
    ],
)
def test_the_projects_own_calls_are_read_from_a_block(
    block: str, calls: list[tuple[int, str | None, tuple[str, ...]]]
) -> None:
    assert [(call.line, call.probe, call.words) for call in calls_of(block)] == calls


def test_every_probe_that_a_step_here_starts_is_read() -> None:
    for runbook in read_all(ROOT / "runbooks"):
        for step in runbook.steps:
            assert tuple(call.probe for call in calls_of(step.command)) == step.probes
