"""Build a transformer of a given shape with random weights, or load a local folder's. Nothing is downloaded."""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from runner.errors import InputError
from runner.models import weight_files
from runner.probes.tensor_parallel import copy_shard, shard

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from runner.models import ModelShape


def llama_config(shape: "ModelShape") -> Any:
    """The transformers `LlamaConfig` of a shape, with SDPA attention and no special tokens."""
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
        # Random weights may produce any token at any step: none of them may end a sequence.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the library's own switch has no public setter on a config
    return config


def build_model(
    shape: "ModelShape",
    dtype: "torch.dtype",
    device: "torch.device | str",
    *,
    seed: int = 0,
    initializer_range: float = 0.02,
    mesh: "DeviceMesh | None" = None,
) -> Any:
    """A `LlamaForCausalLM` of this shape in eval mode, its weights drawn from N(0, initializer_range²).

    It is laid out on the meta device first, so that its peak memory is its weights. On `meta` it stays without data.

    Args:
        shape: what to build.
        dtype: type of the weights.
        device: where they live.
        seed: of the weights alone; the global generators are left as they are.
        initializer_range: standard deviation; a larger one makes greedy decoding repeat itself less.
        mesh: ranks to cut it over. Each then holds its shards of the very weights that one process would have, and
            while they are drawn one whole parameter beside them.
    """
    import torch
    from torch import nn
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
            # Drawn whole, so that the weights do not depend on how many ranks share them.
            whole = torch.empty(parameter.shape, dtype=dtype, device=device)
            copy_shard(parameter, whole.normal_(0.0, initializer_range, generator=generator))
    return model


def load_model(
    folder: "Path", dtype: "torch.dtype", device: "torch.device | str", *, mesh: "DeviceMesh | None" = None
) -> Any:
    """The causal model of a local transformers folder, in eval mode, its weights read from safetensors files.

    Each parameter is read by itself, so that beside the weights, or a rank's shards of them, one is held whole.

    Raises:
        InputError: a file cannot be read, or the files hold other weights than the configuration asks for.
    """
    import torch
    from safetensors import SafetensorError, safe_open
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
            f"{folder.name} has no weights for {first}{more}; is its config.json another model's?"
        )
    return model


def _laid_out(model: Any, dtype: "torch.dtype", device: "torch.device", mesh: "DeviceMesh | None") -> Any:
    """A model from the meta device, cut where there is a mesh, in memory that nothing has been written to yet."""
    model = model.to(dtype).eval().requires_grad_(requires_grad=False)
    if mesh is not None:
        shard(model, mesh)
    if device.type == "meta":
        return model
    model = model.to_empty(device=device)
    # The rotary frequencies are not weights: they are computed, in fp32, wherever the model lives.
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.tie_weights()
    return model
