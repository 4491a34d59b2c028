"""Metrics that several probes report, and names that no probe reports any more."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.vocabulary.model import Metric

COMPILE_FINISHED = Metric(
    "compile_finished",
    "1",
    "higher",
    "1 if the compile ended within its deadline, else 0.",
    kind="flag",
    label="Compile finished",
)
MODULE_NAMED = Metric(
    "module_named",
    "1",
    "higher",
    "Drills in which the guard names the injected module, phase and rank, in the injected step and in no other.",
    kind="count",
    label="Drills with the module named",
)
CHANGED_BY_SKIP = Metric(
    "changed_by_skip",
    "1",
    "lower",
    "Weights and optimizer states, of all ranks, that differ in a bit after the skipped step.",
    kind="count",
    label="Tensors changed by a skipped step",
)
GRAPH_BREAKS = Metric(
    "graph_breaks",
    "1",
    "lower",
    "Places where the compiled graph was split and execution returned to Python.",
    kind="count",
    label="Graph breaks",
)
FRAMES_GIVEN_UP = Metric(
    "frames_given_up",
    "1",
    "lower",
    "Functions that reached torch.compile's recompile limit: inputs without a graph run in eager mode from then on.",
    kind="count",
    label="Functions at the recompile limit",
)
THROTTLED_PERIODS = Metric(
    "throttled_periods",
    "1",
    "lower",
    "Periods in which a control group had used up its CPU quota ÷ all of its periods while it was watched.",
    kind="share",
    label="Throttled periods",
)
BUS_BANDWIDTH = Metric(
    "bus_bandwidth",
    "B/s",
    "higher",
    "Algorithm bandwidth × the collective's bus factor; all_reduce: 2(n−1)/n. Comparable across rank counts.",
    label="Bus bandwidth",
    ceiling="links",
)
ALGORITHM_BANDWIDTH = Metric(
    "algorithm_bandwidth",
    "B/s",
    "higher",
    "Message bytes ÷ time of the slowest rank.",
    label="Algorithm bandwidth",
    ceiling="links",
)
COLLECTIVE_TIME = Metric(
    "collective_time",
    "s",
    "lower",
    "Time of one collective on its slowest rank.",
    statistics=("median", "mean"),
    label="Time of a collective",
)
COLLECTIVE_TIME_P95 = Metric(
    "collective_time_p95",
    "s",
    "lower",
    "95th percentile of collective_time, by linear interpolation.",
    statistics=("p95",),
    label="Time of a collective, p95",
)
WRONG_ELEMENTS = Metric(
    "wrong_elements",
    "1",
    "lower",
    "Elements of a collective's result, over all ranks, that differ from the expected value.",
    kind="count",
    label="Wrong elements",
)
NCCL_CHANNELS = Metric(
    "nccl_channels",
    "1",
    None,
    "Connections between ranks for each transport that NCCL chose, counted in its log.",
    kind="count",
    label="NCCL connections by transport",
)
COPY_BANDWIDTH = Metric(
    "copy_bandwidth",
    "B/s",
    "higher",
    "Bytes moved ÷ seconds of one copy; a copy within one memory reads and writes a byte: it counts twice.",
    label="Copy bandwidth",
)
PREFILL_TOKENS_PER_SECOND = Metric(
    "prefill_tokens_per_second",
    "token/s",
    "higher",
    "Prompt tokens of the batch ÷ time to first token.",
    label="Prefill speed",
)
PEAK_MEMORY = Metric(
    "peak_memory",
    "B",
    "lower",
    "Peak of the memory held by tensors on the device.",
    label="Peak memory",
    ceiling="memory",
)
SIGNAL_TO_NOISE = Metric(
    "signal_to_noise",
    "dB",
    "higher",
    "10 log₁₀(Σ exact² ÷ Σ (found − exact)²), with the exact result in fp32.",
    kind="signed",
    label="Signal-to-noise ratio",
)
FP8_SHARE = Metric(
    "fp8_share",
    "1",
    "higher",
    "Share of the time of the layers' GEMMs that was spent in FP8 kernels, in one eager forward pass.",
    kind="share",
    label="FP8 share of GEMM time",
)
NVLINKS_ACTIVE = Metric(
    "nvlinks_active",
    "1",
    "higher",
    "NVLinks of one GPU that are up, as counted by NVML.",
    kind="count",
    label="Active NVLinks of a GPU",
    ceiling="link_count",
)
NODE_FAULTS = Metric(
    "node_faults",
    "1",
    "lower",
    "Findings about a node, in one group of facts, that need something to be done.",
    kind="count",
    label="Faults of the node",
)

# Metrics that no probe reports any more: records with them stay readable, and the names are not used again.
RETIRED: Mapping[str, Metric] = MappingProxyType(
    {
        "checkpoint_ratio": Metric(
            "checkpoint_ratio",
            "1",
            "lower",
            "Peak of a prefill with activation checkpointing ÷ without; replaced by remedy_memory_ratio.",
            label="Peak with checkpointing ÷ without",
        )
    }
)
# Old name -> new name where only the name changed: stored numbers keep the old one.
RENAMED: Mapping[str, str] = MappingProxyType({"slow_collective_time": "collective_time_p95"})
