"""Build a transformer of a given shape with random weights, or load a local folder's. Nothing is downloaded."""

import importlib
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.base.errors import InputError
from runner.kit.tensor_parallel import copy_shard, shard
from runner.sizing.models import ModelShape, weight_files, weights_folder

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh


def import_models() -> None:
    """Import transformers' model classes; the names can then be imported from it as usual.

    Transformers imports torchao if it finds it, for checkpoints that torchao has quantised. On a GPU that starts the
    CUDA driver, after which a process must not fork, and takes seconds of every start. So it finds none. A torchao that
    is imported already stays as it is, and a later import of torchao works.
    """
    if "torchao" in sys.modules or "transformers.modeling_utils" in sys.modules:
        return
    # None makes Python treat the module as not installed (ModuleNotFoundError).
    sys.modules["torchao"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("transformers.modeling_utils")
    finally:
        del sys.modules["torchao"]


def llama_config(shape: ModelShape) -> Any:
    """The transformers `LlamaConfig` of a shape, with SDPA attention and no special tokens."""
    import_models()
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=shape.tied_embeddings,
        # Random weights may produce any token at any step, so no token may end a sequence.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the library's own switch has no public setter on a config
    return config


def build_model(
    shape: ModelShape,
    dtype: "torch.dtype",
    device: "torch.device | str",
    *,
    seed: int = 0,
    initializer_range: float = 0.02,
    mesh: "DeviceMesh | None" = None,
) -> Any:
    """A `LlamaForCausalLM` of this shape in eval mode, its weights drawn from N(0, initializer_range²).

    It is created on the meta device first, so that its peak memory is its weights. On `meta` it stays without data.

    Args:
        shape: shape of the model.
        dtype: type of the weights.
        device: device of the weights.
        seed: of the weights only; the global generators are not changed.
        initializer_range: standard deviation; with a larger one, greedy decoding repeats itself less.
        mesh: ranks to shard it over. Each then holds its shards of the same weights that one process would have, and
            one whole parameter at a time while they are drawn.
    """
    import torch
    from torch import nn

    import_models()
    from transformers import LlamaForCausalLM

    config, device = llama_config(shape), torch.device(device)
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
        if not shape.gated_mlp:
            for layer in model.model.layers:
                layer.mlp = nn.Sequential(
                    OrderedDict(
                        up_proj=nn.Linear(shape.hidden, shape.ff, bias=False),
                        act_fn=nn.GELU(approximate="tanh"),
                        down_proj=nn.Linear(shape.ff, shape.hidden, bias=False),
                    )
                )
    model = _laid_out(model, dtype, device, mesh)
    if device.type == "meta":
        return model
    generator = torch.Generator(device).manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        elif mesh is None:
            parameter.normal_(0.0, initializer_range, generator=generator)
        else:
            # Drawn whole, so that the weights do not depend on the number of ranks.
            whole = torch.empty(parameter.shape, dtype=dtype, device=device)
            copy_shard(parameter, whole.normal_(0.0, initializer_range, generator=generator))
    return model


def load_model(
    folder: Path, dtype: "torch.dtype", device: "torch.device | str", *, mesh: "DeviceMesh | None" = None
) -> Any:
    """The causal model of a local transformers folder, in eval mode, its weights read from safetensors files.

    Parameters are read one at a time, so only one whole parameter is held in addition to the weights or shards.

    Raises:
        InputError: a file cannot be read, or the files do not have the weights of the configuration.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    import_models()
    from transformers import AutoConfig, AutoModelForCausalLM

    device = torch.device(device)
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    config._attn_implementation = "sdpa"  # noqa: SLF001 - as above
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config)
    model = _laid_out(model, dtype, device, mesh)
    missing = dict(model.named_parameters())
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    parameter = missing.pop(name, None)
                    if parameter is not None:
                        copy_shard(parameter, file.get_tensor(name).to(device, dtype))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InputError(
                f"{path.name}: {str(error).partition(chr(10))[0]}; copy the file again"
            ) from error
    if missing:
        first, more = next(iter(missing)), f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{folder.name} has no weights for {first}{more}; check that its config.json is of the same model"
        )
    return model


def open_model(
    shape: ModelShape, dtype: "torch.dtype", device: "torch.device", *, mesh: "DeviceMesh | None" = None
) -> Any:
    """The model of a shape that `model_shape` gave: with its folder's weights, or with random ones without a folder.

    Raises:
        InputError: as `load_model` does.
    """
    folder = weights_folder(shape.name)
    if folder is None:
        return build_model(shape, dtype, device, mesh=mesh)
    return load_model(folder, dtype, device, mesh=mesh)


def usual_type(device: str) -> "torch.dtype":
    """The type of the weights on `cpu` (fp32: half precision is slow there) or `cuda` (bf16)."""
    import torch

    return torch.float32 if device == "cpu" else torch.bfloat16


def random_tokens(
    shape: ModelShape, batch: int, tokens: int, device: "torch.device | str", seed: int = 0
) -> "torch.Tensor":
    """Random tokens [batch, tokens] on a device; the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, shape.vocab, (batch, tokens), generator=generator).to(device)


def _laid_out(model: Any, dtype: "torch.dtype", device: "torch.device", mesh: "DeviceMesh | None") -> Any:
    """A model from the meta device, sharded if there is a mesh, in uninitialized memory."""
    model = model.to(dtype).eval().requires_grad_(requires_grad=False)
    if mesh is not None:
        shard(model, mesh)
    if device.type == "meta":
        return model
    model = model.to_empty(device=device)
    # The rotary frequencies are not weights: they are computed, in fp32, on the model's device.
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.tie_weights()
    return model
