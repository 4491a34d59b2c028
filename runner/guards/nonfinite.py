"""The first module and rank whose values are NaN or infinite in a training step, before a reduction spreads them.

One file for a job, with torch alone. Build the guard on the model, before or after DDP or `fully_shard`:

    guard = NonFiniteGuard(model)
    for batch in loader:
        loss = guard.watch(loss_of(model, batch))
        loss.backward()
        if found := guard.check(dist.group.WORLD):   # on every rank; without a group: this rank alone
            print(found)
            skip_step(optimizer)                      # the next lines then change neither weights nor state
        optimizer.step()
        optimizer.zero_grad()

Hooks take the extremes of each output and gradient on the device, which `check` reads once a step; nothing else waits
for the device. On a CPU they take a sum: if it is finite, so are the values. They run before DDP and FSDP2 reduce a
gradient. What a module gets is not judged, so masks with -inf are no finding; only a NaN in what the whole model gets
is one.

Not seen: what runs in a compiled region (gradients of its parameters are), under torch.func, or in a replayed CUDA
graph, and outputs in a class that is not a dataclass: `unseen` names the modules, and `check` warns. An overflow in the
sum of gradients over micro-batches or ranks is for `clip_grad_norm_(…, error_if_nonfinite=True)`. FSDP1 is refused: no
hook sees its gradients. Pipeline stages have no common order of modules: to name a rank there, give `check` the group
of one stage. Save the model's state_dict: with hooks the model itself cannot be pickled.
"""

import functools
import math
import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed import ProcessGroup

_Ends = tuple["torch.Tensor", "torch.Tensor"]

# Records that are kept without a `check` before they are read.
_MOST_RECORDS = 16_384


class Place(NamedTuple):
    """Where a value is.

    Attributes:
        phase: `input`, `output`, `gradient of the output` or `gradient of` the name of a parameter. The gradient of an
            output is computed by what reads the output.
        module: qualified name, empty for the model itself.
    """

    phase: str
    module: str

    def __str__(self) -> str:
        return f"{self.phase} of {self.module or 'the model'}"


@dataclass(frozen=True)
class NonFinite:
    """The first value that is not finite.

    Attributes:
        step: the number of the `check`, from 0.
        place: where it came first.
        kind: `nan` or `inf`.
        after: the place before it, which was finite: the fault is between both. None: there was none.
        ranks: those on which it came first.
        affected: all ranks with a value of their own that is not finite.
    """

    step: int
    order: int = field(repr=False)
    place: Place
    kind: str
    after: Place | None
    ranks: tuple[int, ...] = ()
    affected: tuple[int, ...] = ()

    def __str__(self) -> str:
        after = f"; still finite: {self.after}" if self.after else ""
        return f"step {self.step}, rank {', '.join(map(str, self.ranks))}: first {self.kind} in {self.place}{after}"


