from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import RunbookFaultsError
from runner.entry import head as head_module
from runner.entry.attributes import read_attributes
from runner.entry.model import Phase, Prose, Runbook, Safety, Step
from runner.entry.parse import parse

ROOT = Path(__file__).parents[1]
GOOD = """\
---
id: good
number: 1
title: A good entry
severity: high
proof: [again]
signatures:
  - pattern: "NCCL WARN .*timeout"
    weight: 3
expectations:
  - id: faq-busbw
    metric: busbw.bus_bandwidth
    at: {bytes: 8GiB, op: all_reduce}
    min: 800
    unit: GB/s
    on: {gpu: B200, count: 8}
    evidence: reported
    source: a report
claims:
  - id: a-claim
    text: It is so.
    evidence: reported
    source: a report
    confirmed_if: {metric: busbw.bus_bandwidth, max: 30, unit: GB/s}
---

## Symptom

Slow.

## By hand

```bash
nvidia-smi
```

## Root cause

Unknown.

## Diagnose

Look first.

```bash {#busbw gpus=2 timeout=30 safety=loads-device}
python -m runner.probes.collectives --op all_reduce
```

Then think.

```text
illustration
```

## Fix

```bash {#undo}
unset NCCL_P2P_DISABLE
```

## Verify

```bash {#again needs=busbw,undo slow}
true
```

## See also

Nothing.
"""


def parsed(text: str, name: str = "good") -> Runbook:
    return parse(text, Path(f"{name}.md"))


def faults(text: str, name: str = "good") -> list[str]:
    with pytest.raises(RunbookFaultsError) as caught:
        parsed(text, name)
    return [f"{fault.line}: {fault.message}" for fault in caught.value.faults]


def test_a_good_entry_reads_whole() -> None:
    runbook = parsed(GOOD)
    assert (runbook.id, runbook.head.number, runbook.head.severity) == ("good", 1, "high")
    assert [step.id for step in runbook.steps] == ["busbw", "undo", "again"]
    busbw, _, again = runbook.steps
    assert (busbw.phase, busbw.gpus, busbw.timeout, busbw.safety) == (
        Phase.DIAGNOSE,
        2,
        30.0,
        Safety.LOADS_DEVICE,
    )
    assert busbw.command == "python -m runner.probes.collectives --op all_reduce\n"
    assert GOOD.splitlines()[busbw.line - 1].startswith("```bash {#busbw")
    assert (again.needs, again.slow) == (("busbw", "undo"), True)


def test_prose_and_steps_keep_their_order_and_wording() -> None:
    diagnose = parsed(GOOD).sections[3]
    first, step, after = diagnose.body
    assert isinstance(first, Prose)
    assert first.markdown == "Look first."
    assert isinstance(step, Step)
    assert isinstance(after, Prose)
    assert after.markdown == "Then think.\n\n```text\nillustration\n```"


def test_the_title_may_be_repeated_as_a_heading_for_readers_on_a_git_host() -> None:
    repeated = parsed(GOOD.replace("## Symptom", "# A good entry\n\n## Symptom"))
    assert [section.title for section in repeated.sections] == [
        section.title for section in parsed(GOOD).sections
    ]


