"""The GPU branches of `long_context_validation`, on a GPU that computes nothing and whose allocator is modelled."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import runner.probes.long_context_validation as probe
from runner.base.errors import InputError
from runner.entry.read import read_runbook
from runner.hardware.gpus import Gpu
from runner.hardware.machine import look
from runner.kit.long_context import validation
from runner.kit.long_context.allocator import (
    BACKEND,
    expand_segments,
    refusal,
    refused_reserve,
    used_settings,
)
from runner.kit.long_context.bench import MemoryBench, Reached
from runner.kit.probe import OK, SYMPTOM
from runner.sizing.limits import footprint
from runner.sizing.models import model_shape
from runner.sizing.remedies import memory_remedies
from runner.sizing.work import ModelWork
from tests.meta_gpu import MetaGpu, meta_gpu

ROOT = Path(__file__).parents[1]
HANG_S = 400
SHAPE = model_shape("8b")
# Measured on 2026-11-27 on the class 1xH200-141GB (driver 580.159.04) with torch 2.11.0+cu130: total memory for torch,
# and by logits, expandable segments and tokens the peaks of the allocated and of the reserved bytes. The last one ran
# out of memory under 1.05 of the predicted peak, 44,098,003,353 bytes, with 23.49 GiB allocated and 2.63 GiB reserved
# but unallocated.
H200 = 150_109_880_320
PREFILLS = {
    ("last", False, 32768): (24_298_660_864, 26_250_051_584),
    ("last", False, 65536): (32_503_243_776, 36_247_175_168),
    ("all", True, 32768): (29_063_128_064, 29_718_740_992),
    ("all", True, 65536): (42_032_178_176, 42_070_966_272),
    ("all", False, 32768): (29_063_128_064, 34_655_436_800),
    ("all", False, 65536): (32_503_243_776, 36_247_175_168),
}
REFUSED = ("all", False, 65536)
# There, by tokens: the allocated peak of a training step with AdamW; and what checkpointing saved at 8,192 tokens.
STEPS = {2048: 64_631_311_872, 4096: 81_013_763_584, 8192: 113_778_667_008}
SAVED = {"selective": 25_771_835_392, "full": 48_585_186_304}

TORCHS_TEXTS = {
    "CUDA out of memory. Tried to allocate 16.08 GiB. GPU 0 has a total capacity of 139.80 GiB of which 74.15 GiB is"
    " free. Including non-PyTorch memory, this process has 27.09 GiB memory in use. Process 596 has 38.54 GiB memory in"
    " use. 41.07 GiB allowed; Of the allocated memory 23.72 GiB is allocated by PyTorch, and 2.70 GiB is reserved by"
    " PyTorch but unallocated. If reserved but unallocated memory is large try setting"
    " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation": (
        "out of memory: asked for 16.08 GiB, 23.72 GiB allocated, 2.70 GiB reserved but unallocated, 41.07 GiB allowed"
    ),
    "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 300.50 MiB is"
    " free. Including non-PyTorch memory, this process has 78.80 GiB memory in use. Of the allocated memory 77.90 GiB"
    " is allocated by PyTorch, and 40.26 MiB is reserved by PyTorch but unallocated.": (
        "out of memory: asked for 512.00 MiB, 77.90 GiB allocated, 40.26 MiB reserved but unallocated,"
        " 300.50 MiB of 79.10 GiB free"
    ),
    "aten.mm.default allocated 10 bytes: 30 bytes live, limit 25\nmore": (
        "aten.mm.default allocated 10 bytes: 30 bytes live, limit 25"
    ),
    "HIP has none left. " * 100: ("HIP has none left. " * 100)[:200],
}
Probing = Callable[..., tuple[int, dict[str, Any]]]
Machines = Callable[..., contextlib.AbstractContextManager[Probing]]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machines:
    """Run the probe as on a host with one GPU; its exit status and its document."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)

    @contextlib.contextmanager
    def one(preset: str, memory: int = H200, *, expandable: bool = True) -> Iterator[Probing]:
        host = look().model_copy(update={"gpus": (Gpu(index=0, name="NVIDIA H200", memory_bytes=memory),)})
        monkeypatch.setattr(validation, "look", lambda: host)
        monkeypatch.setenv("RUNBOOK_PRESET", preset)
        with meta_gpu(monkeypatch, memory, expandable=expandable):

            def run(*arguments: str) -> tuple[int, dict[str, Any]]:
                status = probe.PROBE.main(arguments)
                said = capsys.readouterr()
                assert "Traceback" not in said.err
                return status, json.loads(said.out.splitlines()[-1])

            yield run

    return one


def values(document: dict[str, Any], name: str, label: str = "tokens") -> dict[Any, float]:
    return {
        found["labels"].get(label): found["value"]
        for found in document["measurements"]
        if found["name"] == name
    }


def only(reached: tuple[Reached, ...]) -> Reached:
    (one,) = reached
    return one


