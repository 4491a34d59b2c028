"""Counts what torch.compile compiles while a job runs, with the reason, and fails once it compiles after warm-up.

One file that needs torch alone, 2.9 to 2.13: copy it into the job. It reads what torch records of each compile, sets no
option and touches no logger. In a training loop or in a test that CI runs:

    with RecompileCounter() as counter:  # before the first compiled call
        counter.warm_up(steps=10)
        for batch in loader:
            train(batch)
            counter.step()
        counter.check()

It counts for this process; in a job of several ranks each rank has its own. `check` raises RecompiledError for compiles
after warm-up, for a frame that ran into `recompile_limit` at any time, and if there was no graph at all. The first
recompile, to dynamic shapes, is normal: let the warm-up have two sizes of each dimension that varies.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

Kind = Literal["compile", "recompile", "backward", "left eager", "gave up", "graph break", "cuda graph"]
"""`backward`: the backward of a graph; `left eager`: a frame that could not be compiled; `gave up`: one that reached a
limit, so that no input gets a new graph any more; `cuda graph`: a recording by Inductor."""

_SAID: Mapping[Kind, str] = {
    "compile": "was compiled",
    "recompile": "was compiled again",
    "backward": "had its backward compiled",
    "left eager": "could not be compiled",
    "gave up": "reached the recompile limit and gets no new graph, so it runs in eager mode",
    "graph break": "broke the graph",
    "cuda graph": "recorded a CUDA graph",
}
_HAS_GRAPH: tuple[Kind, ...] = ("compile", "recompile", "backward", "cuda graph")
_LIMIT = re.compile(r"(recompile|cache)[ _](size[ _])?limit")
_LIMIT_TYPES = frozenset({"RecompileLimitExceeded", "FailOnRecompileLimitHit"})
_OF_GRAPH = re.compile(r"^\d+/\d+(_\d+)?: ")
_LONGEST_REASON = 400


class RecompiledError(AssertionError):
    """The job compiles where it should not; the message names frame, place and reason."""


@dataclass(frozen=True)
class CompileEvent:
    """One compile, recording or graph break.

    Attributes:
        kind: what happened.
        step: the number of the step in which it was seen, from 0.
        frame: the function's name, or `frame N` if the counter began after its first compile.
        place: `file:line` of the function; of a graph break, of the line that broke the graph; empty if unknown.
        reason: the guard that failed, what broke the graph, or why there is no graph; empty for a first compile.
        expected: it was seen during warm-up.
    """

    kind: Kind
    step: int
    frame: str
    place: str
    reason: str
    expected: bool

    def __str__(self) -> str:
        where = f"{self.frame} ({self.place})" if self.place else self.frame
        why = f": {self.reason}" if self.reason else ""
        return f"step {self.step}: {where} {_SAID[self.kind]}{why}"


class _WarmUp:
    """Until it is left, compiles are expected."""

    def __init__(self, counter: "RecompileCounter") -> None:
        self._counter = counter

    def __enter__(self) -> None:
        self._counter._enter_block()

    def __exit__(self, *_: object) -> None:
        self._counter._leave_block()


class RecompileCounter:
    """Counts the compiles of this process from now on.

    Attributes:
        steps: how often `step` was called.

    Raises:
        RuntimeError: this version of torch does not keep what it reads.
    """

    def __init__(self) -> None:
        try:
            from torch._dynamo import utils
            from torch._dynamo.callback import CallbackTrigger, callback_handler

            self._reasons: list[Any] = utils.graph_break_reasons
            self._records: Callable[[], list[Any]] = utils.get_compilation_metrics
            self._recording = CallbackTrigger.CUDAGRAPH_RECORDING
        except (ImportError, AttributeError) as error:
            raise RuntimeError(
                f"RecompileCounter cannot read this torch ({error}); use 2.9 to 2.13"
            ) from error
        self._handler = callback_handler
        self._events: list[CompileEvent] = []
        self.steps = 0
        self._expected_until = self._blocks = 0
        self._closed = False
        self._of_step = 0
        # By the number of the frame, which begins the id of each of its compiles.
        self._frames: dict[str, tuple[str, str]] = {}
        self._lock = threading.RLock()
        self._last_record, self._last_break = _last(self._records()), _last(self._reasons)
        self._handler.register_start_callback(self._compile_begins)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def events(self) -> Sequence[CompileEvent]:
        """All that was seen until now, in order."""
        self._take()
        return tuple(self._events)

    def close(self) -> None:
        """Take in what is left, and leave torch as it was."""
        self._take()
        self._closed = True
        if self._compile_begins in self._handler.start_callbacks:
            self._handler.remove_start_callback(self._compile_begins)

    def warm_up(self, steps: int = 0) -> _WarmUp:
        """Expect compiles in the next `steps` steps, and in the block if used as a context: `with c.warm_up(): …`.

        Use the block where the job first does something else, such as an evaluation.
        """
        self._take()
        self._expected_until = max(self._expected_until, self.steps + steps)
        return _WarmUp(self)

    def step(self) -> Sequence[CompileEvent]:
        """End a step; returns what was seen in it. Costs some microseconds."""
        self._take()
        # torch._dynamo.reset() removes every callback.
        if not self._closed and self._compile_begins not in self._handler.start_callbacks:
            self._handler.register_start_callback(self._compile_begins)
        seen, self._of_step = self._events[self._of_step :], len(self._events)
        self.steps += 1
        return seen

    def count(self, *kinds: Kind, after_warm_up: bool = False) -> int:
        """The number of events of these kinds, or of all kinds."""
        return sum(
            (not kinds or one.kind in kinds) and not (after_warm_up and one.expected) for one in self.events
        )

    def check(self, *, graph_breaks: bool = False, compiled: bool = True) -> None:
        """Fail if the job is not in a steady state.

        Args:
            graph_breaks: fail for graph breaks and for frames that could not be compiled too, also for those in
                warm-up: they cost in each step.
            compiled: fail if nothing was compiled since the counter began, as when it began too late.

        Raises:
            RecompiledError: compiles after warm-up, a frame that gave up at any time, or nothing was compiled.
        """
        if compiled and not self.count(*_HAS_GRAPH):
            left = f" ({self._events[0]})" if self._events else ""
            raise RecompiledError(
                f"nothing was compiled while it counted{left}; begin before the first compiled call, or "
                "check(compiled=False)"
            )
        wrong = [one for one in self.events if _is_wrong(one, graph_breaks=graph_breaks)]
        if not wrong:
            return
        # What cannot be undone comes first.
        worst = min(wrong, key=lambda one: one.kind != "gave up")
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise RecompiledError(f"{worst}{more}")

    def _enter_block(self) -> None:
        self._take()
        self._blocks += 1

    def _leave_block(self) -> None:
        self._take()
        self._blocks -= 1

    def _compile_begins(self, arguments: Any) -> None:
        """Take the records before each compile, because torch keeps those of the last 64 alone."""
        self._take()
        if arguments.callback_trigger is self._recording:
            with self._lock:
                frame, place = self._frame(str(arguments.compile_id).partition("/")[0])
                self._add("cuda graph", frame, place, "")

    def _take(self) -> None:
        # Backward passes compile in threads of autograd.
        with self._lock:
            if self._closed:
                return
            breaks = _since(self._reasons, self._last_break)
            records = _since(self._records(), self._last_record)
            self._last_break = breaks[-1] if breaks else self._last_break
            self._last_record = records[-1] if records else self._last_record
            for one in records:
                self._add_record(one)
            for one in breaks:
                top = one.user_stack[-1] if one.user_stack else None
                place = f"{top.filename}:{top.lineno}" if top else ""
                reason = _first_line(one.reason)
                if reason.startswith("generic_jump"):
                    reason = f"branch on the value of a tensor ({reason})"
                self._add("graph break", top.name if top else "unknown code", place, reason)

    def _add_record(self, record: Any) -> None:
        number, _, attempt = str(record.compile_id or "").partition("/")
        if record.co_name:
            self._frames[number] = (record.co_name, f"{record.co_filename}:{record.co_firstlineno}")
        frame, place = self._frame(number)
        reason = _OF_GRAPH.sub("", _first_line(record.recompile_reason))
        if record.is_runtime:
            return
        if record.fail_type in _LIMIT_TYPES or _LIMIT.search(_first_line(record.fail_reason)):
            self._add("gave up", frame, place, reason)
        elif record.fail_type:
            self._add("left eager", frame, place, _first_line(record.fail_reason))
        elif record.is_forward is False:
            self._add("backward", frame, place, "" if attempt == "0" else "the forward was compiled again")
        elif record.has_guarded_code:
            self._add("recompile" if reason else "compile", frame, place, reason)

    def _frame(self, number: str) -> tuple[str, str]:
        return self._frames.get(number, (f"frame {number}", ""))

    def _add(self, kind: Kind, frame: str, place: str, reason: str) -> None:
        expected = bool(self._blocks) or self.steps < self._expected_until
        self._events.append(CompileEvent(kind, self.steps, frame, place, reason, expected))


def _is_wrong(event: CompileEvent, *, graph_breaks: bool) -> bool:
    if event.kind == "graph break":
        return graph_breaks
    lost = event.kind == "gave up" or (event.kind == "left eager" and graph_breaks)
    return lost or not event.expected


def _last(items: Sequence[Any]) -> Any:
    return items[-1] if items else None


def _since(items: Sequence[Any], last: Any) -> Sequence[Any]:
    """The items after `last`; all of them if it is no longer there, as after a reset of torch."""
    for position in range(len(items) - 1, -1, -1):
        if items[position] is last:
            return items[position + 1 :]
    return list(items)


def _first_line(text: str | None) -> str:
    line = (text or "").strip().partition("\n")[0]
    return " ".join(line.split())[:_LONGEST_REASON]
