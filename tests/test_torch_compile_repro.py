import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from runner.entry.read import read_all
from runner.entry.signatures import match_log
from runner.hardware.gpus import Gpu
from runner.hardware.machine import look
from runner.kit.compile_guard.budget import LEAST_S
from runner.kit.repro import block_stack, live_compiles, scripts, stack_compile
from runner.kit.repro.bundle import KEPT_VARIABLES
from runner.kit.repro.stack_size import SIZES, memory, parameters
from runner.probes import torch_compile_repro
from runner.probes.torch_compile_repro import PROBE
from runner.record.redaction.redact import host_secrets, redact_text
from tests.logs import log_of

main = PROBE.main

MODULE = "runner.probes.torch_compile_repro"
SECRET = "hf_" + "a1B2" * 9
# The stall itself never ends; a busy host takes its time to end the processes.
OVERRUN_S = 30.0


@dataclass(frozen=True)
class Ran:
    status: int
    document: dict[str, Any]
    stderr: str
    left: list[int]

    def values(self, name: str) -> dict[str, float]:
        found = (one for one in self.document["measurements"] if one["name"] == name)
        return {one["labels"].get("mode", ""): one["value"] for one in found}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", MODULE, *words]


def environment(run_id: str) -> dict[str, str]:
    return os.environ | {
        "RUNBOOK_RUN_ID": run_id,
        "RUNBOOK_PRESET": "tiny",
        "SOME_TOKEN": SECRET,
        "CUDA_MODULE_LOADING": f"LAZY {SECRET}",
    }


def probe(*words: str) -> Ran:
    run_id = uuid.uuid4().hex
    done = subprocess.run(
        command(*words), env=environment(run_id), capture_output=True, text=True, check=False, timeout=400
    )
    lines = done.stdout.splitlines()
    return Ran(done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr, alive(run_id))


def alive(run_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RUNBOOK_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_the_parser_can_be_had_without_torch() -> None:
    code = (
        f"import sys, {MODULE} as probe; probe.PROBE.parser().parse_args(['--compile-mode', 'smart'])\n"
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--deadline", "0"],
        ["--deadline", "nan"],
        ["--deadline", "soon"],
        ["--compile-mode", "fast"],
        ["--look", "-1"],
    ],
)
def test_bad_usage_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_stack_without_blocks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "tiny", "--blocks", "0"]) == 2
    assert "--blocks must be 1 or more, not 0" in capsys.readouterr().err


def test_skip_compile_is_the_eager_mode() -> None:
    parser = torch_compile_repro.PROBE.parser()
    assert parser.parse_args(["--skip-compile"]).compile_mode == "eager"
    assert parser.parse_args([]).compile_mode == "smart"


def test_the_two_large_stacks_lie_above_40b_parameters() -> None:
    for preset in ("40b", "70b"):
        size = SIZES[preset]
        shape: dict[str, int | str] = {"blocks": size.blocks, "width": size.width, "hidden": size.hidden}
        assert parameters(shape) > 40e9


def test_with_a_backward_pass_the_memory_is_that_of_three_times_the_weights_and_the_kept_activations() -> (
    None
):
    sizes = {"blocks": 2, "width": 128, "heads": 4, "hidden": 448, "tokens": 96}
    model, inputs = block_stack.build(**sizes, device="cpu")
    weights = {weight.untyped_storage().data_ptr(): weight.nbytes for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model(*inputs)
    shape: dict[str, int | str] = {**sizes, "device": "cpu"}
    assert answer.requires_grad
    assert memory(shape, backward=False) == pytest.approx(1.1 * sum(weights.values()))
    expected = 1.1 * (3 * sum(weights.values()) + sum(kept.values()))
    assert memory(shape, backward=True) == pytest.approx(expected, rel=0.02)


def on_a_host_with(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    host = look().model_copy(update={"gpus": (gpu,), "cuda": "13.0"})
    monkeypatch.setattr(stack_compile, "look_at_machine", lambda: host)


def test_a_limit_of_address_space_is_refused_where_a_gpu_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_host_with(Gpu(index=0, name="NVIDIA H100 80GB HBM3", memory_bytes=80 << 30), monkeypatch)
    assert main(["--preset", "8b", "--memory-limit", "1GiB"]) == 2
    assert "omit it on a host with GPUs" in capsys.readouterr().err


def test_a_stack_whose_gradients_do_not_fit_is_not_applicable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_host_with(Gpu(index=0, name="NVIDIA L4", memory_bytes=24 << 30), monkeypatch)
    assert main(["--preset", "8b", "--compile-mode", "whole", "--backward"]) == 80
    assert "with a backward pass need" in json.loads(capsys.readouterr().out)["reason"]


@pytest.mark.skipif(psutil.virtual_memory().total > 2**40, reason="this host could hold the model")
def test_a_model_larger_than_the_host_is_not_applicable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "70b", "--blocks", "300"]) == 80
    assert "choose a smaller --preset or --blocks" in json.loads(capsys.readouterr().out)["reason"]