def test_the_reserve_of_a_refused_request_is_what_torch_said_then() -> None:
    # On an H200, 3.7 GiB more were free by the time that the error arrived.
    said = "25.52 GiB is allocated by PyTorch, and 250.49 MiB is reserved by PyTorch but unallocated. If"
    assert refused_reserve(said) == int(250.49 * 2**20)
    assert refused_reserve("1.2.3 GiB is reserved by PyTorch but unallocated") is None
    assert refused_reserve("0 bytes is reserved by PyTorch but unallocated") == 0
    assert refused_reserve("HIP has none left.") is None


@pytest.mark.parametrize("expandable", [True, False], ids=["expandable", "fixed"])
@pytest.mark.parametrize("logits", ["all", "last"])
def test_the_modelled_allocator_holds_what_a_real_one_held_to_the_byte(
    logits: str, expandable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ModelWork(65536, all_logits=logits == "all")
    budget = int(1.05 * footprint(SHAPE, work).total) if work.all_logits else None
    held = {key: peaks for key, peaks in PREFILLS.items() if key[:2] == (logits, expandable)}
    with meta_gpu(monkeypatch, H200, expandable=expandable):
        bench = MemoryBench(SHAPE, work, budget, gpu=True)
        for key, peaks in held.items():
            reached = only(bench.run(replace(work, tokens=key[2])))
            assert (reached.peak, reached.reserved) == peaks
            assert (reached.over is not None) == (key == REFUSED)
            if reached.over is not None:
                assert "23.49 GiB allocated, 2.63 GiB reserved but unallocated, 41.07 GiB" in reached.over
                assert reached.reserve == int(2.63 * 2**30)
                assert reached.done == pytest.approx(0.97, abs=0.001)
                assert sum(reached.held.values()) < reached.peak


def test_the_formulas_meet_the_peaks_of_a_real_gpu() -> None:
    for key, (allocated, _) in PREFILLS.items():
        logits, _, tokens = key
        if key != REFUSED:
            predicted = footprint(SHAPE, ModelWork(tokens, all_logits=logits == "all")).total
            assert predicted == pytest.approx(allocated, rel=0.01)
    for tokens, allocated in STEPS.items():
        assert footprint(SHAPE, ModelWork(tokens, training="adamw")).total == pytest.approx(
            allocated, rel=0.01
        )
    saved = {
        one.work.checkpointing: one.saves
        for one in memory_remedies(SHAPE, ModelWork(8192, training="adamw"), H200, gpus=1)
        if one.work.checkpointing != "none"
    }
    assert saved == {mode: pytest.approx(found, rel=0.01) for mode, found in SAVED.items()}


@pytest.mark.parametrize("share", ["1.05", "1.07"])
@pytest.mark.parametrize("expandable", [True, False], ids=["expandable", "fixed"])
def test_the_longest_prompt_predicted_fits_what_the_allocator_reserves(
    expandable: bool, share: str, on_gpu: Machines
) -> None:
    arguments = ("--sequence-lengths", "16384", "65536", "--budget-share", share, "--find-limit")
    with on_gpu("8b", expandable=expandable) as run:
        status, document = run(*arguments)
    assert values(document, "limit_fits", "run") == {"at": 1, "beyond": 0}
    # With segments of fixed size, the longest length itself does not fit at 1.05, and there is a reserve.
    assert status == (OK if expandable or share == "1.07" else SYMPTOM)
    assert document["details"]["allocator"]["expandable_segments"] == expandable
    kept = document["details"]["allocator_reserve_share"]
    assert kept < 0.01 if expandable else 0.05 < kept < 0.15


def steps() -> dict[str, list[str]]:
    """The arguments of each step of the entry that runs the probe in this process."""
    entry = read_runbook(ROOT / "runbooks" / "long-context-memory.md")
    commands = {step.id: shlex.split(step.command.replace("\\\n", " ")) for step in entry.steps}
    found = {
        name: command[command.index("runner.probes.long_context_validation") + 1 :]
        for name, command in commands.items()
        if "runner.probes.long_context_validation" in command
    }
    return {name: words for name, words in found.items() if not {"--tensor-parallel-gpus", "||"} & set(words)}


@pytest.mark.parametrize("step", ["sweep", "limit", "remedies", "training", "naive", "same-budget"])
def test_every_step_of_the_entry_runs_on_a_gpu(step: str, on_gpu: Machines) -> None:
    # The 32 MiB of cuBLAS are in no formula, and more than a limit's margin for the tiny model.
    with on_gpu("8b" if step == "limit" else "tiny") as run:
        status, document = run(*steps()[step])
    assert status == (SYMPTOM if step == "naive" else OK)
    assert document["details"]["allocator"] == {"expandable_segments": True, "settings": ""}
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    # The one that fails is the longest.
    done = values(document, "prompt_done")
    assert [tokens for tokens, share in done.items() if share < 1] == ([65536] if step == "naive" else [])
    if step not in ("naive", "remedies"):
        assert document["details"]["growth"] is not None
    if step in ("remedies", "training"):
        ratios = values(document, "remedy_memory_ratio", "remedy")
        full = ratios["full activation checkpointing"]
        assert full < 0.95 if step == "training" else full == pytest.approx(1, abs=0.01)


def test_a_timed_run_waits_for_the_device_and_keeps_what_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    work = ModelWork(1024)
    events: list[str] = []
    with meta_gpu(monkeypatch, H200, expandable=True) as gpu:
        bench = MemoryBench(model_shape("tiny"), work, None, gpu=True)
        bench.run(work)
        clock = time.perf_counter

        def read() -> float:
            gpu.events.append("clock")
            return clock()

        monkeypatch.setattr("time.perf_counter", read)
        for followed in (True, False):
            gpu.events.clear()
            bench.run(work, followed=followed)
            events.append(" ".join(gpu.events))
    timed = "synchronize clock synchronize clock"
    assert events == [f"empty_cache {timed}", timed]


def test_the_time_of_a_length_is_that_of_a_second_run(
    on_gpu: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[int, bool]] = []
    real = MemoryBench.run

    def noted(self: MemoryBench, work: ModelWork, *, followed: bool = True) -> tuple[Reached, ...]:
        runs.append((work.tokens, followed))
        return tuple(
            replace(one, seconds=7.0 if followed else 5.0) for one in real(self, work, followed=followed)
        )

    monkeypatch.setattr(MemoryBench, "run", noted)
    with on_gpu("tiny") as run:
        _, document = run("--sequence-lengths", "512", "1024")
        assert runs == [(512, True), (512, False), (1024, True), (1024, False)]
        assert values(document, "prefill_time") == {512: 5.0, 1024: 5.0}
        monkeypatch.setenv("RUNBOOK_SECONDS", "1")
        _, document = run("--sequence-lengths", "512")
    assert values(document, "prefill_time") == {}
    assert values(document, "prompt_done") == {512: 1}


def test_a_second_run_that_finds_no_memory_gives_no_time(
    on_gpu: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MemoryBench.run

    def refused(self: MemoryBench, work: ModelWork, *, followed: bool = True) -> tuple[Reached, ...]:
        over = "out of memory" if work.tokens == 1024 and not followed else None
        return tuple(replace(one, over=over) for one in real(self, work, followed=followed))

    monkeypatch.setattr(MemoryBench, "run", refused)
    with on_gpu("tiny") as run:
        status, document = run("--sequence-lengths", "512", "1024", "--compare-remedies", "2")
    assert status == OK
    assert set(values(document, "prefill_time")) == {512}
    assert values(document, "remedy_memory_ratio", "remedy")
    assert values(document, "remedy_time_ratio", "remedy") == {}


def test_each_peak_starts_from_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    work = ModelWork(4096)
    with meta_gpu(monkeypatch, H200, expandable=False) as gpu:
        bench = MemoryBench(model_shape("tiny"), work, None, gpu=True)
        first = only(bench.run(work))
        bench.run(replace(work, tokens=32768))
        again = only(bench.run(work))
        assert isinstance(gpu, MetaGpu)
    assert (first.peak, first.reserved, first.reserve) == (again.peak, again.reserved, again.reserve)
    assert first.reserve == (first.reserved or 0) - first.peak


@pytest.mark.parametrize("text", TORCHS_TEXTS, ids=["limited", "unlimited", "tracked", "unknown"])
def test_what_torch_says_of_a_full_gpu_is_cut_to_one_line_about_this_process(text: str) -> None:
    assert refusal(text) == TORCHS_TEXTS[text]


@pytest.mark.skipif(
    not hasattr(torch._C, "_accelerator_getAllocatorSettings"), reason="this torch does not say what it read"
)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": ""}, ""),
    ],
    ids=str,
)
def test_torch_reads_expandable_segments_unless_the_caller_chose_settings(
    given: dict[str, str], expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name} | given
    expand_segments(environment)
    program = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, timeout=HANG_S, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == expected


def of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch answers with `backend:cudaMallocAsync`."""

    def refuse() -> None:
        raise RuntimeError("Calling snapshot with backend:cudaMallocAsync is not meaningful.")

    monkeypatch.setattr(torch.cuda.memory, "_snapshot", refuse)
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")


def test_an_allocator_without_a_list_of_blocks_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    of_cuda(monkeypatch)
    assert used_settings() == {BACKEND: "cudaMallocAsync"}


def test_a_snapshot_is_refused_where_the_allocator_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with meta_gpu(monkeypatch, H200, expandable=True):
        of_cuda(monkeypatch)
        MemoryBench(model_shape("tiny"), ModelWork(64), None, gpu=True)
        with pytest.raises(InputError, match="--snapshot: the allocator cudaMallocAsync has none"):
            MemoryBench(model_shape("tiny"), ModelWork(64), None, gpu=True, snapshot=tmp_path / "snapshot")
