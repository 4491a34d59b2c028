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
from runner.base.errors import InputError
from runner.hardware.machine import look
from runner.kit.budget import VARIABLE
from runner.kit.long_context import validation
from runner.kit.long_context.bench import MemoryBench, Reached
from runner.kit.long_context.cache import new_cache
from runner.kit.probe import NOT_APPLICABLE, OK, SYMPTOM
from runner.kit.transformer import build_model
from runner.sizing.limits import footprint, largest_batch
from runner.sizing.models import ModelShape
from runner.sizing.work import Attention, Checkpointing, ModelWork, Optimizer, kv_cache_bytes

HANG_S = 400
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
CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", "full", "selective")
ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "sgd")
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
    monkeypatch.setattr(validation, "look", lambda: host)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        status = probe.PROBE.main(["--model", small, *arguments])
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


CHANGES: list[dict[str, Any]] = [
    {},
    {"kv_heads": 8},
    {"kv_heads": 1},
    {"gated_mlp": False},
    {"vocab": 4096},
    {"head_dim": 32},
    {"tied_embeddings": True},
]
PREFILLS = {
    "naive": ModelWork(256),
    "batch of 2": ModelWork(256, batch=2),
    "last-token logits": ModelWork(256, all_logits=False),
    "chunked": ModelWork(256, chunk=64),
    "chunked with a rest, batch of 3": ModelWork(250, chunk=64, batch=3, all_logits=False),
    "eager": ModelWork(256, attention="eager"),
    "eager in chunks": ModelWork(256, chunk=64, attention="eager"),
    "FP8 cache": ModelWork(256, kv_bytes=1),
    "bf16 cache in chunks": ModelWork(250, chunk=64, batch=2, kv_bytes=2),
    "checkpointed": ModelWork(256, checkpointing="full"),
}
STEPS = {
    f"{attention}, {checkpointing}": ModelWork(
        256, attention=attention, checkpointing=checkpointing, training="adamw"
    )
    for attention in ATTENTIONS
    for checkpointing in CHECKPOINTINGS
} | {
    "batch of 3": ModelWork(256, batch=3, training="adamw"),
    "few tokens": ModelWork(16, training="adamw"),
    "sgd": ModelWork(256, training="sgd"),
}


def only(reached: tuple[Reached, ...]) -> Reached:
    (one,) = reached
    return one


def fp32(work: ModelWork) -> ModelWork:
    narrow = work.kv_bytes == 1 or (work.kv_bytes == 2 and work.chunk is not None and work.batch == 2)
    return replace(work, weight_bytes=4, kv_bytes=work.kv_bytes if narrow else 4)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_arithmetic_meets_the_tensors_of_every_kind_of_prefill(change: dict[str, Any]) -> None:
    shape = replace(SHAPE, **change)
    bench = MemoryBench(shape, fp32(ModelWork(256)), None, gpu=False)
    for name, prefill in PREFILLS.items():
        work = fp32(prefill)
        reached = only(bench.run(work))
        assert (reached.done, reached.over) == (1.0, None)
        assert reached.kv == kv_cache_bytes(shape, work), name
        assert footprint(shape, work).total / reached.peak == pytest.approx(1, abs=0.05), name


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_arithmetic_meets_the_tensors_of_every_kind_of_training_step(change: dict[str, Any]) -> None:
    shape = replace(SHAPE, **change)
    benches = {
        optimizer: MemoryBench(shape, fp32(ModelWork(16, training=optimizer)), None, gpu=False)
        for optimizer in OPTIMIZERS
    }
    for name, step in STEPS.items():
        assert step.training is not None
        work = fp32(step)
        reached = only(benches[step.training].run(work))
        assert (reached.done, reached.over, reached.kv) == (1.0, None, 0)
        assert footprint(shape, work).total / reached.peak == pytest.approx(1, abs=0.05), name