class NonFiniteGuard:
    """Watches a model. Use it as a context, or call `close`, to remove its hooks.

    Args:
        model: watched with all modules in it.
        allow: qualified names of modules in which, and below which, infinities are legal; a NaN is not.

    Attributes:
        unseen: modules with parameters whose outputs were not seen before the last `check`.

    Raises:
        ValueError: the model has FSDP1 in it.
    """

    def __init__(self, model: "nn.Module", allow: Collection[str] = ()) -> None:
        if any(type(one).__name__ == "FullyShardedDataParallel" for one in model.modules()):
            raise ValueError("NonFiniteGuard sees no gradients under FSDP1; shard the model with fully_shard")
        self.unseen: tuple[str, ...] = ()
        self._allow = tuple(f"{name}." for name in allow)
        self._model = model
        self._own = {_plain(name) for name, one in model.named_modules() if one._parameters}
        # By id: a parameter, weakly, for some loops make them anew in each step, and its hook.
        self._parameters: dict[int, tuple[Any, Any]] = {}

        def takes(called: "nn.Module", args: object, kwargs: object) -> None:
            for tensor in _tensors((args, kwargs)) if _is(called, model) and _trains(called) else ():
                self._record(Place("input", ""), tensor)

        self._handles: list[Any] = [model.register_forward_pre_hook(takes, with_kwargs=True)]
        self._step = 0
        self._begin()
        for name, module in model.named_modules():
            self._hook(_plain(name), module)

    def _begin(self) -> None:
        self._order = 0
        self._before: Place | None = None
        self._first: NonFinite | None = None
        self._records: list[tuple[Place, _Ends | None]] = []
        # By id: an output of this step, weakly, and its version.
        self._handed: dict[int, tuple[Any, int]] = {}
        self._called: set[str] = set()

    def _hook(self, name: str, module: "nn.Module") -> None:
        import torch

        given, back = Place("output", name), Place("gradient of the output", name)
        # A gradient of an output that is not finite makes those of the module's parameters so: one of both is enough.
        own = any(one.requires_grad for one in module.parameters())

        # Dynamo traces hooks into the region that it compiles; these leave nothing there.
        def enters(called: "nn.Module", _: object) -> None:
            if not torch.compiler.is_compiling() and _is(called, module):
                self._hook_parameters(name, called)

        def leaves(called: "nn.Module", _: object, output: object) -> None:
            if torch.compiler.is_compiling():
                return
            for tensor in _tensors(output) if _is(called, module) and _trains(called) else ():
                self._called.add(name)
                # What a module hands on from one of its parts adds nothing, unless it was changed in place.
                before, now = self._handed.get(id(tensor)), (weakref.ref(tensor), tensor._version)
                if before is None or before[0] is not now[0] or before[1] != now[1]:
                    self._handed[id(tensor)] = now
                    self._record(given, tensor)
                    if tensor.requires_grad and not own:
                        hook: Any = tensor.register_hook
                        hook(functools.partial(self._record, back))

        self._hook_parameters(name, module)
        if name in self._own:
            self._handles.append(module.register_forward_pre_hook(enters))
        self._handles.append(module.register_forward_hook(leaves))

    def _hook_parameters(self, name: str, module: "nn.Module") -> None:
        # At each call: while a module runs, FSDP2 puts whole parameters in the place of its shards.
        for own, parameter in module._parameters.items():
            key = id(parameter)
            if parameter is None or not parameter.requires_grad or key in self._parameters:
                continue
            if not hasattr(parameter, "materialize"):  # lazy: none before its first call
                gone = weakref.ref(parameter, functools.partial(_forget, self._parameters, key))
                hook: Any = parameter.register_hook
                record = functools.partial(self._record, Place(f"gradient of {own}", name))
                self._parameters[key] = gone, hook(record)

    def _record(self, place: Place, tensor: "torch.Tensor") -> None:
        values = _values(tensor) if self._handles else None
        if values is None:
            return
        # A sum of finite values may overflow, so one that is not finite says nothing.
        finite = values.is_cpu and math.isfinite(values.sum())
        # Extremes do not overflow by themselves, and are faster than a norm; both are NaN if there is one.
        self._records.append((place, None if finite else values.aminmax()))
        if len(self._records) >= _MOST_RECORDS:
            self._read()

    def _read(self) -> None:
        import torch

        records, self._records, self._handed = self._records, [], {}
        pending = [(number, ends) for number, (_, ends) in enumerate(records) if ends]
        values: dict[int, list[float]] = {}
        for device in {low.device for _, (low, _) in pending}:
            here = [(number, ends) for number, ends in pending if ends[0].device == device]
            both = torch.stack([end for _, ends in here for end in ends]).view(-1, 2)
            if not torch.isfinite(both).all():  # else one number comes back
                values |= zip((number for number, _ in here), both.tolist(), strict=True)
        for number, (low, high) in sorted(values.items()):
            place, is_nan = records[number][0], math.isnan(low)
            legal = place.phase == "input" or f"{place.module}.".startswith(self._allow)
            if self._first is None and (is_nan or (not legal and math.inf in {-low, high})):
                kind, before = "nan" if is_nan else "inf", records[number - 1][0] if number else self._before
                self._first = NonFinite(self._step, self._order + number, place, kind, before)
        if records:
            self._order, self._before = self._order + len(records), records[-1][0]

    def watch(self, tensor: "torch.Tensor", name: str = "loss") -> "torch.Tensor":
        """Record a tensor that no module returns, such as a loss, as an output of that name; returns it."""
        self._record(Place("output", name), tensor)
        return tensor

    def check(self, group: "ProcessGroup | None" = None, *, loss_scale: float = 1.0) -> NonFinite | None:
        """What came first since the last check; call it after the backward pass, before gradients are clipped or used.

        Args:
            group: its ranks get the same answer, in one reduction of one number, and all must call. None: this rank.
            loss_scale: by which the loss was multiplied (`GradScaler.get_scale()`). Above 1 gradients overflow by
                design, and the scaler skips the step and lowers its scale: only values of the forward pass count.

        Warns:
            RuntimeWarning: nothing was recorded, or, at the first check, some modules were not seen.
        """
        self._read()
        first = self._first
        if first and loss_scale > 1 and first.place.phase.startswith("gradient"):
            first = None
        self.unseen = tuple(sorted(self._own - self._called))
        said = ""
        if not self._order:
            said = "nothing was recorded since the last check: no pass that trains, or a replayed CUDA graph"
        elif self.unseen and not self._step:
            count = f"{len(self.unseen)} of {len(self._own)} modules ({self.unseen[0] or 'the model'}, …)"
            said = f"it sees no output of {count}: compiled, or not called"
        if said:
            warnings.warn(f"NonFiniteGuard: {said}", RuntimeWarning, stacklevel=2)
        self._step += 1
        self._begin()
        found: dict[int, NonFinite] = _of_all_ranks(first, group, self._model)
        if not found:
            return None
        earliest = min(found.values(), key=lambda one: one.order)
        same = (earliest.order, earliest.place)
        ranks = tuple(rank for rank, one in found.items() if (one.order, one.place) == same)
        return replace(earliest, ranks=ranks, affected=tuple(found))

    def close(self) -> None:
        """Remove all hooks."""
        for handle in (*self._handles, *(one for _, one in self._parameters.values())):
            handle.remove()
        self._handles, self._parameters = [], {}
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def skip_step(optimizer: "torch.optim.Optimizer") -> None:
    """Drop the gradients: an optimizer of `torch.optim` that still steps then changes neither weights nor state.

    Buffers that the forward pass changed, as of a batch norm, stay so; `census.py` finds what is not finite. With a
    `GradScaler`, call neither its `step` nor `update` after this, unless the gradients were unscaled before.
    """
    optimizer.zero_grad(set_to_none=True)


