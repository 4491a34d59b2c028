"""How GPUs and ranks talk to each other: wiring, settings, collectives, copies."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "nvlinks_active": Metric(
            "1", "higher", "NVLinks that are up on one GPU, as NVML counts them.", kind="count"
        ),
        "nvlinks_per_pair": Metric(
            "1", "higher", "NVLinks between the two GPUs of the worst-connected pair.", kind="count"
        ),
        "nvlink_errors": Metric(
            "1",
            "lower",
            "NVLink data-link errors (replay, recovery, CRC) of one GPU since the driver was loaded.",
            kind="count",
        ),
        "pcie_width": Metric("1", "higher", "Lanes of one GPU's PCIe link as it is now.", kind="count"),
        "pcie_generation": Metric(
            "1",
            None,
            "Generation of one GPU's PCIe link as it is now; an idle link lowers it to save power.",
            kind="count",
        ),
        "bus_bandwidth": Metric(
            "B/s",
            "higher",
            "Algorithm bandwidth × the collective's bus factor; all_reduce: 2(n−1)/n. Comparable across rank counts.",
        ),
        "algorithm_bandwidth": Metric("B/s", "higher", "Message bytes ÷ time of the slowest rank."),
        "collective_time": Metric(
            "s", "lower", "Time of one collective on its slowest rank.", statistics=("median", "mean")
        ),
        "slow_collective_time": Metric(
            "s", "lower", "95th percentile of collective_time, by linear interpolation.", statistics=("p95",)
        ),
        "nccl_channels": Metric(
            "1",
            None,
            "Connections between ranks by the way NCCL chose, counted in its own log.",
            kind="count",
        ),
        "wrong_elements": Metric(
            "1",
            "lower",
            "Elements of a collective's result, over all ranks, that are not what they must be.",
            kind="count",
        ),
        "copy_bandwidth": Metric(
            "B/s",
            "higher",
            "Bytes moved ÷ seconds of one copy; within one memory a byte is read and written, and counts twice.",
        ),
        "peak_share": Metric("1", "higher", "copy_bandwidth ÷ the peak of the board's memory or NVLinks."),
        "slowest_pair": Metric("B/s", "higher", "copy_bandwidth of the slowest pair of GPUs."),
        "pair_spread": Metric(
            "1", "higher", "Slowest pair ÷ median pair; near 1 on a sound mesh.", kind="share"
        ),
        "operation_time": Metric("s", "lower", "Wall seconds of one operation, without a profiler."),
        "operation_rate": Metric(
            "FLOP/s",
            "higher",
            "Operations that the arithmetic asks for (a product 2mkn, causal attention 2 × tokens² × width) ÷ seconds.",
        ),
        "kernel_time": Metric(
            "s", "lower", "Seconds of one kernel an iteration of its operation, as the profiler saw it."
        ),
        "kernel_share": Metric(
            "1", None, "Time of one kernel ÷ time of all kernels of its operation.", kind="share"
        ),
        "environment_ratio": Metric(
            "1",
            "higher",
            "Bus bandwidth under the caller's environment ÷ under a clean one, in interleaved pairs.",
        ),
        "nccl_settings": Metric(
            "1", None, "Settings that steer NCCL, from the environment and its files.", kind="count"
        ),
        "harmful_settings": Metric(
            "1", "lower", "Settings judged harmful for the number of nodes asked about.", kind="count"
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "topology": ProbeInfo(
            2,
            "How the GPUs are wired, against how their board should be",
            ("nvlinks_per_pair", "nvlinks_active", "nvlink_errors", "pcie_width", "pcie_generation"),
            labels=("gpu",),
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
            labels=("op", "bytes", "ranks", "backend", "arm", "transport"),
        ),
        "memory_bandwidth": ProbeInfo(
            1,
            "Copies between GPUs, between host and GPU, and within a memory",
            ("slowest_pair", "copy_bandwidth", "peak_share", "pair_spread", "wrong_elements"),
            labels=("copy", "source", "target", "host", "bytes"),
        ),
        "capture_fp8_flexattention_traces": ProbeInfo(
            2,
            "A trace of FP8 matrix products and flex attention, and their largest kernels",
            ("operation_time", "operation_rate", "signal_to_noise", "kernel_time", "kernel_share"),
            Compiles(unless=("--skip-compile",), on_cpu_with=()),
            labels=("operation", "kernel"),
        ),
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
            labels=("op", "bytes", "place", "ranks"),
        ),
        "nvbandwidth": ProbeInfo(
            1, "Copies as nvbandwidth measures them", ("copy_bandwidth",), labels=("test", "row", "column")
        ),
        "nccl_env": ProbeInfo(
            2,
            "Settings that steer NCCL, each judged",
            ("harmful_settings", "nccl_settings"),
            labels=("nodes",),
        ),
    }
)
