"""One rank of the tests of tensor parallelism: builds its shards, then answers each command with what it found."""

import json
import sys
from typing import Any

import torch

from runner.kit.compile_options import Mode
from runner.kit.decode.loop import Decoder
from runner.kit.rank_line import RankLine
from runner.kit.tensor_parallel import joined, shard
from runner.kit.transformer import build_model
from runner.sizing.models import parse_shape


def answer(command: dict[str, Any], mesh: Any) -> dict[str, Any]:
    shape = parse_shape("test", command["config"])
    options: dict[str, Any] = {"initializer_range": command["initializer_range"]}
    if command["late"]:
        model = build_model(shape, torch.float32, "cpu", **options)
        shard(model, mesh)
    else:
        model = build_model(shape, torch.float32, "cpu", **options, mesh=mesh)
    prompt = torch.tensor(command["prompt"])
    with torch.no_grad():
        logits = model(prompt).logits
    decoder = Decoder(model, prompt.shape[1] + command["new_tokens"], Mode(command["mode"]))
    tokens = decoder.generate(prompt, command["new_tokens"])
    held = [getattr(parameter, "_local_tensor", parameter) for parameter in model.parameters()]
    return {
        "logits": logits.tolist(),
        "tokens": tokens.tolist(),
        "held": sum(tensor.untyped_storage().nbytes() for tensor in held),
        "kv_heads": decoder.cached()[0].shape[1],
    }


def main() -> None:
    line = RankLine()
    try:
        with joined("cpu", line.rank, int(sys.argv[1]), 60.0) as mesh:
            for command in line.commands():
                line.send(answer(command, mesh))
    except Exception as error:  # noqa: BLE001 - whatever went wrong here must be told to the test
        line.send({"error": json.dumps(f"{type(error).__name__}: {error}")})


if __name__ == "__main__":
    main()