def _of_all_ranks(own: Any, group: "ProcessGroup | None", model: "nn.Module") -> dict[int, Any]:
    """By rank, what each has that is not None; all ranks of a group get the same."""
    import torch
    import torch.distributed as dist

    together = dist.is_available() and dist.is_initialized()
    if group is None or not together:
        return {} if own is None else {dist.get_rank() if together else 0: own}
    device: Any = next((one.device for one in model.parameters()), None)
    if dist.get_backend(group) == "nccl":  # it takes no tensor of a CPU, where offloaded parameters are
        device = "cuda"
    has = torch.tensor(float(own is not None), device=device)
    dist.all_reduce(has, dist.ReduceOp.MAX, group)
    everyone = [None] * dist.get_world_size(group)
    if has.item():
        dist.all_gather_object(everyone, own, group)
    ranks = zip(dist.get_process_group_ranks(group), everyone, strict=True)
    return {rank: one for rank, one in ranks if one is not None}


def _values(tensor: "torch.Tensor") -> "torch.Tensor | None":
    """What can be reduced, without its history. None for what has no NaN, or is not seen."""
    import torch

    if _is_transformed(tensor):
        return None
    tensor = tensor.detach()
    if type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.is_nested:
        tensor = _parts_of(tensor)
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return None
    if tensor.element_size() > 1:
        return tensor
    # FP8 has no reductions.
    return None if "float4" in str(tensor.dtype) else tensor.float()


def _parts_of(tensor: "torch.Tensor") -> "torch.Tensor":
    """The values of what is more than a dense tensor."""
    import torch

    if hasattr(tensor, "to_local"):  # a DTensor
        tensor = tensor.to_local()
    if tensor.is_sparse:
        tensor = tensor.coalesce()
    if tensor.layout == torch._mkldnn:  # type: ignore[attr-defined]
        return tensor.to_dense()
    return tensor.values() if tensor.is_nested or tensor.layout != torch.strided else tensor


def _tensors(value: Any, depth: int = 8) -> "Sequence[torch.Tensor]":
    if hasattr(value, "is_floating_point"):
        return () if _is_transformed(value) else (value,)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    if is_dataclass(value) and not isinstance(value, type | Mapping):
        parts = [getattr(value, one.name, None) for one in fields(value)]
    return [one for part in parts for one in _tensors(part, depth - 1)] if depth else ()


def _is_transformed(tensor: "torch.Tensor") -> bool:
    import torch

    # What torch.func makes has no values after the transform.
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _is(called: "nn.Module", module: "nn.Module") -> bool:
    """Not a copy, as of an EMA, which has the hooks too; replicas of DataParallel are the module."""
    return called is module or getattr(called, "_is_replica", False)


def _forget(hooked: dict[int, Any], key: int, _: object) -> None:
    hooked.pop(key, None)


def _trains(module: "nn.Module") -> bool:
    import torch

    # A block that is checkpointed runs without gradients first; an evaluation neither trains nor has gradients.
    seen = module.training or torch.is_grad_enabled()
    return seen and not torch.compiler.is_compiling() and not torch.is_inference_mode_enabled()


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "").removesuffix("_orig_mod")
