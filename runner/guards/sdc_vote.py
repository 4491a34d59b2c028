"""A vote that names the GPU whose results are wrong, while the job runs. One file; it needs torch alone.

    vote = SdcVote(torch.device("cuda"), every=100)        # on every rank, after init_process_group
    for step in range(steps):
        train(step)
        verdict = vote(step)                               # None, but in every hundredth step
        if verdict and verdict.outcome != "agree":
            print(verdict.sentence)                        # rank 5: bfloat16 gemm … wrong in 2 of 2 runs (sticky)

Every rank computes the same products, sums and copies from a seed, twice: a fault of every run is sticky, one of some
runs intermittent. Only digests of the bits are exchanged. Ranks that differ from the majority are named. Two ranks
decide nothing, nor does a tie: the outcome is `unknown`, not a pass. `replicas_agree` compares data-parallel replicas.

Bits are comparable only among equal devices under equal software: cuBLAS promises equal bits for one version of it, one
architecture and one number of SMs. So ranks vote in groups of equal device, SMs, driver, torch, CUDA and precision. The
work draws no random numbers and touches no tensor of the job; it takes 0.6 GB for a moment. Other work is not tested.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup
Bits = tuple[int, ...]
# Comparable ranks below which nothing is decided; elements of a row of bits.
_FEWEST, _ROW = 3, 4096
# The mixer of SplitMix64, as signed numbers.
_STRIDE, _MIX, _OTHER_MIX = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


@dataclass(frozen=True)
class RankOutlier:
    """A rank of the job that differs from the majority in these results or parameters, in `wrong` of `runs` runs."""

    rank: int
    items: tuple[str, ...]
    wrong: int
    runs: int

    @property
    def sticky(self) -> bool:
        """Whether every run was wrong."""
        return self.wrong == self.runs


@dataclass(frozen=True)
class VoteVerdict:
    """What a vote decided: `agree` if every rank was judged and none differs, `differ` if there are outliers.

    `unjudged` ranks have no majority to be compared with; `differs`: comparable ranks differ, judged or not.
    """

    outcome: Literal["agree", "differ", "unknown"]
    outliers: tuple[RankOutlier, ...] = ()
    unjudged: tuple[int, ...] = ()
    differs: bool = False

    @property
    def sentence(self) -> str:
        """One line for a log."""
        said = []
        for one in self.outliers:
            more = f" and {len(one.items) - 1} more" if len(one.items) > 1 else ""
            kind = "sticky" if one.sticky else "intermittent"
            how = f"wrong in {one.wrong} of {one.runs} runs ({kind})" if one.runs > 1 else "differs"
            said.append(f"rank {one.rank}: {one.items[0]}{more} {how}")
        if self.unjudged:
            differ = "; their results differ" if self.differs and not self.outliers else ""
            who = f"{len(self.unjudged)} ranks from rank {self.unjudged[0]}"
            said.append(f"unknown for {who}: no majority of three or more comparable ranks{differ}")
        return "; ".join(said) or (
            "all ranks agree" if self.outcome == "agree" else "unknown: nothing to compare"
        )


def decide_vote(
    runs: Sequence[Sequence[Sequence[Bits]]], kinds: Sequence[object], names: Sequence[str]
) -> VoteVerdict:
    """Compare ranks. Pure.

    A value wins if more than half of the ranks of a kind, of which there are three or more, had it in every run. A rank
    is an outlier if any run of it differs from a winner. `runs` holds digests by rank, run and result, `kinds` a value
    for each rank, `names` one for each result.
    """
    wrong: dict[int, dict[str, set[int]]] = {}
    unjudged: set[int] = set()
    differs = False
    for kind in dict.fromkeys(kinds):
        ranks = [rank for rank, own in enumerate(kinds) if own == kind]
        for item, name in enumerate(names):
            found = {rank: [run[item] for run in runs[rank]] for rank in ranks}
            differs |= len({value for values in found.values() for value in values}) > 1
            steady = Counter(values[0] for values in found.values() if len(set(values)) == 1)
            winner, count = steady.most_common(1)[0] if steady else ((), 0)
            if len(ranks) < _FEWEST or 2 * count <= len(ranks):
                unjudged.update(ranks)
                continue
            for rank, values in found.items():
                if bad := {number for number, value in enumerate(values) if value != winner}:
                    wrong.setdefault(rank, {})[name] = bad
    outliers = tuple(
        RankOutlier(rank, tuple(bad), len(set().union(*bad.values())), len(runs[rank]))
        for rank, bad in sorted(wrong.items())
    )
    outcome: Any = "differ" if outliers else "unknown" if unjudged or not (names and kinds) else "agree"
    return VoteVerdict(outcome, outliers, tuple(sorted(unjudged)), differs)


def bits_digest(tensor: "torch.Tensor") -> "torch.Tensor":
    """Two int64 on the tensor's device, of all of its bits; one changed element always changes both."""
    import torch

    # Sums of integers are the same in any order.
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    whole = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    bits = whole.detach().contiguous().reshape(-1).view(kinds[whole.element_size()])
    full = bits.numel() // _ROW * _ROW
    total = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for part in (bits[:full].reshape(-1, _ROW), bits[full:].reshape(1, -1)):
        # Two errors that cancel in the sum of a column do not cancel in those of their rows.
        for axis in (0, 1):
            sums = part.sum(axis, dtype=torch.int64)
            # Odd weights: no difference of one sum is lost modulo 2**64.
            total[axis] += (sums * (_mixed(torch.arange(sums.numel(), device=sums.device), axis) | 1)).sum()
    return total


