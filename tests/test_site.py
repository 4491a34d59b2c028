"""The site as MkDocs really builds it: strict, local, executing nothing, and interpreting nothing from outside."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from runner.entry.model import Runbook, Step
from runner.entry.read import read_all, read_runbook
from runner.pages.text import captured_text
from runner.record.model import SCHEMA_VERSION, Code, Measurement, Record
from runner.record.store import Store
from tests.evidence_samples import machine, measurement
from tests.golden_entry import TEXT, result, run
from tests.hostile import EVERYTHING, HOSTILE
from tests.html_reader import Element, read_html

ROOT = Path(__file__).parents[1]
IDS = [runbook.id for runbook in read_all(ROOT / "runbooks")]

# Builds, then says which modules it has loaded: what runs steps must not be among them.
BUILD = """
import json, sys
from pathlib import Path
from mkdocs.__main__ import cli
try:
    cli(sys.argv[2:])
finally:
    Path(sys.argv[1]).write_text(json.dumps(sorted(sys.modules)))
"""


@dataclass(frozen=True)
class Site:
    """A build: where it went, what it printed, and what it had loaded at its end."""

    folder: Path
    status: int
    printed: str
    modules: frozenset[str]

    def page(self, path: str) -> Element:
        return read_html((self.folder / path).read_text(encoding="utf-8"))

    def pages(self) -> list[Path]:
        return sorted(self.folder.rglob("*.html"))


def build(place: Path, project: Path, data: Path, **environment: str) -> Site:
    """Build the site of a project as `nox -s docs` does, with another data folder and another place for the site."""
    site, modules = place / "site", place / "modules.json"
    done = subprocess.run(
        [sys.executable, "-c", BUILD, modules, "build", "--strict", "--site-dir", site],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "NO_MKDOCS_2_WARNING": "1",
            "DISABLE_MKDOCS_2_WARNING": "true",
            "RUNBOOK_DATA": str(data),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    loaded = json.loads(modules.read_text(encoding="utf-8"))
    return Site(site, done.returncode, done.stdout + done.stderr, frozenset(loaded))


def a_project(place: Path, entry: str) -> Path:
    """The project's own site with one small entry instead of its entries, and guides that speak of none of those."""
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "kb", place / "kb")
    for guide in (place / "kb" / "guides").glob("*.md"):
        # Their headings stay, since other pages link to them.
        headings = re.findall(r"(?m)^## .*", guide.read_text(encoding="utf-8"))
        guide.write_text("\n\n".join([f"# {guide.stem}", *headings, ""]), encoding="utf-8")
    shutil.copy(ROOT / "mkdocs.yml", place)
    (place / "runbooks").mkdir()
    (place / "runbooks" / "small.md").write_text(entry, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The project's site over a data folder with one good record, three bad files and a hidden one.

    Before everything else on its PATH stands a bash (and a sh) that notes each call.
    """
    place = tmp_path_factory.mktemp("site")
    entry = read_runbook(ROOT / "runbooks" / "nvlink-bandwidth.md")
    good = run(
        entry, result(entry, "floors", measurement(4.1e8, 4e8, 4.2e8), stdout_tail="hello from floors")
    )
    written = Store(place / "data").save(good)
    written.with_name("20261101T080001Z-cut.json").write_bytes(written.read_bytes()[:200])
    newer = written.read_text(encoding="utf-8").replace(
        f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 9'
    )
    written.with_name("20261101T080002Z-newer.json").write_text(newer, encoding="utf-8")
    written.with_name(".hidden.tmp").write_text("{", encoding="utf-8")
    (place / "data" / "notes.txt").write_text("mine", encoding="utf-8")
    programs = place / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "nvidia-smi", "git", "torchrun"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >> {place}/called\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    built = build(place, ROOT, place / "data", PATH=os.pathsep.join([str(programs), os.environ["PATH"]]))
    assert built.status == 0, built.printed
    return built


def test_a_strict_build_succeeds_without_a_warning(site: Site) -> None:
    assert not re.search("WARNING|ERROR|Traceback", site.printed), site.printed


@pytest.mark.parametrize("name", IDS)
def test_every_entry_has_its_page_with_all_sections_and_steps(site: Site, name: str) -> None:
    runbook = read_runbook(ROOT / "runbooks" / f"{name}.md")
    page = site.page(f"entries/{name}.html")
    article = page.one("article")
    assert page.one("h1").words.rstrip("¶").strip() == runbook.head.title
    assert runbook.head.title in page.one("title").text
    headings = [one.words.rstrip("¶").strip() for one in article.all("h2")]
    others = [section.title for section in runbook.sections if section.title != "By hand"]
    assert headings[: len(others) + 2] == ["By hand", "The same with runbook", *others]
    assert [one.attributes["id"] for one in article.all("p", class_="rb-step")] == [
        f"step-{part.id}" for section in runbook.sections for part in section.body if isinstance(part, Step)
    ]


@pytest.mark.parametrize("name", IDS)
def test_a_command_can_be_copied_from_its_page_as_it_runs(site: Site, name: str) -> None:
    runbook = read_runbook(ROOT / "runbooks" / f"{name}.md")
    blocks = [one.text.rstrip("\n") for one in site.page(f"entries/{name}.html").all("code")]
    for step in runbook.steps:
        assert step.command.rstrip("\n") in blocks


def test_both_lists_lead_to_every_entry(site: Site) -> None:
    for path, prefix in (("index.html", "entries/"), ("entries/index.html", "")):
        links = [one.attributes["href"] for one in site.page(path).one("table").all("a")]
        assert links == [f"{prefix}{name}.html" for name in IDS]


def test_a_number_and_its_output_stand_on_the_page_of_its_entry(site: Site) -> None:
    words = site.page("entries/nvlink-bandwidth.html").one("article").words
    assert "410 MB/s" in words
    assert "hello from floors" in words
    assert "410 MB/s" not in site.page("entries/long-context-memory.html").one("article").words


def test_the_text_of_every_entry_can_be_searched(site: Site) -> None:
    index = json.loads((site.folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    for runbook in read_all(ROOT / "runbooks"):
        found = [one for one in index["docs"] if one["location"].startswith(f"entries/{runbook.id}.html")]
        text = " ".join(read_html(one["title"] + " " + one["text"]).words for one in found)
        assert runbook.head.title in text
        for claim in runbook.head.claims:
            assert claim.text in text
        for step in runbook.steps:
            assert f"Step {step.id}" in text
    assert "hello from floors" not in json.dumps(index)


def sources(page: Element) -> Iterator[str]:
    """What a browser loads by itself when it opens the page."""
    for one in page.all("script", "img", "iframe", "source", "video", "audio", "embed", "object", "track"):
        yield from (one.attributes[name] for name in ("src", "data", "srcset") if name in one.attributes)
    for one in page.all("link"):
        if one.attributes.get("rel") not in {"canonical", "prev", "next", "alternate"}:
            yield one.attributes["href"]
    for one in page.all("style"):
        yield from css_sources(one.text)
    for one in page.all():
        yield from css_sources(one.attributes.get("style", ""))


def css_sources(text: str) -> list[str]:
    imports = re.findall(r"@import\s+[\"']([^\"']+)", text)
    return [*re.findall(r"url\(\s*[\"']?([^\"')]+)", text), *imports]


def elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in {"", "data"}


def test_nothing_is_loaded_from_another_host(site: Site) -> None:
    for path in site.pages():
        found = list(sources(read_html(path.read_text(encoding="utf-8"))))
        assert found
        assert not [one for one in found if elsewhere(one)], path
    styles = sorted(site.folder.rglob("*.css"))
    assert styles
    for path in styles:
        assert not [one for one in css_sources(path.read_text(encoding="utf-8")) if elsewhere(one)], path


def test_the_scripts_know_no_other_host_but_those_of_what_no_page_uses(site: Site) -> None:
    hosts: set[str] = set()
    for path in site.folder.rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert "@import" not in text
        # An address at the beginning of a string is one that may be fetched; those in comments are not.
        hosts |= set(re.findall(r"[\"'`](?:https?:)?//([\w.-]+\.[a-z]{2,})", text))
    # The theme fetches a Mermaid diagram's renderer or an old browser's missing part, and a repository's stars.
    assert hosts <= {"unpkg.com", "api.github.com"}, hosts
    for path in site.pages():
        page = read_html(path.read_text(encoding="utf-8"))
        assert not page.all(class_="mermaid")
        assert not [one for one in page.all() if one.attributes.get("data-md-component") == "source"]


def test_fonts_are_those_of_the_reader(site: Site) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in [*site.pages(), *site.folder.rglob("*.css")])
    assert "fonts.g" not in text
    assert "@font-face" not in text


def targets(page: Element) -> set[str]:
    return {one.attributes[name] for one in page.all() for name in ("id", "name") if name in one.attributes}


def test_every_link_leads_from_file_to_file_and_its_anchor_is_there(site: Site) -> None:
    read = {path: read_html(path.read_text(encoding="utf-8")) for path in site.pages()}
    checked = 0
    for path, page in read.items():
        if path.name == "404.html":
            continue  # served for any address, so its links cannot be relative
        links = [one.attributes[n] for one in page.all() for n in ("href", "src") if n in one.attributes]
        for link in links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            assert not parts.path.startswith("/"), f"{path}: {link} does not work from a folder"
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if there.is_dir():
                assert link in {".", "./", "..", "../"} or not parts.path.endswith("/"), f"{path}: {link}"
            assert there.exists(), f"{path}: {link}"
            if parts.fragment and there in read and parts.fragment != "__top":
                assert unquote(parts.fragment) in targets(read[there]), f"{path}: {link}"
            checked += 1
    assert checked > 100


def edit_link(page: Element) -> str | None:
    found = [one for one in page.all("a") if one.attributes.get("title") == "Edit this page"]
    return os.path.normpath(found[0].attributes["href"].partition("/edit/main/")[2]) if found else None


@pytest.mark.parametrize("name", IDS)
def test_edit_this_page_leads_to_the_runbook(site: Site, name: str) -> None:
    assert edit_link(site.page(f"entries/{name}.html")) == f"runbooks/{name}.md"


def test_edit_this_page_leads_to_the_guide_itself(site: Site) -> None:
    assert edit_link(site.page("guides/add-an-entry.html")) == "kb/guides/add-an-entry.md"
    assert edit_link(site.page("reference/measurements.html")) == "runner/vocabulary/__init__.py"


def test_a_build_starts_no_program(site: Site) -> None:
    assert not (site.folder.parent / "called").exists()


def test_a_build_loads_nothing_that_runs_steps(site: Site) -> None:
    assert "runner.pages.render" in site.modules
    forbidden = re.compile(r"(runner\.(run|fleet|cli|kit\.running)|torch|transformers|pynvml|psutil)(\.|$)")
    assert not [name for name in site.modules if forbidden.match(name)]


def test_files_that_are_no_records_are_counted_and_the_rest_is_shown(site: Site) -> None:
    # The one cut short, the one of a newer schema and the foreign one; a hidden leftover does not count.
    assert "3 files of the data folder could not be read as a record" in site.page("index.html").words
    assert not list(site.folder.rglob("*notes*"))


@pytest.mark.parametrize(
    ("fault", "says"),
    [("data", "cannot list"), ("runbook", "small.md:"), ("runbooks", "holds no entry")],
)
def test_a_build_that_cannot_read_its_input_ends_with_what_is_wrong(
    tmp_path: Path, fault: str, says: str
) -> None:
    project = a_project(
        tmp_path / "project", TEXT if fault != "runbook" else TEXT.replace("title:", "titel:")
    )
    if fault == "data":
        (tmp_path / "data").write_text("a file where the folder should be", encoding="utf-8")
    if fault == "runbooks":
        (project / "runbooks" / "small.md").unlink()
    built = build(tmp_path, project, tmp_path / "data")
    assert built.status != 0
    assert "Traceback" not in built.printed
    assert says in built.printed


def test_a_run_id_that_would_leave_the_site_is_no_record(tmp_path: Path, hostile: "Hostile") -> None:
    project = a_project(tmp_path / "deep" / "project", TEXT)
    bad = json.loads(run(hostile.entry, result(hostile.entry, "busbw")).model_dump_json())
    bad["run_id"] = "../" * 12 + str(tmp_path / "escaped").lstrip("/")
    folder = tmp_path / "data" / "a" / "small"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(json.dumps(bad), encoding="utf-8")
    built = build(tmp_path, project, tmp_path / "data")
    assert built.status == 0, built.printed
    assert not (tmp_path / "escaped.json").exists()
    assert "1 file of the data folder could not be read" in built.page("index.html").words


# --- text from outside -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hostile:
    """One entry and one record, built twice: with hostile text in every place that takes text, and with a tame one."""

    entry: Runbook
    site: Site
    tame: Site


# Commands are the author's: shown as they are, run by nobody here.
COMMAND = "\n".join(
    [
        "touch {marker}",
        "cat <<'EOF'",
        *(text for text in HOSTILE if text.isprintable() or text.replace("\n", "").isprintable()),
        "\ttab\tto\ttab",
        "    indented",
        "",
        "EOF",
    ]
)


def entry_text(text: str, marker: Path) -> str:
    """The small entry with this text in its head, and a command that would leave a file."""
    said = json.dumps(text)
    head, _, rest = TEXT.partition("---\n\n")
    head = head.replace("title: A small entry", f"title: {said}")
    head = head.replace("tags: [nccl, example]", f"tags: [{said}]")
    head = head.replace("source: nobody knows where from", f"source: {said}")
    head = head.replace("text: It should reach 700 GB/s.", f"text: {said}")
    head = head.replace("text: It is the cable.", f"text: {said}")
    head = head.replace("source: a forum", f"source: {said}")
    command = COMMAND.replace("{marker}", str(marker))
    return (
        f"{head}---\n\n{rest}".replace("\ntrue\n", f"\n{command}\n")
        .replace("```bash {#mend safety=changes-host}", "``````bash {#mend}")
        .replace(f"{command}\n```", f"{command}\n``````")
    )


def a_record(entry: Runbook, text: str) -> Record:
    """A record with this text wherever a record takes text and a page may show it."""
    named = Measurement(
        name=text, labels={text: text}, value=3.25, unit=text, statistic=text, samples=(1.0, 2.0, 3.0)
    )
    busbw = measurement(4.1e8, 3.9e8, 4.2e8, bytes=8 * 2**30, **{text: text})
    facts = dict.fromkeys(("driver", "cpu", "os", "kernel", "python", "torch", "cuda", "nccl"), text)
    output = {"stdout_tail": text, "stderr_tail": text, "fallback_reason": text, "details": {text: text}}
    return run(
        entry,
        result(entry, "busbw", named, busbw, reason=text, **output),
        result(entry, "wiring", status="skipped", reason=text),
        result(entry, "mend", command=text, digest=text, **output),
        result(entry, "again", reason=text, status="failed", **output),
        machine=machine(machine_class=f"zz {text}", **facts),
        node_alias=text,
        campaign=text,
        code=Code(commit=text, digest=text, dirty=True),
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    built = {}
    for name, text in (("tame", "tame words"), ("hostile", EVERYTHING)):
        place = tmp_path_factory.mktemp(name)
        project = a_project(place / "project", entry_text(text, place / "marker"))
        entry = read_runbook(project / "runbooks" / "small.md")
        folder = place / "data" / "a" / "small"
        folder.mkdir(parents=True)
        (folder / "x.json").write_text(a_record(entry, text).model_dump_json(), encoding="utf-8")
        built[name] = build(place, project, place / "data")
        assert built[name].status == 0, built[name].printed
        assert "WARNING" not in built[name].printed
    return Hostile(entry, built["hostile"], built["tame"])


def test_a_build_of_an_entry_whose_step_would_leave_a_file_leaves_none(hostile: Hostile) -> None:
    for built in (hostile.site, hostile.tame):
        assert "touch" in built.page("entries/small.html").words
        assert not (built.folder.parent / "marker").exists()


PAGES = ("index.html", "entries/index.html", "entries/small.html", "404.html")


@pytest.mark.parametrize("path", PAGES)
def test_text_from_outside_does_not_change_a_page_but_in_its_words(hostile: Hostile, path: str) -> None:
    assert hostile.site.page(path).skeleton == hostile.tame.page(path).skeleton


@pytest.mark.parametrize("path", PAGES)
def test_no_script_picture_link_or_handler_comes_from_text(hostile: Hostile, path: str) -> None:
    page = hostile.site.page(path)
    assert not [one for one in page.all("script") if "alert(1)" in one.text]
    assert not page.all("img")
    for one in page.all():
        assert not [name for name in one.attributes if name.startswith("on")]
        assert "example.invalid" not in one.attributes.get("href", "") + one.attributes.get("src", "")
    assert str(4321 * 1234) not in page.one("article").words


def test_captured_output_is_shown_as_it_was_printed(hostile: Hostile) -> None:
    outputs = hostile.site.page("entries/small.html").all("pre", class_="rb-output")
    assert len(outputs) == 6
    assert {one.text for one in outputs} == {captured_text(EVERYTHING)}


def test_every_place_for_text_shows_all_of_it(hostile: Hostile) -> None:
    """Where the tame page says its words, the hostile page says all of the hostile ones."""
    wanted = " ".join(captured_text(" ".join(EVERYTHING.split())).split())
    tame, page = (
        built.page("entries/small.html").one("article").words for built in (hostile.tame, hostile.site)
    )
    # Output and a command keep their line ends (six times and one; tested by themselves), a commit only its first
    # twelve characters (once), labels among all measurements of a step their beginning (four times).
    assert page.count(wanted) == tame.count("tame words") - 7 - 1 - 4
    assert page.count(wanted) > 40


def test_the_title_is_text_in_the_page_in_its_header_and_in_the_browser(hostile: Hostile) -> None:
    page = hostile.site.page("entries/small.html")
    shown = " ".join(captured_text(" ".join(EVERYTHING.split())).split())
    assert page.one("h1").words.removesuffix("¶").strip() == shown
    assert "<script>alert(1)</script>" in page.one("title").text
    assert "<script>alert(1)</script>" in page.one("header").words


def test_a_command_of_any_characters_is_shown_as_it_runs(hostile: Hostile) -> None:
    step = hostile.entry.step("mend")
    assert step is not None
    assert "<script>" in step.command
    blocks = [one.text.rstrip("\n") for one in hostile.site.page("entries/small.html").all("code")]
    assert step.command.rstrip("\n") in blocks


def test_what_search_finds_is_text(hostile: Hostile) -> None:
    index = json.loads((hostile.site.folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    for one in index["docs"]:
        found = read_html(one["title"] + one["text"])
        assert not found.all("script", "img", "iframe", "a")
        assert not any("<" in tag for tag in one.get("tags", ()))
