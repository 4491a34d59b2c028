"""Numbers in prose: what is asked for is answered with class and date, and everything else stays as it was written."""

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError, RunbookFaultsError
from runner.entry.parse import parse
from runner.pages import prose
from runner.pages.calls import find_calls
from runner.pages.evidence import gather
from runner.pages.prose import NAMES, as_html, as_markdown, expand, prose_faults
from runner.pages.readings import Known
from runner.pages.render import render
from runner.pages.tables import Table
from runner.record.model import Record
from tests.evidence_samples import measurement
from tests.golden_entry import NOW, TEXT, entry, records, result, run
from tests.hostile import HOSTILE
from tests.html_reader import read_html
from tests.test_check import check
from tests.test_parse import GOOD

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
GUIDE = Path("kb/guides/some.md")
BUSBW = '"small/busbw.bus_bandwidth"'


def known(*found: Record) -> Known:
    return Known({"small": entry()}, gather(found or records(entry())), strict=True)


def shown(markdown: str, *found: Record) -> str:
    return expand(markdown, GUIDE, 1, known(*found), partial(as_html, prefix="../"))


def words(markdown: str, *found: Record) -> str:
    return read_html(shown(markdown, *found)).words


def refusal(markdown: str, *found: Record, line: int = 1) -> str:
    with pytest.raises(RunbookFaultsError) as caught:
        expand(markdown, GUIDE, line, known(*found), partial(as_html, prefix="../"))
    (fault,) = caught.value.faults
    assert "\n" not in fault.message
    return str(fault)


EVERYTHING = f"""\
# A guide

Eight GiB go at {{{{ measured({BUSBW}, at={{"bytes": "8GiB"}}, on="2xH100-80GB") }}}}, and
at {{{{ measured({BUSBW}, at={{"bytes": "8GiB"}}) }}}}.

- Not yet: {{{{ measured({BUSBW}, at={{"bytes": "8GiB"}}, on="8xB200-180GB") }}}}.
- Old: {{{{ measured("small/wiring.nvlinks_per_pair") }}}}; nobody: {{{{ measured("small/busbw.collective_time") }}}}.

{{{{ measured_table([
    ("8 GiB", {BUSBW}, {{"bytes": "8GiB"}}),
    ("wiring", "small/wiring.nvlinks_per_pair"),
    ("wrong | right", "small/again.wrong_elements", {{}}),
]) }}}}

{{{{ board_peaks() }}}}

Left alone: `{{{{ measured({BUSBW}) }}}}`, {{{{ 7*7 }}}}, {{% raw %}}.

```python
print("{{{{ measured({BUSBW}) }}}}")
```

    {{{{ measured({BUSBW}) }}}}
"""


@pytest.mark.parametrize("name", ["prose.md", "prose.plain.md"])
def test_a_text_with_numbers_is_the_golden_one(name: str) -> None:
    show = as_markdown if name == "prose.plain.md" else partial(as_html, prefix="../")
    text = expand(EVERYTHING, GUIDE, 1, known(), show)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


def test_a_number_has_class_and_date_beside_it_and_on_hover() -> None:
    text = shown(f'{{{{ measured({BUSBW}, at={{"bytes": "8GiB"}}, on="2xH100-80GB") }}}}')
    assert read_html(text).words == "350 GB/s ( 2xH100-80GB, 2026-11-01 )"
    title = read_html(text).one("span").attributes["title"]
    for part in ("2xH100-80GB", "2026-11-01", "340 GB/s … 360 GB/s", "median of 3 samples", "torch 2.13.0"):
        assert part in title
    assert read_html(text).one("a").attributes["href"] == "../data/records/b1b2c3d4e5f6.json"


def test_without_a_class_every_class_that_has_the_number_is_named() -> None:
    text = words(f'{{{{ measured({BUSBW}, at={{"bytes": "8GiB"}}) }}}}')
    assert "350 GB/s ( 2xH100-80GB, 2026-11-01 )" in text
    assert "410 MB/s ( cpu-example-x86_64-2c, 2026-11-01 )" in text
    assert "B200" not in text


