"""Transformers is imported without torchao, which would start the CUDA driver and takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of a version that transformers accepts; as torchao does, it looks for a GPU as it is imported.
FAKE = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n__version__ = '99.0'\n"
OURS = """
import sys
from runner.kit.transformer import llama_config
from runner.sizing.models import model_shape
llama_config(model_shape("tiny"))
from transformers import LlamaForCausalLM, StaticCache
"""
THEIRS = "from transformers import LlamaForCausalLM"
LATER = OURS + "import torchao\nprint(torchao.__version__)"


def ran(tmp_path: Path, code: str) -> tuple[str, bool]:
    """What the code printed, and whether it imported torchao."""
    package, metadata = tmp_path / "torchao", tmp_path / "torchao-99.0.dist-info"
    for folder in (
        package / "prototype" / "safetensors",
        package / "quantization",
        package / "core",
        metadata,
    ):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE, encoding="utf-8")
    (metadata / "METADATA").write_text("Name: torchao\nVersion: 99.0\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip(), (package / "imported").exists()


def test_transformers_alone_imports_torchao_where_it_is_installed(tmp_path: Path) -> None:
    assert ran(tmp_path, THEIRS)[1]


def test_the_models_of_the_probes_do_not_import_torchao(tmp_path: Path) -> None:
    assert ran(tmp_path, OURS + "print('built')") == ("built", False)


def test_torchao_can_still_be_imported_afterwards(tmp_path: Path) -> None:
    assert ran(tmp_path, LATER) == ("99.0", True)
