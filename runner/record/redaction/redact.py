"""Redacts hosts, persons and secrets in text before it is stored.

The order of the rules matters: a token inside an assignment is replaced with the whole assigned value. Text that helps
to diagnose a fault stays: versions, digests, commits, bus addresses, loopback addresses, the useful part of NCCL's
debug lines.
"""

import contextlib
import functools
import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, JsonValue

from runner.base.places import running_package
from runner.base.plain import MARK, marked, plain
from runner.record.model import Measurement, Record, StepResult
from runner.record.redaction.environment_dumps import looks_like_environment, removed
from runner.record.redaction.patterns import RULES, SPEAKING_NAME
from runner.record.redaction.placeholder import PLACEHOLDER
from runner.record.redaction.rule import Finds, Group, holds_one, word_set
from runner.record.redaction.views import View, read, views

# Too common to identify a host or a person; redacting them would make the text unreadable.
_COMMON = word_set(
    "root user admin localhost localdomain ubuntu debian centos rocky fedora nobody daemon guest test tests tester "
    "runner build builder worker workers node nodes host server client master main head login home work data "
    "python torch nccl cuda nvidia gpu gpus docker container jenkins gitlab github slurm opc azureuser ec2-user "
    "default none null true false vm dev prod staging compute cluster"
)
_FEWEST_CHARACTERS = 3
_SHORT = 512
# A smaller number is not a board serial.
_SERIAL = 1_000_000
_MOST_ROUNDS = 50
_NO_NAME = re.compile(r"[^\w.-]+")


def redact_text(text: str, secrets: Sequence[str] = ()) -> str:
    """Replace private text by placeholders such as `[ip]`, `[host]`, `[user]`, `[uuid]`, `[token]`.

    Terminal control sequences and invisible characters are removed as well (`runner.base.plain`). Everything else is
    kept, but is also searched with its escapes decoded (`runner.record.redaction.views`). Idempotent, in linear time.

    Args:
        text: any output of a program.
        secrets: further words to redact, as whole words and in any case (`host_secrets`).
    """
    words = tuple(
        sorted({word.lower() for word in secrets if word.strip()}, key=lambda word: (-len(word), word))
    )
    return _short(text, words) if len(text) <= _SHORT else _redacted(text, words)


def _redacted(text: str, words: tuple[str, ...]) -> str:
    before, text = text, marked(text)
    # A replacement may create a new match. Each one turns text into a placeholder, and placeholders are not replaced,
    # so this terminates.
    for _ in range(_MOST_ROUNDS):
        for reading in views(text):
            text = _through(reading, text, words)
        text = text.replace(MARK, "")
        if text == before:
            break
        before = text
    return text


def _through(reading: Callable[[str], View | None], text: str, words: tuple[str, ...]) -> str:
    view = reading(text)
    if view is None:
        return text
    lowered = view.text.lower()
    # The words come last: what a rule replaces says more.
    for hints, finders in (*RULES, *_own(words)):
        if hints and not holds_one(lowered, hints):
            continue
        for find in finders:
            # Two rules could replace each other's placeholders forever.
            finds = [
                one for one in find(view.text, lowered) if not PLACEHOLDER.fullmatch(view.text, *one[:2])
            ]
            if finds:
                view = view.replaced(finds)
                lowered = view.text.lower()
    return view.original


# Records of many nodes contain the same names, labels and commands.
_short = functools.lru_cache(maxsize=4096)(_redacted)


@functools.lru_cache(maxsize=8)
def _own(words: tuple[str, ...]) -> tuple[Group, ...]:
    """The rule for the caller's words."""
    if not words:
        return ()
    alternatives = "|".join(re.escape(word) for word in words)
    pattern = re.compile(
        rf"(?P<kept>{PLACEHOLDER.pattern})|(?<![A-Za-z0-9])(?i:{alternatives})(?![A-Za-z0-9])"
    )

    def find(text: str, _lowered: str) -> Finds:
        return ((*found.span(), "[redacted]") for found in pattern.finditer(text) if not found["kept"])

    return ((words, (find,)),)


def redact_json(value: JsonValue, secrets: Sequence[str] = ()) -> JsonValue:
    """The same for JSON: every string, including keys. A mapping that is an environment is replaced by one line."""
    if isinstance(value, str):
        return redact_text(value, secrets)
    if isinstance(value, list):
        return _list("", value, secrets)
    if not isinstance(value, dict):
        return value
    if looks_like_environment({read(key): item for key, item in value.items()}):
        return removed(len(value))
    result: dict[str, JsonValue] = {}
    for key, item in value.items():
        name = clean = redact_text(key, secrets)
        number = 1
        while name in result:
            number += 1
            name = f"{clean} ({number})"
        # `{"name": …, "value": …}`, the form of container variables in Kubernetes.
        hidden = _named_secret(name, item) or (
            name == "value" and _named_secret(str(value.get("name")), item)
        )
        if isinstance(item, list):
            result[name] = _list(name, item, secrets)
        else:
            result[name] = hidden or redact_json(item, secrets)
    return result


