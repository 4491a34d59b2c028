"""The job of `gpt_large_optimized`, and whether this machine can run it; checked before any long work. No torch."""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.base.errors import InputError, RunbookError
from runner.base.sequential import FEWEST, MOST
from runner.base.units import format_value
from runner.hardware.machine import Machine
from runner.kit.compile_guard import Guarded, safe_compile
from runner.kit.compile_guard.ladder import TOLERANCE
from runner.kit.compile_options import Mode
from runner.kit.decode.loop import build_step
from runner.kit.options import require_positive
from runner.kit.probe import NotApplicableError
from runner.kit.tensor_parallel import check_degree
from runner.sizing.models import ModelShape, fitting_model, weight_files, weights_folder

_FEWEST_NEW_TOKENS = 2


@dataclass(frozen=True)
class DecodeJob:
    """One decoding job.

    Attributes:
        model: preset, configuration file or folder, as passed to the worker.
        folder: folder of its weights; None for random weights.
        device: `cuda` (bf16) or `cpu` (fp32).
        ranks: tensor-parallel processes.
        batch: batch size in sequences.
        prompt, new_tokens: tokens read and tokens decoded per turn; the first new one comes from prefill.
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
        """The model's name, without the path to its folder, which may be private."""
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
        """Capacity of the static cache in tokens."""
        return self.prompt + self.new_tokens

    @property
    def memory(self) -> int:
        """Bytes of weights and KV cache, over all ranks."""
        return self.element * (self.shape.parameters + self.shape.cached_values(self.length, self.batch))

    def forks(self, mode: Mode) -> bool:
        """Whether a start may be a fork of a process with all imports done, instead of a new process.

        A process that has used a GPU or joined a process group must not fork; the imports alone do not use a GPU, which
        the worker checks. Forks share the addresses of libraries; benchmarks/decode_starts.py measures whether that
        matters. A compile on a GPU has a pool of workers and gets a process of its own.
        """
        return self.ranks == 1 and (self.device == "cpu" or mode is Mode.EAGER)

    def program(self, mode: Mode) -> list[str]:
        """The worker's command line for one arm."""
        program = ["-m", "runner.kit.decode.worker", f"--model={self.model}", f"--device={self.device}"]
        program += [f"--batch-size={self.batch}", f"--prompt-length={self.prompt}", f"--mode={mode}"]
        program += [f"--max-length={self.length}", f"--ranks={self.ranks}"]
        return [*program, "--fork"] if self.forks(mode) else program


def job_of(
    arguments: argparse.Namespace, machine: Machine, preset: str, free_bytes: int, processes: int
) -> DecodeJob:
    """Check the request against the model and the machine.

    Args:
        arguments: of the probe's parser.
        machine: this host.
        preset: the largest model that may be chosen by default.
        free_bytes: memory of one GPU, or free memory of a host without one.
        processes: models in memory at the same time.

    Raises:
        InputError: an invalid option, model or number of GPUs.
        NotApplicableError: the model does not fit into this machine.
    """
    _check(arguments, machine)
    room = free_bytes * (arguments.tensor_parallel_gpus if machine.gpus else 1)

    def of(shape: ModelShape) -> DecodeJob:
        return DecodeJob(
            model=shape.name,
            shape=shape,
            folder=weights_folder(shape.name),
            device="cuda" if machine.gpus else "cpu",
            ranks=arguments.tensor_parallel_gpus,
            batch=arguments.batch_size,
            prompt=arguments.prompt_length,
            new_tokens=arguments.new_tokens,
        )

    def fits(shape: ModelShape) -> bool:
        check_degree(shape, arguments.tensor_parallel_gpus)
        if (length := of(shape).length) > shape.max_positions:
            raise InputError(f"{length} tokens exceed the {shape.max_positions} positions of {shape.name}")
        return processes * of(shape).memory <= room

    shape, fitting = fitting_model(arguments.model, preset, fits)
    job = of(shape)
    if fitting:
        if job.folder is not None:
            weight_files(job.folder)
        return job
    several = f"{processes} copies of {shape.name}" if processes > 1 else shape.name
    raise NotApplicableError(
        f"{several} need {format_value(processes * job.memory, 'B')} for weights and KV cache; the {job.device} has"
        f" {format_value(room, 'B')}; choose a smaller --model, --batch-size or --prompt-length"
    )


def _check(arguments: argparse.Namespace, machine: Machine) -> None:
    require_positive(arguments, "--batch-size", "--prompt-length", "--turns", "--starts", "--timeout")
    require_positive(arguments, "--budget", "--decide-at", "--tensor-parallel-gpus")
    if arguments.new_tokens < _FEWEST_NEW_TOKENS:
        raise InputError(
            f"--new-tokens must be 2 or more, not {arguments.new_tokens}: the first comes from prefill"
        )
    asked = arguments.tensor_parallel_gpus
    if asked > 1 and arguments.compare_environment:
        raise InputError(
            "--compare-environment checks leftovers on one GPU; use it with --tensor-parallel-gpus 1"
        )
    if arguments.compare_environment and not FEWEST <= arguments.starts <= MOST:
        raise InputError(
            f"--starts must be from {FEWEST} to {MOST} with --compare-environment, not {arguments.starts}: fewer give"
            " no spread, and the stopping rule is not valid for more"
        )
    if machine.gpus and asked > len(machine.gpus):
        raise InputError(
            f"--tensor-parallel-gpus {asked}: this host has {len(machine.gpus)} GPUs; use at most that many"
        )
    if not machine.gpus and asked > machine.cores:
        raise InputError(
            f"--tensor-parallel-gpus {asked}: this host has no GPU and runs ranks on its {machine.cores} cores; use"
            " at most that many"
        )


def guard(
    job: DecodeJob, mode: str, deadline_s: float, folder: Path, report: Callable[[str], None]
) -> tuple[Mode, Guarded | None]:
    """The compile mode of the step: the requested rung; for `smart`, the one that worked in the guard's child.

    The guard compiles the work of one rank without collectives. For a single rank, that is what the worker compiles.

    Args:
        job: the job.
        mode: of `LADDERS`.
        deadline_s: seconds of compiling for all rungs.
        folder: an empty folder; the guard's compile cache stays there.
        report: called with the result of each rung.

    Raises:
        RunbookError: no rung worked.
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
    guarded = safe_compile(
        build_step,
        step,
        mode=mode,
        deadline_s=deadline_s,
        folder=folder,
        tolerance=TOLERANCE["float32" if job.device == "cpu" else "bfloat16"],
        report=report,
    )
    if guarded.effective is None:
        raise RunbookError(f"{job.label} fails even in eager mode: {guarded.reason}")
    return guarded.effective, guarded
