"""Finds dumps of a process environment in text, to remove each as a whole, because much in them is private."""

import re
from collections.abc import Iterator, Mapping, Sequence

from runner.record.redaction.rule import word_set

FEWEST_VARIABLES = 5
# Names that nearly every environment has, but a list of settings does not.
_TYPICAL = word_set(
    "PATH HOME PWD OLDPWD USER LOGNAME SHELL SHLVL HOSTNAME TERM LANG LC_ALL LS_COLORS MAIL TZ XDG_RUNTIME_DIR "
    "XDG_SESSION_ID SSH_CONNECTION SSH_CLIENT SSH_TTY VIRTUAL_ENV DBUS_SESSION_BUS_ADDRESS"
)
# An assignment, or a declaration without a value.
_VARIABLE = re.compile(
    r"[ \t+]*(?:declare -[a-zA-Z]+ |export |typeset -x )?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:\(\)|%%|\[\d+\])?="
    r"|declare -[a-zA-Z]+ (?P<bare>[A-Za-z_]\w*)\s*$"
)
# Continuation lines of an exported shell function or of a multi-line value.
_CONTINUATION = (" ", "\t", "}")
# `/proc/<pid>/environ` separates variables by NUL.
_LINE = re.compile(r"[^\n\0]*[\n\0]?")
# The repr of os.environ in Python: on one line, or indented by two spaces if pretty-printed.
_PAIR = re.compile(r"['\"]: ['\"]")
_PYTHON_FORM = re.compile(r"environ\(\{\s*['\"](?>(?:(?!\}\))[^\n]|\n[ \t])*)(?:\}\))?")


def printed_environments(text: str, _lowered: str) -> Iterator[tuple[int, int, str]]:
    """Each environment that Python printed: its start, its end, and its replacement."""
    for found in _PYTHON_FORM.finditer(text):
        yield *found.span(), removed(len(_PAIR.findall(found[0])))


def listed_environments(text: str, _lowered: str) -> Iterator[tuple[int, int, str]]:
    """The same for each run of at least five assignments with typical names, without the end of its last line."""
    # Fast path: a dump always contains one of these.
    if text.count("=") < FEWEST_VARIABLES or not any(f"{name}=" in text for name in _TYPICAL):
        return
    start = end = 0
    names: list[str] = []
    for line in _LINE.finditer(text):
        found = _VARIABLE.match(line[0])
        if not found and not (names and line[0].startswith(_CONTINUATION)):
            yield from _dump(names, start, end)
            names = []
            continue
        if not names:
            start = line.start()
        if found:
            names.append(found["name"] or found["bare"])
        end = line.end() - line[0].endswith(("\n", "\0"))
    yield from _dump(names, start, end)


def _dump(names: Sequence[str], start: int, end: int) -> Iterator[tuple[int, int, str]]:
    if len(names) >= FEWEST_VARIABLES and _TYPICAL & set(names):
        yield start, end, removed(len(names))


def looks_like_environment(mapping: Mapping[str, object]) -> bool:
    """Whether a mapping is an environment: at least five names, at least two of them typical."""
    return len(mapping) >= FEWEST_VARIABLES and len(_TYPICAL & mapping.keys()) > 1


def removed(count: int) -> str:
    """The replacement for an environment of `count` variables."""
    return f"[environment of {count} variables removed]"
