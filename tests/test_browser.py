"""The site in a real browser: what a person does with it, by keyboard, on a phone, in the dark, from a folder.

The browser is the system's Chromium; RUNBOOK_CHROMIUM names another one.
"""

import gzip
import lzma
import os
import random
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, Request, ViewportSize, expect, sync_playwright

from runner.entry.log_forms import Log
from runner.entry.model import Runbook
from runner.entry.read import read_all
from runner.entry.signatures import match_log
from runner.record.model import Outcome, StepStatus
from runner.record.store import Store
from tests.evidence_samples import machine, measurement
from tests.golden_entry import NOW, result, run
from tests.test_site import ROOT, Site, build

pytestmark = pytest.mark.system

ENTRIES = read_all(ROOT / "runbooks")
NVLINK = next(one for one in ENTRIES if one.id == "nvlink-bandwidth")
PAGES = (
    "index",
    "entries/index",
    "entries/nvlink-bandwidth",
    "entries/torch-compile-hang",
    "match",
    "guides/add-an-entry",
    "guides/long_context_playbook",
    "reference/how-numbers-are-taken",
    "reference/measurements",
    "reference/probes",
    "reference/record",
    "reference/glossary",
)
# Against a hang only: a busy machine may keep a browser waiting for a while.
PATIENCE_MS = 100_000
expect.set_options(timeout=PATIENCE_MS)
DESKTOP, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)


