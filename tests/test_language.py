"""Messages, comments and pages are in plain technical English: wordings that readers stumbled over do not come back."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = tuple(sorted((ROOT / "runner").rglob("*.py"))) + tuple(sorted((ROOT / "kb").rglob("*.py")))
PAGES = tuple(
    path
    for path in (
        *sorted((ROOT / "runbooks").glob("*.md")),
        *sorted((ROOT / "kb").rglob("*.md")),
        *sorted((ROOT / "kb").rglob("*.j2")),
        *sorted((ROOT / "kb" / "assets").glob("*.js")),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    )
    if "vendor" not in path.parts
)

# "X is no Y" for "X is not a Y"; "there is no Y" is plain English.
_NOUNS = (
    "folder file id date path module probe metric machine mapping regular number record archive key campaign diagnosis "
    "code page step measurement scale entry JSON option model process program job node regex"
)
_NO_NOUN = "|".join(_NOUNS.split())

# What a reader would have to read twice, and the plain wording.
FORBIDDEN = {
    rf"(?<!there )\bis no (?:{_NO_NOUN})\b": "is not a …",
    r"\bcannot say\b": "unknown",
    r"\bwhich a look never does\b": "not run by `diagnose`",
    r"\bby what could look\b": "in the checks that ran",
    r"(?<=[a-z] )hindered\b": "blocked",
    r"\bunasked\b": "unrequested fallback",
    r"\bverdicts? (?:that )?turned\b": "verdict changed",
    r"\bturn and turn about\b": "interleaved",
    r"\bsurely (?:below|above)\b": "95 % CI below",
    r"\bstands? twice\b": "duplicate",
    r"\blies in the future\b": "is in the future",
    r"\bmend(?:s|ed|ing)?\b": "repair, fix",
    r"\bcalls its machine\b": "machine_class is …, detected …",
    r"\bthe longest it may take\b": "Maximum runtime",
    r"\bwhom to charge\b": "Slurm account",
    r"\ba container's words\b": "for example a container launcher",
    r"\bdiffers beside them\b": "other differences",
    r"\bsymptom, as wanted\b": "fault reproduced",
    r"\bby alias alone\b": "shown by alias",
    r"\bis not there under\b": "does not exist under",
    r"\binterrupted before it ended\b": "interrupted",
    r"\bnobody (?!daemon)\w": "no one, or the passive",
    r"\bsaid by\b": "reported by, printed by",
    r"\bconvicts?\b": "is the cause",
    r"\bwhat it came to\b": "its outcome",
    r"\bthe house\b": "this project",
    r"\bno variable will\b": "no environment variable can fix",
    r"\bkeep the logits of the last token alone\b": "compute logits for the last token only",
    r"\bleaves? its links\b": "suspect its links",
    r"\bbeside an environment with nothing set\b": "match a clean environment",
    r"\bwhat steers\b": "which settings …",
    r"\bask at which size\b": "first check the message size",
    r"\bonly harm there\b": "are harmful only across nodes",
    r"\bwhatever people say\b": "(drop)",
    r"\bkeeps? for life\b": "fixed when a process starts",
    r"\bleft in peace\b": "undisturbed",
    r"\bthat slow a running process cost\b": "cost of the leftovers that …",
    r"\bthe shell takes in\b": "commands for `eval`",
    r"\ba twentieth is\b": "5 %",
    r"\brendezvous that is gone\b": "a rendezvous that no longer exists",
    r"\bwhat can be is\b": "judge …",
    r"\bwhat is said of it\b": "commonly reported cause",
    r"\bis known by now\b": "(drop)",
    r"\bhonest compile\b": "healthy compile",
    r"\bpegged and nothing moves\b": "if a CPU is pegged and nothing changes",
    r"\bslower, and it answers\b": "slower, but it works",
    r"\bsays what eager says\b": "outputs agree",
    r"\blook away\b": "sample only about 25 % of the time",
    r"\bstands beside\b": "shown next to",
    r"\bstands out\b(?! (?:again|of))": "is an outlier",
}
# Names of classes, metrics and fields that said nothing to a reader. Stored records keep theirs, so the vocabulary
# knows the metrics that are no longer reported.
RENAMED = {r"\bBrood\b": "ProcessTree"}
REPORTED_NO_LONGER = {
    r"\bdetours\b": "non_p2p_transports",
    r"\bslow_collective_time\b": "collective_time_p95",
}

# Kinds of token that Python has since 3.12; before, an f-string is one string.
_MIDDLE, _START, _END = (getattr(tokenize, f"FSTRING_{kind}", None) for kind in ("MIDDLE", "START", "END"))
_IN_STRINGS = {tokenize.STRING, _MIDDLE}
_IN_BETWEEN = {tokenize.NL, _START, _END}
_QUOTES = re.compile(r"^[a-zA-Z]*(?:\"\"\"|'''|\"|')|(?:\"\"\"|'''|\"|')$")


def _prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and string; parts that continue each other are one text."""
    kind, first, parts = 0, 1, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        found = tokenize.STRING if token.type in _IN_STRINGS else token.type
        if found == kind:
            parts.append(_bare(token))
        elif found in {tokenize.STRING, tokenize.COMMENT}:
            yield first, " ".join("".join(parts).split())
            kind, first, parts = found, token.start[0], [_bare(token)]
        elif token.type not in _IN_BETWEEN:
            yield first, " ".join("".join(parts).split())
            kind, parts = 0, []
    yield first, " ".join("".join(parts).split())


def _bare(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.COMMENT:
        return token.string.lstrip("#") + " "
    return _QUOTES.sub("", token.string) if token.type == tokenize.STRING else token.string


def _prose(path: Path) -> list[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [one for one in _prose_of_python(text) if one[1]]
    # Paragraph by paragraph: a wording may be wrapped.
    found, line = [], 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        found.append((line, " ".join(paragraph.split())))
        line += paragraph.count("\n")
    return found


def _found_in(path: Path) -> list[str]:
    where = path.relative_to(ROOT)
    found = [
        f"{where}:{line}: {match[0]!r} → {better!r} in: {text[max(0, match.start() - 40) : match.end() + 40]}"
        for line, text in _prose(path)
        for pattern, better in FORBIDDEN.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    names = RENAMED | ({} if "vocabulary" in where.parts else REPORTED_NO_LONGER)
    return found + [
        f"{where}: the name {match[0]!r} → {better!r}"
        for pattern, better in names.items()
        for match in re.finditer(pattern, path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("path", PYTHON + PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_wording_has_to_be_read_twice(path: Path) -> None:
    if found := _found_in(path):
        pytest.fail("\n".join(found))


@pytest.mark.parametrize(
    "text",
    [
        '"""The folder is no folder of this project."""\n',
        "# A machine of which nobody\n# knows the name.\n",
        'raise ValueError(\n    f"{x} stands "\n    "twice"\n)\n',
        'x = f"its hardware was mended {y}"\n',
    ],
)
def test_a_wording_is_found_in_docstrings_comments_and_strings_across_their_lines(text: str) -> None:
    prose = [one for _, one in _prose_of_python(text)]
    assert any(re.search(pattern, one, re.IGNORECASE) for pattern in FORBIDDEN for one in prose)


def test_names_in_code_and_plain_sentences_are_not_taken_for_such_a_wording() -> None:
    text = 'hindered = one.hindered\n# There is no folder, so recommend one.\nUSERS = {"root", "nobody"}\n'
    prose = [one for _, one in _prose_of_python(text)]
    assert not any(re.search(pattern, one, re.IGNORECASE) for pattern in FORBIDDEN for one in prose)