def _mixed(numbers: "torch.Tensor", seed: int) -> "torch.Tensor":
    """Well-mixed int64 in the place of numbers; the same on every device."""
    mixed = numbers.add_(seed + 1).mul_(_STRIDE)
    mixed.bitwise_xor_(mixed >> 30).mul_(_MIX)
    return mixed.bitwise_xor_(mixed >> 27).mul_(_OTHER_MIX)


class FixedWork:
    """The work of a vote: products of several shapes and types, a sum, exponentials, a copy; `names` lists them.

    Drills inject faults by `spoil`, called with the name of each result, and the result, before its digest.
    """

    def __init__(
        self, device: "torch.device", side: int | None = None, spoil: Callable[..., object] | None = None
    ) -> None:
        self.device, self._spoil = device, spoil
        # On a GPU every SM has tiles of the products.
        self.side = side or (4096 if device.type == "cuda" else 128)
        self.names = tuple(name for name, _ in self._items())

    def digests(self, runs: int = 1) -> "torch.Tensor":
        """Do the work this many times; int64 of shape (runs, results, 2) on the device."""
        import torch

        found = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for name, compute in list(self._items()) * runs:
                result = compute()
                if self._spoil:
                    self._spoil(name, result)
                found.append(bits_digest(result))
        return torch.stack(found).reshape(runs, -1, 2)

    def _items(self) -> "Iterator[tuple[str, Callable[[], torch.Tensor]]]":
        import torch

        side, kinds = self.side, [torch.float32, torch.bfloat16]
        for kind in kinds + [torch.float16] * (self.device.type == "cuda"):
            for shape in ((side, side, side), (side // 2, side * 2, side - side // 8)):
                named = f"{kind} gemm {'x'.join(map(str, shape))}".removeprefix("torch.")
                yield named, partial(self._product, *shape, kind)
        yield "sum", lambda: self.filled(side, side, 3).sum(dim=0)
        yield "exp", lambda: self.filled(side, side, 4).exp()
        yield "copy", lambda: self.filled(side, side, 5).clone()

    def _product(self, rows: int, inner: int, columns: int, kind: "torch.dtype") -> "torch.Tensor":
        return self.filled(rows, inner, 1).to(kind) @ self.filled(inner, columns, 2).to(kind)

    def filled(self, rows: int, columns: int, salt: int) -> "torch.Tensor":
        """A float32 matrix of values in [-1, 1) with 24 bits, which follow from the salt."""
        import torch

        mixed = _mixed(torch.arange(rows * columns, device=self.device), salt << 40)
        return mixed.bitwise_right_shift_(40).to(torch.float32).mul_(2.0**-23).reshape(rows, columns)


class SdcVote:
    """The vote in a job. Every rank of the group makes one, and calls it in the same steps.

    `strikes` counts the votes in which a rank was an outlier. Drain a rank at its second.

    Args:
        device: of this rank.
        every: steps between votes.
        runs: of the work in one vote.
        group: the ranks that vote; None for all.
        work: other work than the usual one.
    """

    def __init__(
        self, device: "torch.device", *, every: int = 100, runs: int = 2, group: Any = None, work: Any = None
    ) -> None:
        if min(every, runs) < 1:
            raise ValueError(f"every and runs must be 1 or more, not {every} and {runs}")
        self.every, self.strikes, self._runs = every, Counter[int](), runs
        self._ranks, self._work = _Ranks(device, group), work or FixedWork(device)
        self._kinds = self._ranks.words(kind_of(device))

    def __call__(self, step: int = 0) -> VoteVerdict | None:
        """Vote if it is the turn of this step, as it is of step 0; else None."""
        if step % self.every:
            return None
        # Always the same collectives, whatever was received: a vote must not make ranks wait for each other.
        found = self._ranks.digests(self._work.digests(self._runs))
        verdict = self._ranks.numbered(decide_vote(found, self._kinds, self._work.names))
        self.strikes.update(one.rank for one in verdict.outliers)
        return verdict


def replicas_agree(model: "torch.nn.Module", group: "ProcessGroup | None" = None) -> VoteVerdict:
    """Compare the bits of the parameters over ranks that must have the same: replicas of DDP or of HSDP.

    Call it between the optimizer's step and the next forward. An outlier's `items` are the parameters that differ, in
    the order of the model. Of two replicas a difference is seen (`differs`), and the rank is unknown. `group`: the
    data-parallel group, or the replicate dimension of a mesh. Shards (DTensor) are compared one by one.
    """
    import torch

    named: dict[str, Any] = dict(model.named_parameters())
    shards = [one.to_local() if hasattr(one, "to_local") else one for one in named.values()]
    if not shards:
        return VoteVerdict("unknown")
    found = torch.stack([bits_digest(one).to(shards[0].device) for one in shards])
    ranks = _Ranks(found.device, group)
    runs = ranks.digests(found[None])
    return ranks.numbered(decide_vote(runs, ["replica"] * len(runs), list(named)))


def kind_of(device: "torch.device") -> str:
    """What must be equal for equal bits: device, SMs or instruction set, driver, torch, CUDA, precision."""
    import torch

    # From torch 2.9 on a job may set the first; the second then raises.
    fp32 = getattr(torch.backends.cuda.matmul, "fp32_precision", "") or torch.get_float32_matmul_precision()
    seen = [torch.__version__, torch.version.cuda, torch.version.hip, fp32]
    if device.type == "cuda":
        gpu: Any = torch.cuda.get_device_properties(device)
        # The same line has the host on which DKMS built the module.
        driver = _found_in("/proc/driver/nvidia/version", r"^NVRM.*?(\d+(?:\.\d+)+)")
        seen += [gpu.name, str(gpu.multi_processor_count), driver]
    else:
        seen += [_found_in("/proc/cpuinfo", r"^model name\s*: (.*)"), torch.backends.cpu.get_cpu_capability()]
        seen.append(f"{torch.get_num_threads()} threads")
    return ", ".join(filter(None, seen))


def _found_in(path: str, pattern: str) -> str:
    with suppress(OSError):
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        return next(iter(re.findall(pattern, text, re.MULTILINE)), "")
    return ""


class _Ranks:
    """The ranks that compare; one alone without a process group."""

    def __init__(self, device: "torch.device", group: "ProcessGroup | None") -> None:
        import torch
        import torch.distributed as dist

        self._group = group
        self._dist: Any = dist if dist.is_available() and dist.is_initialized() else None
        on_cpu = self._dist and dist.get_backend(group) == "gloo"
        self._carrier = torch.device("cpu") if on_cpu else device

    def digests(self, own: "torch.Tensor") -> list[list[list[Bits]]]:
        """Those of all ranks, of shape (runs, results, 2), by rank, run and result."""
        everyone = [own]
        if self._dist:
            sent = own.to(self._carrier).contiguous()
            everyone = [sent.new_empty(sent.shape) for _ in range(self._dist.get_world_size(self._group))]
            self._dist.all_gather(everyone, sent, group=self._group)
        return [[[tuple(one) for one in run] for run in rank.tolist()] for rank in everyone]

    def words(self, own: str) -> list[Bits]:
        """A digest of the words of each rank."""
        import torch

        number = int.from_bytes(sha256(own.encode()).digest()[:8], "big", signed=True)
        return [run[0] for (run,) in self.digests(torch.tensor([[[number]]], device=self._carrier))]

    def numbered(self, verdict: VoteVerdict) -> VoteVerdict:
        """The verdict with the ranks of the job in place of those of the group."""
        if self._group is None or not self._dist:
            return verdict
        of_job = partial(self._dist.get_global_rank, self._group)
        outliers = tuple(replace(one, rank=of_job(one.rank)) for one in verdict.outliers)
        return replace(verdict, outliers=outliers, unjudged=tuple(map(of_job, verdict.unjudged)))
