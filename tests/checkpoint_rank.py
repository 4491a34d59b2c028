"""A rank that trains under FSDP2 or DDP over gloo and saves with DCP through the guard: folder, kind, fault.

With kind `trainer` it is a rank of a Trainer of transformers, whose callback seals what all ranks saved.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from runner.guards.checkpoint import CheckpointError, last_complete, saving, seal


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def local(one: torch.Tensor) -> torch.Tensor:
    return one.to_local() if isinstance(one, DTensor) else one


def trained_by_trainer(folder: Path) -> None:
    import transformers  # noqa: PLC0415 - seconds that the other kinds do not need

    callback: Any = transformers.TrainerCallback

    class Seal(callback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, _: Any, **__: Any) -> None:
            seal(f"{args.output_dir}/checkpoint-{state.global_step}", collective=args.world_size > 1)

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=2, save_steps=2, per_device_train_batch_size=1, report_to=[],
        use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    tokens = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(16)]
    model = transformers.LlamaForCausalLM(config)
    transformers.Trainer(model=model, args=arguments, train_dataset=tokens, callbacks=[Seal()]).train()
    dist.destroy_process_group()


def main(folder: Path, kind: str, fault: str) -> None:
    if kind == "trainer":
        trained_by_trainer(folder)
        return
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8)
    )
    if kind == "fsdp2":
        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    else:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in (1, 2):
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": moments}
        try:
            with saving(folder / f"step-{step}", collective=True) as partial:
                save(state, checkpoint_id=partial)
                if fault == "error" and step == 2 and dist.get_rank() == 1:
                    Path("/dev/full").write_text("x")
        except (CheckpointError, OSError) as error:
            say(f"rank {dist.get_rank()} step {step}: {error}")
    newest = last_complete(folder)
    assert newest is not None
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    with torch.no_grad():
        for one in model.parameters():
            one.zero_()
    weights, moments = get_state_dict(model, optimizer)
    load({"model": weights, "optimizer": moments}, checkpoint_id=newest)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    same = all(torch.equal(local(before[name]), local(one)) for name, one in model.named_parameters())
    say(f"rank {dist.get_rank()} resumed {newest.name} same {same}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
