"""The bundle for a bug report: one zip file with everything to read and reproduce the compile. It has no weights.

`of_guarded` and `of_command` collect its contents; `write` creates the zip. Every text is redacted like records, and
only the environment variables listed here are kept.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.base.errors import InputError
from runner.base.placed import PlacedFileError, placed_file, read_end
from runner.base.programs import run_program
from runner.hardware.machine import Machine
from runner.kit.compile_guard import Guarded
from runner.kit.compile_guard.command import Watched
from runner.kit.compile_guard.watch import EVENTS, FIRST_LOOK, OUTPUT, STACKS, TRACE, Sample
from runner.kit.repro import scripts
from runner.record.redaction.redact import host_secrets, redact_text

KEPT_VARIABLES = tuple(
    """
    CC CUDA_DEVICE_MAX_CONNECTIONS CUDA_LAUNCH_BLOCKING CUDA_MODULE_LOADING CUDA_VISIBLE_DEVICES CXX LOCAL_RANK
    LOCAL_WORLD_SIZE MKL_NUM_THREADS OMP_NUM_THREADS PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF RANK
    RUNBOOK_PRESET TORCHDYNAMO_DISABLE TORCHDYNAMO_VERBOSE TORCHINDUCTOR_AUTOGRAD_CACHE
    TORCHINDUCTOR_COMPILE_THREADS TORCHINDUCTOR_COORDINATE_DESCENT_TUNING TORCHINDUCTOR_FORCE_DISABLE_CACHES
    TORCHINDUCTOR_FREEZING TORCHINDUCTOR_FX_GRAPH_CACHE TORCHINDUCTOR_MAX_AUTOTUNE TORCHINDUCTOR_WORKER_START
    TORCH_COMPILE_DISABLE TORCH_LOGS TORCH_WARM_POOL TRITON_INTERPRET WORLD_SIZE
    """.split()  # noqa: SIM905 - as a list it would be one name a line
)
# A looping compiler may log in a loop; the start and the end of a log are enough.
LARGEST_TEXT = 32 * 2**20
_REPORT_S = 60.0

_README = """# A torch.compile that {what}

Taken {taken} by torch_compile_repro. {note}

| what | outcome | seconds | reason |
| --- | --- | --- | --- |
{rows}

