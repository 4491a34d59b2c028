"""The bundle for a bug report: one zip that somebody else can open, read and run. No weights are in it.

What goes in is put together by `contents`; `write` makes the zip. Every text is redacted as records are, and of the
environment only variables named here are kept.
"""

import inspect
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.evidence.redact import redact_text
from runner.probes import block_stack
from runner.probes.compile_guard import Attempt, Guarded, stall
from runner.probes.compile_guard.attempt import TRACE
from runner.probes.compile_guard.watch import FIRST_LOOK

KEPT_VARIABLES = (
    "CC",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "CXX",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "RUNBOOK_PRESET",
    "TORCHDYNAMO_DISABLE",
    "TORCHDYNAMO_VERBOSE",
    "TORCHINDUCTOR_AUTOGRAD_CACHE",
    "TORCHINDUCTOR_COMPILE_THREADS",
    "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES",
    "TORCHINDUCTOR_FREEZING",
    "TORCHINDUCTOR_FX_GRAPH_CACHE",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCHINDUCTOR_WORKER_START",
    "TORCH_COMPILE_DISABLE",
    "TORCH_LOGS",
    "TORCH_WARM_POOL",
    "TRITON_INTERPRET",
    "WORLD_SIZE",
)
# A compiler that loops can also log in a loop; the start and the end of a log are what a reader needs.
LARGEST_TEXT = 32 * 2**20

_SCRIPT = '''"""Reproduces one torch.compile ({mode}). Needs torch alone: python reproduce.py

Ends by itself: after {deadline:g} s it prints the stacks of all threads and leaves with status 1.
"""

import faulthandler
import os
import tempfile
import time
from typing import Any

{sources}


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
            print(f"largest difference from eager {{(answer - expected).abs().max().item():.3g}}")


main()
'''

_README = """# A torch.compile that {what}

Taken {taken} by torch_compile_repro. {injected}

| rung | outcome | seconds | reason |
| --- | --- | --- | --- |
{rows}

* `reproduce.py` needs torch alone and does the first rung again; it ends by itself on the deadline.
* `versions.json`, `environment.json` (allow-listed variables), `machine.json`: where it ran.
* `<n>-<mode>/stacks.txt`: stacks of all threads at {share:.0%} of the deadline and on it. Equal innermost frames,
  no growth of the cache and CPU burned in between mean stuck; anything that moves means slow.
* `<n>-<mode>/growth.json`: CPU seconds, resident bytes, cache bytes and process count over time.
* `<n>-<mode>/trace/`: torch's structured trace, with graphs and generated code; `tlparse FILE` makes a report of it.
* `<n>-<mode>/output.log`, `events.jsonl`: what the compiling process printed, and how far it came.

No weights are in here; the model is a stack of blocks with random ones.
"""


@dataclass(frozen=True)
class Case:
    """What was asked for, as far as a reader of the bundle needs it."""

    arguments: Mapping[str, Any]
    deadline_s: float
    injected: str | None
    machine: Mapping[str, Any]
    taken: datetime


def contents(
    guarded: Guarded, case: Case, environment: Mapping[str, str], secrets: Sequence[str]
) -> dict[str, str]:
    """Everything that goes into the bundle, redacted, as file name -> text. Reads the attempts' folders.

    Args:
        guarded: what was tried.
        case: what was asked for.
        environment: the caller's; only allow-listed variables are kept.
        secrets: words that name this host and its user (`host_secrets`).
    """
    first = guarded.attempts[0]
    files = {
        "README.md": _readme(guarded, case),
        "reproduce.py": script(case, first),
        "versions.json": _json(first.facts.get("versions", {})),
        "environment.json": _json({k: environment[k] for k in KEPT_VARIABLES if k in environment}),
        "machine.json": _json(case.machine),
    }
    for attempt in guarded.attempts:
        growth = [asdict(sample) for sample in attempt.samples]
        files[f"{attempt.folder.name}/growth.json"] = _json(growth)
        for name in ("stacks.txt", "output.log", "events.jsonl"):
            files[f"{attempt.folder.name}/{name}"] = _read(attempt.folder / name)
        for number, log in enumerate(sorted((attempt.folder / TRACE).glob("*.log"))):
            files[f"{attempt.folder.name}/{TRACE}/{number}.log"] = _read(log)
    return {name: redact_text(text, secrets) for name, text in files.items()}


def script(case: Case, attempt: Attempt) -> str:
    """A program that does the attempt's compile again with torch alone."""
    sources = [inspect.getsource(block_stack.build).rstrip()]
    setup = []
    if case.injected:
        sources.append(inspect.getsource(stall.stalled_pass).rstrip())
        setup += [
            "import torch._inductor.config",
            "torch._inductor.config.pre_grad_custom_pass = stalled_pass",
        ]
    setup.append(
        {"whole": "model.compile()", "per-block": "[block.compile() for block in model.layers]"}.get(
            attempt.mode, "pass"
        )
    )
    return _SCRIPT.format(
        mode=attempt.mode,
        deadline=case.deadline_s,
        sources="\n\n\n".join(sources),
        arguments=dict(case.arguments),
        setup="\n            ".join(setup),
    )


def write(folder: Path, files: Mapping[str, str], taken: datetime) -> Path:
    """Write the bundle as `torch_compile_repro-<UTC>.zip`, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    path = folder / f"torch_compile_repro-{taken:%Y%m%dT%H%M%S%fZ}.zip"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in sorted(files.items()):
                bundle.writestr(f"{path.stem}/{name}", text)
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write the bundle into {folder}: {error.strerror}") from error
    return path


def _readme(guarded: Guarded, case: Case) -> str:
    rows = "\n".join(
        f"| {a.mode} | {a.outcome} | {'' if a.compile_s is None else f'{a.compile_s:.1f}'} | {a.reason or ''} |"
        for a in guarded.attempts
    )
    first = guarded.attempts[0]
    return _README.format(
        what="ended" if first.outcome == "finished" else f"did not work: {first.outcome}",
        taken=f"{case.taken:%Y-%m-%d %H:%M:%S} UTC",
        injected=f"**The stall was injected ({case.injected}): this is a drill.**"
        if case.injected
        else "Nothing was injected.",
        rows=rows,
        share=FIRST_LOOK,
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    if len(data) > LARGEST_TEXT:
        half = LARGEST_TEXT // 2
        data = data[:half] + b"\n[%d bytes left out]\n" % (len(data) - LARGEST_TEXT) + data[-half:]
    return data.decode("utf-8", errors="replace")
