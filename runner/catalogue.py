"""What the probes measure: one vocabulary for probes, expectations and pages.

It stands apart from the probes so that a page can say what a number means, and whether it is stale, without
importing a probe. A probe refuses to report a measurement that is not listed for it here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One kind of measurement.

    Attributes:
        unit: the stored unit (`runner.units.STORED_UNITS`).
        better: which direction is good; `None` where neither is.
        meaning: one sentence for a reader, with the formula where there is one.
    """

    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str


@dataclass(frozen=True)
class ProbeInfo:
    """One probe, as the rest of the house knows it.

    Attributes:
        method_version: raised by one whenever the way a number is taken changes; older numbers are then stale.
        summary: one line.
        emits: names of the metrics it may report; the first is the one a summary table shows.
    """

    method_version: int
    summary: str
    emits: tuple[str, ...]


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "nvlinks_active": Metric("1", "higher", "NVLinks that are up on one GPU, as NVML counts them."),
        "nvlinks_per_pair": Metric(
            "1", "higher", "NVLinks between the two GPUs of the worst-connected pair."
        ),
        "nvlink_errors": Metric(
            "1",
            "lower",
            "NVLink data-link errors (replay, recovery, CRC) of one GPU since the driver was loaded.",
        ),
        "pcie_width": Metric("1", "higher", "Lanes of one GPU's PCIe link as it is now."),
        "pcie_generation": Metric(
            "1", None, "Generation of one GPU's PCIe link as it is now; an idle link lowers it to save power."
        ),
        "bus_bandwidth": Metric(
            "B/s",
            "higher",
            "Algorithm bandwidth × the collective's bus factor; all_reduce: 2(n−1)/n. Comparable across rank counts.",
        ),
        "algorithm_bandwidth": Metric("B/s", "higher", "Message bytes ÷ time of the slowest rank."),
        # Entries 2 and 3: the interconnect, and one GPU after a rollback.
        "collective_time": Metric("s", "lower", "Time of one collective on its slowest rank."),
        "slow_collective_time": Metric(
            "s", "lower", "95th percentile of collective_time, by linear interpolation."
        ),
        "nccl_channels": Metric(
            "1", None, "Connections between ranks by the way NCCL chose, counted in its own log."
        ),
        "wrong_elements": Metric(
            "1", "lower", "Elements of a collective's result, over all ranks, that are not what they must be."
        ),
        "copy_bandwidth": Metric(
            "B/s",
            "higher",
            "Bytes moved ÷ seconds of one copy; within one memory a byte is read and written, and counts twice.",
        ),
        "peak_share": Metric("1", "higher", "copy_bandwidth ÷ the peak of the board's memory or NVLinks."),
        "slowest_pair": Metric("B/s", "higher", "copy_bandwidth of the slowest pair of GPUs."),
        "pair_spread": Metric("1", "higher", "Slowest pair ÷ median pair; near 1 on a sound mesh."),
        "operation_time": Metric("s", "lower", "Wall seconds of one operation, without a profiler."),
        "operation_rate": Metric(
            "FLOP/s",
            "higher",
            "Operations that the arithmetic asks for (a product 2mkn, causal attention 2 × tokens² × width) ÷ seconds.",
        ),
        "kernel_time": Metric(
            "s", "lower", "Seconds of one kernel an iteration of its operation, as the profiler saw it."
        ),
        "kernel_share": Metric("1", None, "Time of one kernel ÷ time of all kernels of its operation."),
        "environment_ratio": Metric(
            "1",
            "higher",
            "Bus bandwidth under the caller's environment ÷ under a clean one, in interleaved pairs.",
        ),
        "nccl_settings": Metric("1", None, "Settings that steer NCCL, from the environment and its files."),
        "harmful_settings": Metric(
            "1", "lower", "Settings judged harmful for the number of nodes asked about."
        ),
        "stale_variables": Metric(
            "1", "lower", "Variables that a multi-GPU launch left behind and that harm a single-GPU server."
        ),
        "rendezvous_time": Metric("s", "lower", "From the call to join a process group until it is joined."),
        "time_to_first_token": Metric(
            "s", "lower", "Prefill of the whole prompt until the first token is known."
        ),
        "time_per_output_token": Metric(
            "s", "lower", "One decoding step of the batch, first token not counted."
        ),
        "time_to_first_token_p95": Metric("s", "lower", "95th percentile of the time to first token."),
        "time_to_first_token_p99": Metric("s", "lower", "99th percentile of the time to first token."),
        "time_per_output_token_p95": Metric("s", "lower", "95th percentile of the time of a decoding step."),
        "time_per_output_token_p99": Metric("s", "lower", "99th percentile of the time of a decoding step."),
        "bandwidth_utilisation": Metric(
            "1",
            "higher",
            "(Weights + KV cache that a decoding step must read) ÷ its time ÷ the boards' memory bandwidth.",
        ),
        "graph_replays": Metric("1", "higher", "CUDA graphs replayed per decoding step in steady state."),
        "graph_captures": Metric("1", "lower", "CUDA graphs captured per decoding step in steady state."),
        "plain_launches": Metric(
            "1", "lower", "Kernels launched one by one per decoding step in steady state."
        ),
        "tokens_per_second": Metric("token/s", "higher", "Batch size ÷ time of one decoding step."),
        "prefill_tokens_per_second": Metric(
            "token/s", "higher", "Prompt tokens of the batch ÷ time to first token."
        ),
        "threads": Metric("1", None, "Threads that torch computes with on the CPU."),
        "clean_ratio": Metric(
            "1",
            "higher",
            "Speed under the caller's environment ÷ under a clean one, in interleaved pairs (label: phase).",
        ),
        "peak_memory": Metric("B", "lower", "Most memory that tensors held at once on the device."),
        # Long prompts: long_context_validation.
        "predicted_memory": Metric(
            "B",
            None,
            "Peak by arithmetic: weights + KV cache + optimizer state + max(activations + gradients, logits).",
        ),
        "prediction_ratio": Metric("1", None, "Predicted peak ÷ measured peak; 1 is exact."),
        "kv_cache": Metric(
            "B", "lower", "KV cache: 2 × layers × kv_heads × head_dim × tokens × batch × bytes per element."
        ),
        "kv_cache_difference": Metric(
            "B", None, "Bytes of the cache's tensors less those of the formula; 0 is exact."
        ),
        "prompt_done": Metric(
            "1", "higher", "Share of a prompt's work that was done when it ended; 1 is all of it."
        ),
        "smallest_prompt_done": Metric(
            "1", "higher", "Least share done among prompts that ran out of memory."
        ),
        "longest_fitting": Metric(
            "1", "higher", "Longest prompt of the sweep, in tokens, that fitted; 0 if none did."
        ),
        "memory_headroom": Metric("B", "higher", "Budget less the highest peak of the sweep or plan."),
        "prefill_time": Metric(
            "s",
            "lower",
            "Wall seconds of one prefill, its cache laid out included; memory is followed meanwhile.",
        ),
        "step_time": Metric(
            "s",
            "lower",
            "Wall seconds of one training step: forward, backward, optimizer; memory is followed.",
        ),
        "rank_peak_memory": Metric(
            "B", "lower", "Most memory that tensors held at once on one rank's device (label: rank)."
        ),
        "reserved_memory": Metric("B", None, "Most memory that a GPU's caching allocator had reserved."),
        "device_free": Metric("B", "higher", "Memory that a GPU had left after the work, by its driver."),
        "held_memory": Metric(
            "B", None, "What held a device's memory when the work ran out of it (label: part)."
        ),
        "quadratic_share": Metric(
            "1",
            "lower",
            "Share of the growth up to the longest prompt that goes with its square, by a fit of a + b·n + c·n².",
        ),
        "predicted_longest": Metric(
            "1",
            "higher",
            "Longest prompt in tokens predicted to fit: by arithmetic, or by the growth measured less a margin of 5 %.",
        ),
        "limit_fits": Metric(
            "1", None, "1 where a run fitted: at the longest prompt predicted, or beyond, at 1.25 times it."
        ),
        "remedy_saving": Metric("B", "higher", "Peak without a remedy less the peak with it, at one length."),
        "remedy_memory_ratio": Metric("1", "lower", "Peak with a remedy ÷ without; 1 is no gain."),
        "remedy_time_ratio": Metric(
            "1",
            "lower",
            "Seconds with a remedy ÷ without, in interleaved pairs; memory is not followed meanwhile.",
        ),
        # Precision and power: the sweep, the FP8 layers, the comparison of two sweeps.
        "flop_rate": Metric(
            "FLOP/s",
            "higher",
            "2 × parameters of the blocks × tokens ÷ seconds; attention and embeddings left out.",
        ),
        "signal_to_noise": Metric("dB", "higher", "10 log₁₀(Σ exact² ÷ Σ (found − exact)²), exact in fp32."),
        "speed_ratio": Metric("1", "higher", "Tokens per second ÷ bf16's, in interleaved pairs of windows."),
        "energy_ratio": Metric("1", "higher", "Tokens per joule ÷ bf16's, in interleaved pairs of windows."),
        "tokens_per_joule": Metric(
            "token/J",
            "higher",
            "Prompt tokens ÷ joules, by the hardware's own energy counter, idle power included.",
        ),
        "power": Metric("W", None, "Joules ÷ seconds of a window, idle power included."),
        "idle_power": Metric("W", "lower", "The same with the models in memory and nothing running."),
        "joules_per_token": Metric("J/token", "lower", "1 ÷ tokens_per_joule: idle power included."),
        "tokens_per_joule_above_idle": Metric(
            "token/J", "higher", "Prompt tokens ÷ (joules − idle power × seconds of the same work)."
        ),
        "joules_per_token_above_idle": Metric(
            "J/token", "lower", "1 ÷ tokens_per_joule_above_idle: what the work itself drew."
        ),
        "energy_cost": Metric(
            "1",
            "lower",
            "Energy of a million tokens: J/token ÷ 3.6 × PUE × price of a kWh, in that price's currency (labels).",
        ),
        "sm_clock": Metric("Hz", None, "Clock of the GPU's multiprocessors, median of a window's readings."),
        "temperature": Metric("degC", None, "Highest temperature of the GPU in a window."),
        "throttled_share": Metric(
            "1", "lower", "Share of readings in which something held the GPU's clocks back."
        ),
        "fp8_share": Metric(
            "1",
            "higher",
            "Share of the time of the layers' matrix products that FP8 kernels took, in one eager forward.",
        ),
        "layers_in_fp8": Metric("1", "higher", "Linear layers of the blocks whose product ran in FP8."),
        "layers_not_in_fp8": Metric("1", "lower", "Linear layers of the blocks whose product did not."),
        "saturated_share": Metric(
            "1", "lower", "Largest share of a layer's inputs beyond what its scale can hold."
        ),
        "underflow_share": Metric(
            "1", "lower", "Largest share of a layer's nonzero inputs that its scale turns into zero."
        ),
        "efficiency_change": Metric(
            "1", "higher", "A mode's efficiency after ÷ before (label: of which measure), geometric means."
        ),
        "chance_probability": Metric(
            "1",
            None,
            "How often chance alone shows a change as clear in any mode; at most 0.01 is called a change.",
        ),
        "largest_batch": Metric(
            "1", "higher", "Sequences of one length that fit at once, by arithmetic; 0 if not even one does."
        ),
        # Compiling: torch_compile_repro.
        "compile_time": Metric(
            "s",
            "lower",
            "Wall seconds of a compile with its first forward, from an empty cache; imports left out.",
        ),
        "compile_cpu_time": Metric(
            "s",
            "lower",
            "CPU seconds of the same, compilers and workers included: what to compare on a busy host.",
        ),
        "compile_cpu_share": Metric(
            "1",
            None,
            "CPU seconds ÷ wall seconds of a compile; 1 is one core pegged. Slow and stuck look alike.",
        ),
        "compile_finished": Metric("1", "higher", "1 where the compile ended within its deadline, else 0."),
        "warm_start_time": Metric(
            "s", "lower", "compile_time in a second process that starts from the first one's compile cache."
        ),
        "warm_cache_misses": Metric(
            "1", "lower", "Graphs that a start from the cache had to compile all the same."
        ),
        "compile_setup_time": Metric(
            "s", "lower", "Seconds to import torch and build the model, before a compile."
        ),
        "compile_cache": Metric("B", None, "Bytes that a compile put into its empty cache."),
        "compile_peak_rss": Metric(
            "B", "lower", "Largest resident memory of the compiling process, workers apart."
        ),
        "compiled_difference": Metric(
            "1", "lower", "Largest |compiled − eager| over largest |eager| of the model's answer."
        ),
        "compiler_cpu_time": Metric(
            "s",
            "lower",
            "CPU seconds inside the compiler, those it starts included; the model's own work left out.",
        ),
        "growth_exponent": Metric(
            "1",
            "lower",
            "The p of compiler CPU time ~ size^p, smallest to largest size; 0 is flat (label: of what).",
        ),
        "graph_size": Metric(
            "1", None, "Size of a point on a curve: operations of the graph, or parameters."
        ),
        "graph_breaks": Metric(
            "1", "lower", "Places at which a compiled graph was cut and Python took over."
        ),
        "recompiles": Metric(
            "1", "lower", "Compiles of code that had been compiled before, for another input."
        ),
        "guard_time": Metric(
            "s", "lower", "Wall seconds until the model has answered, every rung of the ladder."
        ),
        "deadline_overrun": Metric(
            "s",
            "lower",
            "Seconds from the guard's deadline, or from 2 s of compile if those ended later, until control was back.",
        ),
        "processes_left": Metric("1", "lower", "Processes of a guarded compile alive after it was ended."),
        "compile_workers": Metric("1", None, "Inductor compile workers alive on this node."),
        "pegged_processes": Metric(
            "1", "lower", "Processes with torch loaded that keep a core at least 90 % busy over the window."
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "long_context_validation": ProbeInfo(
            2,
            "Peak memory of long prompts and training steps, predicted and measured, under a budget",
            (
                "longest_fitting",
                "peak_memory",
                "predicted_memory",
                "prediction_ratio",
                "kv_cache",
                "kv_cache_difference",
                "prompt_done",
                "smallest_prompt_done",
                "memory_headroom",
                "prefill_time",
                "step_time",
                "largest_batch",
                "predicted_longest",
                "limit_fits",
                "quadratic_share",
                "remedy_saving",
                "remedy_memory_ratio",
                "remedy_time_ratio",
                "rank_peak_memory",
                "held_memory",
                "reserved_memory",
                "device_free",
            ),
        ),
        "topology": ProbeInfo(
            2,
            "How the GPUs are wired, against how their board should be",
            ("nvlinks_per_pair", "nvlinks_active", "nvlink_errors", "pcie_width", "pcie_generation"),
        ),
        "collectives": ProbeInfo(
            2,
            "Collective bandwidth over message sizes",
            (
                "bus_bandwidth",
                "algorithm_bandwidth",
                "collective_time",
                "slow_collective_time",
                "nccl_channels",
                "wrong_elements",
                "environment_ratio",
            ),
        ),
        "memory_bandwidth": ProbeInfo(
            1,
            "Copies between GPUs, between host and GPU, and within a memory",
            ("slowest_pair", "copy_bandwidth", "peak_share", "pair_spread", "wrong_elements"),
        ),
        "capture_fp8_flexattention_traces": ProbeInfo(
            1,
            "A trace of FP8 matrix products and flex attention, and their largest kernels",
            ("operation_time", "operation_rate", "signal_to_noise", "kernel_time", "kernel_share"),
        ),
        # The field's own tools, whose JSON is read as it is.
        "nccl_tests": ProbeInfo(
            1,
            "Collective bandwidth as nccl-tests measures it",
            (
                "bus_bandwidth",
                "algorithm_bandwidth",
                "collective_time",
                "slow_collective_time",
                "wrong_elements",
            ),
        ),
        "nvbandwidth": ProbeInfo(1, "Copies as nvbandwidth measures them", ("copy_bandwidth",)),
        "nccl_env": ProbeInfo(
            2, "Settings that steer NCCL, each judged", ("harmful_settings", "nccl_settings")
        ),
        "stale_env": ProbeInfo(
            1, "What a multi-GPU launch left behind in the environment", ("stale_variables",)
        ),
        "rendezvous": ProbeInfo(
            1, "Whether one process comes up, or waits for ranks that never come", ("rendezvous_time",)
        ),
        "gpt_large_optimized": ProbeInfo(
            2,
            "Prefill and greedy decoding of a large model with a static KV cache",
            (
                "tokens_per_second",
                "time_per_output_token",
                "time_to_first_token",
                "prefill_tokens_per_second",
                "clean_ratio",
                "time_per_output_token_p95",
                "time_per_output_token_p99",
                "time_to_first_token_p95",
                "time_to_first_token_p99",
                "bandwidth_utilisation",
                "graph_replays",
                "graph_captures",
                "plain_launches",
                "peak_memory",
                "threads",
            ),
        ),
        "precision_power_sweep": ProbeInfo(
            2,
            "Speed, energy and accuracy of a prefill in each precision, interleaved",
            (
                "speed_ratio",
                "prefill_tokens_per_second",
                "flop_rate",
                "signal_to_noise",
                "fp8_share",
                "tokens_per_joule",
                "joules_per_token",
                "tokens_per_joule_above_idle",
                "joules_per_token_above_idle",
                "power",
                "idle_power",
                "energy_ratio",
                "energy_cost",
                "sm_clock",
                "temperature",
                "throttled_share",
            ),
        ),
        "fp8_transformer_engine": ProbeInfo(
            2,
            "Which layers ran in FP8, and how good their scales are",
            (
                "signal_to_noise",
                "layers_in_fp8",
                "layers_not_in_fp8",
                "fp8_share",
                "saturated_share",
                "underflow_share",
            ),
        ),
        "power_efficiency_analyzer": ProbeInfo(
            2,
            "Two power sweeps compared, mode by mode",
            ("efficiency_change", "chance_probability"),
        ),
        "compile_growth": ProbeInfo(
            1,
            "Compile time against the operations of a graph and against the parameters of a model",
            ("compiler_cpu_time", "growth_exponent", "compile_finished", "graph_size"),
        ),
        "torch_compile_repro": ProbeInfo(
            2,
            "A guarded torch.compile of a block stack, with a bundle for a bug report",
            (
                "compile_time",
                "guard_time",
                "warm_start_time",
                "warm_cache_misses",
                "compile_cpu_time",
                "compile_cpu_share",
                "compile_finished",
                "compile_setup_time",
                "compile_cache",
                "compile_peak_rss",
                "compiled_difference",
                "graph_breaks",
                "recompiles",
                "deadline_overrun",
                "processes_left",
                "compile_workers",
                "pegged_processes",
            ),
        ),
    }
)
