import pytest

from runner.base.errors import InputError
from runner.entry.model import Phase, Runbook, Safety, Step
from runner.entry.plan import Plan, Request, explained_by_visibility, make_plan
from runner.hardware.gpus import Visible
from runner.hardware.machine import Machine
from runner.hardware.prerequisites import Missing
from tests.builders import a_machine, a_runbook, eight_b200


def entry() -> Runbook:
    return a_runbook(
        Step(id="look", phase=Phase.DIAGNOSE, command="true", line=1),
        Step(id="pairs", phase=Phase.DIAGNOSE, command="true", line=2, gpus=2, safety=Safety.LOADS_DEVICE),
        Step(id="inject", phase=Phase.REPRODUCE, command="true", line=3),
        Step(id="undo", phase=Phase.FIX, command="true", line=4),
        Step(id="reset", phase=Phase.FIX, command="true", line=5, safety=Safety.CHANGES_HOST),
        Step(id="again", phase=Phase.VERIFY, command="true", line=6, timeout=10),
        Step(id="long", phase=Phase.VERIFY, command="true", line=7, slow=True, nodes=2),
    )


def skips(plan: Plan) -> dict[str, str | None]:
    return {planned.step.id: planned.skip for planned in plan.steps}


def test_reproduce_runs_only_when_it_is_asked_for() -> None:
    assert "inject" not in skips(make_plan(entry(), a_machine(), Request()))
    assert skips(make_plan(entry(), a_machine(), Request(reproduce=True)))["inject"] is None


def test_steps_run_in_the_order_of_phases() -> None:
    plan = make_plan(entry(), eight_b200(), Request(reproduce=True))
    assert [p.step.id for p in plan.steps] == ["look", "pairs", "inject", "undo", "reset", "again", "long"]


def test_a_step_that_needs_gpus_is_skipped_with_the_reason_on_a_host_without() -> None:
    found = skips(make_plan(entry(), a_machine(), Request()))
    assert found["pairs"] == "needs 2 GPUs, this host has none"
    assert found["look"] is None


def test_gpus_that_cannot_be_read_are_named_as_the_reason() -> None:
    found = skips(make_plan(entry(), a_machine(gpu_error="NVML: driver mismatch"), Request()))
    assert found["pairs"] == "needs 2 GPUs; the GPUs of this host cannot be read (NVML: driver mismatch)"


def test_a_busy_gpu_is_not_loaded_unless_allowed() -> None:
    machine = eight_b200(busy=(3,))
    assert "index 3" in (skips(make_plan(entry(), machine, Request()))["pairs"] or "")
    assert skips(make_plan(entry(), machine, Request(allow=("busy",))))["pairs"] is None


ONE_OF_EIGHT = Visible(gpus=(eight_b200().gpus[5],), hidden_by="CUDA_VISIBLE_DEVICES")


def test_a_one_gpu_job_on_a_full_node_is_planned_for_its_one_gpu() -> None:
    plan = make_plan(entry(), eight_b200(), Request(visible=ONE_OF_EIGHT))
    assert (plan.preset, plan.gpus) == ("8b", 1)
    assert skips(plan)["pairs"] == "needs 2 GPUs, this run can use 1 of 8 (CUDA_VISIBLE_DEVICES)"
    assert explained_by_visibility(skips(plan)["pairs"], entry().steps[1], 8)


def test_a_step_that_only_reads_sees_all_installed_gpus() -> None:
    reading = a_runbook(Step(id="wiring", phase=Phase.DIAGNOSE, command="true", line=1, gpus=8))
    assert skips(make_plan(reading, eight_b200(), Request(visible=ONE_OF_EIGHT)))["wiring"] is None


def test_a_job_without_a_visible_gpu_is_sized_for_the_processor() -> None:
    plan = make_plan(entry(), eight_b200(), Request(visible=Visible(hidden_by="CUDA_VISIBLE_DEVICES")))
    assert (plan.preset, plan.gpus) == ("tiny", 0)
    assert skips(plan)["pairs"] == "needs 2 GPUs, this run can use 0 of 8 (CUDA_VISIBLE_DEVICES)"


def test_only_visible_gpus_have_to_be_idle() -> None:
    machine = eight_b200(busy=(3,))
    shown = Visible(gpus=machine.gpus[4:], hidden_by="CUDA_VISIBLE_DEVICES")
    assert skips(make_plan(entry(), machine, Request(visible=shown)))["pairs"] is None


