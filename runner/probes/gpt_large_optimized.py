"""Decode with a large model on one GPU (or one CPU): the speed of a server after a rollback from tensor parallelism.

Physics. Prefill reads the whole prompt at once and is bound by compute: about 2 × parameters × tokens FLOP. A decoding
step of a small batch reads every weight and the KV cache once and is bound by memory bandwidth: batch-1 tokens/s ≤
bandwidth ÷ (weight bytes + KV bytes read per token). So the two phases are timed separately, and a setting may slow
only one of them: CPU threads affect prefill, launch overhead affects decoding.

The model is a transformers Llama with the shape of a preset or a `config.json` and random weights, or a local folder
with its own weights, with a static KV cache and greedy decoding. On several GPUs it is split by tensor parallelism, one
rank per GPU; a host without GPUs uses its cores as ranks.

With --compare-environment, a second process runs in the environment that `stale_env --shell` would leave, interleaved
with the first. Both are started several times, because two processes in one environment differ by some percent for
their whole life; each start gives one ratio. Starts end when the ratios decide whether they reach --decide-at
(`runner.base.sequential`: error at most 2.5 % on either side, for each phase), or at the time limit; the result is then
reported as undecided.

Output: time_to_first_token, time_per_output_token (s; 95th and 99th percentiles if there are enough samples),
tokens_per_second, prefill_tokens_per_second, bandwidth_utilisation (known boards), peak_memory of a rank, and on a GPU
graph_replays, graph_captures and plain_launches per step, with labels model, batch_size, prompt_length, ranks, mode,
arm (`caller` or `clean`); clean_ratio for each phase, the geometric mean over starts. With several starts, samples are
the medians of the starts; percentiles are over all turns. Symptom: the environments differ and the 95 % CI of a ratio
is below 0.9; or the step was compiled for CUDA graphs and does not replay them.

Example:
    python -m runner.probes.gpt_large_optimized --tensor-parallel-gpus 1 --skip-compile
"""

import argparse
import sys

from runner.base.sequential import FEWEST, MOST
from runner.kit.compile_options import add_compile_arguments
from runner.kit.decode.defaults import ALIKE, COMPARED_ON_CPU_S, COMPARED_ON_GPU_S, COMPARED_STARTS
from runner.kit.decode.metrics import METRICS
from runner.kit.options import BATCH_SIZE, ENVIRONMENT_FLOOR, add_counts, add_flags, add_model, add_numbers
from runner.kit.probe import Findings, Probe, base_parser
from runner.vocabulary.model import Compiles


def _parser() -> argparse.ArgumentParser:
    parser = base_parser(__doc__)
    add_compile_arguments(parser)
    kinds = "or a config.json (random weights), or a model folder with its weights"
    add_model(parser, "the largest that fits, up to the preset", kinds, "NAME")
    add_counts(
        parser,
        {
            "--tensor-parallel-gpus": (
                1,
                "GPUs to split the model over; on a host without GPUs, ranks on its cores",
            ),
            **BATCH_SIZE,
            "--prompt-length": (256, "tokens in a prompt"),
            "--new-tokens": (16, "tokens to decode per turn"),
            "--turns": (10, "turns per process, each a prefill with its decoding"),
            "--starts": "processes of each environment, one after another; with --compare-environment the"
            f" maximum, from {FEWEST} to {MOST} (default 1, with --compare-environment {COMPARED_STARTS})",
        },
    )
    decide = (
        "stop comparing when it is decided whether every ratio reaches X"
        f" (default: {ALIKE:g} on a GPU, {ENVIRONMENT_FLOOR:g} on a CPU)"
    )
    add_numbers(parser, "X", {"--decide-at": decide})
    limits = {
        "--budget": f"time limit of all starts in seconds (default: {COMPARED_ON_CPU_S:g} to compare on a CPU,"
        f" {COMPARED_ON_GPU_S:g} to compare on a GPU, where {FEWEST} starts are taken in any case, else --timeout; at"
        " most the time of the step)",
        "--timeout": "seconds until a process that does not answer is an error (default 240, or 900 if the step is"
        " compiled)",
    }
    add_numbers(parser, "S", limits)
    said = "also run without the leftovers of a multi-GPU launch, interleaved, and report the ratio"
    add_flags(parser, {"--compare-environment": said})
    return parser


def _run(arguments: argparse.Namespace) -> Findings:
    from runner.kit.decode.measurement import measure_decoding

    return measure_decoding(arguments)


PROBE = Probe(
    "gpt_large_optimized",
    method_version=4,
    summary="Prefill and greedy decoding of a large model with a static KV cache",
    metrics=METRICS,
    labels=("model", "batch_size", "prompt_length", "ranks", "mode", "arm", "phase"),
    compiles=Compiles(),
    parser=_parser,
    run=_run,
)


if __name__ == "__main__":
    sys.exit(PROBE.main())
