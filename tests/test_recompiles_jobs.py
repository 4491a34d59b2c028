"""The counter of recompiles in a job: in a Trainer, in a plain loop, and as a test that CI runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.guards.recompiles import RecompileCounter, RecompiledError
from runner.kit.transformer import llama_config
from runner.sizing.models import ModelShape

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[1]
SHAPE = ModelShape(
    "job", layers=2, hidden=32, heads=2, kv_heads=2, head_dim=16, ff=64, vocab=64, max_positions=128
)
WARM, STEPS = 4, 14


@pytest.fixture(autouse=True)
def _a_clean_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting(transformers.LlamaForCausalLM):  # type: ignore[misc,name-defined]
    """A model with a counter in its forward, as for a schedule: an int that is guarded on."""

    calls = 0

    def forward(self, *words: Any, **named: Any) -> Any:
        self.calls += 1
        found = super().forward(*words, **named)
        found.loss = found.loss * (1 + 1 / self.calls)
        return found


def varied_rows() -> list[dict[str, Any]]:
    drawn = torch.Generator().manual_seed(3)
    return [{"input_ids": torch.randint(0, 64, (length,), generator=drawn)} for length in range(9, 9 + STEPS)]


def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": tokens, "labels": tokens}


class Counted(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """The guard as a callback."""

    def __init__(self, counter: RecompileCounter) -> None:
        self.counter = counter

    def on_step_end(self, *_: object, **__: object) -> None:
        self.counter.step()
        self.counter.check()


def train(model: Any, counter: RecompileCounter, folder: Path) -> None:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, max_steps=STEPS, report_to=[], save_strategy="no",
        use_cpu=True, torch_compile=True, torch_compile_backend="eager", remove_unused_columns=False,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=varied_rows(), data_collator=collated, callbacks=[Counted(counter)]
    )
    trainer.train()


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_with_batches_of_varying_length_has_no_finding_after_warm_up(tmp_path: Path) -> None:
    with RecompileCounter() as counter:
        counter.warm_up(steps=WARM)
        train(transformers.LlamaForCausalLM(llama_config(SHAPE)), counter, tmp_path)
        assert counter.steps == STEPS
        assert counter.count("compile") >= 1
        assert counter.count("recompile") >= 1


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_whose_model_counts_in_an_int_stops_in_the_first_step_after_warm_up(tmp_path: Path) -> None:
    with RecompileCounter() as counter:
        counter.warm_up(steps=WARM)
        with pytest.raises(RecompiledError, match=r"calls == \d+"):
            train(Counting(llama_config(SHAPE)), counter, tmp_path)
        assert counter.steps == WARM + 1


@pytest.mark.parametrize("marked", [False, True])
def test_a_plain_loop_over_varying_lengths_has_no_finding_after_warm_up(marked: bool) -> None:
    model = transformers.LlamaForCausalLM(llama_config(SHAPE))
    compiled = torch.compile(model, backend="eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=WARM)
        for row in varied_rows():
            batch = collated([row])
            if marked:
                torch._dynamo.mark_dynamic(batch["input_ids"], 1)
                torch._dynamo.mark_dynamic(batch["labels"], 1)
            compiled(**batch, use_cache=False).loss.backward()
            counter.step()
        counter.check(graph_breaks=True)


def test_a_plain_loop_with_static_shapes_reaches_the_limit_and_names_the_argument() -> None:
    model = transformers.LlamaForCausalLM(llama_config(SHAPE))
    compiled = torch.compile(model, backend="eager", dynamic=False)
    with RecompileCounter() as counter:
        counter.warm_up(steps=WARM)
        for row in varied_rows():
            compiled(**collated([row]), use_cache=False)
            counter.step()
        with pytest.raises(RecompiledError, match=r"reached the recompile limit.*size mismatch at index 1"):
            counter.check()


CI = """
import pytest, torch
from {module} import RecompileCounter

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)
        {attribute}

    def forward(self, x):
        self.calls += 1
        return self.linear(x) / self.calls

def test_training_does_not_recompile():
    step = torch.compile(Model(), backend="eager")
    with RecompileCounter() as counter:
        counter.warm_up(steps=3)
        for size in range(2, 30):
            step(torch.ones(size, 6))
            counter.step()
        counter.check()
"""
BROKEN, FIXED = "self.calls = 0", 'self.register_buffer("calls", torch.zeros(()))'


@pytest.mark.parametrize(("attribute", "status"), [(BROKEN, 1), (FIXED, 0)])
def test_in_ci_the_copied_file_fails_a_model_that_recompiles_and_passes_the_fixed_one(
    attribute: str, status: int, tmp_path: Path
) -> None:
    source = ROOT / "runner" / "guards" / "recompiles.py"
    (tmp_path / "copied_guard.py").write_bytes(source.read_bytes())
    (tmp_path / "test_ci.py").write_text(
        CI.format(module="copied_guard", attribute=attribute), encoding="utf-8"
    )
    without_checkout = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "test_ci.py"],
        cwd=tmp_path,
        env=without_checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert ("RecompiledError: step " in done.stdout) == (status == 1)
    assert ("self.calls == " in done.stdout) == (status == 1)