def test_gpus_that_accept_no_further_process_are_not_loaded_even_if_busy_ones_are_allowed() -> None:
    machine = eight_b200()
    shown = Visible(gpus=machine.gpus[1:], hidden_by="compute mode", held=(0,))
    why = skips(make_plan(entry(), machine, Request(visible=shown, allow=("busy",))))["pairs"]
    assert why == "the compute mode of GPUs excludes this run (index 0); list others in CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    "reason",
    [
        None,
        "needs 2 GPUs, this host has none",
        "needs 2 GPUs, this run can use 2 of 8 (CUDA_VISIBLE_DEVICES)",
        "needs 2 GPUs, this run can use 1 of 4 (CUDA_VISIBLE_DEVICES)",
        "needs 8 GPUs, this run can use 1 of 8 (CUDA_VISIBLE_DEVICES)",
        "needs 2 GPUs, this run can use 1 of 8 (a whim)",
    ],
)
def test_no_other_reason_counts_as_hidden_gpus(reason: str | None) -> None:
    assert not explained_by_visibility(reason, entry().steps[1], 8)


def test_a_step_that_changes_the_host_never_runs_unasked() -> None:
    assert "--allow changes-host" in (skips(make_plan(entry(), a_machine(), Request()))["reset"] or "")
    assert skips(make_plan(entry(), a_machine(), Request(allow=("changes-host",))))["reset"] is None


def compiling() -> Runbook:
    probe = "python -m runner.probes."
    return a_runbook(
        Step(id="look", phase=Phase.DIAGNOSE, command=f"{probe}torch_compile_repro --look 2", line=1),
        Step(id="compiles", phase=Phase.DIAGNOSE, command=f"{probe}torch_compile_repro", line=2),
        Step(id="eager", phase=Phase.FIX, command=f"{probe}gpt_large_optimized --skip-compile", line=3),
        Step(
            id="both",
            phase=Phase.FIX,
            command=f'eval "$({probe}stale_env --shell)"\n{probe}gpt_large_optimized --compile-mode whole',
            line=4,
        ),
        Step(id="traces", phase=Phase.VERIFY, command=f"{probe}capture_fp8_flexattention_traces", line=5),
        Step(id="long", phase=Phase.VERIFY, command=f"{probe}compile_growth", line=6, slow=True, gpus=1),
    )


def lacking(*, gpu: bool) -> Missing:
    return Missing("a C compiler" if gpu else "a C++ compiler", "install one")


@pytest.mark.parametrize(
    ("machine", "language", "without"),
    [
        (a_machine(), "C++", {"compiles", "both"}),
        (eight_b200(), "C", {"compiles", "both", "traces", "long"}),
    ],
)
def test_a_step_that_compiles_is_skipped_where_a_compile_lacks_something(
    machine: Machine, language: str, without: set[str]
) -> None:
    found = skips(make_plan(compiling(), machine, Request(), lacking))
    reason = f"missing prerequisite: a {language} compiler; install one"
    assert {step for step, why in found.items() if why == reason} == without
    assert found["look"] is None
    assert found["eager"] is None


def test_what_a_compile_needs_is_looked_for_only_where_a_step_would_run() -> None:
    def look(*, gpu: bool) -> None:
        raise AssertionError(f"looked for a compiler, gpu={gpu}")

    make_plan(entry(), a_machine(), Request(), look)
    command = "python -m runner.probes.compile_growth"
    found = make_plan(
        a_runbook(
            Step(id="large", phase=Phase.VERIFY, command=command, line=1, gpus=1),
            Step(id="long", phase=Phase.VERIFY, command=command, line=2, slow=True),
        ),
        a_machine(),
        Request(slow=False),
        look,
    )
    assert skips(found)["large"] == "needs 1 GPU, this host has none"


def test_slow_steps_and_steps_for_more_nodes_say_why_they_are_left_out() -> None:
    assert "needs 2 nodes" in (skips(make_plan(entry(), a_machine(), Request()))["long"] or "")
    assert "slow" in (skips(make_plan(entry(), a_machine(), Request(slow=False, nodes=2)))["long"] or "")


def test_verify_alone_runs_fix_first() -> None:
    assert list(skips(make_plan(entry(), a_machine(), Request(phases=(Phase.VERIFY,))))) == [
        "undo",
        "reset",
        "again",
        "long",
    ]


def test_a_single_step_brings_the_steps_whose_environment_it_starts_from() -> None:
    assert list(skips(make_plan(entry(), a_machine(), Request(steps=("again",))))) == [
        "undo",
        "reset",
        "again",
    ]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(steps=("agian",)), "has no step 'agian'; it has look, pairs"),
        (Request(preset="9b"), "unknown preset '9b'; known presets: tiny"),
        (Request(steps=("look",), phases=(Phase.FIX,)), "not in the requested phases: look"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(request_: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(entry(), a_machine(), request_)


def test_the_longest_time_counts_only_steps_that_run() -> None:
    assert make_plan(entry(), a_machine(), Request()).longest_s == pytest.approx(300 + 300 + 10)


def test_the_preset_is_the_machines_own_unless_asked() -> None:
    assert make_plan(entry(), a_machine(), Request()).preset == "tiny"
    assert make_plan(entry(), eight_b200(), Request()).preset == "70b"
    assert make_plan(entry(), eight_b200(), Request(preset="8b")).preset == "8b"
