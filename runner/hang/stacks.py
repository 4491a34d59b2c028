"""Stacks as printed by py-spy (JSON and text) and by Python's faulthandler. Pure.

py-spy lists the frames of a thread with the innermost first, as faulthandler does (`most recent call first`). Of all
threads, the main thread is the one that runs the program; faulthandler prints it last.

Autograd runs the backward pass of a GPU in a thread of its own, while the main thread waits for it in C++. Hooks of
that pass, such as FSDP's, are seen only there, so its functions count as those that the main thread is in.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runner.base.errors import InputError
from runner.base.plain import one_line
from runner.hang.model import Frame, Stack

_MAIN = "MainThread"
# A recursion may be a thousand functions deep; what a thread does is told by the innermost ones.
_MOST_FRAMES = 300
# Templates of C++ have names of many thousand characters.
_MOST_CHARACTERS = 200
_LARGEST_LINE = 2**31
# A log may begin with `[W1128 …`.
_JSON = re.compile(r"\s*(?:\[\s*[{\]]|\{)")
# `Thread 4711 (idle): "MainThread"`, and `Thread 0x7F1B (active)` where the thread has no name.
_PY_SPY_THREAD = re.compile(r'Thread (?P<id>\w+) \([^)]*\)(?:: "(?P<name>.*)")?\s*')
_PY_SPY_PROCESS = re.compile(r"Process (\d+): .*")
# `    all_reduce (torch/distributed/distributed_c10d.py:3252)`; native functions have no line.
_PY_SPY_FRAME = re.compile(r" {4}(?P<function>\S.*?) \((?P<file>[^()]*?)(?::(?P<line>\d{1,9}))?\)\s*")
# `Thread 0x00007f… (most recent call first):`, `Current thread 0x… [python] (most recent call first):`,
# `Stack (most recent call first):`.
_FAULT_THREAD = re.compile(
    r"\s*(?:(?:Current )?[Tt]hread 0x[0-9a-fA-F]+.*|Stack) \(most recent call first\):\s*"
)
_FAULT_FRAME = re.compile(
    r'\s*File "(?P<file>[^"]*)", line (?P<line>\d{1,9}|\?\?\?)(?: in (?P<function>.*?))?\s*'
)
_NO_FRAME = "<no Python frame>"
# Where the main thread waits for a backward pass, and where Python's own threads begin.
_BACKWARD, _STARTED = "_engine_run_backward", "threading.py"


class _Frame(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    filename: str = ""
    line: int = 0


class _Thread(BaseModel):
    model_config = ConfigDict(extra="ignore")

    pid: int | None = None
    thread_name: str | None = None
    os_thread_id: int | None = None
    frames: list[_Frame] = Field(default_factory=list)


_THREADS = TypeAdapter(list[_Thread])


@dataclass
class _Dumped:
    """A thread of a dump: whether it has the number of its process, and its name."""

    is_process: bool = False
    name: str | None = None
    frames: list[Frame] = field(default_factory=list)


def stack_in(text: str) -> Stack:
    """The stack of the main thread in what py-spy or faulthandler has printed.

    Text around it, such as the log of the program, is skipped. Of several dumps in one text the last one counts.

    Raises:
        InputError: there is no stack in it, in one line.
    """
    if _JSON.match(text):
        return stack_in_json(text)
    lines = text.splitlines()
    stack = _chosen(_of_py_spy(lines)) or _last(_of_faulthandler(lines))
    if not stack:
        raise InputError("holds no stack; write it with `py-spy dump --pid PID` or Python's faulthandler")
    return stack


def stack_in_json(text: str) -> Stack:
    """The stack of the main thread in the output of `py-spy dump --json`.

    Raises:
        InputError: it is not that, or has no main thread.
    """
    try:
        threads = _THREADS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InputError(f"is not the JSON of py-spy: {one_line(first['msg'])}") from error
    stack = _chosen(
        _Dumped(
            one.os_thread_id is not None and one.os_thread_id == one.pid,
            one.thread_name,
            [_frame(frame.name, frame.filename, frame.line) for frame in one.frames],
        )
        for one in threads
        # With its child processes, py-spy prints the process that was asked for first.
        if one.pid == threads[0].pid
    )
    if not stack:
        raise InputError("holds no stack of the main thread")
    return stack


def _of_py_spy(lines: Sequence[str]) -> list[_Dumped]:
    """The threads of the process that is printed first; its children may follow."""
    dumps: dict[str, list[_Dumped]] = {}
    process = ""
    inside = False
    for line in lines:
        if found := _PY_SPY_PROCESS.fullmatch(line):
            process, inside = found[1], False
            dumps[process] = []
        elif found := _PY_SPY_THREAD.fullmatch(line):
            dumps.setdefault(process, []).append(_Dumped(found["id"] == process, found["name"]))
            inside = True
        elif inside and (found := _PY_SPY_FRAME.fullmatch(line)):
            frame = _frame(found["function"], found["file"], int(found["line"] or 0))
            dumps[process][-1].frames.append(frame)
    return next((threads for threads in dumps.values() if threads), [])


def _of_faulthandler(lines: Sequence[str]) -> list[_Dumped]:
    """The threads of the last dump, the main thread last."""
    threads: list[_Dumped] = []
    inside = False
    for line in lines:
        if _FAULT_THREAD.fullmatch(line):
            threads = [*(threads if inside else []), _Dumped()]
            inside = True
        elif inside and (found := _FAULT_FRAME.fullmatch(line)):
            number = found["line"]
            line_number = int(number) if number.isdecimal() else 0
            threads[-1].frames.append(_frame(found["function"] or "?", found["file"], line_number))
        elif line.strip() not in {"", _NO_FRAME, "..."}:
            # Another dump may follow, of a later time.
            inside = False
    return threads


def _chosen(threads: Iterable[_Dumped]) -> Stack:
    every = list(threads)
    # The main thread has the number of its process, whatever the program calls it.
    main = [one for one in every if one.is_process] or [one for one in every if one.name == _MAIN]
    main = main or (every if len(every) == 1 else [])
    return _with_backward(main[0], every) if main else ()


def _last(threads: Sequence[_Dumped]) -> Stack:
    # Threads of C++ that ask for the dump have no Python frame.
    filled = [one for one in threads if one.frames]
    return _with_backward(filled[-1], filled) if filled else ()


def _with_backward(main: _Dumped, threads: Iterable[_Dumped]) -> Stack:
    frames = main.frames
    innermost = next((frame for frame in frames if frame.line), None)
    if innermost is not None and innermost.function == _BACKWARD:
        others = [one.frames for one in threads if one is not main and one.frames]
        # A thread of C++ begins with a function of the program, one of Python with its own library.
        passes = [other for other in others if not other[-1].file.endswith(_STARTED)]
        if len(passes) == 1:
            frames = [*passes[0], *frames]
    return tuple(frames[:_MOST_FRAMES])


def _frame(function: str, file: str, line: int) -> Frame:
    number = line if 0 <= line < _LARGEST_LINE else 0
    return Frame(function=_cut(function) or "?", file=_cut(file, keep_end=True), line=number)


def _cut(text: str, *, keep_end: bool = False) -> str:
    """One line, short enough for a table: the end of a path tells more than its begin."""
    line = one_line(text)
    return line[-_MOST_CHARACTERS:] if keep_end else line[:_MOST_CHARACTERS]