def records(place: Path) -> None:
    """A node with eight GPUs over twelve days with a new driver in the middle, and a fault on its last day.

    And a host without GPUs, on which a drill passed.
    """
    store = Store(place, secrets=())
    drill = (result(NVLINK, "injected", status=StepStatus.SYMPTOM), result(NVLINK, "undo"))
    store.save(
        run(NVLINK, *drill, result(NVLINK, "clean-again"), run_id="drill", outcome=Outcome.DRILL_PASSED)
    )
    node = partial(machine, *["NVIDIA H200"] * 8, cuda="13.0", nccl="2.27.7")
    for day in range(12):
        value = 4.6e11 + (day % 3) * 4e9
        labels: dict[str, Any] = {"op": "all_reduce", "bytes": 8 * 2**30, "ranks": 8, "backend": "nccl"}
        slow = measurement(3e10, 2.9e10, 3e10, 3.1e10, **labels)
        broken = result(NVLINK, "injected-bandwidth", slow, status=StepStatus.SYMPTOM)
        good = measurement(value, value * 0.98, value, value * 1.02, **labels)
        store.save(
            run(
                NVLINK,
                broken,
                result(NVLINK, "undo"),
                result(
                    NVLINK,
                    "bandwidth-again",
                    good,
                    stdout_tail="ran\n",
                    status=StepStatus.PASSED if day < 11 else StepStatus.SYMPTOM,
                ),
                preset="70b",
                run_id=f"day{day:09}",
                machine=node(driver="580.95.05" if day < 6 else "585.10.01"),
                started_at=NOW - timedelta(days=12 - day),
                ended_at=NOW - timedelta(days=12 - day, minutes=-5),
                outcome=Outcome.FIX_PROVED if day < 11 else Outcome.NOT_FIXED,
            )
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    place = tmp_path_factory.mktemp("browsed")
    records(place / "data")
    built = build(place, ROOT, place / "data")
    assert built.status == 0, built.printed
    return built


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def served(site: Site) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site.folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    program = (
        os.environ.get("RUNBOOK_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    assert program, (
        "no Chromium; install your distribution's (`apt-get install chromium`), or name one in RUNBOOK_CHROMIUM"
    )
    started = playwright.chromium.launch(executable_path=program)
    yield started
    started.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of a desktop's width whose relative addresses are files of the site, and which asks nobody else."""
    asked: list[str] = []
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()

    def note(request: Request) -> None:
        asked.append(request.url)

    errors: list[str] = []
    context.on("request", note)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    here = (site.folder.as_uri(), "http://127.0.0.1:", "data:", "blob:", "about:")
    assert not [url for url in asked if not url.startswith(here)], "asked another host"
    assert not errors


def visit(page: Page, site: Site, name: str) -> None:
    page.goto(f"{site.folder.as_uri()}/{name}.html")


@pytest.mark.parametrize("how", ["file", "http"])
def test_search_finds_an_entry_by_a_word_of_its_text(page: Page, site: Site, served: str, how: str) -> None:
    page.goto(f"{site.folder.as_uri()}/index.html" if how == "file" else f"{served}/index.html")
    page.keyboard.press("/")
    page.keyboard.type("NCCL_P2P_DISABLE")
    found = page.locator(".md-search-result__link").first
    expect(found).to_be_visible()
    found.click()
    expect(page).to_have_url(re.compile("entries/nvlink-bandwidth.html"))


def rows(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("table.rb-matrix tbody th").all_inner_texts()]


def test_the_matrix_sorts_by_pointer_and_by_keyboard(page: Page, site: Site) -> None:
    visit(page, site, "index")
    first = rows(page)
    numbers = sorted(one.head.number for one in ENTRIES)
    assert [text.partition(".")[0] for text in first] == [str(number) for number in numbers]
    outcomes = page.get_by_role("columnheader", name="8xH200-141GB")
    outcomes.get_by_role("button").click()
    assert outcomes.get_attribute("aria-sort") == "ascending"
    assert rows(page)[0] == first[1], "what is not fixed comes first"
    entry = page.get_by_role("columnheader", name="Entry")
    entry.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert rows(page) == first
    page.keyboard.press("Enter")
    assert (entry.get_attribute("aria-sort"), rows(page)) == ("descending", first[::-1])
    assert outcomes.get_attribute("aria-sort") is None


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda one: one.id)
def test_a_copy_button_gives_exactly_the_command(page: Page, served: str, entry: Runbook) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{served}/entries/{entry.id}.html")
    wanted = [(f"#step-{step.id} + .highlight", step.command.strip("\n")) for step in entry.steps]
    wanted.append(("#the-same-with-runbook ~ .highlight", f"runbook run {entry.head.number}"))
    # A fold hides its buttons until it is opened.
    page.locator("details.rb-fold").evaluate_all("all => all.forEach(one => { one.open = true })")
    for place, command in wanted:
        button = page.locator(place).first.get_by_role("button")
        button.click()
        page.wait_for_function(
            "text => navigator.clipboard.readText().then(found => found.trimEnd() === text)", arg=command
        )


LOGS = {
    "peer access": b"rank0: NCCL INFO NCCL_P2P_DISABLE set by environment to 1\r\nfine\n" * 9,
    "two entries": b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nSubprocPool unclean exit\n",
    "bytes": b"\xff\x00 NCCL_IB_DISABLE set by environment to 1 \xc3\xa9\xa0\n" + bytes(range(256)),
    "long lines": b"x" * 4090
    + b"SubprocPool unclean exit\n"
    + b"y" * 3_000_000
    + b" SubprocPool unclean exit\nok\n"
    + b"z\n" * 600_000
    + b"SubprocPool unclean exit\n",
    "no end": b"a\nb\nSubprocPool unclean exit",
    "progress bars": b"".join(b"\r%d%%|####|" % (one % 100) for one in range(20_000))
    + b"\rSubprocPool unclean exit\n"
    + b"x\r" * 40_000
    + b"SubprocPool unclean exit\r\n",
    "late text": b'{"fields": "' + b"f" * 9_000 + b'", "message": "SubprocPool unclean exit"}\n',
    "at a cut": b"n" * 2040 + b" SubprocPool unclean exit " + b"n" * 200_000 + b"SubprocPool unclean exit",
    "UTF-16": "NCCL_IB_DISABLE set by environment to 1 é\r\n".encode("utf-16"),
    "UTF-16 without a mark": "fine\nNCCL_IB_DISABLE set by environment to 1\n".encode("utf-16-be"),
    "UTF-8 with a mark": b"\xef\xbb\xbfNCCL_IB_DISABLE set by environment to 1",
    "gzip": gzip.compress(b"x" * 5_000_000 + b"\nSubprocPool unclean exit\n"),
    "gzip of UTF-16": gzip.compress("SubprocPool unclean exit\n".encode("utf-16")),
    "a cause among timeouts": b"Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12345,\n" * 9
    + b"NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n",
    "nothing": b"all is well\n\n\n",
    "mixed": b"\n".join(
        f"{number}: {line}".encode()
        for number in range(400)
        for line in (
            "NCCL INFO NET/Socket : Using [0]eth0",
            "scale\tis\xa0nan",
            "FP8 falling back to bf16",
            "\r",
        )
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_page_and_the_command_line_say_the_same_of_a_log(page: Page, site: Site, name: str) -> None:
    visit(page, site, "match")
    log = LOGS[name]
    found = page.evaluate(
        "async bytes => (await runbookMatch(Uint8Array.from(bytes, one => one.charCodeAt(0))))"
        ".map(({runbook_id, score, hits}) => ({runbook_id, score, hits}))",
        log.decode("latin-1"),
    )
    expected = [
        {
            "runbook_id": match.runbook_id,
            "score": match.score,
            "hits": [{"number": hit.number, "text": hit.text, "pattern": hit.pattern} for hit in match.hits],
        }
        for match in match_log(Log(name, [log]).text(), ENTRIES)
    ]
    assert found == expected
    assert bool(expected) == (name != "nothing")


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            b"PK\x03\x04" + bytes(100),
            "it is a zip archive, not a text log; run `unzip -p FILE | runbook match -`",
        ),
        (
            gzip.compress(b"\x7fELF" + bytes(100), mtime=0),
            "it is a program or a core dump (ELF), not a text log",
        ),
        (lzma.compress(b"SubprocPool unclean exit"), "it is compressed with xz or bzip2; on a command line"),
        (bytes(range(256)), "it is not a text log"),
        (b"", "it is empty"),
    ],
)
def test_the_page_says_why_a_log_cannot_be_read(
    page: Page, site: Site, tmp_path: Path, log: bytes, said: str
) -> None:
    visit(page, site, "match")
    file = tmp_path / "a.log"
    file.write_bytes(log)
    page.get_by_label("or a file:").set_input_files(file)
    expect(page.locator("#match-status")).to_contain_text(f"This log could not be read: {said}")


