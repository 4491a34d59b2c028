"""Dumps in the forms of torch's NCCL recorder, written by hand after its sources: no job wrote them.

Each has two all_reduces of rank 0 in a job of two ranks: the first is complete, the second has begun.
"""

from typing import Any

FRAMES = [
    {
        "name": "all_reduce",
        "filename": "/usr/lib/python3/site-packages/torch/distributed/distributed_c10d.py",
        "line": 9,
    },
    {
        "name": "wrapper",
        "filename": "/usr/lib/python3/site-packages/torch/distributed/c10d_logger.py",
        "line": 83,
    },
    {"name": "step", "filename": "/job/train.py", "line": 41},
    {"name": "<module>", "filename": "/job/train.py", "line": 70},
]
NATIVE_FRAMES = [
    {"name": "torch::CapturedTraceback::gather(bool, bool, bool)", "filename": "??", "line": 0},
    {
        "name": "c10d::ProcessGroupNCCL::allreduce(...)",
        "filename": "/build/c10d/ProcessGroupNCCL.cpp",
        "line": 4000,
    },
    {"name": "_PyEval_EvalFrameDefault", "filename": "/build/Python/ceval.c", "line": 5},
]


def entry(number: int, **more: Any) -> dict[str, Any]:
    done = number == 1
    return {
        "profiling_name": "nccl:all_reduce",
        "input_sizes": [[8, 4]],
        "output_sizes": [[8, 4]],
        "state": "completed" if done else "started",
        "retired": done,
        "frames": FRAMES,
        **more,
    }


def before_1_0() -> list[dict[str, Any]]:
    return [entry(n, pg_id=0, seq_id=n, time_created_us=1_700_000_000_000_000 + n) for n in (1, 2)]


def version_1_0() -> dict[str, Any]:
    return {
        "version": "1.0",
        "entries": [
            entry(n, pg_id=0, seq_id=n, time_created_ns=1_700_000_000_000_000_000 + n) for n in (1, 2)
        ],
    }


def version_1_4() -> dict[str, Any]:
    entries = [entry(n, record_id=n, pg_id=0, seq_id=n, op_id=n, time_created_ns=10**18 + n) for n in (1, 2)]
    return {"version": "1.4", "entries": entries, "pg_config": {0: [0, 1]}}


def version_1_5() -> dict[str, Any]:
    made = {"process_group": ("0", "default_pg"), "pg_id": 0}
    entries = [entry(n, record_id=n, seq_id=n, op_id=n, time_created_ns=10**18 + n, **made) for n in (1, 2)]
    config = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}}
    return {"version": "1.5", "entries": entries, "pg_config": config}


def version_2_2() -> dict[str, Any]:
    made = {
        "process_group": ("0", "default_pg"),
        "pg_id": 0,
        "p2p_seq_id": 0,
        "is_p2p": False,
        "timeout_ms": 600_000,
    }
    made |= {"input_dtypes": ["Float"], "output_dtypes": ["Float"]}
    entries = [
        entry(n, record_id=n, collective_seq_id=n, op_id=n, time_created_ns=10**18 + n, **made)
        for n in (1, 2)
    ]
    config = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}}
    return {"version": "2.2", "entries": entries, "pg_config": config}


def version_2_10() -> dict[str, Any]:
    dump = version_2_2()
    entries = [{**one, "thread_id": "1000", "thread_name": "pt_main"} for one in dump["entries"]]
    state = {"0x1": {"rank": "0", "nRanks": "2"}}
    return {
        **dump,
        "version": "2.10",
        "entries": entries,
        "comm_lib_version": "2.28.9",
        "nccl_comm_state": state,
    }


VERSIONS = (before_1_0, version_1_0, version_1_4, version_1_5, version_2_2, version_2_10)
