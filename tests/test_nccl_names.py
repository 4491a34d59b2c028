"""The names of NCCL's variables: the table, what is near a name, and what a version makes of it."""

import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.kit.nccl.names import (
    KNOWN,
    NEWEST,
    OLDEST,
    RENAMED,
    RETIRED,
    SYSTEM,
    Version,
    misspelt,
    parse_names,
    parse_version,
)
from runner.kit.nccl.settings import NcclSetting, judge_setting
from runner.kit.nccl.values import RULES, Judgement

# Of NCCL 2.18 to 2.30, near other names; each was called misspelt once.
REAL = (
    "NVTX_DISABLE", "PAT_ENABLE", "GIN_ENABLE", "RMA_DISABLE", "LL_BUFFSIZE", "IB_MQP_RETRY_CNT",
    "GRAPH_DUMP_FILE_RANK", "TOPO_DUMP_FILE_RANK", "GDRCOPY_FIFO_ENABLE", "GDRCOPY_FLUSH_ENABLE",
    "GDRCOPY_SYNC_ENABLE", "SET_CPU_STACK_SIZE", "THREAD_THRESHOLDS",
)  # fmt: skip
# Read by plugins and by tools around NCCL.
FOREIGN = (
    "IBEXT_DISABLE", "SHARP_DISABLE", "TUNER_CONFIG_FILE", "PROFILE_DUMP_FILE", "INSPECTOR_ENABLE", "TESTS_DEVICE",
    "TESTS_SPLIT", "FASTRAK_CTRL_DEV", "UCX_TLS", "PLUGIN_P2P", "HOME", "ROOT",
)  # fmt: skip


def judged(name: str, version: Version | None = None, value: str = "1") -> tuple[Judgement, str]:
    found = judge_setting(NcclSetting(name, value, "environment"), 1, version)
    return found.judgement, found.why


@pytest.mark.parametrize("name", REAL)
def test_a_real_name_is_never_misspelt(name: str) -> None:
    for version in (None, *versions()):
        assert not judged(f"NCCL_{name}", version)[0].is_fault


@pytest.mark.parametrize("name", FOREIGN)
def test_a_name_of_a_plugin_is_unknown_which_is_no_symptom(name: str) -> None:
    assert judged(f"NCCL_{name}")[0] is Judgement.UNKNOWN


@pytest.mark.parametrize(
    "name", ["NCCL_P2P_DISABEL", "NCCL_P2P_LEVL", "NCCL_SOCKT_IFNAME", "NCCL_P2P_disable", "NCCL_ALGO?"]
)
def test_a_misspelling_is_one_for_every_version_whose_names_are_known_and_for_no_newer_one(name: str) -> None:
    for version in (None, OLDEST, NEWEST):
        assert judged(name, version)[0] is Judgement.MISSPELT
    assert judged(name, (NEWEST[0], NEWEST[1] + 1))[0] is Judgement.UNKNOWN


def test_a_misspelling_is_answered_with_the_versions_it_was_looked_up_in() -> None:
    why = judged("NCCL_P2P_DISABEL")[1]
    assert re.match(r"no variable of NCCL 2\.18 to 2\.\d\d, .*; did you mean NCCL_P2P_DISABLE\?", why)


def test_a_name_that_the_running_version_does_not_read_has_no_effect() -> None:
    assert judged("NCCL_PAT_ENABLE", (2, 21)) == (
        Judgement.HARMLESS,
        f"no effect: NCCL 2.21 does not read it; 2.23 to {NEWEST[0]}.{NEWEST[1]} do",
    )
    assert judged("NCCL_PAT_ENABLE", (2, 23))[0] is Judgement.TUNING
    assert judged("NCCL_WORK_FIFO_DEPTH", (2, 28))[1].endswith("2.18 to 2.21 do")
    assert judged("NCCL_MNNVL", (2, 28))[1].endswith("; 2.20 does")


@pytest.mark.parametrize("version", [(2, 4), (2, 99), (3, 0)])
def test_a_version_outside_the_table_is_judged_by_the_nearest_one_in_it(version: Version) -> None:
    assert judged("NCCL_ALGO", version)[0] is Judgement.TUNING
    assert judged("NCCL_P2P_DISABLE", version)[0] is Judgement.HARMFUL


def test_what_old_manuals_list_and_no_version_reads_has_no_effect() -> None:
    for name in RETIRED:
        assert judged(name)[0] is Judgement.HARMLESS


def test_every_name_that_is_judged_is_in_the_table() -> None:
    assert set(RULES) <= set(KNOWN)
    # Set by container images and by launchers, and read by no NCCL.
    assert SYSTEM - set(KNOWN) == {"NCCL_LIBRARY_PATH", "NCCL_VERSION"}
    assert not RETIRED & set(KNOWN)
    assert not RETIRED & (SYSTEM | set(RENAMED))


def test_the_table_holds_every_version_that_it_says_it_was_read_from() -> None:
    text = (resources.files("runner.kit.nccl") / "names.txt").read_text(encoding="utf-8")
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    read = [parse_version(found) for found in re.findall(r"\b2\.\d+\.\d+", comment)]
    assert read == list(versions())
    assert {end for span in KNOWN.values() for end in span} <= set(read)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(
        len(line.partition(":")[2].split() if line[0] != " " else line.split()) for line in lines
    ) == len(KNOWN)


def versions() -> list[Version]:
    return [(2, minor) for minor in range(OLDEST[1], NEWEST[1] + 1)]


def test_a_table_without_versions_is_refused() -> None:
    for text in ("  ALGO\n", "ALGO\n", "2-x: ALGO\n"):
        with pytest.raises(ValueError, match=r"."):
            parse_names(text)


WORD = st.sampled_from(sorted(KNOWN))
LETTERS = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@given(WORD.filter(lambda word: len(word) > len("NCCL_ALGO") + 4), st.data())
def test_one_mistake_in_a_name_gives_a_name_near_it(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(5, len(word) - 2))
    letter = data.draw(LETTERS)
    wrong = data.draw(
        st.sampled_from(
            [
                word[:place] + word[place + 1 :],
                word[:place] + letter + word[place:],
                word[:place] + letter + word[place + 1 :],
                word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            ]
        )
    )
    if wrong in KNOWN:
        return
    near = misspelt(wrong)
    assert near is not None
    assert near in KNOWN
    assert abs(len(near) - len(wrong)) <= 2


@given(st.text(max_size=60))
def test_any_name_is_judged(name: str) -> None:
    judge_setting(NcclSetting(f"NCCL_{name}", "1", "environment"), 1)


@pytest.mark.parametrize("name", ["NCCL_IB_ENABLE", "NCCL_P2P_ENABLE", "NCCL_NET_ENABLE"])
def test_a_name_with_another_word_in_it_is_not_a_misspelling_of_one(name: str) -> None:
    assert misspelt(name) is None
