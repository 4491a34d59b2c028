"""The topic `data` of `step_drill`. Imported with the declaration of the probe, so nothing else is here."""

from runner.kit.steps.topic import Topic
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import THROTTLED_PERIODS

DATA = Topic(
    "data",
    faults=("slow-dataset", "few-workers", "affinity", "late-affinity", "threads", "quota", "wide-quota"),
    metrics=(
        Metric(
            "data_wait_share",
            "1",
            "lower",
            "Time in which a training loop waits for its loader ÷ time of its steps; the first batch is not counted. "
            "With a GPU, the time in which its stream is empty because of that",
            kind="share",
            label="Wait for data ÷ step time",
        ),
        Metric(
            "limit_named",
            "1",
            None,
            "Drills in which the meter names the limit that was injected; with fault `none`: that it names none",
            kind="count",
            label="Limits named",
        ),
        Metric(
            "limit_misnamed",
            "1",
            "lower",
            "Drills in which the meter names a limit that was not injected; other work on the host is none",
            kind="count",
            label="Limits misnamed",
        ),
        THROTTLED_PERIODS,
        Metric(
            "threads_over_cores",
            "1",
            "lower",
            "torch.get_num_threads() under the fault ÷ the cores that the affinity, or the quota, gives; a new process "
            "counts, and with `late-affinity` one that is bound meanwhile. Left out where it is 1 without the fault",
            label="Threads of torch ÷ cores",
        ),
        Metric(
            "counted_over_cores",
            "1",
            "lower",
            "os.cpu_count() of Python ÷ the cores that the affinity of the process, or its quota, gives",
            label="Cores that Python counts ÷ cores",
        ),
        Metric(
            "more_workers_ratio",
            "1",
            "lower",
            "Time of a training step with two workers of the loader ÷ with one, where all share a core; interleaved",
            label="Step with two workers ÷ with one",
        ),
    ),
    labels=("fault", "device"),
    most_cost=1.01,
)
