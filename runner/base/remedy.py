"""The remedy for a finding, as text that a shell evaluates or a person pastes. Pure.

Variable names, paths and lines of files are untrusted: a shell must never interpret a part of them as code. So a
`Remedy` is the only text of this kind. It is code only as `unset NAME` of a plain name or as the pin to one GPU;
anything else is one line for a person, in which untrusted text is one quoted word that no shell expands.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from runner.base.plain import visible_line

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_GPU = re.compile(r"[0-9]{1,9}|(?:GPU|MIG)-[0-9A-Za-z-]{1,80}(?:/[0-9]{1,4}){0,2}")
_PIN = "export CUDA_VISIBLE_DEVICES="
_CODE = re.compile(rf"unset {_NAME.pattern}|{_PIN}(?:{_GPU.pattern})")


def is_plain(name: str) -> bool:
    """Whether a variable's name can be code: capital letters, digits and `_`, not a digit first."""
    return _NAME.fullmatch(name) is not None


def is_plain_gpu(entry: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES can be code: a number, or the UUID of a GPU or an instance."""
    return _GPU.fullmatch(entry) is not None


def word(text: str) -> str:
    """Untrusted text as one word that a shell takes literally; only a leading `~/` keeps its meaning."""
    if text.startswith("~/"):
        return "~/" + word(text[2:])
    if not text.isprintable():
        # It contains no quote, so it is also inert in a shell that does not know $'…'.
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
    # Python represents a byte that is not UTF-8 as a lone surrogate; any other lone surrogate comes from JSON.
    return one.encode(errors="surrogateescape" if "\udc80" <= one <= "\udcff" else "surrogatepass")


@dataclass(frozen=True)
class Remedy:
    """The remedy for one finding; create it with `unset`, `pin` or `by_hand`.

    Attributes:
        text: one line.
        is_code: whether a shell may evaluate it.
    """

    text: str
    is_code: bool = False

    def __post_init__(self) -> None:
        if self.is_code and not _CODE.fullmatch(self.text):
            raise ValueError(f"not code that a shell may evaluate: {self.text!r}")
        if not self.text.isprintable():
            raise ValueError(f"not one line of printable text: {self.text!r}")

    def __str__(self) -> str:
        return self.text

    @classmethod
    def unset(cls, name: str) -> Self:
        """Unset a variable of this shell; a remedy by hand if its name is not plain."""
        if is_plain(name):
            return cls(f"unset {name}", is_code=True)
        return cls.by_hand(
            "remove {} where it is set, or start the job with env -u {}: unset is printed only for names made of A-Z, "
            "0-9 and _",
            name,
            name,
        )

    @classmethod
    def pin(cls, gpu: str) -> Self:
        """Pin this shell to one GPU: an entry of CUDA_VISIBLE_DEVICES as `visible.one_of` returns it."""
        return cls(f"{_PIN}{gpu}", is_code=True)

    @classmethod
    def by_hand(cls, sentence: str, *words: str) -> Self:
        """A remedy that only a person can apply.

        Args:
            sentence: this project's text, without shell metacharacters; `{}` marks the place of a word. It must not
                begin with `{}`: a shell takes a first word `%1` as a job, quoted or not.
            words: untrusted texts.
        """
        return cls(sentence.format(*map(word, words)))


def shell_lines(undo: Iterable[str], by_hand: Iterable[str]) -> list[str]:
    """A document's remedies as lines for `eval`: valid code stays code, everything else becomes a comment.

    Any program may have written the document, so its text is checked again. Every line of the result is one physical
    line.
    """
    undo = list(undo)
    code = [line for line in undo if _CODE.fullmatch(line)]
    # Everything else outlives this shell or belongs to somebody else: the reader decides whether to change it.
    comments = [line for line in undo if not _CODE.fullmatch(line)] + list(by_hand)
    return [*code, *(f"# by hand: {visible_line(line)}" for line in comments)]
