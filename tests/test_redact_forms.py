r"""Secrets in the forms in which programs print them: coloured, escaped, quoted, overwritten, interleaved.

`python -m tests.test_redact_forms` prints how many were planted in each form and how many were left.
"""

import json
import re
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.base.plain import json_text, marked, one_line, plain
from runner.record.last_words import last_words
from runner.record.redaction.leaks import leaks
from runner.record.redaction.redact import redact_json, redact_step, redact_text
from runner.record.redaction.views import read
from tests.evidence_samples import record, redacted, step

ESC, BEL = "\x1b", "\x07"
OWN = ("xq9node", "zaphodb", "/srv/people/zaphodb")
# What is planted, by kind. In pieces, so that no scanner takes this file for a leak.
KINDS: Mapping[str, str] = {
    "hugging face": "hf_" + "ZyXwVuTsRqPoNmLkJiHgFeDcBa987654",
    "github": "ghp_" + "0123456789abcdefABCDEF0123456789abcd",
    "openai": "sk-" + "proj-abcDEF0123456789ghiJKL",
    "gitlab": "glpat-" + "abcDEF0123456789ghij",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "uuid": "GPU-" + "8a1c9d2e-44b0-9f3a-1b2c-3d4e5f607182",
    "mac": "0c:42:a1:7e:90:f2",
    "guid": "0xb83fd20300a1b2c4",
    "ip": "10.21.32.43",
    "ipv6": "fe80::e42:a1ff:fe7e:90f2",
    "host": "node017",
    "gpu host": "gpu-b200-003",
    "domain": "db01.prod.internal",
    "own host": "xq9node",
    "own user": "zaphodb",
    "home": "/home/trillian",
    "own home": "/srv/people/zaphodb",
    "password": "PASSWORD=correcthorse9battery",
    "bearer": "Authorization: Bearer " + "abcdef0123456789abcdef",
}
# What of it may not be left.
NEEDLES = {
    "home": "trillian",
    "own home": "zaphodb",
    "password": "correcthorse9battery",
    "bearer": "abcdef0123456789abcdef",
}


def _coloured(text: str, colour: str = f"{ESC}[32m", end: str = f"{ESC}[0m") -> str:
    return f"{colour}{text}{end}"


def _within(text: str, what: str) -> str:
    """Something within it, at a place that is no boundary of its own."""
    middle = len(text) // 2
    return text[:middle] + what + text[middle:]


def _twice(text: str) -> str:
    return json.dumps(json.dumps(text))


