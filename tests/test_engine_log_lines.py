"""Lines that serving engines and torch write, and lines of a healthy run beside them that must not match."""

from pathlib import Path

import pytest

from runner.entry.read import read_all
from runner.entry.signatures import match_log
from tests.logs import log_of

RUNBOOKS = read_all(Path(__file__).parents[1] / "runbooks")


def matched(line: str) -> set[str]:
    return {match.runbook_id for match in match_log(log_of([line]), RUNBOOKS)}


@pytest.mark.parametrize(
    ("sick", "healthy"),
    [
        (
            "INFO [shm_broadcast.py:542] No available shared memory broadcast block found in 60 seconds.",
            "INFO 11-03 04:12:09 [shm_broadcast.py:289] vLLM message queue communication handle: Handle(readers=[1])",
        ),
        (
            'Thread 0x7f10 (most recent call first):   File "/opt/torch/_inductor/scheduler.py", line 88 in fuse_nodes',
            "I1103 torch/_inductor/config.py: compile_threads set to 32",
        ),
    ],
    ids=["vLLM waits for a worker", "faulthandler dump"],
)
def test_a_hung_warm_up_is_told_from_a_finished_one(sick: str, healthy: str) -> None:
    assert matched(sick) == {"torch-compile-hang"}
    assert "torch-compile-hang" not in matched(healthy)


def test_a_recompile_limit_is_told_from_a_finished_warm_up() -> None:
    assert matched("[rank3]:W1103 torch._dynamo hit config.recompile_limit (8)") == {"recompile-storm"}
    assert not matched("INFO 11-03 04:12:51 [monitor.py:34] torch.compile takes 41.70 s in total")


@pytest.mark.parametrize(
    ("sick", "healthy"),
    [
        (
            "ValueError: (40.0 GiB KV cache is needed, which is larger than the available KV cache memory (31.2 GiB).",
            "INFO 11-03 05:00:00 [gpu_worker.py:298] Available KV cache memory: 31.25 GiB",
        ),
        (
            "ValueError: Free memory on device (70.1/178.4 GiB) on startup is less than desired GPU memory utilization",
            "INFO 11-03 05:00:00 [config.py:71] gpu_memory_utilization=0.92",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
            "INFO 11-03 05:00:00 [kv_cache_utils.py:1087] GPU KV cache size: 1,048,576 tokens",
        ),
        (
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests.",
            "INFO 11-03 05:00:00 [gpu_model_runner.py:2921] Graph capturing finished in 21 secs, took 1.12 GiB",
        ),
        (
            "Group 7 is preempted by PreemptionMode.RECOMPUTE mode because there is not enough KV cache space.",
            "INFO 11-03 05:00:00 [loggers.py:127] Engine 000: Running: 16 reqs, GPU KV cache usage: 71.0%",
        ),
        (
            "[2026-11-03 05:00:00] KV cache pool is full. Retract requests. #retracted_reqs: 2",
            "[2026-11-03 05:00:00] Decode batch. #running-req: 16, #token: 501760, token usage: 0.82",
        ),
        (
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
            "[2026-11-03 05:00:00] mem_fraction_static=0.88, max_total_num_tokens=665690",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. 9.41 GiB is reserved by PyTorch but unallocated.",
            "INFO peak memory 142.0 GiB allocated, 150.2 GiB reserved",
        ),
    ],
    ids=[
        "one request",
        "other process",
        "no cache",
        "too many sequences",
        "preemption",
        "retraction",
        "SGLang",
        "torch",
    ],
)
def test_an_engine_without_memory_is_told_from_one_that_reports_its_memory(sick: str, healthy: str) -> None:
    assert matched(sick) == {"long-context-memory"}
    assert matched(healthy) == set()
