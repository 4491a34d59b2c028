"""Finds dumps of a process's environment in text and takes each out as a whole: too much in them is private."""

import re
from collections.abc import Iterator, Mapping, Sequence

FEWEST_VARIABLES = 5
# Names that nearly every environment has and that a list of settings has not.
_TYPICAL = frozenset(
    re.findall(
        r"\w+",
        "PATH HOME PWD OLDPWD USER LOGNAME SHELL SHLVL HOSTNAME TERM LANG LC_ALL LS_COLORS MAIL TZ XDG_RUNTIME_DIR "
        "XDG_SESSION_ID SSH_CONNECTION SSH_CLIENT SSH_TTY VIRTUAL_ENV DBUS_SESSION_BUS_ADDRESS",
    )
)
_ASSIGNMENT = re.compile(
    r"[ \t+]*(?:declare -[a-zA-Z]+ |export |typeset -x )?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:\(\)|%%|\[\d+\])?="
)
_BARE_DECLARATION = re.compile(r"declare -[a-zA-Z]+ (?P<name>[A-Za-z_]\w*)\s*$")
# Inner lines of an exported shell function, and of a value that spans lines.
_CONTINUATION = re.compile(r"[ \t}]")
# `/proc/<pid>/environ` separates by NUL.
_LINE = re.compile(r"[^\n\0]*[\n\0]?")
# Python's own printed form of os.environ: one line, or two spaces of indent where it was pretty-printed.
_PAIR = re.compile(r"['\"]: ['\"]")
_PYTHON_FORM = re.compile(r"environ\(\{\s*['\"](?:(?!\}\))[^\n]|\n[ \t])*+(?:\}\))?")


def remove_environments(text: str) -> str:
    """Replace each run of at least five assignments that names typical variables by one line that counts them."""
    if "environ({" in text:
        text = _PYTHON_FORM.sub(lambda found: removed(len(_PAIR.findall(found[0]))), text)
    # Cheap way out: no dump without one of these.
    if text.count("=") < FEWEST_VARIABLES or not any(f"{name}=" in text for name in _TYPICAL):
        return text
    return "".join(_without_runs(_LINE.findall(text)))


def looks_like_environment(mapping: Mapping[str, object]) -> bool:
    """Whether a mapping is an environment: five names or more, two typical ones among them."""
    return len(mapping) >= FEWEST_VARIABLES and len(_TYPICAL & mapping.keys()) > 1


def removed(count: int) -> str:
    """What stands in the place of an environment of `count` variables."""
    return f"[environment of {count} variables removed]"


def _without_runs(lines: Sequence[str]) -> Iterator[str]:
    run: list[str] = []
    names: list[str] = []
    for line in lines:
        found = _ASSIGNMENT.match(line) or _BARE_DECLARATION.match(line)
        if found:
            names.append(found["name"])
        elif not (run and _CONTINUATION.match(line)):
            yield from _closed(run, names)
            run, names = [], []
            yield line
            continue
        run.append(line)
    yield from _closed(run, names)


def _closed(run: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    if len(names) < FEWEST_VARIABLES or not _TYPICAL & set(names):
        yield from run
        return
    ending = run[-1][-1:]
    yield removed(len(names)) + (ending if ending in {"\n", "\0"} else "")
