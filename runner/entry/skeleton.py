"""The text of a new entry: complete enough to pass `check`, with the questions that the author must answer. Pure."""

import json

_SKELETON = """\
---
id: {id}
number: {number}
title: {title}
severity: medium
tags: []
# Log lines of this issue, as regular expressions: copy a line from the incident and generalise its variable parts.
signatures: []
# A bound that decides a step: {{id, metric: look.<metric>, min or max, unit, evidence, source}}.
expectations: []
# What must run or be measured in Verify for the fix to be proved: a step, or <step>.<metric>.
proof: [look-again]
# A sentence of this entry that records can confirm or contradict: {{id, text, evidence, source, confirmed_if}}.
claims: []
---

# {title}

## Symptom

What does the person on call see? One line that is easy to recognise, then how it differs from similar issues.

## By hand

What do you type on a node that has only the system's own programs? One block that finds the fault and removes it;
above it, what it needs: which user, which package.

```bash
nvidia-smi
```

## Root cause

Why does it happen, and what is the source? Every number names its source.

## Diagnose

How to find the fault without changing anything. Exit status 0 means no finding, 80 means that the step does not apply
on this machine. Any other status is an error, unless a probe writes a document with the status `symptom`.

```bash {{#look}}
test -e /proc/driver/nvidia/version || exit 80
cat /proc/driver/nvidia/version
```

## Fix

How to remove the fault, in one block to copy. A step that changes the host has `safety=changes-host`.

## Verify

How to measure that the fault is gone, with the same metrics that found it.

```bash {{#look-again}}
test -e /proc/driver/nvidia/version || exit 80
cat /proc/driver/nvidia/version
```
"""


def skeleton(entry_id: str, number: int, title: str) -> str:
    """A runbook with every required section and two steps, which passes `check` unchanged."""
    # Every JSON string is a valid YAML string; a plain title needs no quotes.
    plain = title.replace(" ", "").replace("-", "").isalnum()
    text = _SKELETON.format(id=entry_id, number=number, title="\0")
    head, _, body = text.partition("\n---\n")
    quoted = title if plain and not title.isdigit() else json.dumps(title, ensure_ascii=False)
    return head.replace("\0", quoted) + "\n---\n" + body.replace("\0", title)