def test_windows_line_ends_change_nothing_but_themselves() -> None:
    assert parsed(GOOD.replace("\n", "\r\n")) == parsed(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("severity: high", "severty: high", "5: unknown key 'severty' (did you mean 'severity'?)"),
        ("severity: high", "severity: hgih", "5: severity: unknown value 'hgih' (did you mean 'high'?)"),
        ("    weight: 3", "    wieght: 3", "9: unknown key 'wieght' (did you mean 'weight'?)"),
        ("{gpu: B200, count: 8}", "{gpu: B200, cuont: 8}", "16: unknown key 'cuont' (did you mean 'count'?)"),
        ("number: 1\n", "", "2: number is missing"),
        ("number: 1\n", "number: one\n", "3: number: Input should be a valid integer"),
        (
            "id: good\n",
            "id: other\n",
            "2: the id 'other' differs from the file name; rename the file to other.md",
        ),
        ("id: good\n", "id: ../good\n", "2: '../good' is not a valid id"),
        (
            "severity: high",
            "severity: high\nid: good",
            "6: duplicate key 'id'; the first is on line 2",
        ),
        ("    min: 800\n", "", "11: expectations.0: needs min or max"),
        ("    min: 800\n", "    min: .nan\n", "14: expectations.0.min: Input should be a finite number"),
        ("unit: GB/s\n    on", "unit: GB/sec\n    on", "15: unknown unit 'GB/sec' (did you mean 'GB/s'?)"),
        (
            "unit: GB/s\n    on",
            "unit: ms\n    on",
            "15: ms is not a unit of busbw.bus_bandwidth, which is stored in B/s",
        ),
        (
            "metric: busbw.bus_bandwidth\n",
            "metric: busbv.bus_bandwidth\n",
            "12: 'busbv.bus_bandwidth': unknown step",
        ),
        (
            "metric: busbw.bus_bandwidth\n",
            "metric: busbw.bus_bandwith\n",
            "12: unknown measurement 'bus_bandwith'",
        ),
        (
            "metric: busbw.bus_bandwidth\n",
            "metric: busbw.nvlinks_active\n",
            "12: the step 'busbw' does not measure",
        ),
        ("bytes: 8GiB", "bytes: 8GiBs", "13: '8GiBs' is not a size"),
        (
            "NCCL WARN .*timeout",
            "(?P<x>NCCL)",
            "8: the pattern uses syntax that differs between browsers and Python",
        ),
        ("NCCL WARN .*timeout", "NCCL (WARN", "8: the pattern is not a valid regular expression"),
        (
            'NCCL WARN .*timeout"\n',
            'NCCL WARN .*timeout"\n    example: all is well\n',
            "9: the example does not match its own pattern",
        ),
        (
            'NCCL WARN .*timeout"\n',
            'NCCL WARN .*timeout"\n    example: "NCCL WARN\\nsome timeout"\n',
            "9: signatures.0.example: String should match pattern",
        ),
        ("NCCL WARN .*timeout", "(a+)+b", "8: the pattern repeats a group that contains a repeat"),
        ("id: a-claim", "id: faq-busbw", "20: duplicate id 'faq-busbw'"),
        ("## Verify", "## Verfy", "61: unknown section 'Verfy' (did you mean 'Verify'?)"),
        ("## Verify", "## Fix", "61: duplicate section 'Fix'"),
        ("## Root cause\n\nUnknown.\n", "", "the section ## Root cause is missing"),
        ("## By hand\n\n```bash\nnvidia-smi\n```\n", "", "the section ## By hand is missing"),
        ("```bash\nnvidia-smi\n```", "Look.", "31: By hand holds no ```bash block"),
        ("nvidia-smi", "nox -s runbook-2", "34: By hand uses 'nox'"),
        ("nvidia-smi", "ls\npython3 -m runner.probes.topology", "35: By hand uses 'runner.probes'"),
        (
            "## Symptom",
            "# Title\n\n## Symptom",
            "27: the # heading must precede the sections and repeat the title",
        ),
        ("## Fix", "# A good entry\n\n## Fix", "55: the # heading must precede the sections"),
        ("## Symptom", "Hello.\n\n## Symptom", "27: text before the first section"),
        ("gpus=2", "gpu=2", "45: unknown attribute 'gpu' (did you mean 'gpus'?)"),
        ("gpus=2", "gpus=two", "45: gpus takes a whole number, not 'two'"),
        ("timeout=30", "timeout=0", "45: timeout must be above 0 and at most 86400 seconds, not '0'"),
        ("timeout=30", "timeout=30 timeout=31", "45: duplicate attribute 'timeout'"),
        (
            "safety=loads-device",
            "safety=load-device",
            "45: unknown safety 'load-device' (did you mean 'loads-device'?)",
        ),
        ("{#undo}", "{undo}", "57: unknown attribute 'undo'"),
        ("{#undo}", "{gpus=1}", "57: a fence with attributes needs an id"),
        ("{#undo}", "{#busbw}", "57: duplicate step id 'busbw'; the first is on line 45"),
        ("{#undo}", "{#../../etc}", "57: '#../../etc' is not a valid id"),
        ("{#undo}", "{#undo", "57: the attributes do not parse"),
        ("```bash {#undo}", "```python {#undo}", "57: a step must be a bash fence, not python"),
        ("needs=busbw,undo", "needs=bsubw", "63: needs=bsubw: unknown step (did you mean 'busbw'?)"),
        ("needs=busbw,undo", "needs=again", "63: needs=again: that step does not run before this one"),
        ("true\n```", "true", "63: this fence is not closed"),
        ("Slow.", "```bash {#early}\ntrue\n```", "29: a step is not allowed under Symptom"),
        (
            "Look first.",
            "- a list\n\n  ```bash {#inner}\n  true\n  ```",
            "45: a step must start at the left margin",
        ),
    ],
)
def test_each_fault_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = faults(GOOD.replace(old, new, 1))
    assert any(fault.startswith(expected) or fault.endswith(expected) for fault in found), found