def test_half_precision_is_predicted_as_well() -> None:
    for work in (
        ModelWork(256),
        ModelWork(256, training="adamw"),
        ModelWork(256, checkpointing="full", training="adamw"),
    ):
        reached = only(MemoryBench(SHAPE, work, None, gpu=False).run(work))
        assert footprint(SHAPE, work).total / reached.peak == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "work", [ModelWork(512), ModelWork(512, training="adamw")], ids=["prefill", "training"]
)
def test_the_peak_is_the_one_that_torchs_own_profiler_sees(work: ModelWork) -> None:
    bench = MemoryBench(SHAPE, fp32(work), None, gpu=False)
    before = sum(
        tensor.untyped_storage().nbytes() for tensor in (*bench._model.parameters(), *bench._state())
    )
    followed = only(bench.run(fp32(work))).peak - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        bench.run(fp32(work), followed=False)
    events: Any = profile.profiler
    live = peak = 0
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    # The profiler also sees scratch inside kernels.
    assert followed <= peak * 1.001
    assert followed == pytest.approx(peak, rel=0.03)


def test_a_second_prompt_is_measured_as_if_it_were_the_first() -> None:
    for training in (None, *OPTIMIZERS):
        work = fp32(ModelWork(256, training=training))
        bench = MemoryBench(SHAPE, work, None, gpu=False)
        first = only(bench.run(work))
        bench.run(replace(work, tokens=512))
        assert only(bench.run(work)).peak == first.peak


def test_a_failed_step_is_not_counted_in_the_next_one() -> None:
    work = fp32(ModelWork(256, training="adamw"))
    need = footprint(SHAPE, work).total
    bench = MemoryBench(SHAPE, work, int(need * 1.02), gpu=False)
    failed = only(bench.run(replace(work, tokens=512)))
    assert failed.over is not None
    assert only(bench.run(work)).over is None


