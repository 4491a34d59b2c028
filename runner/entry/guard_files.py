"""The guards for a training job as files: what each says of itself, and which entries name it."""

import ast
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from runner.base.places import running_package
from runner.entry.model import Prose, Runbook

# A module imports its own folder, which is not there in a job.
_MARKER = "__init__"


@dataclass(frozen=True)
class Passage:
    """A paragraph, on one line, or an example: indented lines of code."""

    text: str
    is_code: bool


@dataclass(frozen=True)
class GuardFile:
    """One guard: a file that a job imports from the wheel, or has a copy of.

    Attributes:
        name: of the module.
        text: the whole file.
    """

    name: str
    text: str

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def _said(self) -> str:
        return ast.get_docstring(self._tree) or ""

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return self._said.partition("\n")[0]

    @property
    def usage(self) -> tuple[Passage, ...]:
        """The rest of its docstring, which shows how it is used; may be empty."""
        rest = (ast.get_docstring(self._tree, clean=False) or "").partition("\n")[2]
        parts = [part for part in re.split(r"\n\s*\n", rest) if part.strip()]
        joined: list[Passage] = []
        for is_code, same in groupby(parts, lambda part: part.strip("\n").startswith("    ")):
            if is_code:
                joined.append(Passage(textwrap.dedent("\n\n".join(same)).strip(), is_code=True))
            else:
                joined += [Passage(" ".join(part.split()), is_code=False) for part in same]
        return tuple(joined)

    @property
    def lines(self) -> int:
        """How long the file is."""
        return self.text.count("\n")

    @property
    def offered(self) -> tuple[str, ...]:
        """The public functions and classes that its docstring names; all of them if it names none."""
        kinds = ast.FunctionDef | ast.ClassDef
        public = [
            one.name
            for one in self._tree.body
            if isinstance(one, kinds) and not one.name.startswith("_") and one.name != "main"
        ]
        named = set(re.findall(r"\w+", self._said))
        return tuple(one for one in public if one in named) or tuple(public)

    @property
    def imported(self) -> str:
        """The line that imports it from an installed package."""
        return self._import_of(f"runner.guards.{self.name}")

    @property
    def imported_copy(self) -> str:
        """The line that imports a copy that lies beside the job's code."""
        return self._import_of(self.name)

    def _import_of(self, module: str) -> str:
        return f"from {module} import {', '.join(self.offered)}" if self.offered else f"import {module}"

    def entries(self, runbooks: Iterable[Runbook]) -> tuple[Runbook, ...]:
        """The entries whose text names it, as `runner.guards.NAME` or `guards/NAME.py`."""
        names = re.compile(rf"\bguards(?:\.{self.name}\b|/{self.name}\.py\b)")
        return tuple(one for one in runbooks if names.search(_text_of(one)))


def _text_of(runbook: Runbook) -> str:
    parts = [part for section in runbook.sections for part in section.body]
    return "\n".join(part.markdown if isinstance(part, Prose) else part.command for part in parts)


def guard_files(folder: Path | None = None) -> tuple[GuardFile, ...]:
    """The guards of the running package, or of another folder, by name.

    Raises:
        OSError: a file cannot be read.
        SyntaxError: a file is not Python; raised when the guard is asked what it says.
    """
    folder = running_package() / "guards" if folder is None else folder
    paths: Sequence[Path] = sorted(folder.glob("*.py"))
    return tuple(
        GuardFile(path.stem, path.read_text(encoding="utf-8")) for path in paths if path.stem != _MARKER
    )
