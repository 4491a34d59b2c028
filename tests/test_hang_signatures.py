"""Whole logs of jobs that hang, fail to start or are slow, and healthy ones beside them: which entry each leads to.

The logs lie in `hang_logs/<entry>/<tool>-<version>.log`, written in the forms that the tools' sources print.
"""

import re
from pathlib import Path

import pytest

from runner.entry.read import read_all, read_runbook
from runner.entry.signatures import match_log, portable
from tests.logs import log_of

LOGS = Path(__file__).parent / "hang_logs"
RUNBOOKS = Path(__file__).parents[1] / "runbooks"
EVERY = read_all(RUNBOOKS)
ENTRIES = ("nccl-collective-timeout", "rendezvous-failure", "straggler-rank")
HEALTHY = "healthy"
FAULTY = sorted(path for path in LOGS.glob("*/*.log") if path.parent.name != HEALTHY)
FINE = sorted((LOGS / HEALTHY).glob("*.log"))


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def ranked(lines: list[str]) -> list[str]:
    return [match.runbook_id for match in match_log(log_of(lines), EVERY)]


@pytest.mark.parametrize("path", FAULTY, ids=named)
def test_a_log_of_a_fault_leads_to_its_entry_first(path: Path) -> None:
    assert ranked(lines_of(path))[:1] == [path.parent.name]


@pytest.mark.parametrize("path", FAULTY, ids=named)
def test_a_log_of_a_fault_names_no_other_of_these_entries(path: Path) -> None:
    assert set(ranked(lines_of(path))) & set(ENTRIES) == {path.parent.name}


@pytest.mark.parametrize("path", FINE, ids=named)
def test_a_healthy_log_leads_to_no_entry_at_all(path: Path) -> None:
    assert ranked(lines_of(path)) == []


@pytest.mark.parametrize("path", [*FAULTY, *FINE], ids=named)
def test_a_log_is_as_long_as_what_people_paste(path: Path) -> None:
    assert 20 <= len(lines_of(path)) <= 60


@pytest.mark.parametrize(
    "tool", ["torch", "gloo", "deepspeed", "megatron", "vllm", "sglang", "nccl", "nvrx", "nemo"]
)
def test_each_tool_has_faulty_logs_and_a_healthy_one(tool: str) -> None:
    assert [path for path in FAULTY if path.stem.startswith(f"{tool}-")]
    assert [path for path in FINE if path.stem.startswith(f"{tool}-")]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_signature_says_what_it_means_and_is_in_a_log_of_its_entry(entry: str) -> None:
    lines = [line.encode() for path in FAULTY if path.parent.name == entry for line in lines_of(path)]
    for signature in read_runbook(RUNBOOKS / f"{entry}.md").head.signatures:
        assert signature.means
        pattern = re.compile(portable(signature.pattern).encode())
        assert any(pattern.search(line) for line in lines), signature.pattern


@pytest.mark.parametrize(
    ("line", "first"),
    [
        # A compile that other ranks wait for, and a leftover WORLD_SIZE, are told as they were before.
        (
            "INFO [shm_broadcast.py:542] No available shared memory broadcast block found in 60 seconds.",
            "torch-compile-hang",
        ),
        (
            "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/8 clients joined.",
            "single-gpu-rollback",
        ),
        (
            "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 31/32 clients joined.",
            "rendezvous-failure",
        ),
    ],
)
def test_a_line_that_several_entries_know_leads_to_the_likelier_one(line: str, first: str) -> None:
    assert ranked([line])[0] == first


@pytest.mark.parametrize(
    ("least", "most"), [(100.0, 149.0), (296.02, 297.32), (199.0, 298.0), (239.9, 359.0), (399.0, 598.0)]
)
def test_ranks_that_are_nearly_equal_in_megatrons_report_are_no_finding(least: float, most: float) -> None:
    line = f"| MnEtpt/Rnk: {least:.2f}TF/0 | MxEtpt/Rnk: {most:.2f}TF/8"
    assert ranked([line]) == []


@pytest.mark.parametrize(
    ("clocks", "found"),
    [
        (("765MHz", "1980MHz"), ["straggler-rank"]),
        (("765.00MHz", "1980.00MHz"), ["straggler-rank"]),
        (("345.50MHz", "2062.00MHz"), ["straggler-rank"]),
        (("1950.00MHz", "1980.00MHz"), []),
        (("345.00MHz", "345.00MHz"), []),
    ],
)
def test_a_gpu_at_half_the_clock_in_megatrons_report_is_a_finding(
    clocks: tuple[str, str], found: list[str]
) -> None:
    assert (
        ranked([f"| MnClk/Rnk: {clocks[0]}/3 | MxClk/Rnk: {clocks[1]}/0 | MnDRtt/Rnk: 14.27us/23"]) == found
    )


@pytest.mark.parametrize(("least", "most"), [(52.1, 297.3), (142.11, 297.32), (199.0, 500.1), (350.0, 700.2)])
def test_a_rank_of_half_the_throughput_in_megatrons_report_is_a_finding(least: float, most: float) -> None:
    line = f"| MnEtpt/Rnk: {least:.2f}TF/0 | MxEtpt/Rnk: {most:.2f}TF/8"
    assert ranked([line]) == ["straggler-rank"]
