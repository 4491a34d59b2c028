"""One rank that trains a small model under the guard for values that are not finite.

Command: `{"parallel": "ddp" or "fsdp", "seed", "rank", "step", "phase": "output" or "gradient"}`: in that step that
rank puts a NaN into the output, or into its gradient, of a module that the seed chooses. Answer: `{"expected": place,
"found": [[step, place, ranks]], "own", "after": whether this rank had it before and after the reduction, "changed":
tensors that the skipped step changed}`.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from runner.guards.nonfinite import NonFiniteGuard, Place, skip_step
from runner.kit.rank_line import RankLine, serve
from runner.kit.steps.nonfinite.attention import attention_stack
from runner.kit.steps.nonfinite.loop import changed, state_of

if TYPE_CHECKING:
    import torch

_BATCH, _TOKENS, _WIDTH = 2, 8, 32
# Healthy steps after the injected one.
_AFTER = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Join the group, then serve commands until the line closes."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", choices=("gloo", "nccl"), required=True)
    parser.add_argument("--timeout", type=float, required=True, help="timeout of the group in seconds")
    arguments = parser.parse_args(argv)
    return serve(lambda line: _work(line, arguments.backend, arguments.timeout))


def _work(line: RankLine, backend: str, timeout: float) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    device = torch.device("cpu")
    if backend == "nccl":
        # Ranks may share GPUs, if NCCL is told so.
        device = torch.device("cuda", line.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    line.mark("in rendezvous")
    dist.init_process_group(
        backend, timeout=timedelta(seconds=timeout), device_id=device if backend == "nccl" else None
    )
    try:
        line.send({"ready": True})
        for command in line.commands():
            line.send(_drilled(command, line.rank, device))
    finally:
        dist.destroy_process_group()


class _Injection:
    """Hooks of one module that put a NaN in while `on`. Made before the guard, so that the guard sees it."""

    def __init__(self, model: Any, seed: int, phase: str) -> None:
        import torch

        names = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
        name = random.Random(seed).choice(names)  # noqa: S311 - a choice that can be repeated, not a secret
        self.on, self._phase = False, phase
        # What the gradient of an output spoils first is the gradient of the weight that made the output.
        self.place = Place("output" if phase == "output" else "gradient of weight", name)
        model.get_submodule(name).register_forward_hook(self._leaves)

    def _leaves(self, _: object, __: object, output: "torch.Tensor") -> "torch.Tensor":
        if self.on and self._phase == "output":
            return _with_nan(output)
        if self.on:
            hook: Any = output.register_hook
            hook(_with_nan)
        return output


def _with_nan(tensor: "torch.Tensor") -> "torch.Tensor":
    spoiled = tensor.clone()
    spoiled.view(-1)[0] = float("nan")
    return spoiled


def _drilled(command: Mapping[str, Any], rank: int, device: "torch.device") -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    torch.manual_seed(command["seed"])
    model = attention_stack("softmax").to(device)
    injection = _Injection(model, command["seed"], command["phase"])
    wrapped = _spread(model, command["parallel"], device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(rank)
    masks = torch.zeros(_TOKENS, _TOKENS).fill_(float("-inf")).triu(1).to(device).expand(3, -1, -1)
    answer: dict[str, Any] = {"expected": str(injection.place), "found": [], "own": False, "after": False}
    with NonFiniteGuard(model) as guard:
        for step in range(command["step"] + 1 + _AFTER):
            injection.on = (step, rank) == (command["step"], command["rank"])
            values = torch.randn(_BATCH, _TOKENS, _WIDTH, generator=generator).to(device)
            guard.watch(wrapped(values, masks).square().mean()).backward()  # type: ignore[no-untyped-call]
            before = state_of(model, optimizer) if step == command["step"] else []
            found = guard.check(dist.group.WORLD)
            if found:
                answer["found"].append([found.step, str(found.place), list(found.ranks)])
                answer["own"] = rank in found.affected
                answer["after"] = not all(
                    bool(torch.isfinite(_local(one.grad)).all())
                    for one in model.parameters()
                    if one.grad is not None
                )
                skip_step(optimizer)
            optimizer.step()
            if before:
                answer["changed"] = changed(before, state_of(model, optimizer))
            optimizer.zero_grad(set_to_none=True)
    return answer


def _spread(model: Any, parallel: str, device: "torch.device") -> Any:
    """The model as DDP, or sharded block by block in place by FSDP2."""
    if parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _local(tensor: Any) -> "torch.Tensor":
    local: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


if __name__ == "__main__":
    sys.exit(main())
