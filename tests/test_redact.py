import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from runner.record.model import StepStatus, StoredVerdict
from runner.record.redaction.redact import host_secrets, redact_json, redact_text
from tests.evidence_samples import machine, measurement, record, redacted, step

CORPUS = Path(__file__).parent / "redact"
NAMES = ("node17", "alice", "gpu-b200-003")

# Pieces that are sensitive alone or that become so (or stop being so) when they meet.
_PIECES = st.sampled_from(
    [
        *(line for path in sorted(CORPUS.glob("*.txt")) for line in path.read_text().splitlines()),
        *(
            "10.0.0.5",
            "TOKEN=",
            "password: ",
            "Bearer ",
            "://",
            "@",
            ":",
            "=",
            '"',
            "'",
            "\\",
            "\n",
            "\0",
            " ",
        ),
        *("hf_", "abcdef0123456789", "0x", "fe80::1", "GPU-", "/home/", "host : ", "] NCCL ", "--token "),
        *("[ip]", "[host]", "[token]", "[user]", "[redacted]", "[private-key]", "]", "[", "Linux ", "alice"),
        *(
            "[environment of 5 variables removed]",
            "PATH=/bin\nA=1\nB=2\nC=3\n",
            "USER=",
            "-----BEGIN PRIVATE KEY-----",
        ),
    ]
)
_TEXT = st.lists(_PIECES | st.text(max_size=8), max_size=12).map("".join)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.txt")), ids=lambda path: path.stem)
def test_the_corpus_reads_as_expected(path: Path) -> None:
    expected = path.with_suffix(".expected").read_text(encoding="utf-8")
    assert redact_text(path.read_text(encoding="utf-8")) == expected


def test_the_corpus_has_decoys_that_stay_and_secrets_that_go() -> None:
    names = {path.stem for path in CORPUS.glob("*.txt")}
    assert names == {path.stem for path in CORPUS.glob("*.expected")}
    assert names >= {"decoys", "tokens", "hosts", "hardware", "nccl", "environment"}


@settings(max_examples=400, deadline=None)
@given(_TEXT)
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = redact_text(text, NAMES)
    assert redact_text(once, NAMES) == once


@settings(deadline=None)
@given(
    _TEXT,
    st.lists(st.sampled_from(["ip", "token", "redacted", "variables", "host", "a", "[", "private-key"])),
)
def test_words_that_placeholders_are_made_of_do_no_harm(text: str, words: list[str]) -> None:
    once = redact_text(text, words)
    assert redact_text(once, words) == once


@settings(deadline=None)
@given(_TEXT, st.sampled_from([" ", "\n", ", ", " (", "'"]))
def test_a_token_is_found_whatever_stands_before_it(before: str, glue: str) -> None:
    token = "hf_ZyXwVuTsRqPoNmLkJiHgFeDcBa987654"
    assert token not in redact_text(f"{before}{glue}{token}\n")


@settings(deadline=None)
@given(_TEXT)
def test_a_host_name_is_found_wherever_it_stands_alone(before: str) -> None:
    assert "xq9node" not in redact_text(f"{before} XQ9node_rank0", ("xq9node",)).lower()


@given(st.integers(1, 223), st.integers(0, 255), st.integers(0, 255), st.integers(1, 254))
def test_every_address_but_loopback_goes(a: int, b: int, c: int, d: int) -> None:
    address = f"{a}.{b}.{c}.{d}"
    redacted = redact_text(f"connect to {address}:29500 failed")
    assert redacted == f"connect to {address if a == 127 else '[ip]'}:29500 failed"


@given(st.text("0123456789abcdef", min_size=40, max_size=40))
def test_a_commit_stays(commit: str) -> None:
    assert redact_text(f"commit {commit}") == f"commit {commit}"


def test_a_key_of_which_both_ends_were_dropped_is_found_where_it_begins() -> None:
    line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
    for first in ("", "AQEFAASC"):
        text = f"it began\n[71234 bytes dropped]\n{first}\n{line}\n{line}\nMIIEvQ"
        assert redact_text(text) == "it began\n[71234 bytes dropped]\n[private-key]"
    innocent = "[71234 bytes dropped]\nloss=0.5\nstep 12\n"
    assert redact_text(innocent) == innocent


def test_short_and_empty_words_are_no_secrets() -> None:
    assert redact_text("a b c", ("", " ")) == "a b c"


def test_a_word_within_another_word_stays() -> None:
    assert redact_text("malice Alice_1 alice", ("alice",)) == "malice [redacted]_1 [redacted]"


