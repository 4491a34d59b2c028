"""The last line that says something, of output as it comes: bars, colours, binary, tracebacks, secrets."""

from pathlib import Path

import pytest

from runner.record.last_words import LONGEST, last_words, last_words_in

TRACEBACK = """Traceback (most recent call last):
  File "/x/serve.py", line 3, in <module>
    main()
    ^^^^
ValueError: 3 is not a size
"""


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", None),
        ("\n \n", None),
        ("----------\n^^^^\n", None),
        ("one\ntwo\n", "two"),
        ("two, then nothing\n\n\n", "two, then nothing"),
        (TRACEBACK, "ValueError: 3 is not a size"),
        ("why\n~~~~^~~~\n======\n", "why"),
        ("loading:  10%|#    |\rloading: 100%|#####|\r\n", "loading: 100%|#####|"),
        ("loading:  10%|#    |\rCUDA out of memory\n", "CUDA out of memory"),
        ("windows\r\nlines\r\n", "lines"),
        ("\x1b[31;1mred alert\x1b[0m\n\x1b[2K\x1b[1G", "red alert"),
        ("\x1b]0;a title\x07said\n", "said"),
        ("tab\there\x07\n", "tab here"),
        ("said\n\\xff\\xfe\\x80\\x81ab\\xb2\n", "said"),
        ("said\n\x00\x01\x02\x03ELF\x02\n", "said"),
        ("Fichier non trouv\\xe9\n", "Fichier non trouv\\xe9"),
        ("显存不足\n", "显存不足"),
        ("key hf_" + "a1B2" * 9 + " refused\n", "key [token] refused"),
    ],
)
def test_the_last_line_that_says_something_is_found(output: str, said: str | None) -> None:
    assert last_words(output) == said


def test_a_long_line_is_cut_between_words() -> None:
    found = last_words("word " * 1000) or ""
    assert len(found) <= LONGEST
    assert found.endswith("word …")
    unbroken = last_words("x" * 1000) or ""
    assert len(unbroken) <= LONGEST
    assert unbroken.endswith(" …")


def test_names_of_this_host_are_taken_out() -> None:
    assert last_words("gpu-node-17: link down", ["gpu-node-17"]) == "[host]: link down"


def test_a_file_is_read_from_its_end_and_one_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    log.write_bytes(b"first\n" * 100_000 + b"the \xff end\n")
    assert last_words_in(log) == r"the \xff end"
    log.write_bytes(b"hf_" + b"a1B2" * 2000 + b" refused")
    assert last_words_in(log) == "refused"
    assert last_words_in(tmp_path / "none.log") is None