def test_a_prompt_that_dies_at_its_logits_has_not_been_read_to_its_end() -> None:
    shape, work = replace(SHAPE, vocab=8192), fp32(ModelWork(512))
    found = footprint(shape, work)
    assert found.moment == "the logits"
    reached = only(MemoryBench(shape, work, found.total - found.logits // 4, gpu=False).run(work))
    assert reached.over is not None
    assert reached.done == pytest.approx(4 / 5)


def test_a_step_that_dies_says_what_held_the_memory_and_who_asked_for_more() -> None:
    work = fp32(ModelWork(512, training="adamw"))
    found = footprint(SHAPE, work)
    reached = only(MemoryBench(SHAPE, work, int(found.total * 0.9), gpu=False).run(work))
    assert reached.over is not None
    assert reached.over.startswith("aten.")
    assert 0.3 < reached.done < 0.8
    assert reached.held["weights"] == found.weights
    assert reached.held["optimizer"] == pytest.approx(found.optimizer, abs=1024)
    assert sum(reached.held.values()) == reached.peak


def test_a_checkpointed_step_learns_what_a_plain_one_learns() -> None:
    weights = {}
    for checkpointing in CHECKPOINTINGS:
        work = fp32(ModelWork(64, checkpointing=checkpointing, training="adamw"))
        bench = MemoryBench(SHAPE, work, None, gpu=False)
        bench.run(work)
        weights[checkpointing] = [one.detach().clone() for one in bench._model.parameters()]
    for checkpointing in ("full", "selective"):
        for plain, other in zip(weights["none"], weights[checkpointing], strict=True):
            assert torch.allclose(plain, other, atol=1e-6)


@pytest.mark.parametrize("kv_bytes", [1, 2])
def test_a_narrow_cache_gives_nearly_the_same_answers(kv_bytes: int) -> None:
    model = build_model(SHAPE, torch.float32, "cpu", initializer_range=0.1)
    prompt = torch.randint(0, SHAPE.vocab, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(prompt).logits[:, -1]
        for chunk in (None, 24):
            cache = new_cache(model.config, ModelWork(64, weight_bytes=4, kv_bytes=kv_bytes, chunk=chunk))
            for part in torch.split(prompt, chunk or 64, dim=1):
                found = model(part, past_key_values=cache).logits[:, -1]
            error = (found - exact).norm() / exact.norm()
            assert 0 < error < (0.1 if kv_bytes == 1 else 0.01)


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


def test_remedies_are_measured_beside_doing_without(probing: Probing) -> None:
    status, document = probing("--sequence-lengths", "256", "512", "--compare-remedies", "2")
    assert status == OK
    found: dict[str, dict[str, Any]] = {}
    for one in document["measurements"]:
        if "remedy" in one["labels"]:
            assert one["labels"]["tokens"] == 512
            found.setdefault(one["labels"]["remedy"], {})[one["name"]] = one
    chunks = found["chunks of 64 and last-token logits"]
    assert chunks["remedy_saving"]["value"] > 0
    assert chunks["remedy_memory_ratio"]["value"] < 0.9
    assert 1 <= len(chunks["remedy_time_ratio"]["samples"]) <= 2
    # A quarter of the bytes of an fp32 cache.
    assert found["FP8 KV cache"]["remedy_saving"]["value"] == pytest.approx(
        2 * 4 * 2 * 16 * 512 * 3, rel=0.05
    )
    checkpointed = found["full activation checkpointing"]
    assert checkpointed["remedy_memory_ratio"]["value"] == pytest.approx(1, abs=0.001)


def test_checkpointing_pays_in_training(probing: Probing) -> None:
    arguments = ("--mode", "training", "--sequence-lengths", "512", "--compare-remedies", "1")
    status, document = probing(*arguments)
    assert status == OK
    ratios = {
        one["labels"]["remedy"]: one["value"]
        for one in document["measurements"]
        if one["name"] == "remedy_memory_ratio"
    }
    full, selective = (ratios[f"{mode} activation checkpointing"] for mode in ("full", "selective"))
    assert full < selective < 0.9


def test_checkpointing_is_not_compared_where_gradients_have_the_peak(
    probing: Probing,
) -> None:
    arguments = ("--mode", "training", "--sequence-lengths", "4", "--compare-remedies", "1")
    status, document = probing(*arguments)
    assert status == OK
    assert not [one for one in document["measurements"] if one["name"].startswith("remedy_")]


def test_where_the_time_is_over_one_round_is_compared_and_every_length_measured(
    probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1e-9")
    status, document = probing("--sequence-lengths", "64", "128", "--compare-remedies", "1000")
    assert status == OK
    assert values(document, "prompt_done") == {64: 1.0, 128: 1.0}
    ratios = [one for one in document["measurements"] if one["name"] == "remedy_time_ratio"]
    assert ratios
    assert all(len(one["samples"]) == 1 for one in ratios)


@pytest.mark.parametrize("share", ["0.5", "0.7", "0.9"])
@pytest.mark.parametrize(
    "work", [(), ("--attention", "eager"), ("--mode", "training")], ids=["prefill", "eager", "training"]
)
def test_the_longest_prompt_predicted_fits_and_a_quarter_more_does_not(
    work: tuple[str, ...], share: str, probing: Probing
) -> None:
    lengths = ("--sequence-lengths", "48", "96", "144", "192", "768")
    status, document = probing(*lengths, "--budget-share", share, "--find-limit", *work)
    assert status == SYMPTOM
    runs = {
        one["labels"]["run"]: one["value"] for one in document["measurements"] if one["name"] == "limit_fits"
    }
    assert runs == {"at": 1, "beyond": 0}
    predicted = {
        one["labels"]["by"]: one["value"]
        for one in document["measurements"]
        if one["name"] == "predicted_longest"
    }
    assert predicted["growth"] == pytest.approx(predicted["arithmetic"], rel=0.05)


def test_eager_attention_is_named_as_what_grows_with_the_square(probing: Probing) -> None:
    lengths = ("--sequence-lengths", "512", "1024", "1536")
    for attention, term in (("sdpa", None), ("eager", "attention scores (heads × tokens × tokens)")):
        _, document = probing(*lengths, "--attention", attention)
        assert document["details"]["quadratic_term"] == term
        share = values(document, "quadratic_share")[None]
        assert share > 0.8 if term else abs(share) < 0.01


def test_the_first_remedy_of_the_plan_is_the_one_that_is_applied(probing: Probing) -> None:
    sweep = ("--sequence-lengths", "512", "1024", "--budget-share", "0.7")
    status, planned = probing("--plan", *sweep)
    assert status == SYMPTOM
    first = planned["details"]["remedies"]["1024"][0]
    assert first["fits"]
    naive, _ = probing(*sweep)
    applied, document = probing(*sweep, "--apply-first-remedy")
    assert (naive, applied) == (SYMPTOM, OK)
    assert document["details"]["remedy"] == first["flags"]
    assert document["details"]["budget_bytes"] == planned["details"]["budget_bytes"]
    assert values(document, "memory_headroom")[None] > 0


def test_a_plan_and_a_sweep_predict_the_same(probing: Probing) -> None:
    for mode in ("inference", "training"):
        asked = ("--sequence-lengths", "128", "512", "--mode", mode, "--budget-share", "1")
        predicted = values(probing("--plan", *asked)[1], "predicted_memory")
        document = probing(*asked)[1]
        assert values(document, "predicted_memory") == predicted
        for tokens, peak in values(document, "peak_memory").items():
            assert predicted[tokens] == pytest.approx(peak, rel=0.05)


@pytest.mark.system
def test_two_ranks_share_a_model_and_each_gives_its_peak(probing: Probing) -> None:
    lengths = ("--sequence-lengths", "1024", "128", "256")
    _, alone = probing(*lengths)
    status, document = probing(*lengths, "--tensor-parallel-gpus", "2", "--budget-share", "0.7")
    assert status == SYMPTOM
    done = values(document, "prompt_done")
    assert 0 < done[1024] < 1
    assert (done[128], done[256]) == (1, 1)
    peaks = {
        (one["labels"]["tokens"], one["labels"]["rank"]): one["value"]
        for one in document["measurements"]
        if one["name"] == "rank_peak_memory"
    }
    assert set(peaks) == {(tokens, rank) for tokens in (128, 256, 1024) for rank in (0, 1)}
    for tokens, ratio in values(document, "prediction_ratio").items():
        assert ratio == pytest.approx(1, abs=0.05)
        assert tokens is not None
        assert peaks[tokens, 0] == peaks[tokens, 1] < values(alone, "peak_memory")[tokens]
    assert values(document, "kv_cache_difference") == {128: 0, 256: 0}


def test_a_plan_ranks_remedies_those_that_fit_first_by_what_they_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--plan", "--model", "70b", "--board", "H100", "--tensor-parallel-gpus", "4"]
    assert (
        probe.PROBE.main([*arguments, "--batch-size", "4", "--sequence-lengths", "4096", "65536"]) == SYMPTOM
    )
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert set(document["details"]["remedies"]) == {"65536"}
    ranked = document["details"]["remedies"]["65536"]
    assert [one["fits"] for one in ranked] == sorted((one["fits"] for one in ranked), reverse=True)
    assert {one["name"]: one["saves_bytes"] for one in ranked}["FP8 KV cache"] == 10 * GIB
    assert ranked[0]["name"] == "chunks of 2048 and last-token logits"
    others = [one["saves_bytes"] for one in ranked if not one["fits"]]
    assert others == sorted(others, reverse=True)
    lines = [line.strip() for line in said.err.splitlines() if ": saves " in line]
    assert lines[0].startswith("chunks of 2048 and last-token logits (--chunk 2048 --logits last): saves ")
    assert ", fits; cost: " in lines[0]
    assert values(document, "longest_fitting") == {None: 4096}
    assert values(document, "memory_headroom") == {}


def test_where_no_single_change_is_enough_the_plan_says_what_several_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--plan", "--model", "70b", "--board", "H100", "--tensor-parallel-gpus", "4"]
    assert probe.PROBE.main([*arguments, "--batch-size", "8", "--sequence-lengths", "65536"]) == SYMPTOM
    together = json.loads(capsys.readouterr().out)["details"]["remedies"]["65536"][-1]
    assert together["flags"] == "--chunk 2048 --logits last --kv-dtype fp8"
    assert together["fits"]
    again = [*arguments, "--batch-size", "8", "--sequence-lengths", "65536", *together["flags"].split()]
    assert probe.PROBE.main(again) == OK


@pytest.mark.parametrize("model", ["8b", "70b"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_the_flags_of_a_remedy_save_what_the_plan_says(
    model: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--plan", "--model", model, "--budget-gib", "120", "--tensor-parallel-gpus", "4", "--mode", mode]
    base += ["--sequence-lengths", "131072"]
    assert probe.PROBE.main([*base, "--batch-size", "2"]) == SYMPTOM
    document = json.loads(capsys.readouterr().out)
    before = values(document, "predicted_memory")[131072]
    for one in document["details"]["remedies"]["131072"]:
        probe.PROBE.main(
            [*base, *([] if "--batch-size" in one["flags"] else ["--batch-size", "2"]), *one["flags"].split()]
        )
        after = values(json.loads(capsys.readouterr().out), "predicted_memory")[131072]
        assert before - after == one["saves_bytes"]


def test_a_plan_that_fits_says_what_is_left_and_how_many_would_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--plan", "--model", "40b", "--budget-gib", "140", "--sequence-lengths", "32768"]
    assert probe.PROBE.main(arguments) == OK
    document = json.loads(capsys.readouterr().out)
    predicted = values(document, "predicted_memory")[32768]
    assert values(document, "memory_headroom") == {None: 140 * GIB - predicted}
    assert values(document, "kv_cache") == {32768: 48 * GIB}
    assert values(document, "largest_batch") == {32768: 1}


@pytest.mark.parametrize("chunk", [None, 512])
def test_the_largest_batch_fits_and_one_more_does_not(chunk: int | None) -> None:
    work = ModelWork(2048, chunk=chunk)
    for budget in range(0, 2**30, 2**26):
        batch = largest_batch(SHAPE, work, budget)
        assert batch == 0 or footprint(SHAPE, replace(work, batch=batch)).total <= budget
        assert footprint(SHAPE, replace(work, batch=batch + 1)).total > budget


def test_any_number_of_sequences_fits_into_a_budget_beyond_measure() -> None:
    assert largest_batch(SHAPE, ModelWork(1), 10**300) > 10**18


def test_the_faqs_case_is_planned_without_torch_and_costs_less_than_its_imports() -> None:
    program = (
        "import sys, resource, runner.kit.long_context.validation, runner.probes.long_context_validation as p;"
        "used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2]);"
        "imports = used();"
        "status = p.PROBE.main(['--plan', '--board', 'B200', '--model', '70b', '--tensor-parallel-gpus', '8',"
        "'--sequence-lengths', '32768', '65536']);"
        "print(imports, used() - imports, file=sys.stderr);"
        "sys.exit(9 if {'torch', 'transformers'} & set(sys.modules) else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=HANG_S
    )
    assert done.returncode == OK, done.stderr
    # CPU seconds, the imports as the measure: planning takes a fiftieth of them.
    imports, planning = map(float, done.stderr.splitlines()[-1].split())
    assert planning < imports


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sequence-lengths", "0"], "tiny accepts 1 to 131072 tokens"),
        (["--sequence-lengths", "512", "-1"], "tiny accepts 1 to 131072 tokens"),
        (["--sequence-lengths", "131073"], "tiny accepts 1 to 131072 tokens"),
        (["--batch-size", "-1"], "--batch-size -1: must be a whole number, 1 or more"),
        (["--chunk", "0"], "--chunk 0: must be a whole number, 1 or more"),
        (["--sequence-lengths", "1", "--mode", "training"], "tiny accepts 2 to 131072 tokens"),
        (
            ["--plan", "--board", "A100"],
            "--board A100: unknown board; use H100, H100-PCIe, H100-NVL, H200, B200, B300",
        ),
        (["--tensor-parallel-gpus", "2", "--mode", "training"], "is measured on one device"),
        (["--tensor-parallel-gpus", "3"], "3 does not divide its 8 attention heads"),
        (["--tensor-parallel-gpus", "8"], "8 does not divide its 4 key/value heads; choose one of 1, 2, 4"),
        (["--mode", "training", "--chunk", "64"], "--chunk is for --mode inference"),
        (["--mode", "training", "--logits", "last"], "--logits last is for --mode inference"),
        (["--mode", "training", "--kv-dtype", "fp8"], "--kv-dtype is for --mode inference"),
        (["--optimizer", "sgd"], "--optimizer is for --mode training"),
        (
            ["--mode", "training", "--budget-gib", "0.1"],
            "below the weights and optimizer state of tiny, 192 MiB",
        ),
        (["--find-limit"], "need --budget-gib or --budget-share on a host without a GPU"),
        (["--apply-first-remedy"], "need --budget-gib or --budget-share on a host without a GPU"),
        (["--plan", "--board", "B200", "--find-limit"], "--find-limit is for a sweep"),
        (["--tensor-parallel-gpus", "0"], "--tensor-parallel-gpus 0: must be a whole number"),
        (["--plan", "--board", "B200", "--tensor-parallel-gpus", "3"], "3 does not divide 8 heads of tiny"),
        (["--plan"], "--plan needs --board or --budget-gib"),
        (["--plan", "--budget-gib", "nan"], "--budget-gib nan: must be a number"),
        (["--plan", "--budget-gib", "-5"], "--budget-gib -5: must be above zero"),
        (["--board", "B200"], "--board is for --plan"),
        (["--budget-gib", "inf"], "--budget-gib inf: must be a number"),
        (["--budget-gib", "0.01"], "is below the weights of tiny, 64.0 MiB"),
        (["--budget-share", "-1"], "--budget-share -1: must be above zero"),
        (["--budget-share", "nan"], "--budget-share nan: must be a number"),
        (["--budget-gib", "2e6"], "--budget-gib 2e+06: must be above zero, and at most 1,000,000"),
        (["--plan", "--budget-share", "1e6"], "--budget-share 1e+06: must be above zero, and at most 1,000"),
        (["--batch-size", "1000000000000000"], "--batch-size 1000000000000000: must be at most 65,536"),
        (["--chunk", "9" * 30], "--chunk 99999999999999999999…: must be at most 9223372036854775807"),
        (["--compare-remedies", "-1"], "--compare-remedies -1: must be 0 or more rounds"),
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
    assert probe.PROBE.main([*model, *arguments]) == InputError.exit_status
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]
    assert said.err.splitlines()[-1].startswith("long_context_validation: ")


@pytest.mark.parametrize(
    "arguments",
    [["--budget-gib", "1", "--budget-share", "0.5"], ["--attention", "flash"], ["--chunk", "x"]],
)
def test_what_the_parser_itself_refuses_ends_with_the_same_status(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        probe.PROBE.main(arguments)
    assert error.value.code == InputError.exit_status


@pytest.mark.parametrize("arguments", [["--model", "70b"], ["--model", "tiny", "--batch-size", "65536"]])
def test_what_would_bring_a_host_down_is_not_begun(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = look().model_copy(update={"gpus": ()})
    monkeypatch.setattr(validation, "look", lambda: host)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    assert probe.PROBE.main(arguments) == NOT_APPLICABLE
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
