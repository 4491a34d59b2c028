"""What carries evidence past Markdown changes no page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PAGE = """\
# An entry

Before.
<section class="a" data-search-exclude>
<table><tr><td>1 &#42;&#42; 2</td></tr></table>

<pre>a

## no heading</pre>
</section>

## After

<figure class="b" data-search-exclude><figcaption>x</figcaption></figure>
<section class="c">stays in the search</section>

Last, with `<div data-carried="0"></div>` as text.
"""


def build(folder: Path, page: str, hooks: str) -> tuple[str, str]:
    (folder / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "kb" / "hooks.py", folder)
    (folder / "docs" / "index.md").write_text(page, encoding="utf-8")
    settings = "site_name: x\ntheme: {name: material, font: false}\nplugins: [search]\n" + hooks
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"],
        cwd=folder,
        check=True,
        env={"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "PATH": "/usr/bin:/bin"},
    )
    index = (folder / "site" / "search" / "search_index.json").read_text(encoding="utf-8")
    return (folder / "site" / "index.html").read_text(encoding="utf-8"), index


@pytest.mark.parametrize("page", [PAGE, "# Nothing to carry\n\nText.\n"])
def test_a_page_is_the_same_with_and_without_the_hook(tmp_path: Path, page: str) -> None:
    with_hook = build(tmp_path / "with", page, "hooks: [hooks.py]\n")
    without = build(tmp_path / "without", page, "")
    assert [blank(text) for text in with_hook] == [blank(text) for text in without]


def blank(text: str) -> str:
    """Without blank lines: Markdown leaves one less around a block of its own."""
    return re.sub(r"\n\s*\n", "\n", text)