@pytest.mark.parametrize("on", ["8xB200-180GB", "8xH200-141GB", "cpu-arm-neoverse-v2-aarch64-sve2-i8mm-72c"])
def test_what_no_record_has_reads_unmeasured(on: str) -> None:
    assert words(f'{{{{ measured({BUSBW}, on="{on}") }}}}') == f"unmeasured ({on})"


def test_a_number_that_no_class_has_reads_unmeasured() -> None:
    assert words('{{ measured("small/busbw.collective_time") }}') == "unmeasured (on every class)"


def test_a_stale_number_is_said_to_be_stale() -> None:
    assert words('{{ measured("small/wiring.nvlinks_per_pair") }}') == "18 ( 2xH100-80GB, 2026-11-01, stale )"


def test_a_number_from_stand_ins_is_no_number() -> None:
    fake = [one.model_copy(update={"simulated": True}) for one in records(entry())]
    assert words(f"{{{{ measured({BUSBW}) }}}}", *fake) == "unmeasured (on every class)"


def test_several_nodes_show_their_median_and_say_how_many_they_are() -> None:
    found = [
        run(
            entry(),
            result(entry(), "busbw", measurement(value)),
            node_alias=f"node-{value:g}",
            run_id=f"{value:.0f}",
        )
        for value in (2e8, 3e8, 7e8)
    ]
    text = shown(f"{{{{ measured({BUSBW}) }}}}", *found)
    assert read_html(text).one("b").text == "300 MB/s"
    assert "200 MB/s … 700 MB/s; median of 3 nodes" in read_html(text).one("span").attributes["title"]


def test_a_table_has_the_headline_class_and_those_with_numbers_and_no_empty_cell() -> None:
    found = read_html(shown(f'{{{{ measured_table([("fast", {BUSBW}, {{"bytes": "1MiB"}})]) }}}}')).one(
        "table"
    )
    assert [one.words for one in found.one("thead").all("th")] == ["", "2xH100-80GB", "8xB200-180GB"]
    assert [one.words for one in found.one("tbody").all("td")] == ["120 GB/s ( 2026-11-01 )", "unmeasured"]


def test_labels_that_fit_several_measurements_give_no_number_and_a_fault_for_the_author() -> None:
    text = f'{{{{ measured({BUSBW}, on="2xH100-80GB") }}}}'
    assert words(text) == "no single number (2xH100-80GB)"
    (fault,) = prose_faults(f"one\n\n{text}", GUIDE, 4, known())
    assert str(fault) == (
        "kb/guides/some.md:6: bus_bandwidth was measured at several bytes on 2xH100-80GB; name one in at="
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ('measured("smal/busbw.bus_bandwidth")', "unknown entry 'smal' (did you mean 'small'?)"),
        ('measured("small/busb.bus_bandwidth")', "unknown step 'busb' (did you mean 'busbw'?)"),
        (
            'measured("small/busbw.bus_bandwith")',
            "unknown measurement 'bus_bandwith' (did you mean 'bus_bandwidth'?)",
        ),
        ('measured("small/busbw.threads")', "the step 'busbw' does not measure 'threads'"),
        (f'measured({BUSBW}, at={{"byte": 1}})', "bus_bandwidth has no label 'byte' (did you mean 'bytes'?)"),
        (
            f'measured({BUSBW}, on="8xB200-18GB")',
            "unknown machine class '8xB200-18GB' (did you mean '8xB200-180GB'?)",
        ),
        (f'measured({BUSBW}, onn="8xB200-180GB")', "measured: got an unexpected keyword argument 'onn'"),
        ("measured()", "measured: missing a required argument: 'metric'"),
        ("measured(3)", '3 is not a measurement; write "<entry>/<step>.<measurement>"'),
        (f"measured({BUSBW}, at=[1])", "[1] is not a set of labels"),
        (f"measured({BUSBW}, at=dict(a=1))", "dict(a=1) is not a plain value"),
        ('measured(__import__("os").getcwd())', "is not a plain value"),
        ("measured(*[1])", "is not a plain value"),
        ("measured(**{})", "`**` is not allowed"),
        ("measured(1) + 1", "put a single call"),
        ("measured(1", "measured(…) cannot be read: '(' was never closed"),
        (f"mesured({BUSBW})", "no function 'mesured' (did you mean 'measured'?)"),
        ("measured_table([])", "measured_table needs rows"),
        ('measured_table([("a",)])', "('a',) is not a row of a table"),
        ("board_peaks(3)", "board_peaks: too many positional arguments"),
        ('memory_plan("13b", "B200", [4096])', "memory_plan: no preset '13b'"),
        (
            'memory_plan("8b", "A100", [4096])',
            "memory_plan: no board 'A100'; use one of H100, H100-PCIe, H100-NVL, H200, B200, B300",
        ),
        ('memory_plan("8b", "B200", [])', "memory_plan: lengths of 8b are 2 to 131072 tokens"),
        ('memory_plan("8b", "B200", 4096)', "memory_plan: lengths is a list of whole numbers"),
        ('memory_plan("8b", "B200", [4096], 3)', "memory_plan: 8b cannot run over 3 GPUs at batch 1"),
    ],
)
def test_a_mistake_is_one_line_with_its_place_and_the_nearest_known_word(call: str, says: str) -> None:
    said = refusal(f"text\n\nmore {{{{ {call} }}}}", line=11)
    assert said.startswith("kb/guides/some.md:13: ")
    assert says in said


