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

from pydantic import JsonValue

from runner.base.plain import MARK, marked, plain
from runner.record.model import Measurement, Record, StepResult
from runner.record.redaction.environment_dumps import dumps, environments, looks_like_environment, removed
from runner.record.redaction.patterns import RULES, SPEAKING_NAME
from runner.record.redaction.rule import Group, Rule
from runner.record.redaction.views import Finds, View, read, views

# Too common to identify a host or a person; redacting them would make the text unreadable.
_COMMON = frozenset(
    re.findall(
        r"[\w-]+",
        "root user admin localhost localdomain ubuntu debian centos rocky fedora nobody daemon guest test tests tester "
        "runner build builder worker workers node nodes host server client master main head login home work data "
        "python torch nccl cuda nvidia gpu gpus docker container jenkins gitlab github slurm opc azureuser ec2-user "
        "default none null true false vm dev prod staging compute cluster",
    )
)
_FEWEST_CHARACTERS = 3
_SHORT = 512
# A smaller number is not a board serial.
_SERIAL = 1_000_000
_MOST_ROUNDS = 50
_NO_NAME = re.compile(r"[^\w.-]+")
PLACEHOLDER = re.compile(
    r"\[(?:ip|mac|guid|uuid|serial|host|user|token|credentials|private-key|redacted"
    r"|environment of \d+ variables removed)\]"
)


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
    for may_find, finders in _finders(words):
        if may_find(view.text):
            for find in finders:
                view = view.replaced(_new(view.text, find))
    return view.original


# Records of many nodes contain the same names, labels and commands.
_short = functools.lru_cache(maxsize=4096)(_redacted)


_Finder = Callable[[str], Finds]


@functools.lru_cache(maxsize=8)
def _finders(words: tuple[str, ...]) -> tuple[tuple[Callable[[str], bool], tuple[_Finder, ...]], ...]:
    """The searches in order of precedence: a quick test whether a text may match, and the finders."""
    return (
        (bool, (environments, dumps)),
        *(
            (_gate(one), tuple(map(_finder, one.rules if isinstance(one, Group) else (one,))))
            for one in RULES
        ),
        (lambda _text: bool(words), (functools.partial(_words, words),)),
    )


def _gate(one: Rule | Group) -> Callable[[str], bool]:
    return lambda text: one.may_apply(text, _lowered(text))


def _finder(rule: Rule) -> _Finder:
    def find(text: str) -> Finds:
        return rule.finds(text) if rule.may_apply(text, _lowered(text)) else ()

    return find


@functools.lru_cache(maxsize=1)
def _lowered(text: str) -> str:
    # Every rule needs it, mostly for the same text.
    return text.lower()


def _new(text: str, find: Callable[[str], Finds]) -> Finds:
    """The finds that are not placeholders already: two rules could replace each other's placeholders forever."""
    return [found for found in find(text) if not PLACEHOLDER.fullmatch(text, *found[:2])]


def _words(words: tuple[str, ...], text: str) -> Finds:
    lowered = _lowered(text)
    if any(word in lowered for word in words):
        for found in _words_pattern(words).finditer(text):
            if not found["kept"]:
                yield *found.span(), "[redacted]"


@functools.lru_cache(maxsize=8)
def _words_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(word) for word in words)
    return re.compile(rf"(?P<kept>{PLACEHOLDER.pattern})|(?<![A-Za-z0-9])(?i:{alternatives})(?![A-Za-z0-9])")


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


def redact_record(record: Record, secrets: Sequence[str] = ()) -> Record:
    """A copy of the record with all free text redacted; fields that identify and compare runs are unchanged."""
    return redact_head(record, secrets).model_copy(
        update={"steps": tuple(redact_step(step, secrets) for step in record.steps)}
    )


def redact_head(record: Record, secrets: Sequence[str] = ()) -> Record:
    """The record with everything except its steps redacted."""
    machine = record.machine
    verdicts = tuple(
        verdict.model_copy(update={"note": _optional(verdict.note, secrets)}) for verdict in record.verdicts
    )
    facts = {
        "gpu_error": _optional(machine.gpu_error, secrets),
        "cpu": _optional(machine.cpu, secrets),
        "os": redact_text(machine.os, secrets),
        "kernel": redact_text(machine.kernel, secrets),
    }
    return record.model_copy(
        update={
            "campaign": _optional(record.campaign, secrets),
            "machine": machine.model_copy(update=facts),
            "verdicts": verdicts,
            "unproved": tuple(redact_text(reason, secrets) for reason in record.unproved),
        }
    )


def redact_step(step: StepResult, secrets: Sequence[str] = ()) -> StepResult:
    """The step with its command, output, reasons and document redacted."""
    return step.model_copy(
        update={
            "command": redact_text(step.command, secrets),
            "reason": _optional(step.reason, secrets),
            "stdout_tail": redact_text(step.stdout_tail, secrets),
            "stderr_tail": redact_text(step.stderr_tail, secrets),
            "fallback_reason": _optional(step.fallback_reason, secrets),
            "requested": _mapping(step.requested, secrets),
            "effective": _mapping(step.effective, secrets),
            "details": _mapping(step.details, secrets),
            "measurements": tuple(_measurement(measurement, secrets) for measurement in step.measurements),
        }
    )


@functools.cache
def host_secrets() -> tuple[str, ...]:
    """The names of this host and its user: host names, user names, the home folder. Only this function collects them.

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


def _optional(text: str | None, secrets: Sequence[str]) -> str | None:
    return None if text is None else redact_text(text, secrets)


def _mapping(value: Mapping[str, JsonValue], secrets: Sequence[str]) -> dict[str, JsonValue]:
    redacted = redact_json(dict(value), secrets)
    return redacted if isinstance(redacted, dict) else {"environment": redacted}


def _measurement(measurement: Measurement, secrets: Sequence[str]) -> Measurement:
    if not any(isinstance(label, str) for label in measurement.labels.values()):
        return measurement
    labels = {
        key: redact_text(label, secrets) if isinstance(label, str) else label
        for key, label in measurement.labels.items()
    }
    return measurement.model_copy(update={"labels": labels})
