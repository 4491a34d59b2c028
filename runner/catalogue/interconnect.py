"""Communication between GPUs and between ranks: wiring, settings, collectives, copies."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "nvlinks_active": Metric(
            "1",
            "higher",
            "NVLinks of one GPU that are up, as counted by NVML.",
            kind="count",
            label="Active NVLinks of a GPU",
        ),
        "nvlinks_per_pair": Metric(
            "1",
            "higher",
            "NVLinks between the two GPUs of the worst-connected pair.",
            kind="count",
            label="NVLinks of the worst pair",
        ),
        "nvlink_errors": Metric(
            "1",
            "lower",
            "NVLink data-link errors (replay, recovery, CRC) of one GPU since the driver was loaded.",
            kind="count",
            label="NVLink errors of a GPU",
        ),
        "pcie_width": Metric(
            "1",
            "higher",
            "Current number of lanes of one GPU's PCIe link.",
            kind="count",
            label="PCIe link width",
        ),
        "pcie_generation": Metric(
            "1",
            None,
            "Current generation of one GPU's PCIe link; an idle link drops to a lower one to save power.",
            kind="count",
            label="PCIe link generation",
        ),
        "bus_bandwidth": Metric(
            "B/s",
            "higher",
            "Algorithm bandwidth × the collective's bus factor; all_reduce: 2(n−1)/n. Comparable across rank counts.",
            label="Bus bandwidth",
        ),
        "algorithm_bandwidth": Metric(
            "B/s", "higher", "Message bytes ÷ time of the slowest rank.", label="Algorithm bandwidth"
        ),
        "collective_time": Metric(
            "s",
            "lower",
            "Time of one collective on its slowest rank.",
            statistics=("median", "mean"),
            label="Time of a collective",
        ),
        "collective_time_p95": Metric(
            "s",
            "lower",
            "95th percentile of collective_time, by linear interpolation.",
            statistics=("p95",),
            label="Time of a collective, p95",
        ),
        "nccl_channels": Metric(
            "1",
            None,
            "Connections between ranks for each transport that NCCL chose, counted in its log.",
            kind="count",
            label="NCCL connections by transport",
        ),
        "wrong_elements": Metric(
            "1",
            "lower",
            "Elements of a collective's result, over all ranks, that differ from the expected value.",
            kind="count",
            label="Wrong elements",
        ),
        "copy_bandwidth": Metric(
            "B/s",
            "higher",
            "Bytes moved ÷ seconds of one copy; a copy within one memory reads and writes a byte: it counts twice.",
            label="Copy bandwidth",
        ),
        "peak_share": Metric(
            "1",
            "higher",
            "copy_bandwidth ÷ the peak bandwidth of the board's memory or NVLinks.",
            label="Share of peak bandwidth",
        ),
        "slowest_pair": Metric(
            "B/s", "higher", "copy_bandwidth of the slowest pair of GPUs.", label="Slowest pair of GPUs"
        ),
        "pair_spread": Metric(
            "1",
            "higher",
            "copy_bandwidth of the slowest pair ÷ that of the median pair; near 1 on a healthy mesh.",
            kind="share",
            label="Slowest pair over median pair",
        ),
        "operation_time": Metric(
            "s", "lower", "Wall seconds of one operation, without a profiler.", label="Time of an operation"
        ),
        "operation_rate": Metric(
            "FLOP/s",
            "higher",
            "Operations that the arithmetic needs (a GEMM 2mkn, causal attention 2 × tokens² × width) ÷ seconds.",
            label="Arithmetic rate",
        ),
        "kernel_time": Metric(
            "s",
            "lower",
            "Seconds of one kernel per iteration of its operation, as profiled.",
            label="Time of a kernel",
        ),
        "kernel_share": Metric(
            "1",
            None,
            "Time of one kernel ÷ time of all kernels of its operation.",
            kind="share",
            label="Share of kernel time",
        ),
        "environment_ratio": Metric(
            "1",
            "higher",
            "Bus bandwidth in the caller's environment ÷ in a clean one, in interleaved pairs.",
            label="Bandwidth against a clean environment",
        ),
        "nccl_settings": Metric(
            "1",
            None,
            "Settings that affect NCCL, from the environment and its configuration files.",
            kind="count",
            label="NCCL settings found",
        ),
        "harmful_settings": Metric(
            "1",
            "lower",
            "Settings judged harmful for the given number of nodes.",
            kind="count",
            label="Harmful NCCL settings",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "topology": ProbeInfo(
            2,
            "How the GPUs are wired, compared with what their board should have",
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
                "collective_time_p95",
                "nccl_channels",
                "wrong_elements",
                "environment_ratio",
            ),
            labels=("op", "bytes", "ranks", "backend", "arm", "transport"),
        ),
        "memory_bandwidth": ProbeInfo(
            1,
            "Copies between GPUs, between host and GPU, and within one memory",
            ("slowest_pair", "copy_bandwidth", "peak_share", "pair_spread", "wrong_elements"),
            labels=("copy", "source", "target", "host", "bytes"),
        ),
        "capture_fp8_flexattention_traces": ProbeInfo(
            2,
            "A trace of FP8 GEMMs and flex attention, and their slowest kernels",
            ("operation_time", "operation_rate", "signal_to_noise", "kernel_time", "kernel_share"),
            Compiles(unless=("--skip-compile",), on_cpu_with=()),
            labels=("operation", "kernel"),
        ),
        "nccl_tests": ProbeInfo(
            2,
            "Collective bandwidth as nccl-tests measures it",
            (
                "bus_bandwidth",
                "algorithm_bandwidth",
                "collective_time",
                "collective_time_p95",
                "wrong_elements",
            ),
            labels=("op", "bytes", "place", "ranks", "type", "redop", "root", "run"),
        ),
        "nvbandwidth": ProbeInfo(
            2,
            "Copies as nvbandwidth measures them",
            ("copy_bandwidth",),
            labels=("test", "part", "row", "column", "run"),
        ),
        "nccl_env": ProbeInfo(
            2,
            "Settings that affect NCCL, each with a verdict",
            ("harmful_settings", "nccl_settings"),
            labels=("nodes",),
        ),
    }
)
