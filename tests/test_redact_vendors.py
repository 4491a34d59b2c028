"""Secrets and names in the forms of those who issue them, planted in text, and innocent text beside them."""

import random
import re
import re._parser as sre_parser  # type: ignore[import-not-found] # typeshed leaves it out
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from runner.record.redaction.hosts import NAMES_OF_HOSTS
from runner.record.redaction.patterns import RULES, SPEAKING_NAME
from runner.record.redaction.redact import redact_json, redact_text
from runner.record.redaction.rule import Rule
from runner.record.redaction.secret_formats import FORMATS, reads_as_words
from tests import test_redact_forms
from tests.planted import HOST_PHRASES, SECRETS_BY_NAME, TOKENS, Planted, filled, planted

CORPUS = Path(__file__).parent / "redact"
ALL = tuple(planted())
_EVERY_RULE = [rule for _, finders in RULES for rule in finders if isinstance(rule, Rule)]
# Pieces of which everything planted begins: what could make a pattern look again and again.
_BEGINNINGS = sorted({word for _, hint, _ in FORMATS for word in hint.split("|")})
_PLACES = (
    *(
        "/scratch/",
        "/lustre/a/",
        "~a",
        "host=",
        "hostname: ",
        "srun: error: ",
        "ssh ",
        "ssh -o x ",
        "scp a ",
        "a,",
    ),
    *(
        "connect to host ",
        "connect (",
        "://a",
        "http://",
        "s3://",
        "arn:aws:",
        "machine a ",
        "machine a login b ",
    ),
    *(
        "login -p",
        "mysql -p",
        "curl -u a",
        "Cookie: a=",
        "sig=",
        "X-Amz-Signature=",
        "client-key-data: ",
        'auth":"',
    ),
    *(
        "--rdzv-endpoint=a:1,",
        "on node ",
        "Nodes a",
        "lookup a",
        "Resolving a",
        "node_guid: ",
        "machine-id ",
        "i-0",
    ),
    *(
        "Nov 26 10:00:00 a ",
        "mpirun -H ",
        "AccountKey=",
        "A_KEY=",
        "a_PWD=",
        "eyJ",
        "eyJa.",
        "ocid1.",
        "M",
        "x-a1-",
    ),
    *(
        "a" * 21 + ".",
        "/resourceGroups/",
        "wandb login ",
        "instance_id ",
        "[a]:",
        " [a",
        "Private-Lines: 1\n",
        "Host: ",
    ),
)


def _left(item: Planted) -> bool:
    redacted = redact_text(item.text)
    return any(private in redacted for private in item.private)


def test_nothing_that_was_planted_is_left() -> None:
    left = [f"{item.kind}, {item.form}" for item in ALL if _left(item)]
    assert not left


def test_the_figures_on_the_page_of_promises_are_those_of_these_tests() -> None:
    page = (CORPUS.parents[1] / "kb" / "reference" / "what-this-tool-promises.md").read_text(encoding="utf-8")
    harmless = sum(len((CORPUS / f"{name}.txt").read_text().splitlines()) for name in ("innocent", "decoys"))
    assert f"{len(ALL):,} items planted" in page
    assert f"{harmless} lines of harmless text" in page
    kinds, forms = len(test_redact_forms.KINDS), len(test_redact_forms.FORMS)
    assert f"{kinds} kinds in {forms} forms, {kinds * forms:,} items planted" in page
    assert len({item.kind for item in ALL}) > 100


def test_each_form_of_text_holds_many_of_the_kinds() -> None:
    forms = Counter(item.form for item in ALL)
    assert {"bare", "NAME=value", "JSON", "URL", "end of a sentence", "quoted"} <= forms.keys()
    assert (
        min(forms[form] for form in ("bare", "NAME=value", "JSON", "URL", "end of a sentence", "quoted")) > 60
    )


def test_what_stands_around_a_secret_stays() -> None:
    for item in ALL:
        if item.form == "line of many":
            assert redact_text(item.text).startswith("before\n"), item.kind
            assert redact_text(item.text).endswith("\nafter"), item.kind


def test_innocent_text_stays_as_it_is() -> None:
    changed = [
        line
        for name in ("decoys", "innocent")
        for line in (CORPUS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        if redact_text(line) != line
    ]
    assert not changed


@pytest.mark.parametrize(("_issuers", "hint", "form"), FORMATS, ids=[issuers for issuers, *_ in FORMATS])
def test_every_secret_of_a_format_has_one_of_its_hints_and_is_found(
    _issuers: str, hint: str, form: str
) -> None:
    @settings(max_examples=20, deadline=None, database=None)
    @given(st.from_regex(form, fullmatch=True))
    def holds(secret: str) -> None:
        assert any(word in secret.lower() for word in hint.split("|"))
        assert reads_as_words(secret, "") or secret not in redact_text(f"a {secret} b")

    holds()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TOKENS), st.integers(0, 10**6), st.text(" \n\t,;()'\"=<>", max_size=3))
def test_a_token_of_any_issuer_is_found_between_marks_of_any_kind(
    token: tuple[str, str, str], seed: int, mark: str
) -> None:
    _, beginning, rest = token
    secret = filled(beginning + rest, random.Random(seed))
    assert secret not in redact_text(f"a {mark}{secret}{mark} b")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([item.text for item in ALL]) | st.text(max_size=6), max_size=6).map(" ".join))
