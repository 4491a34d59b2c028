"""What undoes a finding, as text that a shell evaluates or a person pastes. Pure.

Names of variables, paths and lines of files are a stranger's: a shell must never take a part of them for code. So a
`Remedy` is the only such text. It is code only as `unset NAME` of a plain name or as the pin to one GPU; anything else
is one line for a person, in which a stranger's text is one quoted word that no shell expands.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from runner.plain import visible_line

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_PIN = "export CUDA_VISIBLE_DEVICES=0"
_CODE = re.compile(rf"unset {_NAME.pattern}|{re.escape(_PIN)}")


def is_plain(name: str) -> bool:
    """Whether a variable's name can be code: capital letters, digits and `_`, not a digit first."""
    return _NAME.fullmatch(name) is not None


def word(text: str) -> str:
    """A stranger's text as one word that a shell takes to the letter; only a leading `~/` keeps its meaning."""
    if text.startswith("~/"):
        return "~/" + word(text[2:])
    if not text.isprintable():
        # No quote stands inside, so it is inert in a shell without $'…' too.
        escaped = "".join(_escaped(one) for one in text)
        return f"$'{escaped}'"
    quoted = shlex.quote(text)
    # A first word such as PATH=x would be an assignment.
    return f"'{text}'" if quoted == text and "=" in text else quoted


def _escaped(one: str) -> str:
    if one.isprintable() and one not in "\\'":
        return one
    return "".join(f"\\x{byte:02x}" for byte in _bytes(one))


def _bytes(one: str) -> bytes:
    # A byte that is no UTF-8 stands as half a surrogate pair; any other half can only come from JSON.
    return one.encode(errors="surrogateescape" if "\udc80" <= one <= "\udcff" else "surrogatepass")


@dataclass(frozen=True)
class Remedy:
    """What undoes one finding: made by `unset`, `pin` and `by_hand`.

    Attributes:
        text: one line.
        is_code: a shell may evaluate it.
    """

    text: str
    is_code: bool = False

    def __post_init__(self) -> None:
        if self.is_code and not _CODE.fullmatch(self.text):
            raise ValueError(f"no code that a shell may evaluate: {self.text!r}")
        if not self.text.isprintable():
            raise ValueError(f"not one line of printable text: {self.text!r}")

    def __str__(self) -> str:
        return self.text

    @classmethod
    def unset(cls, name: str) -> Self:
        """Take a variable of this shell away; by hand where its name is not plain."""
        if is_plain(name):
            return cls(f"unset {name}", is_code=True)
        return cls.by_hand(
            "take {} out of what sets it, or start the job with env -u {}: unset is printed only for names of A-Z, "
            "0-9 and _",
            name,
            name,
        )

    @classmethod
    def pin(cls) -> Self:
        """Pin this shell to GPU 0."""
        return cls(_PIN, is_code=True)

    @classmethod
    def by_hand(cls, sentence: str, *words: str) -> Self:
        """Something that only a person does.

        Args:
            sentence: our own text, without what means something to a shell; `{}` where a word goes. It begins with a
                word of ours: a shell takes a first word `%1` for a job, quoted or not.
            words: texts of strangers.
        """
        return cls(sentence.format(*map(word, words)))


def shell_lines(undo: Iterable[str], by_hand: Iterable[str]) -> list[str]:
    """A document's remedies as lines for `eval` and for a person: code is code again, all else is a comment.

    The document may have been written by anything, so its text is not believed. Every line of the result is one
    physical line.
    """
    undo = list(undo)
    code = [line for line in undo if _CODE.fullmatch(line)]
    # What is no code outlives this shell, or is somebody else's: changing it is the reader's own decision.
    comments = [line for line in undo if not _CODE.fullmatch(line)] + list(by_hand)
    return [*code, *(f"# by hand: {visible_line(line)}" for line in comments)]
