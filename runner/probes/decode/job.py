"""What `gpt_large_optimized` is to run, and whether it can: every refusal comes before any long work. No torch."""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.errors import InputError, RunbookError
from runner.hardware.machine import Machine
from runner.models import ModelShape, model_shape, weight_files
from runner.presets import PRESETS
from runner.probes.compile_guard import Guarded, safe_compile
from runner.probes.compile_guard.ladder import TOLERANCE
from runner.probes.compile_guard.spec import Mode
from runner.probes.contract import NotApplicableError
from runner.probes.decode.loop import build_step
from runner.probes.tensor_parallel import check_degree
from runner.sequential import FEWEST, MOST
from runner.units import format_value

_FEWEST_NEW_TOKENS = 2


@dataclass(frozen=True)
class Job:
    """One model to decode with.

    Attributes:
        model: preset, configuration file or folder, as the worker is told.
        folder: where its weights are; None for random ones.
        device: `cuda` (bf16) or `cpu` (fp32).
        ranks: processes that share it by tensor parallelism.
        batch: sequences at once.
        prompt, new_tokens: tokens read and tokens decoded a turn; the first new one is prefill's.
    """

    model: str
    shape: ModelShape
    folder: Path | None
    device: str
    ranks: int
    batch: int
    prompt: int
    new_tokens: int

    @property
    def label(self) -> str:
        """The model by its last name: the way to a folder is nobody's business."""
        path = Path(self.model)
        if path.suffix != ".json":
            return path.name
        return path.parent.name if path.name == "config.json" else path.stem

    @property
    def element(self) -> int:
        """Bytes of a weight."""
        return 4 if self.device == "cpu" else 2

    @property
    def length(self) -> int:
        """Tokens that the static cache has room for."""
        return self.prompt + self.new_tokens

    @property
    def memory(self) -> int:
        """Bytes of weights and KV cache, over all ranks."""
        shape = self.shape
        cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * self.length * self.batch
        return self.element * (shape.parameters + cache)

    @property
    def forks(self) -> bool:
        """Whether a start is a fork of a process that has imported everything, or a process with its own imports.

        No process that has touched a GPU, or joined a group, may fork. What a fork keeps of the process before it is
        where libraries lie; benchmarks/decode_starts.py measures whether that matters.
        """
        return self.device == "cpu" and self.ranks == 1

    def program(self, mode: Mode) -> list[str]:
        """The worker of one arm."""
        program = ["-m", "runner.probes.decode.worker", f"--model={self.model}", f"--device={self.device}"]
        program += [f"--batch-size={self.batch}", f"--prompt-length={self.prompt}", f"--mode={mode}"]
        program += [f"--max-length={self.length}", f"--ranks={self.ranks}"]
        return [*program, "--fork"] if self.forks else program


def job_of(
    arguments: argparse.Namespace, machine: Machine, preset: str, free_bytes: int, processes: int
) -> Job:
    """Hold what was asked for against the model and the machine.

    Args:
        arguments: of the probe's parser.
        machine: this host.
        preset: the largest model that may be chosen where none is named.
        free_bytes: memory of one GPU, or what the host has free where there is none.
        processes: models that live side by side.

    Raises:
        InputError: an option, a model or a number of GPUs that cannot be.
        NotApplicableError: the model does not fit into this machine.
    """
    _check(arguments, machine)
    names = [arguments.model] if arguments.model else PRESETS[: PRESETS.index(preset) + 1][::-1]
    room = free_bytes * (arguments.tensor_parallel_gpus if machine.gpus else 1)
    for name in names:
        shape = model_shape(name)
        check_degree(shape, arguments.tensor_parallel_gpus)
        job = Job(
            model=name,
            shape=shape,
            folder=_folder(name),
            device="cuda" if machine.gpus else "cpu",
            ranks=arguments.tensor_parallel_gpus,
            batch=arguments.batch_size,
            prompt=arguments.prompt_length,
            new_tokens=arguments.new_tokens,
        )
        if job.length > shape.max_positions:
            raise InputError(
                f"{job.length} tokens are more than the {shape.max_positions} positions of {shape.name}"
            )
        if processes * job.memory <= room:
            if job.folder is not None:
                weight_files(job.folder)
            return job
    several = f"{processes} copies of {shape.name}" if processes > 1 else shape.name
    raise NotApplicableError(
        f"{several} need {format_value(processes * job.memory, 'B')} for weights and KV cache, the {job.device} has"
        f" {format_value(room, 'B')}; choose a smaller --model, --batch-size or --prompt-length"
    )