def _list(key: str, values: list[JsonValue], secrets: Sequence[str]) -> list[JsonValue]:
    """The items of a list under a key; an item after an option is its value."""
    names = (one if isinstance(one, str) and one.startswith("-") else "" for one in ("", *values))
    return [
        _named_secret(key, item) or _named_secret(name, item) or redact_json(item, secrets)
        for name, item in zip(names, values, strict=False)
    ]


def redact_head(record: Record, secrets: Sequence[str] = ()) -> Record:
    """The record with everything except its steps redacted."""
    machine = _texts(record.machine, ("gpu_error", "cpu", "os", "kernel"), secrets)
    verdicts = (verdict.model_copy(update=_texts(verdict, ("note",), secrets)) for verdict in record.verdicts)
    return record.model_copy(
        update={
            **_texts(record, ("campaign",), secrets),
            "machine": record.machine.model_copy(update=machine),
            "verdicts": tuple(verdicts),
            "unproved": tuple(redact_text(reason, secrets) for reason in record.unproved),
        }
    )


def redact_step(step: StepResult, secrets: Sequence[str] = ()) -> StepResult:
    """The step with its command, output, reasons and document redacted."""
    texts = ("command", "reason", "stdout_tail", "stderr_tail", "fallback_reason")
    mappings = ("requested", "effective", "details")
    return step.model_copy(
        update={
            **_texts(step, texts, secrets),
            **{name: _mapping(getattr(step, name), secrets) for name in mappings},
            "measurements": tuple(_measurement(measurement, secrets) for measurement in step.measurements),
        }
    )


@functools.cache
def host_secrets() -> tuple[str, ...]:
    """The names of this host and its user: host and user names, the home folder, and the folder that this runs from.

    Only this function collects them.

    Common and very short words are omitted; the patterns of `redact_text` find those by their context.
    """
    words: set[str] = set()
    for name in (socket.gethostname(), os.uname().nodename, os.environ.get("HOSTNAME", "")):
        words |= {name, name.partition(".")[0]}
    words |= {os.environ.get(variable, "") for variable in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    # In a job, Slurm's names of node, user and submit host may differ from the system's.
    words |= {os.environ.get(f"SLURM{name}", "") for name in ("D_NODENAME", "_JOB_USER", "_SUBMIT_HOST")}
    # A container may run under a user id without a name.
    with contextlib.suppress(KeyError, OSError):
        words.add(getpass.getuser())
    home = os.environ.get("HOME", "")
    if len(Path(home).parts) > 2:  # noqa: PLR2004 - `/home/x`, not `/` or `/root`
        words |= {home, Path(home).name}
    # Programs print the files of a stack, and where they lie is private.
    words.add(str(running_package().parent))
    return telling(words)


def telling(words: Iterable[str]) -> tuple[str, ...]:
    """The words that can identify something: not too short, not too common, not only digits."""
    return tuple(sorted({word for word in words if _telling(word)}))


def _telling(word: str) -> bool:
    return len(word) >= _FEWEST_CHARACTERS and word.lower() not in _COMMON and not word.isdigit()


def _named_secret(key: str, value: Any) -> str | None:
    """The placeholder for a value whose key marks it as a secret, as for `key=value` in text."""
    if isinstance(value, int) and value >= _SERIAL:
        value = str(value)
    if not isinstance(value, str):
        return None
    key, value = read(key), plain(value)
    if PLACEHOLDER.fullmatch(value) or not SPEAKING_NAME.search(key):
        return None
    name = _NO_NAME.sub("_", key)
    line = f'{name}="{value}"'
    redacted = _redacted(line, ())
    found = PLACEHOLDER.search(redacted, len(name)) if redacted != line else None
    return found[0] if found else None


def _texts(model: BaseModel, names: Sequence[str], secrets: Sequence[str]) -> dict[str, str | None]:
    """These fields of a model, redacted."""
    texts = {name: getattr(model, name) for name in names}
    return {name: None if text is None else redact_text(text, secrets) for name, text in texts.items()}


def _mapping(value: Mapping[str, JsonValue], secrets: Sequence[str]) -> dict[str, JsonValue]:
    redacted = redact_json(dict(value), secrets)
    return redacted if isinstance(redacted, dict) else {"environment": redacted}


def _measurement(measurement: Measurement, secrets: Sequence[str]) -> Measurement:
    texts = [name for name, label in measurement.labels.items() if isinstance(label, str)]
    if not texts:
        return measurement
    redacted = {name: redact_text(str(measurement.labels[name]), secrets) for name in texts}
    return measurement.model_copy(update={"labels": {**measurement.labels, **redacted}})