@pytest.mark.parametrize(
    "text",
    [
        " " * 300_000,
        "a" * 300_000,
        "token" * 60_000,
        "secret " * 40_000,
        "1." * 150_000,
        "ab:" * 100_000,
        "a@" * 150_000,
        "a.local" * 40_000,
        "-----BEGIN PRIVATE KEY-----\n" * 3_000,
        ("A" * 64 + "\n") * 4_000 + "-----END",
        "A=1\n" * 60_000,
        "host" + " " * 300_000,
    ],
    ids=lambda text: repr(text[:12]),
)
@pytest.mark.timeout(30)
def test_no_text_makes_the_patterns_backtrack_for_long(text: str) -> None:
    assert len(redact_text(text)) <= len(text)


def test_json_is_redacted_in_keys_and_values_at_every_depth() -> None:
    value: JsonValue = {
        "10.0.0.5": ["/home/bob/x", {"api_key": "hunter2", "n": 1.5}],
        "10.0.0.6": None,
        "ok": True,
    }
    assert redact_json(value) == {
        "[ip]": ["/home/[user]/x", {"api_key": "[token]", "n": 1.5}],
        "[ip] (2)": None,
        "ok": True,
    }


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("HF_TOKEN", "two words", "[token]"),
        ("password", 'quo"ted', "[token]"),
        ("MASTER_ADDR", "node17", "[host]"),
        ("USER", "alice", "[user]"),
        ("serial", "1654223001234", "[serial]"),
        ("token_kind", "prefill", "prefill"),
        ("password", 5, 5),
        ("NCCL_P2P_LEVEL", "NVL", "NVL"),
    ],
)
def test_a_key_gives_its_value_away(key: str, value: str | int, expected: str | int) -> None:
    assert redact_json({key: value}) == {key: expected}


def test_an_environment_in_json_is_removed_as_a_whole() -> None:
    environment: JsonValue = {"PATH": "/bin", "HOME": "/root", "A": "1", "B": "2", "C": "3"}
    assert redact_json({"env": environment}) == {"env": "[environment of 5 variables removed]"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | _TEXT, lambda v: st.lists(v) | st.dictionaries(_TEXT, v)
    )
)
@example({"Authorization: Bearer abcdef0123456789abcdef": "\n-----END RSA PRIVATE KEY-----"})
@settings(max_examples=60, deadline=None)
def test_json_redacted_twice_is_the_same(value: object) -> None:
    once = redact_json(json.loads(json.dumps(value)))
    assert json.dumps(redact_json(once)) == json.dumps(once)


def test_a_record_is_redacted_in_every_free_text() -> None:
    leak = "/home/bob/x at 10.0.0.5"
    dirty = record(
        step(
            "busbw",
            measurement(1.0, path=leak, bytes=5),
            status=StepStatus.FAILED,
            command=leak,
            reason=leak,
            stdout_tail=leak,
            stderr_tail=leak,
            fallback_reason=leak,
            requested={leak: leak},
            effective={"a": [leak]},
            details={"PATH": "/bin", "HOME": "/root", "A": "1", "B": "2", "C": "3"},
        ),
        campaign=leak,
        unproved=(leak,),
        machine=machine(cpu=leak, kernel=leak, os=leak, gpu_error=leak),
        verdicts=(
            StoredVerdict(
                id="x", verdict="met", value=1.0, unit="1", evidence="reported", decides=True, note=leak
            ),
        ),
    )
    clean = redacted(dirty)
    text = clean.model_dump_json()
    assert "bob" not in text
    assert "10.0.0.5" not in text
    assert clean.steps[0].details == {"environment": "[environment of 5 variables removed]"}
    assert clean.steps[0].digest == dirty.steps[0].digest
    assert clean.run_id == dirty.run_id
    assert redacted(clean) == clean


def test_this_host_is_known_by_its_name_unless_the_name_is_common() -> None:
    short = socket.gethostname().partition(".")[0]
    common = {"localhost", "vm", "node", "worker", "gpu", "runner", "build", "builder", "docker", "host"}
    assert (short in host_secrets()) is (len(short) > 2 and not short.isdigit() and short not in common)
    assert "root" not in host_secrets()
    assert all(len(word) > 2 for word in host_secrets())


def test_the_names_of_host_and_user_are_taken_from_where_they_stand(tmp_path: Path) -> None:
    home = tmp_path / "people" / "zaphodb"
    home.mkdir(parents=True)
    names = {"USER": "trillian9", "LOGNAME": "user", "HOSTNAME": "heart-of-gold.example", "HOME": str(home)}
    code = "from runner.record.redaction.redact import host_secrets; print(*host_secrets(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | names, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert {"trillian9", "heart-of-gold", "heart-of-gold.example", "zaphodb", str(home)} <= set(words)
    assert not {"user", "root", "localhost"} & set(words)


def test_the_folder_that_this_runs_from_is_not_told() -> None:
    file = f"{Path(__file__).parents[1]}/runner/kit/steps/recompiles/cases.py:81"
    assert redact_text(f"function: 'forward' ({file})", host_secrets()) == (
        "function: 'forward' ([redacted]/runner/kit/steps/recompiles/cases.py:81)"
    )
