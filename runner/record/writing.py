"""Serialises a record to the text of its file: redacted, and within the size limit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.base.bounds import FACT_CHARACTERS, LABEL_CHARACTERS, LINE_CHARACTERS, RECORD_BYTES
from runner.record.model import Document, Measurement, Record, StepResult
from runner.record.redaction.redact import redact_head, redact_step, redact_text

_INDENT = 2
# Characters of output to keep per step, tried in order until the record fits.
_WINDOWS = (RECORD_BYTES, 32_768, 8_192, 2_048, 256)


@dataclass
class Written:
    """The text of the record of one run, updated after every step; a finished step is redacted once.

    Attributes:
        secrets: words to redact in addition to the patterns.
        run_id: id of the run.
    """

    secrets: Sequence[str]
    run_id: str = ""
    _window: int = 0
    # The record without steps, and its fields as JSON.
    _head: tuple[Record, dict[str, str]] | None = None
    # Steps as given, redacted, and as JSON at the current window: a finished step does not change.
    _steps: list[tuple[StepResult, StepResult, str]] = field(default_factory=list)

    def text(self, record: Record) -> str:
        """The record as JSON. If it would be too large, the output of its steps is shortened.

        Raises:
            ValueError: it holds NaN or Infinity.
        """
        fields = self._fields(record.model_copy(update={"steps": ()}))
        self._take(record.steps)
        while True:
            steps = [fragment for _, _, fragment in self._steps]
            if steps:
                fields["steps"] = "[\n    " + ",\n    ".join(steps) + "\n  ]"
            lines = (f"  {json.dumps(name)}: {fields[name]}" for name in sorted(fields))
            text = "{\n" + ",\n".join(lines) + "\n}\n"
            # A text that fits even at four bytes per character need not be encoded to count its bytes.
            if 4 * len(text) <= RECORD_BYTES or len(text.encode()) <= RECORD_BYTES:
                return text
            if self._window == len(_WINDOWS) - 1:
                return text
            self._window += 1
            self._steps = [(step, clean, self._fragment(clean)) for step, clean, _ in self._steps]

    def _fields(self, head: Record) -> dict[str, str]:
        """The fields of a record without steps, as JSON; most saves of a run differ only in their steps."""
        if self._head is None or self._head[0] != head:
            clean = _fitted_head(redact_head(head, self.secrets))
            dumped = clean.model_dump(mode="json").items()
            self._head = head, {name: _dump(value, _INDENT) for name, value in dumped}
        return dict(self._head[1])

    def _take(self, steps: Sequence[StepResult]) -> None:
        same = 0
        for (taken, _, _), step in zip(self._steps, steps, strict=False):
            if taken is not step:
                break
            same += 1
        del self._steps[same:]
        for step in steps[same:]:
            clean = _fitted_step(redact_step(step, self.secrets))
            self._steps.append((step, clean, self._fragment(clean)))

    def _fragment(self, step: StepResult) -> str:
        most = _WINDOWS[self._window]
        if max(len(step.stdout_tail), len(step.stderr_tail)) > most:
            step = step.model_copy(
                update={
                    **self._shortened("stdout", step.stdout_tail, step.stdout_dropped_bytes, most),
                    **self._shortened("stderr", step.stderr_tail, step.stderr_dropped_bytes, most),
                }
            )
        return _dump(step.model_dump(mode="json"), 2 * _INDENT)

    def _shortened(self, name: str, text: str, dropped: int, most: int) -> dict[str, object]:
        if len(text) <= most:
            return {}
        head, tail = text[: most // 2], text[-(most // 2) :]
        # At line ends if there are any: a cut could make a long digest look like a secret.
        head, tail = head.rpartition("\n")[0] or head, tail.partition("\n")[2] or tail
        more = len(text.encode()) - len(head.encode()) - len(tail.encode())
        kept = redact_text(f"{head}\n[{more} bytes left out, more than a record holds]\n{tail}", self.secrets)
        return {f"{name}_tail": kept, f"{name}_dropped_bytes": dropped + more}


def results_bytes(one: Document | StepResult) -> int:
    """Size of the numbers and details of a step in the file of a record, in bytes."""
    return stored_bytes(
        one.model_dump(mode="json", include={"requested", "effective", "details", "measurements"})
    )


def stored_bytes(value: object) -> int:
    """Size of JSON below a step in the file of a record, in bytes."""
    return len(_dump(value, 2 * _INDENT).encode())


def _fitted_step(step: StepResult) -> StepResult:
    """The step with its texts cut to their limits: a placeholder may be longer than the text that it replaces."""
    return step.model_copy(
        update={
            "reason": _line(step.reason),
            "fallback_reason": _line(step.fallback_reason),
            "measurements": tuple(map(_fitted_measurement, step.measurements)),
        }
    )


def _fitted_measurement(one: Measurement) -> Measurement:
    if all(not isinstance(label, str) or len(label) <= LABEL_CHARACTERS for label in one.labels.values()):
        return one
    labels = {
        key: label[:LABEL_CHARACTERS] if isinstance(label, str) else label
        for key, label in one.labels.items()
    }
    return one.model_copy(update={"labels": labels})


def _fitted_head(record: Record) -> Record:
    machine = record.machine
    facts = {name: _fact(getattr(machine, name)) for name in ("gpu_error", "cpu", "os", "kernel")}
    verdicts = tuple(one.model_copy(update={"note": _line(one.note)}) for one in record.verdicts)
    return record.model_copy(
        update={
            "machine": machine.model_copy(update=facts),
            "verdicts": verdicts,
            "unproved": tuple(reason[:LINE_CHARACTERS] for reason in record.unproved),
        }
    )


def _line(text: str | None) -> str | None:
    return None if text is None else text[:LINE_CHARACTERS]


def _fact(text: str | None) -> str | None:
    return None if text is None else text[:FACT_CHARACTERS]


def _dump(value: object, indent: int) -> str:
    text = json.dumps(value, indent=_INDENT, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # Line ends in JSON strings are escaped, so every line end here is layout.
    return text.replace("\n", "\n" + " " * indent)
