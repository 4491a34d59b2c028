"""One rank of a training by transformers' Trainer, with a vote in a callback: `vote_trainer_rank.py FOLDER`.

Each command, `{"every", "culprit"}`, trains anew and answers with what the votes said and with the final state.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from runner.guards.sdc_vote import FixedWork, SdcVote, bits_digest, replicas_agree
from runner.kit.flips import BitFlip
from runner.kit.rank_line import RankLine
from runner.kit.transformer import import_models

STEPS = 6


class Tokens(Dataset[Mapping[str, torch.Tensor]]):
    """Random tokens of a small vocabulary."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> Mapping[str, torch.Tensor]:
        tokens = torch.randint(0, 64, (16,), generator=torch.Generator().manual_seed(place))
        return {"input_ids": tokens, "labels": tokens}


def trained(folder: Path, rank: int, command: Mapping[str, Any]) -> dict[str, Any]:
    import_models()
    names: Any = importlib.import_module("transformers")

    said: list[dict[str, Any]] = []

    class Votes(names.TrainerCallback):  # type: ignore[misc]
        """Votes at the end of a step."""

        def __init__(self) -> None:
            work = FixedWork(torch.device("cpu"), 32)
            if rank == command["culprit"]:
                work = FixedWork(torch.device("cpu"), 32, BitFlip(work.names[0], 9, 3))
            self.vote = SdcVote(torch.device("cpu"), every=command["every"], work=work)

        def on_step_end(self, _: Any, state: Any, __: Any, model: Any = None, **___: Any) -> None:
            if verdict := self.vote(state.global_step):
                same = replicas_agree(model)
                named = [one.rank for one in verdict.outliers]
                said.append({"outcome": verdict.outcome, "named": named, "replicas": same.outcome})

    names.set_seed(3)
    model = names.LlamaForCausalLM(
        names.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=32, attention_dropout=0.1,
        )
    )  # fmt: skip
    arguments = names.TrainingArguments(
        output_dir=str(folder), use_cpu=True, ddp_backend="gloo", max_steps=STEPS, per_device_train_batch_size=2,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", seed=3,
    )  # fmt: skip
    callbacks = [Votes()] if command["every"] else []
    names.Trainer(model=model, args=arguments, train_dataset=Tokens(), callbacks=callbacks).train()
    state = [bits_digest(one).tolist() for one in (*model.parameters(), torch.get_rng_state())]
    return {"said": said, "state": state}


def main() -> None:
    line = RankLine()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    line.send({"ready": True})
    for command in line.commands():
        line.send(trained(Path(sys.argv[1]), line.rank, command))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
