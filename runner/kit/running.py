"""Runs a probe: parses, measures, reports.

Messages for people go to standard error. The last line of standard output is one JSON document, also written to
`--output-json FILE` and to the file named by RUNBOOK_RESULT.
Exit status: 0 healthy or measured, 1 symptom (the document has status `symptom`), 2 usage error, 3 measurement
failed, 80 not applicable to this host.
"""

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from runner.base.errors import InputError, RunbookError
from runner.base.screen import Screen
from runner.hardware.nvml import is_marked_stand_in
from runner.hardware.prerequisites import missing_to_compile
from runner.hardware.visible import INSTALLED_GPUS, USABLE_GPUS
from runner.kit.options import check_numbers
from runner.kit.probe import (
    CRASHED,
    NOT_APPLICABLE,
    OK,
    SYMPTOM,
    Findings,
    NotApplicableError,
    Probe,
    reporting,
    say,
)
from runner.record.model import Document

_EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}
# Libraries that only probes need: a Python without them is not a bug.
_OPTIONAL = ("torch", "transformers", "safetensors", "torchao")


def run_probe(probe: Probe, argv: Sequence[str] | None = None) -> int:
    """Parse, run, report. A crash exits with 3 (measurement failed), never with 1 (symptom)."""
    with _lasting_streams() as out:
        status = _run(probe, argv)
        out.flush()
        if status == OK and out.lost is not None:
            say(f"{probe.name}: cannot write the document to standard output: {out.lost.strerror}")
            return CRASHED
    return status


@contextlib.contextmanager
def _lasting_streams() -> Iterator[Screen]:
    """Standard output and error whose loss does not change the result, even if they were closed from the start."""
    before = sys.stdout, sys.stderr
    out, err = (Screen(stream or Path(os.devnull).open("w", encoding="utf-8")) for stream in before)  # noqa: SIM115 - open as long as the process
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before


def _run(probe: Probe, argv: Sequence[str] | None) -> int:
    try:
        arguments = probe.arguments(argv)
        try:
            check_numbers(arguments)
            _require_compiler(probe, sys.argv[1:] if argv is None else argv)
            with reporting(probe):
                findings = probe.run(arguments)
        except NotApplicableError as error:
            findings = Findings(status="not_applicable", reason=str(error))
        document = _document(probe, findings)
        shown = probe.shows(arguments, document) if probe.shows else None
        publish(document, arguments.output_json, shown)
    except RunbookError as error:
        say(f"{probe.name}: {error}")
        return error.exit_status
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _OPTIONAL:
            return _crashed(probe, error)
        say(
            f"{probe.name}: {library} is not installed; start runbook with a Python that has it, or in a checkout "
            "use nox -s runbook-ID"
        )
        return CRASHED
    except OSError as error:
        if not _of_this_host(error):
            return _crashed(probe, error)
        file = f": {error.filename}" if error.filename else ""
        say(
            f"{probe.name}: {error.strerror}{file}; see df -h and ulimit -n, or set TMPDIR to a folder that can be "
            "written"
        )
        return CRASHED
    except Exception as error:  # noqa: BLE001 - Python would exit with 1, a symptom
        return _crashed(probe, error)
    if findings.reason:
        say(f"{probe.name}: {findings.reason}")
    if shown is not None:
        return OK
    return {"ok": OK, "symptom": SYMPTOM, "not_applicable": NOT_APPLICABLE}[findings.status]


def _of_this_host(error: OSError) -> bool:
    """Whether this host, and not the probe, is at fault: it has no space, no open files, or no temporary folder."""
    return error.errno in _EXHAUSTED or "No usable temporary directory" in (error.strerror or "")


def _crashed(probe: Probe, error: Exception) -> int:
    traceback.print_exception(error)
    say(f"{probe.name}: bug in this probe: {type(error).__name__}: {error}; traceback above")
    return CRASHED


def _require_compiler(probe: Probe, words: Sequence[str]) -> None:
    """Fail early if this call compiles and this host cannot.

    Raises:
        NotApplicableError: a prerequisite of a compile is not installed.
    """
    from runner.hardware.gpus import visible_count

    compiles = probe.compiles
    if compiles is None or not compiles.by(words, gpu=True):
        return
    gpu = visible_count() > 0
    missing = missing_to_compile(gpu=gpu) if compiles.by(words, gpu=gpu) else None
    if missing is not None:
        raise NotApplicableError(missing.reason)


def _document(probe: Probe, findings: Findings) -> Document:
    for measurement in findings.measurements:
        metric = probe.metric(measurement.name)
        if metric is None:
            raise ValueError(f"{probe.name} reports {measurement.name}, which it does not declare")
        undeclared = set(measurement.labels) - set(probe.labels)
        if undeclared:
            raise ValueError(
                f"{probe.name} gives {measurement.name} the label {min(undeclared)}, which it does not declare"
            )
        if measurement.statistic not in metric.statistics:
            raise ValueError(
                f"{measurement.name} cannot be a {measurement.statistic}; add it to the statistics of the metric"
            )
    return Document.model_validate(
        {
            "probe": probe.name,
            "method_version": probe.method_version,
            "status": findings.status,
            "reason": findings.reason,
            "requested": dict(findings.requested),
            "effective": {**findings.effective, **_some_gpus_only()},
            "fallback_reason": findings.fallback_reason,
            "fallback_asked": findings.fallback_asked,
            "details": dict(findings.details),
            "measurements": tuple(findings.measurements),
            # Also of a probe that reads no GPU itself: a stand-in that it could have seen may have set its work.
            "simulated": findings.simulated or is_marked_stand_in(),
        }
    )


def _some_gpus_only() -> dict[str, int]:
    """How many GPUs the run could use, and of how many, if these differ: a record names its node by the latter."""
    usable, installed = (os.environ.get(name, "") for name in (USABLE_GPUS, INSTALLED_GPUS))
    if usable == installed or not (usable.isdecimal() and installed.isdecimal()):
        return {}
    return {"gpus_usable": int(usable), "gpus_installed": int(installed)}


def publish(document: Document, output: Path | None, shown: Sequence[str] | None = None) -> None:
    """Write the document to `--output-json` and RUNBOOK_RESULT, then print it as the last line of output.

    Args:
        document: the result.
        output: the file of `--output-json`.
        shown: lines to print instead of the document.

    Raises:
        InputError: `--output-json` cannot be written.
    """
    text = json.dumps(document.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    # Environment variables may hold invalid UTF-8; a document holds text only.
    line = json.dumps(json.loads(text.encode("utf-8", "replace")), sort_keys=True)
    result = os.environ.get("RUNBOOK_RESULT")
    for path in filter(None, (output, Path(result) if result else None)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
    sys.stderr.flush()
    for one in [line] if shown is None else shown:
        print(one, flush=True)