def test_the_page_matches_what_it_can_read_of_a_damaged_log(page: Page, site: Site, tmp_path: Path) -> None:
    visit(page, site, "match")
    file = tmp_path / "a.log.gz"
    noise = random.Random(0).randbytes(200_000).hex().encode()
    file.write_bytes(gzip.compress(b"SubprocPool unclean exit\n" + noise)[:-1000])
    page.get_by_label("or a file:").set_input_files(file)
    expect(page.locator("#match-status")).to_have_text(
        "1 entry, most likely first; the log was read only in part"
    )


def test_a_log_is_matched_from_a_folder_as_text_and_as_a_file(page: Page, site: Site, tmp_path: Path) -> None:
    visit(page, site, "match")
    page.get_by_label("Log lines").fill(LOGS["peer access"].decode())
    page.get_by_role("button", name="Match").press("Enter")
    first = page.locator("#match-found li").first
    expect(first).to_contain_text("2. NVLink bandwidth looks like PCIe")
    expect(first).to_contain_text("1: rank0: NCCL INFO NCCL_P2P_DISABLE")
    log = tmp_path / "a.log"
    log.write_bytes(LOGS["two entries"] + b"<img src=x onerror=alert(1)> SubprocPool unclean exit\n")
    page.get_by_label("or a file:").set_input_files(log)
    expect(page.locator("#match-status")).to_have_text("2 entries, most likely first")
    expect(page.locator("#match-found")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#match-found img").count() == 0
    page.locator("#match-found a").first.click()
    expect(page.locator("h1")).to_be_visible()


def serious(page: Page, **options: Any) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious_in_either_scheme(page: Page, site: Site, name: str) -> None:
    visit(page, site, name)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "default")
    assert serious(page) == []
    page.get_by_title("Switch to the dark scheme").click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    # Nothing but the colours is different in the dark.
    assert serious(page, runOnly=["color-contrast"]) == []


FIRST_SCREEN = ViewportSize(width=400, height=800)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda one: one.id)
def test_on_a_phone_the_first_block_by_hand_is_on_the_first_screen_in_either_scheme(
    page: Page, site: Site, entry: Runbook
) -> None:
    page.set_viewport_size(FIRST_SCREEN)
    visit(page, site, f"entries/{entry.id}")
    for scheme in ("default", "slate"):
        expect(page.locator("body")).to_have_attribute("data-md-color-scheme", scheme)
        heading = page.locator("h2").first
        expect(heading).to_contain_text("By hand")
        box = page.locator("article pre").first.bounding_box()
        assert box is not None
        assert box["y"] > 0
        assert box["y"] + box["height"] < FIRST_SCREEN["height"]
        if scheme == "default":
            page.get_by_title("Switch to the dark scheme").click()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda one: one.id)