def test_a_call_that_is_never_closed_is_a_fault() -> None:
    assert "measured(…) cannot be read: it is not closed" in refusal("{{ measured(1) }")


@pytest.mark.parametrize(
    "text", ["see {{ board_peaks() }}", "- {{ board_peaks() }}", "> {{ board_peaks() }}"]
)
def test_a_table_wants_a_paragraph_of_its_own(text: str) -> None:
    assert "give it a paragraph of its own" in refusal(text)


def test_a_page_does_not_refuse_a_label_that_its_few_records_have_not() -> None:
    call = f'{{{{ measured({BUSBW}, at={{"mode": "fast"}}) }}}}'
    lenient = Known({"small": entry()}, gather(records(entry())))
    assert "unmeasured" in expand(call, GUIDE, 1, lenient, as_markdown)
    stale = [
        one.model_copy(
            update={"steps": tuple(step.model_copy(update={"digest": "0" * 16}) for step in one.steps)}
        )
        for one in records(entry())
    ]
    assert words(call, *stale) == "unmeasured (on every class)", (
        "what an older step measured says nothing of labels"
    )


def test_every_mistake_of_a_text_is_found_in_one_go() -> None:
    with pytest.raises(RunbookFaultsError) as caught:
        shown("{{ measured(1) }}\n{{ measured(2) }}")
    assert [fault.line for fault in caught.value.faults] == [1, 2]


def test_a_computed_table_refuses_what_it_cannot_use_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(model: str) -> Table:
        raise InputError(f"no model {model!r}")

    monkeypatch.setattr(prose, "COMPUTED", {"plan": plan})
    monkeypatch.setattr(prose, "NAMES", {"plan"})
    assert refusal('{{ plan("9b") }}') == "kb/guides/some.md:1: no model '9b'"


@pytest.mark.parametrize(
    "text",
    [
        f"`{{{{ measured({BUSBW}) }}}}`",
        f"`` ` {{{{ measured({BUSBW}) }}}} ``",
        f"```\n{{{{ measured({BUSBW}) }}}}\n```",
        f"~~~ {{.jinja}}\n{{{{ measured({BUSBW}) }}}}\n~~~",
        f"- item\n\n  ```\n  {{{{ measured({BUSBW}) }}}}\n  ```",
        f"para\n\n    {{{{ measured({BUSBW}) }}}}",
        f"<pre>\n{{{{ measured({BUSBW}) }}}}\n</pre>",
        "{{ 7 * 7 }} {{ other(1) }} {{measured}} { { measured(1) } } {# measured(1) #}",
        "{{",
        *HOSTILE,
    ],
)
def test_braces_in_code_and_around_anything_else_stay(text: str) -> None:
    assert shown(text) == text