def test_all_faults_are_found_in_one_run() -> None:
    text = (
        GOOD.replace("severity: high", "severty: high")
        .replace("## Verify", "## Verfy")
        .replace("gpus=2", "gpu=2")
    )
    found = faults(text)
    assert [fault.partition(":")[0] for fault in found if "did you mean" in fault] == ["5", "45", "61"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("id: x\n\tnumber: 1", "this line is indented with a tab"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "aliases are not allowed"),
        ("id: [1, 2", "the front matter is not YAML"),
        ('id: "\\UFFFFFFFF"', "the front matter is not YAML"),
        ("- a\n- b", "not a mapping"),
        ("", "not a mapping"),
        ("a: " + "[" * 50 + "]" * 50, "nested deeper than"),
        ("id: !!python/object/apply:os.system ['true']", "the front matter is not YAML"),
        ("id: 2026-99-99", "cannot be read"),
    ],
)
def test_yaml_that_means_harm_or_nothing_is_one_line(head: str, expected: str) -> None:
    (found,) = [fault for fault in faults(f"---\n{head}\n---\n") if expected in fault]
    assert "\n" not in found


def _read_by(loader: type[head_module._Loader] | type[head_module._FastLoader], text: str) -> object:
    """What a loader reads, with the lines; None where it finds a fault."""

    def told(node: yaml.Node | None) -> object:
        if isinstance(node, yaml.CollectionNode):
            parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
            return node.tag, node.start_mark.line, [told(part) for part in parts]
        return node and (node.tag, node.value, node.start_mark.line)

    with suppress(yaml.YAMLError):
        return told(loader(text).get_single_node())
    return None


