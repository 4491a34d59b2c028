"""The table of what drains a node is made from the code that finds it."""

from pathlib import Path

from runner.node.findings import Action
from runner.pages.node_actions import KindOfFinding, kinds_of_findings, prolog_findings

FINDINGS = """
from runner.node.findings import Action, NodeFinding

RULES = {"of-a-table": Rule("text", Action.DRAIN), "no-rule": 7}

def judge(facts):
    yield NodeFinding(kind="plain", action=Action.KEEP, where="GPU 3")
    yield NodeFinding(kind="either-way", action=Action.DRAIN if facts else Action.KEEP, where="x")
    yield NodeFinding(kind="one" if facts else "other", action=Action.RESET, where="x")
    yield NodeFinding(kind=f"nvlink-{facts}-now".replace("_", "-"), action=Action.DRAIN, where="x")
    yield NodeFinding(kind="vendor", action=facts.action, where="x")
    yield _made("passed-on", Action.REPLACE)
    yield _fixed("GPU 3", "fixed")
    other(kind="no finding", action=facts)
    Event(kind="event")

def _made(kind, action):
    return NodeFinding(kind=kind, action=action)

def _fixed(where, kind):
    return NodeFinding(kind=kind, action=Action.RESTART)
"""


def test_kinds_and_their_actions_are_read_from_the_calls_that_make_findings(tmp_path: Path) -> None:
    (tmp_path / "node" / "gpu").mkdir(parents=True)
    (tmp_path / "node" / "gpu" / "some.py").write_text(FINDINGS, encoding="utf-8")
    found = {one.kind: (set(one.actions), one.may_end_service) for one in kinds_of_findings(tmp_path)}
    assert found == {
        "plain": ({Action.KEEP}, False),
        "either-way": ({Action.KEEP, Action.DRAIN}, True),
        "one": ({Action.RESET}, True),
        "other": ({Action.RESET}, True),
        "nvlink-…-now": ({Action.DRAIN}, True),
        "vendor": (set(), True),
        "passed-on": ({Action.REPLACE}, True),
        "fixed": ({Action.RESTART}, False),
        "of-a-table": ({Action.DRAIN}, True),
    }


def test_a_kind_that_only_restarts_or_keeps_is_not_on_the_list() -> None:
    assert not KindOfFinding("gpu_state", "x", frozenset({Action.KEEP, Action.RESTART})).may_end_service
    for kind, probe, actions in prolog_findings().rows:
        assert kind
        assert probe in {"gpu_state", "host_paths", "kernel_log", "topology"}
        assert actions not in {"keep", "restart", "keep, restart"}
