"""What `host_paths --group storage` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "rpc_queue_share",
        "1",
        "lower",
        "Share of the time of an NFS operation's requests in which they waited in this client before they were sent;"
        " over all NFS mounts, between two readings or since the mount.",
        kind="share",
        label="NFS: waiting in the client",
    ),
    Metric(
        "rpc_response_time",
        "s",
        "lower",
        "Mean seconds from sending a request of an NFS operation to its answer; over all NFS mounts, between two"
        " readings or since the mount.",
        label="NFS: time of the answer",
    ),
    Metric(
        "blocked_tasks",
        "1",
        "lower",
        "Processes in uninterruptible sleep (state D), without kernel threads; between two readings, those that did not"
        " run at all.",
        kind="count",
        label="Blocked processes",
    ),
)