@pytest.mark.parametrize("path", sorted((ROOT / "runbooks").glob("*.md")), ids=lambda path: path.stem)
def test_both_loaders_read_a_head_and_parts_of_it_alike(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("---\n")[1].split("\n")
    assert _read_by(head_module._FastLoader, "\n".join(lines)) is not None
    for place in range(0, len(lines), 9):
        for text in ("\n".join(lines[:place]), "\n".join(lines[:place] + lines[place + 1 :])):
            # What the fast one refuses, the other one reads or reports.
            fast = _read_by(head_module._FastLoader, text)
            assert fast in (None, _read_by(head_module._Loader, text))


@pytest.mark.parametrize(
    "head",
    [
        "a: {o?}",
        "a: [b, o? c]",
        "a: {b:\n}",
        "a: !",
        "a: !.!",
        "a: !x,y []",
        "a: |#\n  b",
        "a:\tb",
        "\ufeffa: b",
        "?",
        "---",
    ],
)
def test_what_libyaml_reads_differently_is_read_by_the_parser_of_pyyaml(head: str) -> None:
    assert _read_by(head_module._FastLoader, head) is None


# The characters that mean something in YAML, and the line breaks that only YAML knows.
_YAML = st.lists(
    st.sampled_from(
        [*"ab1?!&*#|>%@`'\"\\,:[]{}-=~ \n", ": ", "- ", "? ", " #", "\n  ", "\x85", "\u2028", "---", "..."]
    ),
    max_size=12,
)


@given(_YAML)
def test_both_loaders_read_any_head_alike(parts: list[str]) -> None:
    text = "".join(parts)
    fast = _read_by(head_module._FastLoader, text)
    assert fast in (None, _read_by(head_module._Loader, text))


def test_a_file_without_front_matter_says_how_to_begin() -> None:
    assert faults("# Hello\n")[0].startswith("1: no front matter; begin the file with ---")


@given(st.text(max_size=400))
def test_any_text_is_a_runbook_or_faults(text: str) -> None:
    with pytest.raises(RunbookFaultsError):
        parsed(text)


@pytest.mark.parametrize("title", ["true north", "falsely slow", "trueish"])
def test_a_value_that_begins_like_a_boolean_is_text(title: str) -> None:
    text = GOOD.replace("title: A good entry", f"title: {title}").replace("# A good entry", f"# {title}")
    assert parsed(text).head.title == title


@pytest.mark.parametrize("value", ["!!bool maybe", "!!timestamp today", "!!int ''", "!!float ''", "!!int x"])
def test_a_value_that_does_not_fit_its_yaml_tag_is_a_fault(value: str) -> None:
    with pytest.raises(RunbookFaultsError) as raised:
        parsed(GOOD.replace("number: 1", f"number: {value}"))
    assert raised.value.faults[0].line == 2


@given(st.integers(0, len(GOOD)), st.text(max_size=20))
def test_a_good_entry_with_anything_put_into_it_is_a_runbook_or_faults(place: int, text: str) -> None:
    with suppress(RunbookFaultsError):
        assert parsed(GOOD[:place] + text + GOOD[place:]).id == "good"


@given(
    step_id=st.from_regex(r"[a-z0-9][a-z0-9-]{0,10}", fullmatch=True),
    gpus=st.integers(0, 99),
    timeout=st.integers(1, 86400),
    safety=st.sampled_from(Safety),
    marks=st.sets(st.sampled_from(["drill", "slow"])),
)
def test_attributes_that_are_written_read_back(
    step_id: str, gpus: int, timeout: int, safety: Safety, marks: set[str]
) -> None:
    info = f"bash {{#{step_id} gpus={gpus} timeout={timeout} safety={safety.value} {' '.join(marks)}}}"
    read = read_attributes(info)
    assert (read.step_id, read.faults) == (step_id, ())
    assert dict(read.fields) == {"gpus": gpus, "timeout": float(timeout), "safety": safety} | dict.fromkeys(
        marks, True
    )


@given(st.text(max_size=60))
def test_any_info_string_is_read_without_a_crash(info: str) -> None:
    assert read_attributes(info).faults is not None


def test_an_entry_of_an_earlier_commit_is_read_in_the_order_that_it_had() -> None:
    before = GOOD.replace("## By hand\n\n```bash\nnvidia-smi\n```\n\n", "")
    assert [section.title for section in parse(before, Path("good.md"), references=False).sections][
        1
    ] == "Root cause"
    assert faults(before)


@pytest.mark.parametrize(
    ("example", "fault"),
    [
        ("all is well", "9: the example does not match its own pattern"),
        ('"NCCL WARN\\nsome timeout"', "9: signatures.0.example: String should match pattern"),
        ("NCCL WARN " + "x" * 200 + " timeout", "9: signatures.0.example: String should have at most 200"),
    ],
)
def test_an_example_of_a_signature_is_one_short_line_that_its_pattern_matches(
    example: str, fault: str
) -> None:
    pattern = '  - pattern: "NCCL WARN .*timeout"\n'
    assert pattern in GOOD
    with pytest.raises(RunbookFaultsError) as refused:
        parse(GOOD.replace(pattern, f"{pattern}    example: {example}\n"), Path("good.md"))
    assert fault in str(refused.value)
    fitting = GOOD.replace(pattern, f"{pattern}    example: rank 3 NCCL WARN a timeout\n")
    assert parse(fitting, Path("good.md")).head.signatures[0].example == "rank 3 NCCL WARN a timeout"


@pytest.mark.parametrize("path", sorted((ROOT / "runbooks").glob("*.md")), ids=lambda path: path.stem)
def test_no_source_of_an_entry_is_cut_short_by_the_number_of_an_issue(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("---\n")[1]
    # YAML takes ` #` for a comment; quotes, `>-` or `|` keep it.
    kept = "".join(token.value for token in yaml.scan(head) if isinstance(token, yaml.ScalarToken))
    assert kept.count(" #") == head.count(" #")