def test_a_code_span_ends_where_it_ends_and_an_escaped_backquote_begins_none() -> None:
    for before in ("`code` ", "\\`", "``a`b`` ", "`not closed "):
        assert shown(f"{before}{{{{ measured({BUSBW}, on='8xB200-180GB') }}}}") == (
            f'{before}<span class="rb-measured">unmeasured <small>(8xB200&#45;180GB)</small></span>'
        )


@given(st.text(alphabet="ab`{}() \n\\-#>\"'measured_table=,", max_size=120))
def test_any_text_is_read_without_a_crash_and_calls_lie_within_it(text: str) -> None:
    place = 0
    for call in find_calls(text, NAMES):
        assert place <= call.start < call.end <= len(text)
        assert text[call.start : call.start + 2] == "{{"
        place = call.end


def test_an_entry_asks_for_numbers_in_its_own_prose() -> None:
    text = TEXT.replace("It is **slow**.", f'It is {{{{ measured({BUSBW}, on="8xB200-180GB") }}}} slow.')
    page = render([parse(text, Path("small.md"))], records(entry()), NOW, ROOT / "kb" / "_templates")[
        "entries/small.md"
    ]
    assert 'It is <span class="rb-measured">unmeasured' in page.text
    wrong = parse(text.replace("small/busbw", "small/no"), Path("small.md"))
    line = text[: text.index("It is {{")].count("\n") + 1
    with pytest.raises(RunbookFaultsError, match=rf"^small.md:{line}: "):
        render([wrong], [], NOW, ROOT / "kb" / "_templates")


def test_only_guides_that_ask_for_numbers_are_rendered() -> None:
    asks = f'Here: {{{{ measured({BUSBW}, on="2xH100-80GB", at={{"bytes": "8GiB"}}) }}}}'
    guides = {"guides/a.md": asks, "guides/b.md": "plain", "top.md": asks}
    pages = render([entry()], records(entry()), NOW, ROOT / "kb" / "_templates", guides=guides)
    assert "guides/b.md" not in pages
    assert pages["guides/a.md"].source == "kb/guides/a.md"
    assert 'href="../data/records/' in pages["guides/a.md"].text
    assert 'href="data/records/' in pages["top.md"].text


def test_check_finds_mistaken_numbers_in_entries_and_guides(tmp_path: Path) -> None:
    folder = tmp_path / "runbooks"
    folder.mkdir()
    (tmp_path / "kb" / "guides").mkdir(parents=True)
    (tmp_path / "kb" / "guides" / "a.md").write_text(
        '# A\n\n{{ measured("god/x.threads") }}\n', encoding="utf-8"
    )
    (folder / "good.md").write_text(
        GOOD.replace("## Root cause\n", '## Root cause\n\n{{ measured("good/nope.threads") }}\n'),
        encoding="utf-8",
    )
    done = check(folder)
    assert done.returncode == 2
    assert "a.md:3: 'god/x.threads': unknown entry 'god' (did you mean 'good'?)" in done.stderr
    assert "good: 'nope.threads': unknown step 'nope'" in done.stderr
    one = check(folder, str(folder / "good.md"))
    assert one.returncode == 2
    assert "unknown step 'nope'" in one.stderr


def test_a_build_with_a_mistaken_number_ends_with_its_place(tmp_path: Path) -> None:
    from tests.test_site import a_project, build  # noqa: PLC0415 - only this test builds a site

    project = a_project(tmp_path / "project", TEXT)
    (project / "kb" / "guides" / "wrong.md").write_text("# W\n\n{{ measured(1) }}\n", encoding="utf-8")
    built = build(tmp_path, project, tmp_path / "data")
    assert built.status != 0
    assert "Traceback" not in built.printed
    assert "kb/guides/wrong.md:3: 1 is not a measurement" in built.printed


def test_the_examples_of_the_guide_for_authors_are_read_by_this_very_code() -> None:
    text = (ROOT / "kb" / "guides" / "add-an-entry.md").read_text(encoding="utf-8")
    assert "{{ measured(" in text
    assert not list(find_calls(text, NAMES))
    fences = text.split("```")[1::2]
    found = [call for fence in fences for call in find_calls(fence.partition("\n")[2], NAMES)]
    assert {call.name for call in found} == {"measured", "measured_table"}
    assert not [call.problem for call in found if call.problem]
