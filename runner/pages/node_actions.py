"""The kinds of findings about a node, and the actions that the code gives them: read from the code itself.

Each finding is made by a call with `kind=` and `action=`, of `NodeFinding` or of a function of the same module that
passes them on, or from a table of rules by kind. The page is made from these, so it names no kind that no code finds.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import runner
from runner.node.findings import Action
from runner.pages.tables import Table

# Where findings are made, and the probe that reads that part of a node.
_PLACES = {
    "node/gpu": "gpu_state",
    "node/host": "host_paths",
    "node/kernel": "kernel_log",
}
_BY_CASE = "as the rule or the vendor says"
_KIND = r"[a-z0-9]+(-[a-z0-9]+)*"


@dataclass(frozen=True)
class KindOfFinding:
    """One kind of finding.

    Attributes:
        probe: which probe finds it.
        kind: as in `NodeFinding`.
        actions: that it can have; empty if the call takes the action from a rule or from the vendor.
    """

    probe: str
    kind: str
    actions: frozenset[Action]

    @property
    def may_end_service(self) -> bool:
        """Whether `diagnose --prolog` can end with 1 because of it."""
        return not self.actions or any(one.ends_service for one in self.actions)


def kinds_of_findings(package: Path) -> tuple[KindOfFinding, ...]:
    """All kinds in the code of a package, by probe and name."""
    found: dict[tuple[str, str], frozenset[Action]] = {}
    for place, probe in _PLACES.items():
        for path in sorted((package / place).rglob("*.py")):
            for kind, actions in _kinds(ast.parse(path.read_text(encoding="utf-8"))):
                found[probe, kind] = found.get((probe, kind), frozenset()) | actions
    return tuple(KindOfFinding(probe, kind, actions) for (probe, kind), actions in sorted(found.items()))


def _kinds(module: ast.Module) -> Iterator[tuple[str, frozenset[Action]]]:
    functions = [one for one in module.body if isinstance(one, ast.FunctionDef)]
    makers = {one.name: one for one in functions if "kind" in _parameters(one) and _makes_finding(one)}
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            maker = makers.get(node.func.id)
            given = {one.arg: one.value for one in node.keywords if one.arg}
            given |= dict(zip(_parameters(maker) if maker else (), node.args, strict=False))
            if "kind" in given and (maker or "action" in given):
                # A function that fixes the action itself passes on the kind alone.
                actions = _actions(given.get("action") or maker)
                yield from ((kind, actions) for kind in _names(given["kind"]))
        elif isinstance(node, ast.Dict):
            # A table of rules, by kind.
            for key, value in zip(node.keys, node.values, strict=True):
                if actions := _actions(value):
                    yield from ((kind, actions) for kind in _names(key))


def _parameters(function: ast.FunctionDef) -> list[str]:
    return [one.arg for one in function.args.args]


def _makes_finding(function: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "NodeFinding" for one in ast.walk(function))


def _names(value: ast.expr | None) -> list[str]:
    """What a kind can be; a part that is only known when the code runs is `…`."""
    match value:
        case ast.Constant(value=str(text)):
            return [text] if re.fullmatch(_KIND, text) else []
        case ast.IfExp(body=one, orelse=other):
            return [*_names(one), *_names(other)]
        case ast.JoinedStr(values=parts):
            return ["".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in parts)]
        case ast.Call(func=ast.Attribute(value=inner, attr="replace")):
            return _names(inner)
    return []


def _actions(value: ast.AST | None) -> frozenset[Action]:
    if value is None:
        return frozenset()
    names = {
        one.attr
        for one in ast.walk(value)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "Action"
    }
    return frozenset(action for action in Action if action.name in names)


def _shown(actions: frozenset[Action]) -> str:
    return ", ".join(action for action in Action if action in actions) or _BY_CASE


def prolog_findings() -> Table:
    """The findings for which `runbook diagnose --prolog` ends with 1, with the probe that finds them."""
    kinds = kinds_of_findings(Path(str(runner.__file__)).parent)
    return Table(
        caption="Findings that end a node's service",
        head=("finding", "found by", "action"),
        rows=(
            *((one.kind, one.probe, _shown(one.actions)) for one in kinds if one.may_end_service),
            # Faults of the wiring; its notes have the action `keep`.
            ("wiring-…", "topology", "keep, drain"),
        ),
    )