def test_planted_text_redacted_twice_is_the_same(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@pytest.mark.parametrize(("name", "form"), SECRETS_BY_NAME, ids=lambda text: text)
def test_a_key_of_json_gives_its_value_away(name: str, form: str) -> None:
    assert redact_json({name: filled(form, random.Random(3))}) == {name: "[token]"}
    assert SPEAKING_NAME.search(name)


@pytest.mark.parametrize(
    "key", ["hostname", "host", "nodeName", "node_name", "master_addr", "NodeManagerHostname"]
)
def test_a_key_of_json_gives_a_host_away(key: str) -> None:
    assert redact_json({key: "gandalf"}) == {key: "[host]"}
    assert redact_json({key: "localhost"}) == {key: "localhost"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"password": ["opensesame1"]}, {"password": ["[token]"]}),
        ({"argv": ["serve", "--api-key", "opensesame1"]}, {"argv": ["serve", "--api-key", "[token]"]}),
        ({"argv": ["run", "--master_addr", "gandalf"]}, {"argv": ["run", "--master_addr", "[host]"]}),
        (
            {"env": [{"name": "DB_PASSWORD", "value": "opensesame1"}]},
            {"env": [{"name": "DB_PASSWORD", "value": "[token]"}]},
        ),
        ({"serial": 1653822001234}, {"serial": "[serial]"}),
        ({"user": "frodob"}, {"user": "[user]"}),
        ({"hostname": ["gandalf"]}, {"hostname": ["[host]"]}),
    ],
)
def test_a_list_a_number_and_a_pair_of_json_give_their_value_away(
    before: JsonValue, after: JsonValue
) -> None:
    assert redact_json(before) == after
    assert redact_json(after) == after


@pytest.mark.parametrize(
    "healthy",
    [
        {"serial": 3, "passwords": 0, "max_tokens": 4_096_000, "user": "root", "access_key": None},
        {"argv": ["serve", "--port", "8000", "--host", "localhost", "--max-tokens", "128"]},
        {"messages": [{"role": "user", "content": "hello"}], "hostname": ["localhost"]},
        {"columns": ["hostname", "gandalf"], "name": "batch", "value": "128"},
    ],
)
def test_innocent_json_stays_as_it_is(healthy: JsonValue) -> None:
    assert redact_json(healthy) == healthy


@pytest.mark.parametrize("public", ["localhost", "127.0.0.1", "github.com", "docs.nvidia.com"])
def test_public_names_and_loopback_stay_where_a_host_is_named(public: str) -> None:
    # Places that hold nothing but a host's name, whatever it is.
    private = re.compile(rf"@|Linux |NCCL|host  |_3452_|\[01|(?:{NAMES_OF_HOSTS})=")
    for phrase in HOST_PHRASES:
        if not private.search(phrase):
            assert public in redact_text(phrase.format(x=public)), phrase


@pytest.mark.parametrize(
    "words",
    ["sk-learn-extended-tests", "hf_hub_download_from_cache", "npm_config_user_agent", "fw_GPU_v2", "x-2026"],
)
def test_words_are_told_from_secrets(words: str) -> None:
    assert reads_as_words(words, "")
    assert not reads_as_words(f"{words}-9fKq2Zr7", "")


@pytest.mark.parametrize("piece", [*_BEGINNINGS, *_PLACES])
@pytest.mark.timeout(30)
def test_no_beginning_repeated_makes_a_pattern_look_again_and_again(piece: str) -> None:
    once, twice = (piece * (size // len(piece)) for size in (10_000, 40_000))
    times = []
    for text in (once, twice):
        started = time.process_time()
        for rule in _EVERY_RULE:
            list(rule(text, text.lower()))
        times.append(time.process_time() - started)
    # Linear would be 4, quadratic 16; what takes no time is no matter.
    assert times[1] < 10 * times[0] + 0.1


def test_no_rule_repeats_a_group_possessively() -> None:
    # Before 3.11.5 Python's `re` finds nothing with `(?:…)*+` where the group itself has to go back (gh-106052), and
    # Debian 12 has 3.11.2: `(?>(?:…)*)` says the same and is right everywhere.
    for rule in _EVERY_RULE:
        assert not list(_possessive_groups(sre_parser.parse(rule.pattern.pattern, re.MULTILINE))), rule.hint


def _possessive_groups(tree: Any) -> Iterator[str]:
    for operation, argument in tree:
        parts = argument if isinstance(argument, tuple | list) else (argument,)
        if str(operation) == "POSSESSIVE_REPEAT" and not _is_one_character(argument[2]):
            yield str(argument)
        for part in parts:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, sre_parser.SubPattern):
                    yield from _possessive_groups(inner)


def _is_one_character(repeated: Any) -> bool:
    return len(repeated) == 1 and str(repeated[0][0]) in {"IN", "LITERAL", "NOT_LITERAL", "ANY"}


def test_a_possessive_group_is_told_from_an_atomic_one() -> None:
    assert list(_possessive_groups(sre_parser.parse("a|(b(?:c+d)*+)")))
    assert list(_possessive_groups(sre_parser.parse("(?:ab?)?+")))
    assert not list(_possessive_groups(sre_parser.parse("a++|(?>(?:c+d)*)")))
