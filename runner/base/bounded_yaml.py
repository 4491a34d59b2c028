"""YAML loaders with limits: parse time grows with the number of values, and hand-written files have few."""

import re
from typing import Any, ClassVar

import yaml
from yaml.composer import Composer

# PyYAML may have been built without libyaml.
_Fastest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Tabs, byte order marks, explicit keys, comments directly after | or >: libyaml accepts more or counts lines otherwise.
_READ_OTHERWISE = re.compile(r"[\t\ufeff]|(?:^|[\s,\[{])\?(?:\s|$)|[|>][-+0-9]*#")


class _Bounds(Composer):
    """Composes nodes, and stops when a document has too many values or is nested too deeply.

    Attributes:
        deepest: levels of nesting.
        most_nodes: keys, values and collections.
        aliases: whether YAML aliases are allowed. Such a document must only be composed, never constructed: a few lines
            of aliases can expand to billions of values.
    """

    deepest: ClassVar[int] = 64
    most_nodes: ClassVar[int] = 20_000
    aliases: ClassVar[bool] = True
    _depth = _nodes = 0

    def compose_node(self: Any, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, or raise if a limit is exceeded."""
        if not self.aliases and self.check_event(yaml.events.AliasEvent):
            raise self._refusal("YAML aliases are not allowed; write the value out")
        self._nodes += 1
        if self._nodes > self.most_nodes:
            raise self._refusal(f"more than {self.most_nodes:,} values")
        self._depth += 1
        if self._depth > self.deepest:
            raise self._refusal(f"nested deeper than {self.deepest} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refusal(self: Any, problem: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)


class BoundedLoader(_Bounds, yaml.SafeLoader):
    """A safe YAML loader with limits."""


class FastBoundedLoader(_Bounds, _Fastest):  # type: ignore[misc]
    """The same with libyaml's parser, seven times as fast; it also refuses what the two parsers read differently.

    Its messages are not for people: where it raises, read the text with `BoundedLoader`.
    """

    def __init__(self, stream: str) -> None:
        if _READ_OTHERWISE.search(stream):
            raise yaml.YAMLError("libyaml reads this otherwise")
        _Fastest.__init__(self, stream)
        self.anchors = {}

    def compose_node(self: Any, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, or raise if a limit is exceeded or PyYAML's own parser may read it differently."""
        event = self.peek_event()
        plain = isinstance(event, yaml.ScalarEvent) and not event.style
        in_block = isinstance(parent, yaml.CollectionNode) and not parent.flow_style
        # A tag may hold more characters there, and `!` alone has another meaning. In [] and {} a plain value may
        # hold `?`, and the line of an empty one differs.
        if getattr(event, "tag", None) is not None or (
            plain and not in_block and (not event.value or "?" in event.value)
        ):
            raise self._refusal("libyaml reads this otherwise")
        return super().compose_node(parent, index)
