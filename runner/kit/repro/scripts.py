"""Scripts that repeat a compile with only torch: from the source of a block stack, or from a graph in torch's trace.

Neither has weights: the stack draws random ones, and a traced graph has only shapes.
"""

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from runner.kit.compile_guard import stall
from runner.kit.repro import block_stack

_TYPES: Mapping[str, str] = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "b8": "bool",
}
_SIGNATURE = re.compile(r"def forward\(self, (?P<inputs>.*?)\):$", re.MULTILINE)
_INPUT = re.compile(
    r'(?P<name>\w+): "(?P<type>\w+)\[(?P<shape>[\d, ]*)\](?:\[(?P<strides>[\d, ]*)\])?'
    r'(?P<device>[a-z]+(?::\d+)?)?"(?:, |$)'
)

_HEAD = '''"""Reproduces one torch.compile ({what}). Needs only torch: python reproduce.py

It has a time limit: after {deadline:g} s it prints the stacks of all threads and exits with status 1.
"""

import faulthandler
import os
import tempfile
import time
from typing import Any

'''

_STACK = """{sources}


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        import torch
        import torch._dynamo
        import torch._inductor.compile_fx

        model, inputs = build(**{arguments!r})
        with torch.no_grad():
            expected = model(*inputs)
            faulthandler.dump_traceback_later({deadline!r}, exit=True)
            {setup}
            began = time.monotonic()
            answer = model(*inputs)
            faulthandler.cancel_dump_traceback_later()
            print(f"answered in {{time.monotonic() - began:.1f}} s")
            print(f"largest difference from eager: {{(answer - expected).abs().max().item():.3g}}")


main()
"""

_GRAPH = """import torch
from torch import device, inf, nan

# Shape, strides, type and device of each input, in the order of forward's arguments.
INPUTS = [
{inputs}
]


{graph}


def filled(shape: Any, strides: Any, dtype: Any, where: str) -> Any:
    made = torch.empty_strided(shape, strides, dtype=dtype, device=where)
    return made.copy_(torch.randn(shape)) if dtype.is_floating_point else made.zero_()


def main() -> None:
    with tempfile.TemporaryDirectory() as cache, torch.no_grad():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        inputs = [filled(*described) for described in INPUTS]
        faulthandler.dump_traceback_later({deadline!r}, exit=True)
        began = time.monotonic()
        torch.compile(GraphModule())(*inputs)
        faulthandler.cancel_dump_traceback_later()
        print(f"answered in {{time.monotonic() - began:.1f}} s")


main()
"""


def of_stack(arguments: Mapping[str, Any], mode: str, injected: str | None, deadline_s: float) -> str:
    """A script that builds the block stack and compiles it like a rung.

    Args:
        arguments: arguments of `block_stack.build`.
        mode: the rung.
        injected: the injected stall, if any.
        deadline_s: time limit of the script in seconds.
    """
    sources, setup = [inspect.getsource(block_stack.build).rstrip()], []
    if injected:
        sources.append(inspect.getsource(stall.stalled_pass).rstrip())
        setup += [
            "import torch._inductor.config",
            "torch._inductor.config.pre_grad_custom_pass = stalled_pass",
        ]
    blocks = "[block.compile() for block in model.layers]"
    setup += {
        "whole": ["model.compile()"],
        "per-block": [blocks],
        "one-thread": ["import torch._inductor.config", "torch._inductor.config.compile_threads = 1", blocks],
    }.get(mode, ["pass"])
    return _HEAD.format(what=mode, deadline=deadline_s) + _STACK.format(
        sources="\n\n\n".join(sources),
        arguments=dict(arguments),
        deadline=deadline_s,
        setup="\n            ".join(dict.fromkeys(setup)),
    )


def of_trace(log: str, deadline_s: float) -> str | None:
    """A script that compiles the last graph in a torch trace log: the one being compiled when the log ended.

    None if there is no graph in it, or only one that is not self-contained: with symbolic shapes, with constants or
    submodules, or with types that torch's trace does not name.

    Args:
        log: a file of TORCH_TRACE.
        deadline_s: time limit of the script in seconds.
    """
    graph = _last_graph(log)
    signature = _SIGNATURE.search(graph)
    if signature is None or "self." in graph[signature.end() :]:
        return None
    inputs, place = [], 0
    while place < len(signature["inputs"]):
        found = _INPUT.match(signature["inputs"], place)
        if found is None or found["type"] not in _TYPES:
            return None
        shape = [int(size) for size in found["shape"].split(",") if size.strip()]
        strides = [int(size) for size in (found["strides"] or "").split(",") if size.strip()]
        if len(strides) != len(shape):
            return None
        kind = f"torch.{_TYPES[found['type']]}"
        inputs.append(f"    ({tuple(shape)!r}, {tuple(strides)!r}, {kind}, {found['device'] or 'cpu'!r}),")
        place = found.end()
    return _HEAD.format(what="the last graph in the trace", deadline=deadline_s) + _GRAPH.format(
        inputs="\n".join(inputs), graph=graph.rstrip(), deadline=deadline_s
    )


def _last_graph(log: str) -> str:
    _, found, after = log.rpartition('{"dynamo_output_graph"')
    lines = after.split("\n")[1:] if found else []
    payload = []
    for line in lines:
        if not line.startswith("\t"):
            break
        # Comments name files of the host where it was traced.
        if not line.lstrip().startswith("# File:"):
            payload.append(line[1:])
    return textwrap.dedent("\n".join(payload))
