"""The vote about results, the checksum over a product, and the drills of the topic `corruption`."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.base.errors import InputError
from runner.entry.read import read_all
from runner.entry.signatures import match_log
from runner.guards import sdc_vote
from runner.guards.gemm_checksum import checksum_gap
from runner.guards.sdc_vote import FixedWork, SdcVote, bits_digest, decide_vote, kind_of, replicas_agree
from runner.kit.flips import BitFlip, flip_bit
from runner.kit.probe import OK, SYMPTOM
from runner.kit.steps.corruption.drill import BITS
from runner.kit.steps.corruption.reordered import reordered
from runner.probes.step_drill import PROBE
from tests.logs import log_of

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
NAMES = ("gemm", "sum")
RIGHT, WRONG, OTHER = (1, 2), (3, 4), (5, 6)


def ranks(*first_results: Sequence[tuple[int, ...]]) -> list[list[list[tuple[int, ...]]]]:
    """Digests of ranks, from those of their first result in each run; the second result is the same on all."""
    return [[[value, (9, 9)] for value in runs] for runs in first_results]


def test_a_rank_that_is_wrong_in_every_run_is_named_as_sticky() -> None:
    verdict = decide_vote(ranks([RIGHT] * 2, [WRONG] * 2, [RIGHT] * 2), ["a"] * 3, NAMES)
    assert verdict.outcome == "differ"
    (one,) = verdict.outliers
    assert (one.rank, one.items, one.sticky) == (1, ("gemm",), True)
    assert verdict.sentence == "rank 1: gemm wrong in 2 of 2 runs (sticky)"


def test_a_rank_that_is_wrong_in_some_runs_is_named_as_intermittent() -> None:
    verdict = decide_vote(ranks([RIGHT] * 2, [RIGHT] * 2, [RIGHT, WRONG]), ["a"] * 3, NAMES)
    (one,) = verdict.outliers
    assert (one.rank, one.sticky, one.wrong) == (2, False, 1)


@pytest.mark.parametrize(
    "runs",
    [
        [[RIGHT] * 2, [WRONG] * 2],
        [[RIGHT] * 2, [RIGHT, WRONG]],
        [[RIGHT] * 2, [RIGHT] * 2, [WRONG] * 2, [WRONG] * 2],
        [[RIGHT] * 2, [WRONG] * 2, [OTHER] * 2],
        [[RIGHT, WRONG], [WRONG, RIGHT], [RIGHT, OTHER]],
    ],
    ids=["two ranks", "two ranks, one unsteady", "tie", "three values", "nothing repeats"],
)
def test_what_has_no_majority_is_unknown_and_names_nobody(runs: list[Any]) -> None:
    verdict = decide_vote(ranks(*runs), ["a"] * len(runs), NAMES)
    assert verdict.outcome == "unknown"
    assert verdict.differs
    assert not verdict.outliers
    assert "unknown for" in verdict.sentence
    assert "results differ" in verdict.sentence


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_ranks_that_agree_do_not_pass(count: int) -> None:
    verdict = decide_vote(ranks(*[[RIGHT]] * count), ["a"] * count, NAMES)
    assert (verdict.outcome, verdict.differs) == ("unknown", False)


def test_ranks_of_different_models_are_not_compared() -> None:
    runs = ranks([RIGHT], [RIGHT], [RIGHT], [WRONG], [WRONG], [WRONG])
    assert decide_vote(runs, ["h100"] * 3 + ["h200"] * 3, NAMES).outcome == "agree"
    alone = decide_vote(runs[:4], ["h100"] * 3 + ["h200"], NAMES)
    assert (alone.outcome, alone.unjudged, alone.outliers) == ("unknown", (3,), ())


@given(
    st.integers(3, 9),
    st.data(),
)
def test_a_minority_is_named_exactly_and_an_agreeing_group_never(count: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=(count - 1) // 2))
    runs = ranks(*([(7, rank), RIGHT] if rank in bad else [RIGHT] * 2 for rank in range(count)))
    verdict = decide_vote(runs, ["a"] * count, NAMES)
    assert {one.rank for one in verdict.outliers} == bad
    assert verdict.outcome == ("differ" if bad else "agree")


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(1, 9000), st.integers(0, 10**6), st.integers(0, 63))
def test_any_flipped_bit_changes_the_digest(dtype: torch.dtype, count: int, place: int, bit: int) -> None:
    values = torch.linspace(-3, 3, count).to(dtype)
    other = values.clone()
    flip_bit(other, place % count, bit % (8 * values.element_size()))
    assert not torch.equal(bits_digest(values), bits_digest(other))
    flip_bit(other, place % count, bit % (8 * values.element_size()))
    assert torch.equal(bits_digest(values), bits_digest(other))


def test_two_flips_that_cancel_in_a_column_or_a_row_still_change_the_digest() -> None:
    values = torch.zeros(3 * 4096)
    for other_place in (4096, 1, 4097):
        other = values.clone()
        bits = other.view(torch.int32)
        bits[0] += 1
        bits[other_place] -= 1
        assert not torch.equal(bits_digest(values), bits_digest(other))


def test_a_digest_takes_empty_complex_boolean_and_strided_tensors() -> None:
    assert bits_digest(torch.empty(0)).tolist() == [0, 0]
    assert bits_digest(torch.ones(3, dtype=torch.complex64)).shape == (2,)
    assert bits_digest(torch.tensor([True, False])).shape == (2,)
    whole = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(bits_digest(whole.T), bits_digest(whole.T.contiguous()))


def test_the_work_is_the_same_again_and_leaves_the_jobs_random_numbers_and_weights_alone() -> None:
    model = torch.nn.Linear(8, 8)
    before = [bits_digest(one) for one in (*model.parameters(), torch.get_rng_state())]
    python_state = random.getstate()
    vote = SdcVote(CPU, every=2)
    assert vote(1) is None
    first = vote(2)
    assert first is not None
    assert torch.equal(FixedWork(CPU).digests(3)[0], FixedWork(CPU).digests()[0])
    replicas_agree(model)
    assert random.getstate() == python_state
    after = [bits_digest(one) for one in (*model.parameters(), torch.get_rng_state())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    # One process alone decides nothing.
    assert first.outcome == "unknown"
    assert not vote.strikes


def test_autocast_of_the_job_does_not_change_the_work() -> None:
    plain = FixedWork(CPU, 32).digests()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FixedWork(CPU, 32).digests(), plain)


def test_a_flip_in_the_work_changes_the_digest_of_that_result_alone() -> None:
    work = FixedWork(CPU, 32)
    spoiled = FixedWork(CPU, 32, BitFlip(work.names[0], 5, 0, only={1})).digests(2)
    plain = work.digests(2)
    assert (spoiled != plain).any(dim=-1).nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize(("every", "runs"), [(0, 1), (-3, 1), (1, 0)])
def test_no_steps_between_votes_are_refused(every: int, runs: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        SdcVote(CPU, every=every, runs=runs)


def test_what_bits_depend_on_is_in_the_kind() -> None:
    before = kind_of(CPU)
    torch.set_float32_matmul_precision("high")
    try:
        assert kind_of(CPU) != before
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.__version__ in before


@pytest.mark.parametrize("name", ["torch.backends", "torch.backends.cuda.matmul"])
def test_a_job_that_sets_tf32_by_the_names_of_torch_2_9_can_vote_and_take_checksums(name: str) -> None:
    program = (
        f"import torch; {name}.fp32_precision = 'tf32'\n"
        "from runner.guards.gemm_checksum import checksum_gap\n"
        "from runner.guards.sdc_vote import FixedWork, SdcVote, kind_of\n"
        "device, one = torch.device('cpu'), torch.eye(3)\n"
        "print(SdcVote(device, work=FixedWork(device, 32))(0).outcome, 'tf32' in kind_of(device))\n"
        "print(checksum_gap(one, one, one))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("unknown True\n0.0\n", "")


def test_nodes_that_built_the_same_driver_themselves_are_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(name="NVIDIA B200", multi_processor_count=148)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(sdc_vote, "Path", lambda _: tmp_path / "version")

    def kind(driver: str, where: str) -> str:
        line = f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build  ({where})"
        (tmp_path / "version").write_text(f"{line}  Mon Jul 13 01:02:13 UTC 2026\nGCC version:  gcc 13.3.0\n")
        return kind_of(torch.device("cuda", 0))

    assert kind("580.95.05", "root@n1") == kind("580.95.05", "root@n2")
    assert kind("580.95.05", "root@n1") != kind("580.82.07", "root@n1")
    assert "580.95.05" in kind("580.95.05", "dvs-builder@U22-I3")


@pytest.mark.parametrize("name", ["sdc_vote", "gemm_checksum"])
def test_a_guard_works_where_this_project_is_not(name: str, tmp_path: Path) -> None:
    copied = shutil.copy(Path(sdc_vote.__file__).with_name(f"{name}.py"), tmp_path)
    spec = importlib.util.spec_from_file_location(f"copied_{name}", copied)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    if name == "sdc_vote":
        assert module.FixedWork(CPU, 32).digests().shape == (1, 7, 2)
    else:
        assert module.checksum_gap(torch.eye(3), torch.eye(3), torch.eye(3)) == 0


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 200), st.integers(1, 300), st.integers(1, 200),
    st.sampled_from((torch.float32, torch.bfloat16)), st.sampled_from((1e-6, 1.0, 1e6)), st.booleans(),
)  # fmt: skip
def test_the_checksum_of_a_right_product_is_explained_by_rounding(
    seed: int, rows: int, inner: int, columns: int, dtype: torch.dtype, scale: float, positive: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = (torch.randn(rows, inner, generator=generator) * scale).to(dtype)
    right = torch.randn(inner, columns, generator=generator).to(dtype)
    if positive:
        left, right = left.abs(), right.abs()
    assert checksum_gap(left, right, left @ right) <= 1


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_the_checksum_of_sums_that_nearly_cancel_is_no_alarm(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    for _ in range(300):
        left, right = torch.randn(rows, 300, generator=generator), torch.randn(300, 50, generator=generator)
        assert checksum_gap(left, right, left @ right) <= 1


@pytest.mark.parametrize("bit", [16, 20, 25, 30, 31])
def test_the_checksum_sees_a_high_bit_and_a_nan(bit: int) -> None:
    work = FixedWork(CPU)
    left, right = work.filled(256, 256, 1), work.filled(256, 256, 2)
    product = left @ right
    flip_bit(product, 300, bit)
    assert checksum_gap(left, right, product) > 1
    product[3, 3] = float("nan")
    assert checksum_gap(left, right, product) == float("inf")


def test_a_product_of_zeros_has_no_gap() -> None:
    nothing = torch.zeros(4, 4)
    assert checksum_gap(nothing, nothing, nothing) == 0


def test_the_same_sum_in_another_order_has_other_bits() -> None:
    work = FixedWork(CPU)
    assert reordered(CPU, work.filled(256, 256, 1), work.filled(256, 256, 2))["reversed"]


def drilled(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = PROBE.main(["--topic", "corruption", *arguments])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def value(document: dict[str, Any], name: str, **labels: str) -> float:
    (found,) = [
        one["value"]
        for one in document["measurements"]
        if one["name"] == name and labels.items() <= one["labels"].items()
    ]
    return float(found)


def test_two_runs_do_not_see_a_sticky_flip_and_a_vote_sees_every_bit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, document = drilled(capsys, "--fault", "sticky-flip", "--steps", "3")
    assert status == SYMPTOM
    assert value(document, "flip_detection", method="repeat", bits="all") == 0
    for bits in BITS:
        assert value(document, "flip_detection", method="vote", bits=bits) == 1
    assert value(document, "flip_detection", method="checksum", bits="0-7") == 0
    assert value(document, "flip_detection", method="checksum", bits="23-30") == 1
    assert value(document, "innocent_named") == 0


def test_two_runs_see_an_intermittent_flip(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = drilled(capsys, "--fault", "intermittent-flip", "--steps", "2")
    assert status == SYMPTOM
    assert value(document, "flip_detection", method="repeat", bits="all") == 1
    assert value(document, "flip_detection", method="vote", bits="all") == 1


def test_a_hundred_clean_repeats_have_equal_bits_and_no_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    status, document = drilled(capsys, "--steps", "100")
    assert status == OK, document["reason"]
    for method in ("repeat", "checksum", "vote"):
        assert value(document, "false_alarms", method=method) == 0
    assert value(document, "clean_repeats") >= 1
    assert value(document, "reordered_differs", cause="reversed") == 1


def test_a_device_that_changes_its_results_is_reported_without_an_injected_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FixedWork.digests
    calls = {"count": 0}

    def defective(self: FixedWork, runs: int = 1) -> torch.Tensor:
        calls["count"] += 1
        return real(self, runs) + (calls["count"] == 8)

    monkeypatch.setattr(FixedWork, "digests", defective)
    status, document = drilled(capsys, "--steps", "5")
    assert status == SYMPTOM
    assert value(document, "false_alarms", method="repeat") == 1
    assert value(document, "false_alarms", method="vote") == 1
    assert value(document, "false_alarms", method="checksum") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--topic", "corruption", "--steps", "0"], "--steps must be above zero"),
        (["--topic", "corruption", "--repeat", "-1"], "--repeat must be above zero"),
    ],
)
def test_bad_input_ends_with_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PROBE.main(arguments) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


FAULTY = (
    "ERROR:megatron.core.rerun_state_machine:Rank 5, node n17, device 5, iteration #1200: Possible persistent error!",
    "Rank 5, node n17, device 5, iteration #1200: Possible transient error!",
    "Rank 3, node node7, device 3: Possible transient error!!",
    "Rank 5, node n1, device 5, it #9: First rerun: unexpected result is not reproducible within the tolerance (",
    "Second rerun: unexpected result is not reproducible on a different GPU, therefore was likely incorrect (2 != 3)",
    "Got rescheduled on the same GPU. Need to resume again from the same checkpoint (node: n17, gpu: 5)",
    "33554432       8388608     float    sum      -1   120.52  278.41  139.21       3   119.87  279.92  139.96     N/A",
    "33554432       8388608     float    sum      -1   120.52  278.41  139.21       0   119.87  279.92  139.96 1.5e+06",
    "0: 1073741824  268435456      half     sum      -1   4192.8  256.09  480.12     N/A   4190.1  256.25  480.12    7",
    "    67108864      16777216   float       0    312.4  214.82  214.82     12    311.9  215.16  215.16      0",
    "# Out of bounds values : 3 FAILED",
    "rank 5: bfloat16 gemm 4096x4096x4096 and 2 more wrong in 2 of 2 runs (sticky)",
)  # fmt: skip
SOUND = (
    "RerunStateMachine initialized in mode RerunMode.VALIDATE_RESULTS",
    "Result validation enabled",
    "Max value for loss: 11.25",
    "Need to rerun step to check reproducibility of initial result",
    "Rank 5, node n17, device 5, iteration #1200: Correct result (but possible Application error) (Spiky loss)!",
    "Second rerun: unexpected result is reproducible on a different GPU, therefore it was likely correct (2 = 2)",
    "Rank 5, node n1, device 5, iteration #9: First rerun: unexpected result is reproducible within the tolerance (2",
    " iteration      100/   50000 | lm loss: 2.4E+00 | number of skipped iterations: 0 | number of nan iterations: 0 |",
    "# Out of bounds values : 0 OK",
    "all ranks agree",
    "unknown for 2 ranks from rank 0: no majority of three or more comparable ranks",
)
ENTRIES = read_all(ROOT / "runbooks")


@pytest.mark.parametrize("line", FAULTY)
def test_a_line_about_wrong_results_leads_to_this_entry(line: str) -> None:
    assert [one.runbook_id for one in match_log(log_of([line]), ENTRIES)][:1] == ["silent-data-corruption"]


@pytest.mark.parametrize("line", SOUND)
def test_a_line_of_a_sound_run_does_not(line: str) -> None:
    assert [one.runbook_id for one in match_log(log_of([line]), ENTRIES)] == []


@pytest.mark.parametrize("name", ["nccl_tests_table", "nccl_tests_table_old", "nccl_tests_table_two_nodes"])
def test_a_table_of_nccl_tests_without_wrong_elements_does_not(name: str) -> None:
    lines = (ROOT / "tests" / "tools" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert "silent-data-corruption" not in [one.runbook_id for one in match_log(log_of(lines), ENTRIES)]
