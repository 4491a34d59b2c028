"""The text of a new entry: complete enough to be checked and shown, with the questions it has to answer. Pure."""

import json

_SKELETON = """\
---
id: {id}
number: {number}
title: {title}
severity: medium
tags: []
# Log lines that mean this issue, as regular expressions: copy one from the incident, and loosen what varies.
signatures: []
# A bound that decides a step: {{id, metric: look.<metric>, min or max, unit, evidence, source}}.
expectations: []
# What must run or be measured in Verify, or nothing about the title is proved: a step, or <step>.<metric>.
proof: [look-again]
# A sentence of this entry that records can confirm or contradict: {{id, text, evidence, source, confirmed_if}}.
claims: []
---

# {title}

## Symptom

What does the person on call see? One line that a tired reader recognises, then what tells it from its neighbours.

## By hand

What do you type on a node that has only the system's own programs? One block that finds the fault and removes it;
above it, what it needs: which user, which package.

```bash
nvidia-smi
```

## Root cause

Why does it happen, and where do you know it from? Every number names its source.

## Diagnose

What finds the fault without changing anything. Exit status 0 means that all is well here, 80 that the step does not
apply on this machine; anything else is an error, unless a probe writes a document that says `symptom`.

```bash {{#look}}
test -e /proc/driver/nvidia/version || exit 80
cat /proc/driver/nvidia/version
```

## Fix

What takes the fault away, in one block to copy. A step that changes the host says `safety=changes-host`.

## Verify

What measures the fault gone, by the same numbers that found it.

```bash {{#look-again}}
test -e /proc/driver/nvidia/version || exit 80
cat /proc/driver/nvidia/version
```
"""


def skeleton(entry_id: str, number: int, title: str) -> str:
    """A runbook with every required section and two steps, which `check` accepts as it stands."""
    # A JSON string is a YAML string too, whatever stands in it; a plain title needs no quotes.
    plain = title.replace(" ", "").replace("-", "").isalnum()
    text = _SKELETON.format(id=entry_id, number=number, title="\0")
    head, _, body = text.partition("\n---\n")
    quoted = title if plain and not title.isdigit() else json.dumps(title, ensure_ascii=False)
    return head.replace("\0", quoted) + "\n---\n" + body.replace("\0", title)