def _folder(name: str) -> Path | None:
    return None if name in PRESETS or name.endswith(".json") else Path(name)


def _check(arguments: argparse.Namespace, machine: Machine) -> None:
    numbers = {
        "--batch-size": arguments.batch_size,
        "--prompt-length": arguments.prompt_length,
        "--turns": arguments.turns,
        "--starts": arguments.starts,
        "--timeout": arguments.timeout,
        "--budget": arguments.budget,
        "--decide-at": arguments.decide_at,
        "--tensor-parallel-gpus": arguments.tensor_parallel_gpus,
    }
    for option, value in numbers.items():
        if value <= 0:
            raise InputError(f"{option} must be above zero, not {value}")
    if arguments.new_tokens < _FEWEST_NEW_TOKENS:
        raise InputError(
            f"--new-tokens must be 2 or more, not {arguments.new_tokens}: the first is prefill's"
        )
    asked = arguments.tensor_parallel_gpus
    if asked > 1 and arguments.compare_environment:
        raise InputError(
            "--compare-environment asks what a launch left behind for one GPU; use it with --tensor-parallel-gpus 1"
        )
    if arguments.compare_environment and not FEWEST <= arguments.starts <= MOST:
        raise InputError(
            f"--starts must be from {FEWEST} to {MOST} to compare environments, not {arguments.starts}: of fewer the"
            " spread is not known, and the rule that decides when to stop holds for no more"
        )
    if machine.gpus and asked > len(machine.gpus):
        raise InputError(
            f"--tensor-parallel-gpus {asked}: this host has {len(machine.gpus)} GPUs; ask for that many at most"
        )
    if not machine.gpus and asked > machine.cores:
        raise InputError(
            f"--tensor-parallel-gpus {asked}: this host has no GPU, and its {machine.cores} cores can stand in for"
            " that many at most"
        )


def guard(
    job: Job, mode: str, deadline_s: float, report: Callable[[str], None]
) -> tuple[Mode, Guarded | None]:
    """How the step may be compiled here: the rung asked for; for `smart`, the one that answered in the guard's child.

    What the guard compiles is what one rank computes, collectives left out.

    Args:
        job: what is to run.
        mode: of `LADDERS`.
        deadline_s: seconds for each rung.
        report: is told how each rung went.

    Raises:
        RunbookError: no rung answered.
    """
    if mode != "smart":
        return Mode(mode), None
    shape = dataclasses.replace(
        job.shape,
        heads=job.shape.heads // job.ranks,
        kv_heads=job.shape.kv_heads // job.ranks,
        ff=job.shape.ff // job.ranks,
    )
    step = {
        "shape": dataclasses.asdict(shape),
        "device": job.device,
        "batch_size": job.batch,
        "max_length": job.length,
    }
    with tempfile.TemporaryDirectory(prefix="decode-guard-") as folder:
        guarded = safe_compile(
            build_step,
            step,
            mode=mode,
            deadline_s=deadline_s,
            folder=Path(folder),
            tolerance=TOLERANCE["float32" if job.device == "cpu" else "bfloat16"],
            report=report,
        )
    if guarded.effective is None:
        raise RunbookError(f"{job.label} does not answer even in eager: {guarded.reason}")
    return guarded.effective, guarded
