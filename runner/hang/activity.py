"""What a stack says its thread is doing: waiting in a collective, loading data, compiling, … Pure.

The innermost function that a row below knows decides. Compiled models always have Dynamo's entry on their stack, and
every collective has its caller, so what lies further out says less.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from runner.hang.model import Frame, Stack


class Doing(StrEnum):
    """What a thread is doing, in the words of a sentence: `it is …`."""

    COLLECTIVE = "in a collective"
    JOINING = "joining the process group"
    LOADING = "loading data"
    COMPILING = "compiling"
    CHECKPOINTING = "saving or loading a checkpoint"
    GPU_WAIT = "waiting for its GPU"
    BACKWARD = "in a backward pass"
    ELSEWHERE = "in the program"

    @property
    def waits(self) -> bool | None:
        """Whether the thread waits for other ranks; None if the stack does not tell.

        A backward pass may wait for the reduction of its gradients, and a GPU for a collective, in C++.
        """
        if self in {Doing.COLLECTIVE, Doing.JOINING}:
            return True
        return None if self in {Doing.GPU_WAIT, Doing.BACKWARD} else False


@dataclass(frozen=True)
class Activity:
    """What a thread does.

    Attributes:
        frame: the function that tells.
        op: the collective, if it is in one and the stack names it.
        site: the innermost line outside torch and Python's own library.
    """

    doing: Doing
    frame: Frame
    op: str | None
    site: Frame | None


class _Row(NamedTuple):
    doing: Doing
    file: str
    function: str


_COLLECTIVES = (
    r"_?all_reduce\w*|_?all_gather\w*|_?reduce_scatter\w*|all_to_all\w*|broadcast\w*|reduce|gather\w*|scatter\w*"
    r"|barrier|monitored_barrier|send\w*|recv\w*|isend|irecv|batch_isend_irecv|wait_tensor"
)
# Files are matched from a `/`, or the begin of the name, to its end.
_ROWS = (
    _Row(
        Doing.JOINING,
        r"torch/distributed/distributed_c10d\.py",
        r"init_process_group|new_group\w*|_new_\w*|split_group",
    ),
    _Row(Doing.JOINING, r"torch/distributed/distributed_c10d\.py", r"_store_based_barrier"),
    _Row(Doing.JOINING, r"torch/distributed/(rendezvous|elastic/.*)\.py", r".*"),
    _Row(Doing.COLLECTIVE, r"torch/distributed/(distributed_c10d|_functional_collectives)\.py", _COLLECTIVES),
    _Row(Doing.COLLECTIVE, r"torch/distributed/nn/functional\.py", r"forward|backward"),
    _Row(Doing.LOADING, r"torch/utils/data/(dataloader|_utils/\w+)\.py", r".*"),
    _Row(Doing.COMPILING, r"torch/_inductor/.*\.py", r".*"),
    _Row(
        Doing.COMPILING,
        r"torch/_dynamo/(convert_frame|symbolic_convert|output_graph|variables/.*)\.py",
        r".*",
    ),
    _Row(Doing.COMPILING, r"torch/_functorch/_aot_autograd/.*\.py", r"aot_.*|.*compile.*"),
    _Row(Doing.COMPILING, r"triton/(compiler|backends)/.*\.py", r".*"),
    _Row(Doing.CHECKPOINTING, r"torch/(serialization|distributed/checkpoint/.*)\.py", r".*"),
    _Row(Doing.CHECKPOINTING, r"safetensors/torch\.py", r".*"),
    _Row(Doing.GPU_WAIT, r"torch/cuda/(__init__|streams)\.py", r"synchronize|wait\w*|query"),
    _Row(Doing.GPU_WAIT, r".*", r"cu(da)?(Stream|Event|Device|Ctx)Synchronize.*|cudaMemcpy(?!.*Async).*"),
    _Row(
        Doing.COLLECTIVE,
        r".*",
        r"c10d::\S*(Work|ProcessGroup)\S*::(wait|synchronize)\w*.*|gloo::\S*wait\S*.*",
    ),
    _Row(Doing.BACKWARD, r"torch/autograd/(graph|__init__)\.py", r"_engine_run_backward|backward"),
)
_COMPILED = tuple(
    (row.doing, re.compile(rf"(?:.*/)?{row.file}"), re.compile(rf"(?:.*[.:>])?(?:{row.function})"))
    for row in _ROWS
)
_IMPORTED = "<module>"
# Frames that say nothing about the program: torch, installed libraries' wrappers of it, Python, native code.
_LIBRARY = re.compile(
    r"(?:.*/(?:site|dist)-packages/)?(?:torch|torchgen|triton)/.*"
    r"|.*/torch/(?:_\w+|amp|autograd|cuda|distributed|fx|jit|multiprocessing|nn|optim|utils)/.*"
    r"|.*\.so[.\d]*|<.*>|(?:.*/)?(?:lib/)?python3[.\d]*/(?!site-packages|dist-packages).*"
    r"|(?:.*/)?(?:threading|runpy|contextlib|queue|selectors|socket|subprocess)\.py|\[.*\]|"
)


def activity_of(stack: Stack) -> Activity | None:
    """What the stack says; None for an empty one."""
    if not stack:
        return None
    site = program_site(stack)
    for frame in stack:
        if frame.function == _IMPORTED:
            # A module of torch that is imported does not yet do what its functions do.
            continue
        for doing, file, function in _COMPILED:
            if file.fullmatch(frame.file) and function.fullmatch(frame.function):
                op = (
                    _short(frame.function)
                    if doing is Doing.COLLECTIVE and "::" not in frame.function
                    else None
                )
                return Activity(doing, frame, op, site)
    return Activity(Doing.ELSEWHERE, site or stack[0], None, site)


def program_site(stack: Sequence[Frame]) -> Frame | None:
    """The innermost line outside torch and Python's own library; None if there is none."""
    return next((frame for frame in stack if not _LIBRARY.fullmatch(frame.file)), None)


def place_of(frame: Frame) -> str:
    """A frame for a sentence: `load (train.py:42)`."""
    name = frame.file.rpartition("/")[2]
    line = f":{frame.line}" if frame.line else ""
    return f"{frame.function} ({name}{line})" if name else frame.function


def _short(function: str) -> str:
    return function.rpartition(".")[2]