* `reproduce.py` {script}
* `environment.json` (allow-listed variables), `machine.json`, `versions.json` (of the guard's child; else the trace
  has torch's version): where it ran.
* `<n>-<mode>/stacks/`: stacks of all threads of each Python process, including Inductor's workers, at {share:.0%} of
  the deadline and at the deadline. Equal innermost frames, no growth of the cache and a busy CPU in between mean stuck;
  any progress means slow.
* `<n>-<mode>/growth.json`: CPU seconds, resident bytes, cache bytes and process count over time.
* `<n>-<mode>/trace/`: torch's structured trace, with graphs and generated code. {report}
* `<n>-<mode>/output.log`, `events.jsonl`: output and stages of the compiling process.

The bundle has no weights.
"""


@dataclass(frozen=True)
class Case:
    """The request, as needed by a reader of the bundle.

    Attributes:
        arguments: arguments of the block stack; empty for a wrapped command.
        deadline_s: deadline of the compile in seconds.
        injected: the injected stall, if any.
        machine: this host.
    """

    arguments: Mapping[str, Any]
    deadline_s: float
    injected: str | None
    machine: Machine
    taken: datetime = field(default_factory=lambda: datetime.now(UTC))


def of_guarded(guarded: Guarded, case: Case) -> dict[str, str]:
    """The redacted contents of the bundle of a guarded compile, as file name -> text. Reads the attempts' folders."""
    first = guarded.attempts[0]
    files = {
        "reproduce.py": scripts.of_stack(case.arguments, first.mode, case.injected, case.deadline_s),
        "versions.json": _json(first.facts.get("versions", {})),
    }
    for attempt in guarded.attempts:
        files |= _of_folder(attempt.folder, attempt.folder.name, attempt.samples)
    drill = f"**Drill: the stall was injected ({case.injected}).**"
    files["README.md"] = _README.format(
        what="finished" if first.outcome == "finished" else f"failed: {first.outcome}",
        taken=f"{case.taken:%Y-%m-%d %H:%M:%S} UTC",
        note=drill if case.injected else "Nothing was injected.",
        rows="\n".join(_row(one.mode, one.outcome, one.compile_s, one.reason) for one in guarded.attempts),
        script="needs only torch and repeats the first rung; it exits at the deadline.",
        share=FIRST_LOOK,
        report=_about_report(files),
    )
    return _closed(files, case)


def of_command(watched: Watched, case: Case) -> dict[str, str]:
    """The redacted contents of the bundle of a wrapped command, as file name -> text. Reads the command's folder."""
    files = _of_folder(watched.folder, "1-command", watched.samples)
    logs = [text for name, text in files.items() if f"/{TRACE}/" in name]
    found = [script for text in logs if (script := scripts.of_trace(text, case.deadline_s))]
    if found:
        files["reproduce.py"] = found[-1]
    files["command.json"] = _json(watched.command)
    outcome = (
        f"exited with status {watched.status}"
        if watched.ended
        else f"killed at the deadline, {watched.verdict}"
    )
    files["README.md"] = _README.format(
        what="finished" if watched.ended else "did not finish",
        taken=f"{case.taken:%Y-%m-%d %H:%M:%S} UTC",
        note="Taken from a command: see `command.json`.",
        rows=_row("command", outcome, watched.wall_s, watched.where and f"in {watched.where}"),
        script="compiles the last graph in the trace again, with only torch and random inputs."
        if found
        else "is missing: the trace has no self-contained graph.",
        share=FIRST_LOOK,
        report=_about_report(files),
    )
    return _closed(files, case)


def write(folder: Path, files: Mapping[str, str], taken: datetime) -> Path:
    """Write the bundle as `torch_compile_repro-<UTC>.zip`, atomically.

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
        raise InputError(f"cannot write the bundle to {folder}: {error.strerror}") from error
    return path


def _closed(files: Mapping[str, str], case: Case) -> dict[str, str]:
    about = {
        "environment.json": _json({name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}),
        "machine.json": _json(case.machine.model_dump(mode="json")),
    }
    secrets = host_secrets()
    return {name: redact_text(text, secrets) for name, text in {**files, **about}.items()}


def _of_folder(folder: Path, name: str, samples: Sequence[Sample]) -> dict[str, str]:
    files = {f"{name}/growth.json": _json([asdict(sample) for sample in samples])}
    for plain in (OUTPUT, EVENTS):
        files[f"{name}/{plain}"] = _read(folder / plain)
    for path in sorted((folder / STACKS).glob("*.txt")):
        if '  File "' in (text := _read(path)):
            files[f"{name}/{STACKS}/{path.name}"] = text
    for number, log in enumerate(sorted((folder / TRACE).glob("*.log"))):
        files[f"{name}/{TRACE}/{number}.log"] = _read(log)
        files |= {f"{name}/report-{number}/{page}": text for page, text in _report(log)}
    return files


def _report(log: Path) -> Iterator[tuple[str, str]]:
    """Report pages of tlparse about a trace, if tlparse is installed and can read it."""
    program = shutil.which("tlparse") or shutil.which("tlparse", path=str(Path(sys.executable).parent))
    if program is None:
        return
    with tempfile.TemporaryDirectory(prefix="tlparse-") as made:
        out = Path(made) / "report"
        command = [program, str(log), "-o", str(out), "--no-browser"]
        try:
            run_program(command, timeout=_REPORT_S)
        except (OSError, subprocess.TimeoutExpired):
            return
        for path in sorted(out.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(out)), _read(path)


def _about_report(files: Mapping[str, str]) -> str:
    if any("/report-" in name for name in files):
        return "tlparse's report: `<n>-<mode>/report-<log>/index.html`."
    return "`tlparse FILE` creates a report of it; tlparse was not installed."


def _row(what: str, outcome: str, seconds: float | None, reason: str | None) -> str:
    return f"| {what} | {outcome} | {'' if seconds is None else f'{seconds:.1f}'} | {reason or ''} |"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"


def _read(path: Path) -> str:
    half = LARGEST_TEXT // 2
    try:
        with placed_file(path) as descriptor:
            data = os.pread(descriptor, LARGEST_TEXT, 0)
            end, before = read_end(descriptor, half)
    except PlacedFileError:
        return ""
    if before + len(end) > LARGEST_TEXT:
        data = data[:half] + b"\n[%d bytes left out]\n" % (before - half) + end
    return data.decode("utf-8", errors="replace")
