import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import runner.probes.long_context_validation as probe
from runner.errors import InputError
from runner.hardware.machine import look
from runner.models import ModelShape
from runner.probes.allocations import follow
from runner.probes.contract import NOT_APPLICABLE, OK, SYMPTOM
from runner.probes.prefill import Prefill
from runner.sizing import Work, footprint, kv_cache_bytes, largest_batch

HANG_S = 120
GIB = 2**30
SHAPE = ModelShape("small", 4, 128, 8, 2, 16, 256, 512, 4096)
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
}
Probing = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def small(tmp_path: Path) -> str:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return str(folder)


@pytest.fixture
def probing(small: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Probing:
    """Run the probe on the small model as on a host without a GPU; its exit status and its document."""
    host = look().model_copy(update={"gpus": ()})
    monkeypatch.setattr(probe, "look", lambda: host)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        status = probe.main(["--model", small, *arguments])
        out = capsys.readouterr().out
        assert small not in out, "a record must not say where the model lies"
        return status, json.loads(out.splitlines()[-1])

    return run


def values(document: Mapping[str, Any], name: str) -> dict[int | None, float]:
    return {
        found["labels"].get("tokens"): found["value"]
        for found in document["measurements"]
        if found["name"] == name
    }


@pytest.mark.parametrize(
    "change",
    [{}, {"kv_heads": 8}, {"kv_heads": 1}, {"gated_mlp": False}, {"vocab": 4096}, {"head_dim": 32}],
    ids=str,
)
@pytest.mark.parametrize(
    "work",
    [
        Work(256),
        Work(256, batch=2),
        Work(256, all_logits=False),
        Work(256, chunk=64),
        Work(250, chunk=64, batch=3, all_logits=False),
    ],
    ids=["naive", "batch of 2", "last-token logits", "chunked", "chunked with a rest, batch of 3"],
)
def test_the_arithmetic_meets_the_tensors_of_every_kind_of_model(change: dict[str, Any], work: Work) -> None:
    shape, work = replace(SHAPE, **change), replace(work, weight_bytes=4, kv_bytes=4)
    reached = Prefill(shape, work, None, gpu=False).run(work.tokens)
    assert (reached.done, reached.over) == (1.0, None)
    assert reached.kv == kv_cache_bytes(shape, work)
    assert footprint(shape, work).total / reached.peak == pytest.approx(1, abs=0.05)


def test_a_second_prompt_is_measured_as_if_it_were_the_first() -> None:
    work = Work(512, weight_bytes=4, kv_bytes=4)
    prefill = Prefill(SHAPE, work, None, gpu=False)
    first = prefill.run(512)
    prefill.run(1024)
    assert prefill.run(512).peak == first.peak


def test_a_prompt_that_dies_at_its_logits_has_not_been_read_to_its_end() -> None:
    shape, work = replace(SHAPE, vocab=8192), Work(512, weight_bytes=4, kv_bytes=4)
    found = footprint(shape, work)
    assert found.logits > 2 * found.activations
    reached = Prefill(shape, work, found.total - found.logits // 2, gpu=False).run(512)
    assert reached.over is not None
    assert reached.done == pytest.approx(4 / 5)


def test_a_sweep_reports_every_length_with_its_prediction(probing: Probing) -> None:
    status, document = probing("--sequence-lengths", "128", "256", "128")
    assert status == OK
    assert set(values(document, "peak_memory")) == {128, 256}
    assert values(document, "kv_cache_difference") == {128: 0, 256: 0}
    assert values(document, "kv_cache")[256] == 2 * 4 * 2 * 16 * 256 * 4
    assert values(document, "longest_fitting") == {None: 256}
    assert document["effective"]["model"] == "small"
    assert all(ratio == pytest.approx(1, abs=0.05) for ratio in values(document, "prediction_ratio").values())


def test_over_the_budget_is_the_symptom_and_the_sweep_goes_on(probing: Probing) -> None:
    status, document = probing("--sequence-lengths", "256", "1024", "128", "--budget-share", "0.97")
    assert status == SYMPTOM
    assert "1024 tokens ran out of memory" in document["reason"]
    done = values(document, "prompt_done")
    assert (done[256], done[128]) == (1, 1)
    assert 0 < done[1024] < 1
    assert values(document, "smallest_prompt_done") == {None: done[1024]}
    assert values(document, "longest_fitting") == {None: 256}
    assert set(values(document, "prediction_ratio")) == {256, 128}
    assert values(document, "memory_headroom") == {}


def test_the_remedy_fits_into_the_budget_that_the_naive_run_breaks(probing: Probing) -> None:
    sweep = ("--sequence-lengths", "512", "1024", "--budget-share", "0.7")
    naive, broken = probing(*sweep)
    remedied, document = probing(*sweep, "--chunk", "128", "--logits", "last")
    assert (naive, remedied) == (SYMPTOM, OK)
    assert document["details"]["budget_bytes"] == broken["details"]["budget_bytes"]
    peak = values(document, "peak_memory")[1024]
    assert values(document, "memory_headroom") == {None: document["details"]["budget_bytes"] - peak}


def test_a_budget_in_gib_is_kept_to_the_byte(probing: Probing) -> None:
    _, document = probing("--sequence-lengths", "256")
    peak = values(document, "peak_memory")[256]
    assert probing("--sequence-lengths", "256", "--budget-gib", repr(peak / GIB))[0] == OK
    assert probing("--sequence-lengths", "256", "--budget-gib", repr((peak - 1) / GIB))[0] == SYMPTOM


def test_checkpointing_gains_nothing_where_no_gradient_is_kept(probing: Probing) -> None:
    status, document = probing("--sequence-lengths", "256", "512", "--checkpoint")
    assert status == OK
    assert values(document, "checkpoint_ratio") == pytest.approx({256: 1, 512: 1}, abs=0.001)


def test_the_same_checkpointing_pays_where_gradients_are_kept() -> None:
    prefill = Prefill(SHAPE, Work(512, weight_bytes=4, kv_bytes=4), None, gpu=False)
    prefill._model.requires_grad_(requires_grad=True)
    peaks = {}
    for checkpoint in (False, True):
        prefill._checkpoint = checkpoint
        with follow() as found:
            result = prefill._model(torch.zeros(1, 512, dtype=torch.long), use_cache=False, logits_to_keep=1)
        peaks[checkpoint] = found.peak
        del result
    assert peaks[True] < peaks[False] / 2


def test_a_plan_names_remedies_by_the_bytes_they_save(
    probing: Probing, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--plan", "--model", "70b", "--board", "H100", "--tensor-parallel-gpus", "4"]
    assert probe.main([*arguments, "--batch-size", "4", "--sequence-lengths", "4096", "65536"]) == SYMPTOM
    said = capsys.readouterr()
    document = json.loads(said.out)
    remedies = document["details"]["remedies"]
    assert set(remedies) == {"65536"}
    assert remedies["65536"]["FP8 KV cache"] == 10 * GIB
    lines = [line.strip() for line in said.err.splitlines() if " saves " in line]
    assert lines[0] == "chunks of 2048 and last-token logits saves 63.1 GiB, and then it fits"
    assert lines[-1] == "FP8 KV cache saves 10.0 GiB"
    saved = sorted(remedies["65536"].items(), key=lambda one: -one[1])
    assert [line.partition(" saves ")[0] for line in lines] == [name for name, _ in saved]
    assert values(document, "longest_fitting") == {None: 4096}
    assert values(document, "memory_headroom") == {}


def test_a_plan_that_fits_says_what_is_left_and_how_many_would_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--plan", "--model", "40b", "--budget-gib", "140", "--sequence-lengths", "32768"]
    assert probe.main(arguments) == OK
    document = json.loads(capsys.readouterr().out)
    predicted = values(document, "predicted_memory")[32768]
    assert values(document, "memory_headroom") == {None: 140 * GIB - predicted}
    assert values(document, "kv_cache") == {32768: 48 * GIB}
    assert values(document, "largest_batch") == {32768: 1}


@pytest.mark.parametrize("chunk", [None, 512])
def test_the_largest_batch_fits_and_one_more_does_not(chunk: int | None) -> None:
    work = Work(2048, chunk=chunk)
    for budget in range(0, 2**30, 2**26):
        batch = largest_batch(SHAPE, work, budget)
        assert batch == 0 or footprint(SHAPE, replace(work, batch=batch)).total <= budget
        assert footprint(SHAPE, replace(work, batch=batch + 1)).total > budget


def test_any_number_of_sequences_fits_into_a_budget_beyond_measure() -> None:
    assert largest_batch(SHAPE, Work(1), 10**300) > 10**18


def test_a_plan_needs_no_torch() -> None:
    program = (
        "import sys, runner.probes.long_context_validation as p;"
        "status = p.main(['--plan', '--board', 'B200', '--model', '70b', '--tensor-parallel-gpus', '8']);"
        "sys.exit(9 if {'torch', 'transformers'} & set(sys.modules) else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=HANG_S)
    assert done.returncode == OK, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sequence-lengths", "0"], "tiny takes 1 to 131072 tokens"),
        (["--sequence-lengths", "512", "-1"], "tiny takes 1 to 131072 tokens"),
        (["--sequence-lengths", "131073"], "tiny takes 1 to 131072 tokens"),
        (["--batch-size", "-1"], "--batch-size -1: give a whole number of 1 or more"),
        (["--chunk", "0"], "--chunk 0: give a whole number of 1 or more"),
        (["--tensor-parallel-gpus", "2"], "a sweep measures one device"),
        (["--tensor-parallel-gpus", "0"], "--tensor-parallel-gpus 0: give a whole number"),
        (["--plan", "--board", "B200", "--tensor-parallel-gpus", "3"], "3 does not divide 8 heads"),
        (["--plan"], "--plan needs --board or --budget-gib"),
        (["--plan", "--budget-share", "0.5"], "--budget-share and --checkpoint are for a sweep"),
        (["--plan", "--board", "B200", "--checkpoint"], "--budget-share and --checkpoint are for a sweep"),
        (["--plan", "--budget-gib", "nan"], "--budget-gib nan: give a number above zero"),
        (["--plan", "--budget-gib", "-5"], "--budget-gib -5: give a number above zero"),
        (["--board", "B200"], "--board is for --plan"),
        (["--budget-gib", "inf"], "--budget-gib inf: give a number above zero"),
        (["--budget-gib", "0.01"], "is below the weights of tiny, 64.0 MiB"),
        (["--budget-share", "-1"], "--budget-share -1: give a number above zero"),
        (["--budget-share", "nan"], "--budget-share nan: give a number above zero"),
        (["--budget-share", "0.01"], "is below the weights of tiny"),
        (["--model", "13b"], "no model '13b'"),
        (["--plan", "--board", "B200", "--output-json", "/proc/none/x"], "cannot write /proc/none/x"),
    ],
    ids=" ".join,
)
def test_impossible_input_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if "--model" in arguments else ["--model", "tiny"]
    assert probe.main([*model, *arguments]) == InputError.exit_status
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]
    assert said.err.splitlines()[-1].startswith("long_context_validation: ")


@pytest.mark.parametrize(
    "arguments",
    [["--budget-gib", "1", "--budget-share", "0.5"], ["--plan", "--board", "A100"], ["--chunk", "x"]],
)
def test_what_the_parser_itself_refuses_ends_with_the_same_status(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        probe.main(arguments)
    assert error.value.code == InputError.exit_status


@pytest.mark.parametrize("arguments", [["--model", "70b"], ["--model", "tiny", "--batch-size", str(10**30)]])
def test_what_would_bring_a_host_down_is_not_begun(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = look().model_copy(update={"gpus": ()})
    monkeypatch.setattr(probe, "look", lambda: host)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    assert probe.main(arguments) == NOT_APPLICABLE
    assert "choose a smaller --model" in json.loads(capsys.readouterr().out)["reason"]


def test_the_program_writes_its_document_and_ends_with_its_status(small: str, tmp_path: Path) -> None:
    output = tmp_path / "long_context" / "validation.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "runner.probes.long_context_validation", "--model", small,
            "--sequence-lengths", "128", "1024", "--budget-share", "0.7", "--output-json", str(output),
        ],
        capture_output=True, text=True, check=False, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == SYMPTOM, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "symptom"
    assert json.loads(output.read_text(encoding="utf-8")) == document
