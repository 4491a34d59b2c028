"""The GPU branches of `long_context_validation`, on a GPU that computes nothing and whose allocator is modelled."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import runner.probes.long_context_validation as probe
from runner.hardware.machine import Gpu, look
from runner.probes.contract import OK, SYMPTOM
from tests.meta_gpu import meta_gpu

H200 = 150_754_820_096
H100 = 81_559 * 2**20
Probing = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)

    @contextlib.contextmanager
    def one(memory: int = H200, *, expandable: bool = True) -> Iterator[Probing]:
        gpu = Gpu(index=0, name="NVIDIA H200", memory_bytes=memory)
        host = look().model_copy(update={"gpus": (gpu,)})
        monkeypatch.setattr(probe, "look", lambda: host)
        monkeypatch.setenv("RUNBOOK_PRESET", "8b")
        with meta_gpu(monkeypatch, memory, expandable=expandable):

            def run(*arguments: str) -> tuple[int, dict[str, Any]]:
                status = probe.main(arguments)
                said = capsys.readouterr(); print(said.err[-3000:]); return status, json.loads(said.out.splitlines()[-1])

            yield run

    return one


@pytest.mark.parametrize("expandable", [True, False])
@pytest.mark.parametrize("a",[["--logits","last"],["--budget-share","1.05","--find-limit"],["--budget-share","1.07","--find-limit"],["--compare-remedies","3"],["--budget-share","0.7"],["--budget-share","0.7","--apply-first-remedy"],["--mode","training","--compare-remedies","3"]],ids=str)
def test_x(on_gpu, a, expandable):
    with on_gpu(expandable=expandable) as run:
        status, doc = run(*a)
    print(status, doc["reason"], doc["details"])
    for m in doc["measurements"]: print("  ", m["name"], m["labels"], m["value"])
