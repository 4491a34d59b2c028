"""The guard of checkpoint folders in real jobs: a Trainer of transformers, and ranks that save with DCP."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.guards.checkpoint import MARKER, last_complete, seal, verify

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[1]


def ranks(folder: Path, kind: str, fault: str) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(ROOT / "tests/checkpoint_rank.py"), str(folder), kind, fault),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["fsdp2", "ddp"])
def test_two_ranks_save_with_dcp_into_one_folder_and_resume_from_it(tmp_path: Path, kind: str) -> None:
    said = ranks(tmp_path, kind, "none")
    assert {one.name for one in tmp_path.iterdir()} == {"step-1", "step-2"}
    for rank in (0, 1):
        assert f"rank {rank} resumed step-2 same True" in said
    for step in (1, 2):
        verdict = verify(tmp_path / f"step-{step}")
        assert (verdict.state, verdict.extra) == ("complete", ())
    names = {one.name for one in (tmp_path / "step-2").iterdir()}
    assert {".metadata", "__0_0.distcp", "__1_0.distcp"} <= names


def test_an_error_on_one_rank_is_an_error_on_all_and_leaves_no_folder(tmp_path: Path) -> None:
    said = ranks(tmp_path, "fsdp2", "error")
    assert "rank 0 step 2: rank 1: OSError in the block that saves" in said
    assert "rank 1 step 2: [Errno 28]" in said
    assert {one.name for one in tmp_path.iterdir()} == {"step-1"}
    assert "resumed step-1" in said


def test_a_trainer_of_two_ranks_seals_the_files_of_both(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    ranks(tmp_path, "trainer", "none")
    verdict = verify(tmp_path / "checkpoint-2")
    assert (verdict.state, verdict.extra) == ("complete", ())
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {
        one.name for one in (tmp_path / "checkpoint-2").iterdir()
    }


def test_a_trainer_seals_its_checkpoints_and_resumes_from_the_newest_whole_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    callback: Any = transformers.TrainerCallback

    class Seal(callback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, _: Any, **__: Any) -> None:
            seal(f"{args.output_dir}/checkpoint-{state.global_step}", collective=args.world_size > 1)

    def trainer(steps: int) -> Any:
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, save_steps=2, per_device_train_batch_size=1, report_to=[],
            use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        tokens = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(16)]
        model = transformers.LlamaForCausalLM(config)
        return transformers.Trainer(model=model, args=arguments, train_dataset=tokens, callbacks=[Seal()])

    trainer(6).train()
    assert {one.name for one in tmp_path.glob("checkpoint-*") if (one / MARKER).exists()} == {
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    }
    assert last_complete(tmp_path) == tmp_path / "checkpoint-6"
    weights = tmp_path / "checkpoint-6/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    newest = last_complete(tmp_path)
    assert newest == tmp_path / "checkpoint-4"
    resumed = trainer(5)
    resumed.train(resume_from_checkpoint=str(newest))
    assert resumed.state.global_step == 5
