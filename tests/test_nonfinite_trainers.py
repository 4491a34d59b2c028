"""The guard in real training loops: Hugging Face's Trainer by a callback, and ranks in DDP and FSDP2 over gloo."""

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.guards.nonfinite import NonFinite, NonFiniteGuard, Place, skip_step
from runner.kit.drill.guarded_ranks import PARALLEL, drill_guarded
from runner.kit.drill.injection import Injection, chosen
from runner.kit.drill.job import JobShape
from runner.kit.steps.nonfinite.loop import SMALL
from runner.kit.transformer import build_model, import_models

pytestmark = pytest.mark.system

_BAD_STEP, _STEPS = 3, 6


def snapshot(model: torch.nn.Module) -> list[torch.Tensor]:
    return [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_callback_of_the_trainer_names_the_module_and_the_skipped_step_changes_no_weight(
    tmp_path: Path, clip: float
) -> None:
    import_models()
    transformers: Any = importlib.import_module("transformers")

    model = build_model(SMALL, torch.float32, "cpu").requires_grad_(True).train()
    passes: list[None] = []

    def spoil(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        passes.append(None)
        return output * math.nan if len(passes) == _BAD_STEP + 1 else output

    model.model.layers[1].mlp.up_proj.register_forward_hook(spoil)
    found: list[NonFinite] = []
    equal: list[bool] = []

    class Guarded(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: object, model: Any, **__: object) -> None:
            self.guard = NonFiniteGuard(model)

        def on_pre_optimizer_step(self, *_: object, model: Any, optimizer: Any, **__: object) -> None:
            self.before = snapshot(model)
            one = self.guard.check()
            if one:
                found.append(one)
                skip_step(optimizer)

        def on_optimizer_step(self, *_: object, model: Any, **__: object) -> None:
            equal.append(all(map(torch.equal, self.before, snapshot(model))))

    torch.manual_seed(0)
    samples = [{"input_ids": one, "labels": one} for one in torch.randint(0, SMALL.vocab, (64, 16))]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=_STEPS, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        save_strategy="no", max_grad_norm=clip, disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    transformers.Trainer(model=model, args=arguments, train_dataset=samples, callbacks=[Guarded()]).train()
    assert [(one.step, one.place) for one in found] == [
        (_BAD_STEP, Place("output", "model.layers.1.mlp.up_proj"))
    ]
    assert equal == [step == _BAD_STEP for step in range(_STEPS)]
    assert all(torch.isfinite(one).all() for one in model.parameters())


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_rank_names_the_module_and_the_rank_in_ddp_and_fsdp2_before_the_reduction(ranks: int) -> None:
    faults: list[Injection] = [chosen("nan", seed, ranks) for seed in range(4)]
    drills = drill_guarded(JobShape(ranks, "gloo"), faults)
    assert {one.parallel for one in drills} == set(PARALLEL)
    for one in drills:
        assert one.named, (one.expected, one.found)
        assert one.own == 1
        assert one.changed == 0
        # Afterwards it is on more ranks than the culprit, or, in shards, where the element is.
        assert one.after == ranks if one.parallel == "ddp" else one.after >= 1
