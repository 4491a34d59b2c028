"""Finds `{{ name(…) }}` in an author's Markdown, outside code, and reads it as data: nothing is ever executed. Pure."""

import ast
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from markdown_it import MarkdownIt

from runner.base.words import nearest

# What a scan of inline Markdown may not look into (an escaped character, a code span), and what it looks for.
_TOKEN = re.compile(r"\\.|(?<!`)(?P<ticks>`+)(?!`)|\{\{\s*(?P<name>[A-Za-z_]\w*)\s*\(", re.DOTALL)
# Maximum number of `}}` in a call: a table may have one in each row.
MOST_ENDS = 200


class CallError(Exception):
    """A call that cannot be used; the message gives the fault and the correct form."""


@dataclass(frozen=True)
class Call:
    """One call in a text.

    Attributes:
        name: of the function.
        start, end: where it stands in the text, braces included.
        line: from 1, within the text.
        alone: nothing else stands in its paragraph, which is not inside a list or a quote.
        arguments, named: literal values.
        problem: why it cannot be read, else None.
    """

    name: str
    start: int
    end: int
    line: int
    alone: bool
    arguments: tuple[object, ...] = ()
    named: Mapping[str, object] = field(default_factory=dict)
    problem: str | None = None


def find_calls(markdown: str, names: Collection[str]) -> Iterator[Call]:
    """Every call of these functions in running text, in order; braces in code and around other text are ignored.

    A call whose name is nearly one of them is found too, with its problem: left as it stands, it would be published.
    """
    if "{{" not in markdown:
        return
    starts = [0]
    for line in markdown.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.type == "inline" and token.map:
            first, last = (starts[line] for line in token.map)
            yield from _in_stretch(
                markdown, first, min(last, len(markdown)), names, at_margin=token.level == 1
            )


def _in_stretch(
    markdown: str, begin: int, end: int, names: Collection[str], *, at_margin: bool
) -> Iterator[Call]:
    place = begin
    while match := _TOKEN.search(markdown, place, end):
        place = match.end()
        if match["ticks"]:
            closing = re.compile(rf"(?<!`){match['ticks']}(?!`)").search(markdown, place, end)
            place = closing.end() if closing else place
        elif match["name"] and (match["name"] in names or _nearly(match["name"], names)):
            call = _read(markdown, match, end, names)
            alone = at_margin and markdown[begin:end].strip() == markdown[call.start : call.end]
            place = call.end
            yield dataclasses.replace(call, alone=alone)


def _nearly(name: str, names: Collection[str]) -> bool:
    return "did you mean" in nearest(name, names)


def _read(markdown: str, match: re.Match[str], end: int, names: Collection[str]) -> Call:
    name, start = match["name"], match.start()
    line = markdown.count("\n", 0, start) + 1
    if name not in names:
        problem = f"no function {name!r}{nearest(name, names)}; put braces that are to be shown in code"
        return Call(name, start, match.end(), line, alone=False, problem=problem)
    said = "it is not closed"
    # A dictionary may end in `}}` too: the first end that makes a whole expression is the call's.
    for closing in itertools.islice(re.compile(r"(?=\}\})").finditer(markdown, match.end(), end), MOST_ENDS):
        last = closing.start()
        try:
            tree = ast.parse(markdown[start + 2 : last].strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = str(error.args[0])
            continue
        try:
            arguments, named = _literals(tree.body)
        except CallError as error:
            return Call(name, start, last + 2, line, alone=False, problem=str(error))
        return Call(name, start, last + 2, line, alone=False, arguments=arguments, named=named)
    problem = f"{name}(…) cannot be read: {said}; write {{{{ {name}(…) }}}} with plain values"
    return Call(name, start, match.end(), line, alone=False, problem=problem)


def _literals(node: ast.expr) -> tuple[tuple[object, ...], dict[str, object]]:
    if not isinstance(node, ast.Call):
        raise CallError("put a single call between the braces")
    named: dict[str, object] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise CallError("`**` is not allowed; write the arguments out")
        named[keyword.arg] = _literal(keyword.value)
    return tuple(_literal(argument) for argument in node.args), named


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise CallError(
            f"{ast.unparse(node)[:60]} is not a plain value; use text, numbers, lists or dictionaries"
        ) from error
