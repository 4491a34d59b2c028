"""What `host_paths --group limits` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "shared_memory_size",
        "B",
        "higher",
        "Size of /dev/shm as the judged process sees it.",
        label="Size of /dev/shm",
    ),
    Metric(
        "open_files_share",
        "1",
        "lower",
        "Open files of the judged process ÷ its soft limit (RLIMIT_NOFILE).",
        kind="share",
        label="Open files ÷ limit",
    ),
    Metric(
        "cgroup_memory_kills",
        "1",
        "lower",
        "Processes of the judged process's control group that the kernel killed for memory since the group was made.",
        kind="count",
        label="Processes killed for memory",
    ),
)