FORMS: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda s: f"got {s} here",
    "colour": lambda s: f"got {_coloured(s)} here",
    "colour behind a word": lambda s: f"got{_coloured(s)}here",
    "bold within": lambda s: f"got {_within(s, f'{ESC}[1m')}{ESC}[0m here",
    "colour behind a word and within": lambda s: f"got{_coloured(_within(s, f'{ESC}[1;31m'))}here",
    "256 colours": lambda s: f"got{_coloured(s, f'{ESC}[38;5;196m')}",
    "colons in a colour": lambda s: f"got{_coloured(s, f'{ESC}[38:2::255:0:0m')}",
    "colour of one byte": lambda s: f"got{_coloured(s, chr(0x9B) + '32m', chr(0x9B) + 'm')}",
    "erased line": lambda s: f"abc{ESC}[2K{ESC}[1G{s}{ESC}[K",
    "cut colour": lambda s: f"got {ESC}[{s}",
    "cut colour with a number": lambda s: f"got{ESC}[3\n{s}",
    "escape alone": lambda s: f"got{ESC}{s}",
    "escape and a blank": lambda s: f"got{ESC} {s}",
    "window title": lambda s: f"got{ESC}]0;title{BEL}{s}",
    "link": lambda s: f"{ESC}]8;;http://a.example{ESC}\\{s}{ESC}]8;;{ESC}\\",
    "link to it": lambda s: f"{ESC}]8;;http://a.example/{s}{ESC}\\here{ESC}]8;;{ESC}\\",
    "character set": lambda s: f"got{ESC}(B{s}{ESC}(B",
    "colour in JSON": lambda s: json.dumps({"m": f"got {_coloured(s)}"}),
    "colour in JSON in JSON": lambda s: _twice(f"got{_coloured(s)}here"),
    "colour within, in JSON": lambda s: json.dumps(f"got {_within(s, f'{ESC}[1m')}"),
    "colour, escaped by hand": lambda s: rf"got\e[32m{s}\e[0m",
    "colour, octal": lambda s: rf"got\033[32m{s}\033[0m",
    "colour, hexadecimal": lambda s: rf"got\x1b[32m{s}\x1b[0m",
    "colour, caret": lambda s: f"got^[[32m{s}^[[0m^M",
    "colour, of syslog": lambda s: f"got#033[32m{s}#033[0m#012",
    "colour without its first byte": lambda s: f"got[32m{s}[0m",
    "line end in JSON": lambda s: json.dumps(f"got\n{s}\nhere"),
    "line end in JSON in JSON": lambda s: _twice(f"got\n{s}\nhere"),
    "line end in JSON three times": lambda s: json.dumps(_twice(f"got\n{s}\nhere")),
    "tab in JSON": lambda s: json.dumps(f"got\t{s}\there"),
    "line end of Windows in JSON": lambda s: json.dumps(f"got\r\n{s}\r\nhere"),
    "slashes in JSON": lambda s: json.dumps(s).replace("/", r"\/"),
    "quotes in JSON in JSON": lambda s: _twice(f'"{s}"'),
    "bytes": lambda s: repr(f"got\n{s}\n".encode()),
    "bytes with colours": lambda s: repr(f"got{_coloured(s)}here".encode()),
    "bytes in a string": lambda s: repr(str(f"got\n{s}\n".encode())),
    "bytes that are not UTF-8": lambda s: rf"caf\xe9{s}\xff",
    "UTF-16": lambda s: f"got\n{s}\n".encode("utf-16-le").decode("utf-8", "backslashreplace"),
    "UTF-16, the other way": lambda s: f"got {s}\n".encode("utf-16-be").decode("utf-8", "backslashreplace"),
    "UTF-16 as bytes": lambda s: repr(s.encode("utf-16-le")),
    "zeros between": lambda s: f"a=1\0{s}\0b=2",
    "percent": lambda s: urllib.parse.quote(f"got={s}&b=", safe=""),
    "percent twice": lambda s: urllib.parse.quote(urllib.parse.quote(f"got={s}&b=", safe="")),
    "blank as percent": lambda s: f"got%20{s}%20here",
    "equals as percent": lambda s: f"key%3D{s}",
    "equals in mail": lambda s: f"key=3D{s}",
    "HTML": lambda s: f"got&quot;{s}&quot;",
    "HTML, numbers": lambda s: "".join(c if c.isalnum() else f"&#{ord(c)};" for c in f"got={s}"),
    "HTML twice": lambda s: f"got&amp;quot;{s}&amp;quot;",
    "overwritten": lambda s: f"a\b{s}",
    "overwritten behind a word": lambda s: f"got ab\b{s}",
    "bold by overwriting": lambda s: "".join(f"{c}\b{c}" for c in s),
    "underlined by overwriting": lambda s: "".join(f"_\b{c}" for c in s),
    "carriage return": lambda s: f"loading 10%\r{s}\rloading 20%",
    "progress bar": lambda s: f"10%|#\r\x1b[K{s}",
    "form feed": lambda s: f"got\f{s}\v",
    "zero-width before": lambda s: f"got\u200b{s}\u200b",
    "zero-width within": lambda s: f"got {_within(s, chr(0x200B))}",
    "soft hyphen within": lambda s: f"got {_within(s, chr(0xAD))}",
    "joiner within": lambda s: f"got {_within(s, chr(0x2060))}",
    "byte order mark": lambda s: f"got\ufeff{s}",
    "direction turned": lambda s: f"got\u202e{s}\u202c",
    "control before": lambda s: f"got\x01{s}\x02",
    "control within": lambda s: f"got {_within(s, chr(2))}",
    "next line": lambda s: f"got\x85{s}\x85",
    "line separator": lambda s: f"got\u2028{s}\u2029",
    "tab": lambda s: f"got\t{s}\there",
}
_GLUED = ("escape alone", "colour in JSON in JSON", "bytes with colours")
ORDINARY = ("an all-reduce over 8 GPUs took 12.5 ms", "loss=0.25 at step 100", "CUDA error: out of memory")
DECOYS = (Path(__file__).parent / "redact" / "decoys.txt").read_text(encoding="utf-8")