def test_a_look_sees_a_process_with_torch_loaded() -> None:
    code = "import torch; print('up', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            assert busy.stdout.readline() == b"up\n"
            seen = [one for one in live_compiles.look_at_processes(1.0) if one.pid == busy.pid]
            # Beside other work, one look may find it short of its share.
            while seen and seen[0].cpu_share <= 0.1:
                seen = [one for one in live_compiles.look_at_processes(1.0) if one.pid == busy.pid]
        finally:
            busy.kill()
    assert len(seen) == 1
    assert seen[0].cpu_share > 0.1
    assert not seen[0].compiling


COMPILES = """
import subprocess, sys
import torch
children = [subprocess.Popen([name, "600"]) for name in sys.argv[1:]]
print("up", flush=True)
sys.stdin.read()
for child in children:
    child.kill()
    child.wait()
"""


@pytest.mark.parametrize(
    ("name", "compiles"), [("ptxas-blackwell", True), ("cc1", True), ("gcc-real", True), ("file", False)]
)
def test_a_look_knows_the_compilers_of_every_gpu_by_their_names(
    name: str, *, compiles: bool, tmp_path: Path
) -> None:
    program = tmp_path / name
    shutil.copy2(shutil.which("sleep") or "", program)
    with subprocess.Popen(
        [sys.executable, "-c", COMPILES, str(program)],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        (seen,) = [one for one in live_compiles.look_at_processes(0.1) if one.pid == process.pid]
        process.communicate()
    assert (seen.compilers, seen.compiling) == (int(compiles), compiles)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def stalled(bundles: Path) -> Ran:
    words = ("--compile-mode", "smart", "--inject-stall", "--deadline", "10", "--output-dir", str(bundles))
    ran = probe(*words)
    # On a host so busy that the stall was not yet reached at the first look, it is called slow, rightly.
    while any(attempt["verdict"] == "slow" for attempt in ran.document["details"]["attempts"]):
        for path in bundles.iterdir():
            path.unlink()
        ran = probe(*words)
    return ran


@pytest.fixture(scope="module")
def bundle(stalled: Ran, bundles: Path) -> dict[str, str]:
    (path,) = bundles.iterdir()
    assert path.name == stalled.document["details"]["bundle"]
    with zipfile.ZipFile(path) as opened:
        return {name.partition("/")[2]: opened.read(name).decode() for name in opened.namelist()}


def test_under_the_guard_a_stalled_compile_ends_and_the_model_answers(stalled: Ran) -> None:
    assert stalled.status == 0
    assert stalled.document["requested"] == {"compile_mode": "smart"}
    assert stalled.document["effective"] == {"compile_mode": "eager"}
    assert stalled.document["fallback_asked"] is True
    assert stalled.document["reason"] == "fell back to eager"
    assert "whole: did not finish within" in stalled.document["fallback_reason"]
    assert stalled.values("compile_finished")["whole"] == 0
    assert stalled.document["details"]["injected_stall"] == "every-graph"


def test_control_is_back_soon_after_the_deadline(stalled: Ran) -> None:
    # About a second where nothing else is at work.
    assert stalled.values("deadline_overrun")["smart"] < OVERRUN_S
    # A host that took more than 8 s to import torch still gives the compile the 2 s that tell slow from stuck.
    start_s = stalled.document["details"]["attempts"][0]["start_s"]
    assert stalled.values("guard_time")["smart"] < max(10.0, start_s + LEAST_S) + OVERRUN_S


def test_a_stall_is_named_stuck_at_the_frame_that_loops(stalled: Ran) -> None:
    attempts = stalled.document["details"]["attempts"]
    assert {attempt["verdict"] for attempt in attempts} == {"stuck-busy"}
    assert "stall.py:stalled_pass" in attempts[0]["reason"]


def test_nothing_of_a_stalled_compile_is_left_alive(stalled: Ran) -> None:
    assert stalled.left == []
    assert stalled.values("processes_left") == {"smart": 0}


def test_the_bundle_of_a_compile_that_never_ended_is_complete(bundle: dict[str, str]) -> None:
    assert {"README.md", "reproduce.py", "versions.json", "environment.json", "machine.json"} <= set(bundle)
    assert "Drill: the stall was injected (every-graph)." in bundle["README.md"]
    # Two dumps: at a share of the deadline, and on it.
    (stacks,) = (text for name, text in bundle.items() if name.startswith("1-whole/stacks/"))
    assert stacks.count("in stalled_pass") == 2
    assert json.loads(bundle["versions.json"])["torch"]
    assert '"dynamo_output_graph"' in bundle["1-whole/trace/0.log"]
    growth = json.loads(bundle["1-whole/growth.json"])
    assert growth[-1]["cpu_s"] > growth[0]["cpu_s"]
    compile(bundle["reproduce.py"], "reproduce.py", "exec")


def test_the_bundle_holds_no_names_and_no_environment_but_the_allowed(bundle: dict[str, str]) -> None:
    kept = json.loads(bundle["environment.json"])
    assert kept["RUNBOOK_PRESET"] == "tiny"
    assert kept["CUDA_MODULE_LOADING"].startswith("LAZY ")
    assert set(kept) <= set(KEPT_VARIABLES)
    for text in bundle.values():
        assert SECRET not in text
        assert "SOME_TOKEN" not in text
        assert redact_text(text, host_secrets()) == text


@pytest.mark.system
def test_a_real_compile_by_block_ends_and_answers_as_eager_does() -> None:
    ran = probe("--compile-mode", "per-block", "--blocks", "2")
    assert ran.status == 0, ran.stderr
    assert ran.document["effective"] == {"compile_mode": "per-block"}
    assert ran.document["fallback_reason"] is None
    assert ran.values("compile_finished") == {"per-block": 1}
    assert ran.values("compile_cpu_time")["per-block"] > 0
    assert ran.values("compile_cache")["per-block"] > 0
    assert ran.values("compile_peak_rss")["per-block"] > 2**20
    assert ran.values("compiled_difference")["per-block"] < 1e-3
    assert ran.values("graph_breaks") == {"per-block": 0}
    assert ran.values("recompiles") == {"per-block": 0}
    said = ran.document["details"]["attempts"][0]["said"]
    # One block stands for all, so one graph is compiled, from an empty cache.
    assert (said["graphs"], said["cache_hits"], said["cache_misses"]) == (1, 0, 1)
    assert ran.left == []


@pytest.mark.system
def test_a_second_process_finds_the_graph_and_its_backward_in_the_first_ones_cache() -> None:
    ran = probe("--compile-mode", "whole", "--blocks", "1", "--warm-start", "--backward")
    assert ran.status == 0, ran.stderr
    assert ran.values("warm_cache_misses") == {"whole": 0}
    assert ran.values("warm_start_time")["whole"] > 0
    assert ran.document["details"]["warm"]["said"]["cache_hits"] == 2


@pytest.mark.system
def test_a_stall_without_a_ladder_is_a_symptom() -> None:
    ran = probe("--compile-mode", "whole", "--inject-stall", "--deadline", "6")
    assert ran.status == 1
    assert ran.document["status"] == "symptom"
    assert ran.document["effective"] == {"compile_mode": None}
    assert ran.left == []


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_probe_that_is_killed_takes_its_compile_along(number: signal.Signals, tmp_path: Path) -> None:
    run_id = uuid.uuid4().hex
    with subprocess.Popen(
        command("--compile-mode", "whole", "--inject-stall", "--deadline", "100"),
        env=environment(run_id) | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as started:
        wait_until(
            lambda: any("compiling" in events.read_text() for events in tmp_path.rglob("events.jsonl"))
        )
        assert len(alive(run_id)) >= 2
        started.send_signal(number)
        started.wait(400)
        wait_until(lambda: not alive(run_id))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 400
    while not true():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.1)


@pytest.mark.system
def test_the_bundles_script_does_the_stall_again_elsewhere(bundle: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "reproduce.py").write_text(bundle["reproduce.py"])
    done = subprocess.run(
        [sys.executable, "-I", "reproduce.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 1
    assert "in stalled_pass" in done.stderr


STALLED_JOB = """
import torch
from runner.kit.compile_guard import stall

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(32, 16)

    def forward(self, x):
        return self.layer(x)

model = Model()
stall.inject()
with torch.no_grad():
    model.compile()
    model(torch.ones(4, 32))
"""


@pytest.mark.system
def test_a_command_that_hangs_in_a_compile_leaves_a_bundle_whose_script_compiles_its_graph_elsewhere(
    tmp_path: Path,
) -> None:
    job = tmp_path / "job.py"
    job.write_text(STALLED_JOB)
    ran = probe("--output-dir", str(tmp_path / "out"), "--deadline", "40", "--", sys.executable, str(job))
    assert ran.status == 1
    assert "the command did not finish within 40" in ran.document["reason"]
    assert "stuck: busy CPU, no progress (in compile_guard/stall.py:stalled_pass)" in ran.document["reason"]
    assert ran.left == []
    (path,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(path) as opened:
        opened.extractall(tmp_path / "elsewhere")
    (folder,) = (tmp_path / "elsewhere").iterdir()
    assert "tlparse's report: " in (folder / "README.md").read_text()
    assert "<html>" in (folder / "1-command/report-0/index.html").read_text()
    (stacks,) = (folder / "1-command/stacks").iterdir()
    assert stacks.read_text().count("in stalled_pass") == 2
    done = subprocess.run(
        [sys.executable, "-I", "reproduce.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    # The stall was injected into the job's process and is not in its graph, so here the compile ends.
    assert done.stdout.startswith("answered in "), done.stderr


def test_a_command_that_fails_is_no_symptom_and_its_output_is_in_the_bundle_that_is_named(
    tmp_path: Path,
) -> None:
    ran = probe("--output-dir", str(tmp_path), "--", "sh", "-c", "echo no such model >&2; exit 7")
    (bundle,) = tmp_path.iterdir()
    assert ran.status == 3
    said = "the command exited with status 7; last output: no such model"
    assert f"{said}; all output is in {bundle}" in ran.stderr
    assert ran.document == {}


def test_where_no_bundle_was_asked_for_a_failed_command_names_none() -> None:
    ran = probe("--", "sh", "-c", "exit 7")
    assert ran.status == 3
    assert "status 7; no output; use --output-dir DIR to keep all output" in ran.stderr


def test_a_command_that_is_not_there_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--", "no-such-program"]) == 2
    assert "cannot start no-such-program: No such file or directory" in capsys.readouterr().err


TRACED = """V1125 01:37:35.1 2 torch/x.py:1] {"dynamo_output_graph": {"sizes": {}}, "has_payload": "a"}
\tclass GraphModule(torch.nn.Module):
\t    def forward(self, L_x_: "f32[4, 8][8, 1]cpu", L_w_: "bf16[8][1]cuda:0"):
\t        l_x_ = L_x_
\t        # File: /home/somebody/model.py:3 in forward, code: return x
\t        return (l_x_,)
V1125 01:37:35.2 2 torch/y.py:1] {"chromium_event": {}, "has_payload": "b"}
\t{}
"""


def test_a_script_is_made_of_the_last_traced_graph() -> None:
    script = scripts.of_trace(TRACED, 60.0)
    assert script is not None
    compile(script, "reproduce.py", "exec")
    assert "((4, 8), (8, 1), torch.float32, 'cpu')," in script
    assert "((8,), (1,), torch.bfloat16, 'cuda:0')," in script
    assert "somebody" not in script


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('L_x_: "f32[4, 8][8, 1]cpu"', 's0: "Sym(s0)", L_x_: "f32[s0, 8][8, 1]cpu"'),
        ("l_x_ = L_x_", "l_x_ = self.constant_0"),
        ("f32[4, 8]", "f6e9[4, 8]"),
        ("dynamo_output_graph", "something_else"),
    ],
    ids=["symbolic shape", "constant of its own", "unknown type", "no graph"],
)
def test_no_script_is_made_of_a_graph_that_does_not_stand_by_itself(old: str, new: str) -> None:
    assert scripts.of_trace(TRACED.replace(old, new), 60.0) is None


def ranked(log: str) -> dict[str, int]:
    return {
        match.runbook_id: match.score
        for match in match_log(log_of(log.splitlines()), read_all(Path("runbooks")))
    }


def test_the_entry_is_found_by_the_stack_dump_of_a_stalled_compile(bundle: dict[str, str]) -> None:
    (stacks,) = (text for name, text in bundle.items() if name.startswith("1-whole/stacks/"))
    assert next(iter(ranked(stacks))) == "torch-compile-hang"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("    pre_grad_passes (torch/_inductor/fx_passes/pre_grad.py:358)", True),
        ("Exception ignored in atexit callback: <function shutdown_compile_workers at 0x7f88>", True),
        ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE", True),
        ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=158046, OpType=GATHER", False),
        ('  File "/opt/torch/_inductor/graph.py", line 12, in run', False),
        ("import torch._inductor.config", False),
    ],
)
def test_the_entrys_signatures_tell_a_hang_from_a_log_that_names_inductor(line: str, *, found: bool) -> None:
    assert ("torch-compile-hang" in ranked(line)) is found
