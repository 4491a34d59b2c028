"""Jinja as the pages use it: everything is escaped, and what a template calls is named here."""

import re
from datetime import datetime
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runner.entry.model import Safety, Step
from runner.history.endings import scope_words
from runner.pages.answer import sample_line
from runner.pages.badges import shown_outcome, state_words
from runner.pages.text import age, brief, cell, day, escaped, inert, printed
from runner.record.model import Record
from runner.vocabulary import label_of

# In escaped text: what its author put between backquotes, and options.
_CODE_IN_HELP = re.compile(r"\\`(?P<quoted>[^`\\]+)\\`|(?<![\w-])--[a-z][a-z0-9-]*")


def environment(templates: Path, now: datetime) -> Environment:
    """The environment of a build.

    Args:
        templates: the folder of templates.
        now: the moment that ages are counted from.
    """
    # Autoescape on whatever the ending: the pages are Markdown, but every value from outside goes into raw HTML.
    jinja = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(
        inert=inert,
        brief=brief,
        printed=printed,
        cell=cell,
        day=day,
        fence=fenced,
        code=partial(fenced, language="python"),
        text=partial(fenced, language="text"),
        words=state_words,
        md=_md,
        help=_help,
        prose=_prose,
    )
    jinja.globals.update(
        age=lambda moment: age(moment, now),
        days=lambda moment: max(0, (now - moment).days),
        record_path=record_path,
        needs=needs,
        versions=versions,
        scope=scope_words,
        outcome=shown_outcome,
        sample=sample_line,
        label=label_of,
    )
    return jinja


def record_path(record: Record) -> str:
    """Where the site keeps the raw record that a number came from."""
    return f"data/records/{record.run_id}.json"


def _md(text: str) -> Markup:
    """A short text in plain Markdown."""
    return Markup(escaped(text))  # noqa: S704 - plain Markdown is no HTML


def _help(text: str) -> Markup:
    """The help of an option in plain Markdown; options are code, in which no generator makes a dash of two hyphens."""
    shown = _CODE_IN_HELP.sub(lambda match: f"`{match['quoted'] or match[0]}`", escaped(text))
    return Markup(shown)  # noqa: S704 - as above


def _prose(text: str) -> Markup:
    """A paragraph in plain Markdown; what its author put between backquotes is code."""
    words = (
        f"`{code}`" if code else escaped(other) if other.strip() else other
        for code, other in re.findall(r"`([^`]+)`|([^\s`]+|\s+|`)", text)
    )
    return Markup("".join(words))  # noqa: S704 - as above


def fenced(command: str, language: str = "bash") -> Markup:
    """A command as a fenced block, exactly as it runs; the fence is longer than any run of backquotes in it."""
    runs = re.findall(r"^\s*(`+)", command, re.MULTILINE)
    marks = "`" * max([3, *(len(run) + 1 for run in runs)])
    return Markup(f"{marks}{language}\n{command.rstrip()}\n{marks}")  # noqa: S704 - a fence is verbatim


def needs(step: Step) -> str:
    """What a step asks of the node, in words."""
    words = []
    if step.gpus:
        words.append(f"{step.gpus} GPU{'s' if step.gpus > 1 else ''}")
    if step.nodes > 1:
        words.append(f"{step.nodes} nodes")
    what = {
        Safety.READ_ONLY: "read-only",
        Safety.LOADS_DEVICE: "loads the device",
        Safety.CHANGES_HOST: "changes the host: runs only with --allow changes-host",
    }[step.safety]
    return "; ".join(
        [*(["needs " + " and ".join(words)] if words else []), what, f"deadline {step.timeout:g} s"]
    )


def versions(record: Record) -> str:
    """`driver 580.95.05, torch 2.13.0, CUDA 13.0, NCCL 2.27.7`."""
    machine = record.machine
    named = (
        ("driver", machine.driver),
        ("torch", machine.torch),
        ("CUDA", machine.cuda),
        ("NCCL", machine.nccl),
    )
    return ", ".join(f"{name} {version or 'none'}" for name, version in named)
