"""The step meter: what it says of real loops, and which limit it names for which counters."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from runner.guards import step_meter
from runner.guards.step_meter import FEWEST_STEPS, StepMeter, StepMeterReport, _limit
from runner.kit.steps.data.samples import CostlySamples, compute, loader_of

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[1]
STEPS = 1000
# Beside other work, a loop whose loaders keep up may lack cores that other processes have, and the meter says so.
NOT_OF_THE_LOOP = {"none", "neighbours"}

# A rank with sixteen of sixteen cores, two of them busy, whose loaders are fast enough.
FED = StepMeterReport(
    steps=200,
    seconds=20.0,
    first_batch_s=1.0,
    wait_share=0.004,
    host_wait_share=0.004,
    main_delay=0.01,
    worker_delay=0.01,
    worker_run=0.4,
    demand=1.9,
    throttled_share=0.0,
    quota_cores=16.0,
    cores=16,
    host_cores=16,
    threads=4,
    workers=2,
)
# The same without data for three fifths of the time, with loaders that compute.
STARVED = replace(FED, wait_share=0.6, host_wait_share=0.6, starved=True, slow_loader=True, worker_run=0.98)


@pytest.mark.parametrize(
    ("found", "limit"),
    [
        (FED, "none"),
        (replace(FED, steps=FEWEST_STEPS - 1), "unknown"),
        (replace(FED, main_delay=0.5), "none"),
        (replace(FED, starved=True, host_wait_share=0.14, main_delay=0.6, worker_delay=0.3), "none"),
        (replace(FED, cores=2, main_delay=0.05), "none"),
        (replace(FED, throttled_share=0.3, quota_cores=2.0), "quota"),
        (replace(FED, threads=16, sharing=8, main_delay=0.4), "threads"),
        (replace(FED, threads=16, sharing=8), "none"),
        (replace(FED, cores=1, demand=1.9, main_delay=0.45), "affinity"),
        (STARVED, "workers"),
        (replace(STARVED, cores=2), "dataset"),
        (replace(STARVED, cores=2, host_cores=2, worker_run=0.02), "workers"),
        (replace(STARVED, worker_run=0.02, major_faults=2000), "storage"),
        (replace(STARVED, workers=0, worker_run=None, cores=2), "dataset"),
        (replace(STARVED, workers=0, worker_run=None, cores=8), "workers"),
        (replace(STARVED, worker_run=0.1, worker_delay=0.9), "neighbours"),
        (replace(STARVED, cores=1, demand=2.8, worker_run=0.1, worker_delay=0.9), "affinity"),
    ],
)
def test_the_counters_name_the_limit(found: StepMeterReport, limit: str) -> None:
    named = replace(found, limit=_limit(found))
    assert named.limit == limit
    assert f"limit: {limit}" in str(named)
    assert "\n" not in str(named)


def test_the_number_of_loaders_that_would_do_follows_from_the_wait() -> None:
    assert replace(STARVED, workers=2, wait_share=0.6).workers_needed == 5
    assert replace(STARVED, workers=0, wait_share=0.5).workers_needed == 2
    assert FED.workers_needed == FED.workers


@given(st.lists(st.floats(0, 1), min_size=4, max_size=400))
def test_one_long_wait_never_starves_a_loop_and_long_waits_always_do(rest: list[float]) -> None:
    meter = StepMeter(1)
    meter._spans, meter._waits = [1.0 + one for one in rest], [0.0] * len(rest)
    meter._waits[0], meter._spans[0] = 1e6, 1e6 + 1
    assert not meter._starved(1.0)
    meter._waits = [one / 2 for one in meter._spans]
    assert meter._starved(1.0) == (len(rest) >= FEWEST_STEPS)
    assert not meter._starved(0.05)


def timed(batches: Iterator[Any], busy: int) -> int:
    """Take all batches; each step computes."""
    count = 0
    for _ in batches:
        compute(busy)
        count += 1
    return count


def test_an_empty_loader_and_one_batch_are_no_error() -> None:
    meter = StepMeter(1)
    assert timed(meter.batches([]), 1) == 0
    assert timed(meter.batches([1]), 1) == 1
    assert meter.report().limit == "unknown"


def test_each_report_covers_the_steps_since_the_last_one() -> None:
    meter = StepMeter(1)
    found = [meter.report() for number in meter.batches(range(101)) if number in {50, 100}]
    assert [one.steps for one in found] == [50, 50]
    assert found[0].first_batch_s > 0
    assert found[1].first_batch_s == 0
    assert meter.report().steps == 0


def test_the_caller_gets_the_loaders_own_batches_error_and_attributes() -> None:
    loader: DataLoader[Any] = DataLoader(list(range(10)), batch_size=5)  # type: ignore[arg-type]
    wrapped = StepMeter(1).wrap(loader)
    assert (len(wrapped), wrapped.batch_size) == (2, 5)
    assert [one.tolist() for one in wrapped] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("of the loader")

    with pytest.raises(ValueError, match="of the loader"):
        list(StepMeter(1).batches(broken()))


def test_a_slow_loader_is_found_and_its_start_is_counted_apart() -> None:
    unit = 50_000

    def slow() -> Iterator[int]:
        compute(20 * unit)
        for number in range(41):
            compute(3 * unit)
            yield number

    meter = StepMeter(1)
    for number in meter.batches(slow()):
        compute(unit)
        if number == 40:
            found = meter.report()
    assert found.starved
    assert found.wait_share > 0.5
    assert found.limit in {"dataset", "workers"}
    assert found.first_batch_s > found.seconds / found.steps


def test_a_loader_without_the_kernels_counters_is_still_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_meter, "_text", lambda _: "")
    meter = StepMeter(1)
    assert timed(meter.batches(range(30)), 1000) == 30
    found = meter.report()
    assert (found.steps, found.limit, found.throttled_share) == (29, "none", None)


def test_loaders_are_seen_with_their_running_time() -> None:
    loader = loader_of(CostlySamples(100, additions=200_000), 1, 2)
    meter = StepMeter(1)
    for number, _ in enumerate(meter.batches(loader)):
        if number == 40:
            found = meter.report()
            break
    assert found.workers == 2
    assert found.worker_run is not None
    assert found.worker_run > 0.05
    assert found.worker_run + found.worker_delay > 0.5


def _to_one_core(_: int) -> None:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def test_loaders_that_were_bound_to_one_core_have_one() -> None:
    loader: DataLoader[Any] = DataLoader(
        list(range(100)),  # type: ignore[arg-type]
        num_workers=2,
        worker_init_fn=_to_one_core,
    )
    meter = StepMeter(1)
    for number, _ in enumerate(meter.batches(loader)):
        if number == 40:
            found = meter.report()
            break
    assert (found.workers, found.cores) == (2, 1)


class _Event:
    """An event of a stream that is a list of moments; the device is ahead of `now` or has work until then."""

    clock = (0.0,)

    def __init__(self, at: float) -> None:
        self.at = at

    def query(self) -> bool:
        return self.clock[0] >= self.at

    def elapsed_time(self, other: "_Event") -> float:
        return (other.at - self.at) * 1e3


@pytest.mark.parametrize(("queued", "starves"), [(True, False), (False, True)])
def test_a_wait_counts_on_a_gpu_only_while_its_stream_is_empty(
    monkeypatch: pytest.MonkeyPatch, queued: bool, starves: bool
) -> None:
    ends = [0.0]

    def event() -> _Event:
        now = time.perf_counter()
        _Event.clock = (now,)
        # With queued work the stream reaches the event after that work; without, at once.
        ends[0] = ends[0] + 1e-6 if queued else now
        return _Event(ends[0])

    monkeypatch.setattr(step_meter, "_event", event)

    def slow() -> Iterator[int]:
        for number in range(41):
            compute(100_000)
            yield number

    meter = StepMeter(1)
    for number in meter.batches(slow()):
        if number == 40:
            found = meter.report()
    assert found.host_wait_share > 0.5
    assert found.starved is starves
    assert (found.wait_share > 0.5) is starves


def test_control_groups_of_this_process_are_found_with_their_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = tmp_path / "kubepods" / "aa"
    pod.mkdir(parents=True)
    (pod.parent / "cpu.max").write_text("150000 100000\n")
    (pod / "cpu.max").write_text("max 100000\n")
    texts = {
        "/proc/self/cgroup": "0::/kubepods/aa\n",
        "/proc/self/mountinfo": f"30 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n21 1 0:1 / /proc rw - proc proc rw",
    }
    real = step_meter._text
    monkeypatch.setattr(step_meter, "_text", lambda path: texts.get(str(path)) or real(path))
    assert step_meter._cpu_groups() == [str(pod), str(pod.parent), str(tmp_path)]
    assert [step_meter._quota(one) for one in step_meter._cpu_groups()] == [None, 1.5, None]
    texts["/proc/self/cgroup"] = "3:cpu,cpuacct:/docker/bb\n0::/\n"
    texts["/proc/self/mountinfo"] = f"31 23 0:27 /docker/bb {pod} ro - cgroup cgroup rw,cpu,cpuacct"
    (pod / "cpu.max").unlink()
    (pod / "cpu.cfs_quota_us").write_text("50000\n")
    (pod / "cpu.cfs_period_us").write_text("100000\n")
    assert [step_meter._quota(one) for one in step_meter._cpu_groups()] == [0.5]


def test_a_trainer_with_the_meter_trains_as_without_and_a_well_fed_one_has_no_limit(tmp_path: Path) -> None:
    def trained(meter: StepMeter | None) -> tuple[float, list[StepMeterReport]]:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=256,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
        tokens = torch.randint(0, 256, (64, 128))
        rows = [{"input_ids": row, "labels": row} for row in tokens]
        reports: list[StepMeterReport] = []

        class Metered(transformers.Trainer):
            def get_train_dataloader(self) -> Any:
                loader = super().get_train_dataloader()
                return loader if meter is None else meter.wrap(loader)

        class Said(transformers.TrainerCallback):
            def on_log(self, *_: object, **__: object) -> None:
                if meter is not None:
                    reports.append(meter.report())

        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"),
            max_steps=100,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=1,
            logging_steps=50,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = Metered(
            model=transformers.LlamaForCausalLM(config),
            args=arguments,
            train_dataset=rows,
            callbacks=[Said()],
        )
        return float(trainer.train().training_loss), reports

    bare, _ = trained(None)
    loss, reports = trained(StepMeter(1))
    assert math.isclose(loss, bare, rel_tol=1e-6)
    # Eight batches in an epoch, and the first of each is counted apart.
    assert [one.steps for one in reports[:2]] == pytest.approx([43, 43], abs=2)
    assert {one.limit for one in reports[:2]} <= NOT_OF_THE_LOOP, list(map(str, reports))


@pytest.mark.timeout(900)
def test_two_ranks_that_are_well_fed_are_never_accused_in_a_thousand_steps() -> None:
    launch = ("--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "tests.metered_rank", str(STEPS // 2)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {one["rank"] for one in ranks} == {0, 1}
    reports = [report for one in ranks for report in one["reports"]]
    assert len(reports) == STEPS // 50
    assert {one["limit"] for one in reports} <= NOT_OF_THE_LOOP, [one["told"] for one in reports]
    assert {one["workers"] for one in reports} == {1}
    assert {one["sharing"] for one in reports} == {2}
