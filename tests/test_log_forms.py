"""Every form in which a log is kept is read as the same text, or refused with the command that makes it readable."""

import bz2
import gzip
import lzma
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.entry import log_forms
from runner.entry.log_forms import UNREADABLE, Log

NOT_AS_IT_IS = (b"\x1f\x8b", b"\xef\xbb\xbf", b"BZh", b"\xfd7zXZ\x00")
TEXT = "NCCL INFO NCCL_P2P_DISABLE set by environment to 1\r\n… é\n" * 300
PLAIN = TEXT.encode()
FORMS = {
    "plain": PLAIN,
    "UTF-8 with a mark": b"\xef\xbb\xbf" + PLAIN,
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, little endian, without a mark": TEXT.encode("utf-16-le"),
    "UTF-16, big endian, without a mark": TEXT.encode("utf-16-be"),
    "gzip": gzip.compress(PLAIN),
    "gzip in two members": gzip.compress(PLAIN[:100]) + gzip.compress(PLAIN[100:]),
    "xz": lzma.compress(PLAIN),
    "xz with padding": lzma.compress(PLAIN[:100]) + bytes(8) + lzma.compress(PLAIN[100:]),
    "bzip2": bz2.compress(PLAIN),
    "gzip of UTF-16": gzip.compress(TEXT.encode("utf-16")),
}


def in_chunks(data: bytes, length: int) -> list[bytes]:
    return [data[at : at + length] for at in range(0, len(data), length)]


@given(st.sampled_from(sorted(FORMS)), st.integers(1, 20_000))
def test_every_form_is_read_as_the_same_text_whatever_the_chunks(form: str, length: int) -> None:
    log = Log("a.log", in_chunks(FORMS[form], length))
    assert b"".join(log.text()) == PLAIN
    assert (log.size, log.incomplete, log.binary) == (len(PLAIN), "", False)


@given(st.binary(max_size=300))
def test_no_bytes_are_lost_or_raise_anything_but_bad_input(data: bytes) -> None:
    log = Log("a.log", in_chunks(data, 7))
    try:
        text = b"".join(log.text())
    except InputError:
        return
    if log_forms.encoding_of(data) == "utf-8" and not data.startswith(NOT_AS_IT_IS):
        assert text == data


@given(st.sampled_from(["gzip", "xz", "bzip2"]), st.data())
def test_of_data_that_ends_early_what_came_before_is_read(form: str, data: st.DataObject) -> None:
    packed = FORMS[form]
    kept = data.draw(st.integers(12, len(packed) - 1))
    log = Log("a.log", in_chunks(packed[:kept], 64))
    assert PLAIN.startswith(b"".join(log.text()))
    assert log.incomplete == f"its {form} data ends early"


@pytest.mark.parametrize("form", ["gzip", "xz", "bzip2"])
def test_of_damaged_data_what_came_before_is_read(form: str) -> None:
    log = Log("a.log", [FORMS[form], b"\xffnoise" * 4])
    assert b"".join(log.text()) == PLAIN
    assert log.incomplete.startswith(f"its {form} data is damaged: ")


@pytest.mark.parametrize("one", UNREADABLE, ids=lambda one: f"{one.what} {one.magic.hex()}")
def test_what_cannot_be_read_is_refused_in_one_line_with_what_to_do(one: log_forms.Unreadable) -> None:
    data = bytes(one.offset) + one.magic + b"SubprocPool unclean exit"
    for kept in (data, gzip.compress(data)):
        with pytest.raises(InputError) as refused:
            list(Log("it's.log", [kept]).text())
        said = str(refused.value)
        assert said.startswith(f"it's.log is {one.what}, not a text log; ")
        # The command can be pasted: the name is quoted.
        assert "FILE" not in said
        assert ("'it'\"'\"'s.log'" in said) == ("FILE" in one.instead)


def test_what_follows_a_short_member_is_not_copied_again_for_each_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed = 0
    ours = log_forms._decompressed

    def counted(decoder: log_forms._Decoder, data: bytes) -> bytes:
        nonlocal handed
        handed += len(data)
        return ours(decoder, data)

    monkeypatch.setattr(log_forms, "_decompressed", counted)
    packed = gzip.compress(b"a line\n") * 20_000
    assert b"".join(Log("a.log", [packed]).text()) == b"a line\n" * 20_000
    # One copy of all that follows a member, for each of 20,000, would be 5 GB.
    assert handed < 1000 * len(packed)


def test_a_log_that_is_compressed_twice_is_refused() -> None:
    with pytest.raises(InputError, match="compressed twice"):
        list(Log("a.log", [gzip.compress(lzma.compress(PLAIN))]).text())


def test_a_few_bytes_that_unpack_to_a_flood_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_forms, "LARGEST_UNPACKED", 32 << 20)
    for packed in (gzip.compress(bytes(64 << 20)), lzma.compress(bytes(64 << 20))):
        lengths: list[int] = []
        with pytest.raises(InputError, match="unpacks to more than 32MiB"):
            lengths.extend(len(part) for part in Log("a.log", [packed]).text())
        # No part is larger than what is asked of the decoder.
        assert max(lengths) <= 2 << 20
        assert sum(lengths) <= 32 << 20


def test_xz_data_that_asks_for_more_memory_than_any_log_needs_is_refused() -> None:
    packed = bytearray(lzma.compress(b"x"))
    # The block's header follows the 12 bytes of the stream's. The dictionary's size is a byte of it: 36 means 1 GiB.
    packed[packed.index(b"\x21\x01") + 2] = 36
    end = 12 + packed[12] * 4
    packed[end : end + 4] = zlib.crc32(packed[12:end]).to_bytes(4, "little")
    log = Log("a.log", [bytes(packed)])
    assert b"".join(log.text()) == b""
    assert "Memory usage limit" in log.incomplete


def test_a_refusal_names_the_command_and_the_limit_of_its_reader() -> None:
    flood = Log("a log.gz", [gzip.compress(bytes(3 << 20))], reader="other --from -", most=2 << 20)
    with pytest.raises(InputError, match=r"unpacks to more than 2MiB; .*: tail -c 2M FILE \| other --from -"):
        list(flood.text())
    with pytest.raises(InputError, match=r"zstdcat 'a log' \| other --from -"):
        list(Log("a log", [b"\x28\xb5\x2f\xfd"], reader="other --from -").text())