def left(kind: str, form: str) -> bool:
    """Whether what is planted can be read in the text that would be stored, by any reading."""
    needle = NEEDLES.get(kind, KINDS[kind])
    stored = redact_text(FORMS[form](KINDS[kind]), OWN)
    return any(
        needle in reading for reading in (stored, plain(stored), read(stored), urllib.parse.unquote(stored))
    )


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_is_planted_is_left_in_any_form(form: str) -> None:
    assert [kind for kind in KINDS if left(kind, form)] == []


@pytest.mark.parametrize("form", FORMS)
def test_redacting_a_form_twice_changes_nothing_more(form: str) -> None:
    for planted in (*KINDS.values(), *ORDINARY):
        once = redact_text(FORMS[form](planted), OWN)
        assert redact_text(once, OWN) == once


@pytest.mark.parametrize("form", FORMS)
def test_what_names_nobody_keeps_its_form_less_what_steers_a_terminal(form: str) -> None:
    # An escape within a word, or a word that goes on behind it, makes another word of it.
    if "within" in form or "behind" in form or form in _GLUED:
        return
    for said in (*ORDINARY, *DECOYS.splitlines()):
        text = FORMS[form](said)
        assert redact_text(text) == plain(text)


def test_what_stands_around_a_secret_keeps_its_form() -> None:
    token = KINDS["hugging face"]
    assert redact_text(json.dumps({"a": f"x\n\t{token} é\n"})) == r'{"a": "x\n\t[token] \u00e9\n"}'
    assert redact_text(f"a%3D{token}%26b") == "a%3D[token]%26b"
    assert redact_text(rf"x\e[32m{token}\e[0m y") == r"x\e[32m[token]\e[0m y"
    assert redact_text(f"{ESC}[1mloss{ESC}[0m {ESC}[32m{token}{ESC}[m\r\n") == "loss [token]\n"


def test_words_of_this_host_are_found_beside_letters_that_belong_to_no_word() -> None:
    for text in ("xq9node01", "myxq9node", "axq9nodeb"):
        assert redact_text(text, OWN) == text
    for text in (
        "xq9node:",
        "x_xq9node_y",
        "/xq9node/",
        "XQ9NODE.",
        r"\nxq9node\n",
        f"a{ESC}[1mxq9node{ESC}[0mb",
    ):
        assert "xq9node" not in redact_text(text, OWN).lower()


def test_an_environment_is_removed_in_every_form() -> None:
    # In a string of JSON the first of them may stand behind the string's name.
    variables = {"A": "1", "PATH": "/bin", "HOME": "/root", "WANDB_MODE": "offline", "B": "2", "C": "3"}
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    for text in (
        lines,
        lines.replace("\n", "\0"),
        lines.replace("\n", "\r\n"),
        json.dumps(lines),
        _twice(lines),
        repr(lines.encode()),
        "".join(f"{ESC}[36m{name}{ESC}[0m={value}\n" for name, value in variables.items()),
        urllib.parse.quote(lines, safe=""),
    ):
        found = redact_text(text)
        assert re.search(r"\[environment of [56] variables removed\]", found), text
        assert "offline" not in found
    coloured = {_coloured(name): value for name, value in variables.items()}
    assert redact_json({"env": coloured}) == {"env": "[environment of 6 variables removed]"}  # type: ignore[dict-item]


def test_json_is_read_in_every_form_in_keys_and_values() -> None:
    token = KINDS["hugging face"]
    assert redact_json({f"got{_coloured(token)}": 1, "a": [rf"\n{token}"]}) == {
        "got[token]": 1,
        "a": [r"\n[token]"],
    }
    assert redact_json({_coloured("HF_TOKEN"): "two words", "a%5Fpassword": "hunter2"}) == {
        "HF_TOKEN": "[token]",
        "a%5Fpassword": "[token]",
    }


def test_a_stored_step_holds_no_escape_codes_and_no_secret_of_any_form() -> None:
    dirty = "\n".join(form(secret) for form in FORMS.values() for secret in KINDS.values())
    clean = redact_step(step(stdout_tail=dirty, details={KINDS["jwt"]: [FORMS["colour"](KINDS["mac"])]}), OWN)
    text = clean.model_dump_json()
    for kind, secret in KINDS.items():
        assert NEEDLES.get(kind, secret) not in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", clean.stdout_tail)
    assert redact_step(clean, OWN) == clean


