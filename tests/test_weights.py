import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from runner.base.errors import InputError
from runner.kit.compile_options import Mode
from runner.kit.decode.job import DecodeJob
from runner.kit.decode.loop import Decoder
from runner.kit.ranks import World
from runner.kit.transformer import load_model
from runner.sizing.models import model_shape, weight_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers itself writes it, with settings that the built shapes do not have."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-3, initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "made"
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def generated(folder: Path, prompt: torch.Tensor, new_tokens: int) -> Any:
    model: Any = LlamaForCausalLM.from_pretrained(folder)
    return model.generate(prompt, max_new_tokens=new_tokens, do_sample=False)[:, prompt.shape[1] :]


def test_a_folders_weights_decode_as_transformers_decodes_them(made: Path) -> None:
    assert len(weight_files(made)) > 1
    prompt = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(3))
    expected = generated(made, prompt, 24)
    assert len(set(expected.flatten().tolist())) > 8
    ours = Decoder(load_model(made, torch.float32, "cpu"), 36).generate(prompt, 24)
    assert ours.tolist() == expected.tolist()


@pytest.mark.system
def test_two_ranks_read_their_shards_and_decode_the_same(made: Path) -> None:
    job = DecodeJob(str(made), model_shape(str(made)), made, "cpu", 2, 1, 12, 24)
    prompt = torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with World(job.program(Mode.EAGER), 2, environment, time.monotonic() + 500) as world:
        world.ask(None, "loading")
        world.ask({"start": True}, "building")
        answers = world.ask({"new_tokens": 24}, "decoding")
    assert [answer["tokens"] for answer in answers] == generated(made, prompt, 24).tolist() * 2


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    for path in copy.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(InputError, match=r"copy has no weights \(\*\.safetensors\)"):
        weight_files(copy)


def test_a_missing_shard_is_named(copy: Path) -> None:
    weight_files(copy)[1].unlink()
    with pytest.raises(InputError, match=r"model-00002-of-\d+\.safetensors is listed in .* but missing"):
        weight_files(copy)


def test_a_truncated_shard_is_named(copy: Path) -> None:
    path = weight_files(copy)[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model-00001-of-\d+\.safetensors: .*copy the file again"):
        load_model(copy, torch.float32, "cpu")


def test_weights_of_another_model_are_refused(copy: Path) -> None:
    path = next(path for path in weight_files(copy) if "model.norm.weight" in load_file(path))
    tensors = load_file(path)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"copy has no weights for model\.norm\.weight"):
        load_model(copy, torch.float32, "cpu")
    save_file({**tensors, "model.norm.weight": norm[:-1]}, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"copy the file again"):
        load_model(copy, torch.float32, "cpu")