def test_no_command_is_cut_at_the_edge_or_runs_under_the_copy_button(
    page: Page, site: Site, entry: Runbook, width: int
) -> None:
    page.set_viewport_size(ViewportSize(width=width, height=900))
    visit(page, site, f"entries/{entry.id}")
    page.locator("details.rb-fold").evaluate_all("all => all.forEach(one => { one.open = true })")
    cut = page.locator(".highlight").evaluate_all(
        """all => all.filter(one => {
          const code = one.querySelector("code"), button = one.querySelector("button");
          const range = document.createRange();
          range.selectNodeContents(code);
          const under = button && [...range.getClientRects()].some(line => {
            const place = button.getBoundingClientRect();
            return line.right > place.left && line.bottom > place.top && line.top < place.bottom;
          });
          return code.scrollWidth > code.clientWidth || under;
        }).map(one => one.textContent)"""
    )
    assert cut == []


def test_reproduce_opens_when_a_link_leads_into_it(page: Page, site: Site) -> None:
    visit(page, site, "entries/nvlink-bandwidth")
    step = page.locator("#step-injected")
    expect(step).to_be_hidden()
    page.goto(f"{site.folder.as_uri()}/entries/nvlink-bandwidth.html#step-injected")
    expect(step).to_be_visible()


def test_the_measurements_are_filtered_by_every_word_of_the_field(page: Page, site: Site) -> None:
    visit(page, site, "reference/measurements")
    rows_ = page.locator("table tbody tr:visible")
    count = rows_.count()
    page.get_by_label("Filter the measurements").fill("bus bandwidth")
    expect(page.locator("#bus_bandwidth")).to_be_visible()
    assert 0 < rows_.count() < count
    expect(page.get_by_role("status")).to_have_text(f"{rows_.count()} of {count}")
    page.get_by_label("Filter the measurements").fill("")
    expect(rows_).to_have_count(count)


@pytest.mark.parametrize("name", PAGES)
def test_on_a_phone_a_page_does_not_scroll_sideways(page: Page, site: Site, name: str) -> None:
    page.set_viewport_size(PHONE)
    visit(page, site, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_dark_scheme_can_be_chosen_and_stays_chosen(page: Page, site: Site) -> None:
    visit(page, site, "index")
    page.get_by_title("Switch to the dark scheme").click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    visit(page, site, "entries/nvlink-bandwidth")
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")


CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = text => channels(text).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = light(getComputedStyle(document.body).backgroundColor);
  return [".rb-value path", ".rb-versions path", ".rb-plot text", ".rb-plot circle"].map(name => {
    const style = getComputedStyle(document.querySelector(name));
    const own = light(style.stroke === "none" ? style.fill : style.stroke);
    return (Math.max(own, behind) + .05) / (Math.min(own, behind) + .05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_plot_is_legible_and_says_the_same_in_words_and_as_a_table(
    page: Page, site: Site, scheme: str
) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    visit(page, site, "entries/nvlink-bandwidth")
    assert min(page.evaluate(CONTRAST)) >= 3
    plot = page.get_by_role("img").and_(page.locator(".rb-plot"))
    words = plot.get_attribute("aria-label") or ""
    assert "12 runs" in words
    assert "driver 580.95.05 → 585.10.01" in words
    page.get_by_text("The same as a table").click()
    table = page.get_by_role("region", name="over time")
    expect(table.locator("tbody tr")).to_have_count(12)
    expect(table).to_contain_text("driver 580.95.05 → 585.10.01")


def test_evidence_opens_by_keyboard_and_leads_to_the_raw_record(page: Page, site: Site) -> None:
    visit(page, site, "entries/nvlink-bandwidth")
    summary = page.locator("#step-bandwidth-again ~ .rb-evidence summary").first
    summary.focus()
    page.keyboard.press("Enter")
    region = page.get_by_role("region", name="Evidence of step bandwidth-again")
    expect(region).to_be_visible()
    region.get_by_role("link", name="record").click()
    expect(page.locator("body")).to_contain_text("day000000011")


def test_on_paper_every_number_has_its_class_and_date(page: Page, site: Site) -> None:
    visit(page, site, "index")
    page.emulate_media(media="print")
    shown = page.locator(".rb-matrix time").first
    after = shown.evaluate("one => getComputedStyle(one, '::after').content")
    assert "2026-" in after
    visit(page, site, "entries/nvlink-bandwidth")
    # What can be opened on a screen is open on paper: the theme sees to it.
    region = page.get_by_role("region", name="Evidence of step bandwidth-again")
    expect(region).to_be_visible()
    expect(region).to_contain_text("2026-")
