"""A DDP job in which the ranks vote, and one of them has a flipped bit. Runs in a rank.

The flip is in a result of the vote's work, in every run or in every second one, or in a parameter after the optimizer's
step. The model has dropout, so that the job uses the global random numbers.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.guards.sdc_vote import FixedWork, SdcVote, VoteVerdict, bits_digest, replicas_agree
from runner.kit.flips import BitFlip, flip_bit

if TYPE_CHECKING:
    import torch

_WIDTH, _BATCH, _RATE = 64, 16, 0.1
_LAYER = 2
# Of the mantissa: large enough that the next updates do not round it away.
_LOWEST_BIT, _MANTISSA = 8, 23
_MANY = 1 << 16


def bit_of(seed: int) -> int:
    """The bit that a drill flips: one of the upper ones of the mantissa."""
    return _LOWEST_BIT + seed % (_MANTISSA - _LOWEST_BIT)


def voted(device: "torch.device", rank: int, command: Mapping[str, Any]) -> dict[str, object]:
    """Train, vote, and compare replicas.

    Args:
        device: of this rank.
        rank: of this process.
        command: `count` steps; `every`, the steps between votes, 0 for none; `flip`, None or the `kind`, the `rank`,
            the `step` from which it comes, the `place` and the `bit`.

    Returns:
        `votes` and `replicas`, each a list of what was decided, and `state`: digests of the parameters and of the state
        of the random numbers after the last step.
    """
    import torch
    from torch.nn.parallel import DistributedDataParallel

    flip = command["flip"] if command["flip"] and command["flip"]["rank"] == rank else None
    torch.manual_seed(rank)
    model = _model(device)
    replica = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9)
    now = {"step": 0}
    every = command["every"]
    vote = SdcVote(device, every=every, work=_work(device, flip, now)) if every else None
    votes, replicas = [], []
    for step, batch in enumerate(_batches(command["count"], rank, device)):
        now["step"] = step
        replica(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if flip and flip["kind"] == "parameter" and step == flip["step"]:
            parameter = list(model.parameters())[_LAYER]
            flip_bit(parameter, flip["place"] % parameter.numel(), flip["bit"])
        if vote and (verdict := vote(step)):
            votes.append(_told(step, verdict))
            replicas.append(_told(step, replicas_agree(model)))
    return {"votes": votes, "replicas": replicas, "state": _state(model, device)}


def _model(device: "torch.device") -> "torch.nn.Module":
    from torch import nn

    return nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.Dropout(0.1), nn.Linear(_WIDTH, _WIDTH)).to(device)


def _batches(count: int, rank: int, device: "torch.device") -> "Iterator[torch.Tensor]":
    import torch

    generator = torch.Generator().manual_seed(rank)
    for _ in range(count):
        yield torch.rand(_BATCH, _WIDTH, generator=generator).to(device)


def _work(device: "torch.device", flip: Mapping[str, Any] | None, now: Mapping[str, int]) -> FixedWork:
    if not flip or flip["kind"] == "parameter":
        return FixedWork(device)
    only = range(1, _MANY, 2) if flip["kind"] == "intermittent" else None
    item = FixedWork(device).names[0]
    spoiled = BitFlip(item, flip["place"], flip["bit"], only)

    def spoil(name: str, result: "torch.Tensor") -> None:
        if now["step"] >= flip["step"]:
            spoiled(name, result)

    return FixedWork(device, spoil=spoil)


def _told(step: int, verdict: VoteVerdict) -> dict[str, object]:
    return {
        "step": step,
        "outcome": verdict.outcome,
        "differs": verdict.differs,
        "named": [one.rank for one in verdict.outliers],
        "sticky": [one.sticky for one in verdict.outliers],
        "sentence": verdict.sentence,
    }


def _state(model: "torch.nn.Module", device: "torch.device") -> list[list[int]]:
    import torch

    held = [*model.parameters(), torch.get_rng_state()]
    if device.type == "cuda":
        held.append(torch.cuda.get_rng_state(device))
    return [bits_digest(one).tolist() for one in held]