def test_the_gate_sees_what_an_escape_hides_and_escape_codes_themselves() -> None:
    hidden = record(step(stdout_tail=json.dumps(f"got\n{KINDS['hugging face']}")))
    assert leaks(hidden) == (("steps[0].stdout_tail", "token"),)
    assert leaks(record(step(stdout_tail=f"{ESC}[1mbold"))) == (
        ("steps[0].stdout_tail", "control characters"),
    )
    assert leaks(redacted(hidden)) == ()


def test_the_last_words_of_a_coloured_program_hold_no_secret() -> None:
    token = KINDS["hugging face"]
    assert last_words(f"said\n{ESC}[31mrefused{ESC}[1m{token}{ESC}[0m\n") == "refused[token]"
    assert last_words(f"loading\b\b{ESC}[2K\rdone with \u202exq9node\n", OWN) == "done with [redacted]"


_PIECES = st.sampled_from(
    [
        *("\x1b", "[32m", "\x1b[0m", "\x9b1m", "\b", "\r", "\0", "\x01", "\u200b", "\u202e", "\x85", "\x07"),
        *(
            "\\",
            "\\n",
            "\\u001b",
            "[1m",
            "\\x1b",
            "\\\\",
            "%",
            "%3D",
            "%25",
            "3D",
            "&",
            "&amp;",
            "&#",
            "quot;",
        ),
        *("^", "^[", "#0", "#033", "=3D", "]8;;", "\x1b\\", "\x1b]", "\x9d", "[token]", "[host]", "[", "]"),
        *(*KINDS.values(), "PATH=/bin\\nHOME=/\\nA=1\\nB=2\\nC=3", "USER=", "_", " ", "\n", "a", "&lowbar;"),
        *("TOKEN%3D", "secret&lowbar;HOST=", '"', "'"),
    ]
)
_TEXT = st.lists(_PIECES | st.text(max_size=4), max_size=12).map("".join)


@given(_TEXT)
def test_whatever_escapes_meet_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact_text(text, OWN)
    assert redact_text(once, OWN) == once
    assert plain(once) == once


@given(_TEXT)
def test_plain_text_steers_no_terminal_and_stays_as_it_is(text: str) -> None:
    once = plain(text)
    assert plain(once) == once
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", once)
    assert "\n" not in one_line(text)
    assert json.loads(json_text([text])) == [text]
    assert plain(json_text([text])) == json_text([text])


@settings(max_examples=400)
@given(st.sampled_from([*FORMS]), _TEXT)
def test_a_token_is_found_whatever_stands_before_it(form: str, noise: str) -> None:
    token = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz543210"
    assert token not in redact_text(f"{noise} {FORMS[form](token)}")


@pytest.mark.parametrize(
    "text",
    [
        "\x1b" * 200_000,
        "\x1b[" * 100_000,
        "\x1b]8;;" * 50_000,
        "\x9d" * 200_000,
        "\\" * 200_000,
        "\\u001b[" * 30_000,
        "a\b" * 100_000,
        "\b" * 200_000,
        "a\x01" * 100_000,
        "%25" * 70_000,
        "&amp;" * 40_000,
        "[1" * 100_000,
        "a\0" * 100_000,
        "\u200b" * 200_000,
        "\\n" * 100_000,
    ],
    ids=lambda text: repr(text[:8]),
)
@pytest.mark.timeout(60)
def test_no_escapes_make_it_take_long(text: str) -> None:
    assert len(redact_text(text, OWN)) <= len(text)
    assert marked(text).count("\n") <= text.count("\0")


def main() -> None:
    """Print planted and left, by form."""
    found = {form: sum(left(kind, form) for kind in KINDS) for form in FORMS}
    rows = [*((form, len(KINDS), count) for form, count in found.items())]
    rows.append(("all", len(KINDS) * len(FORMS), sum(found.values())))
    sys.stdout.writelines(f"{form:<32} planted {planted:>4}, left {count}\n" for form, planted, count in rows)


if __name__ == "__main__":
    main()
