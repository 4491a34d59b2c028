"""The declaration of the topic `corruption`."""

from runner.kit.steps.topic import Topic
from runner.vocabulary.model import Metric

STICKY, INTERMITTENT = "sticky-flip", "intermittent-flip"

EVERY = 100
"""Steps between two votes, as in `SdcVote`."""

CORRUPTION = Topic(
    "corruption",
    faults=(STICKY, INTERMITTENT),
    metrics=(
        Metric(
            "flip_detection",
            "1",
            "higher",
            "Flipped bits of a float32 product that a method finds ÷ flipped bits that were injected",
            kind="share",
            label="Flipped bits found",
        ),
        Metric(
            "innocent_named",
            "1",
            "lower",
            "Votes in which a worker without the injected flip is named",
            kind="count",
            label="Innocent workers named",
        ),
        Metric(
            "false_alarms",
            "1",
            "lower",
            "Repeats of the work without an injected fault in which a method finds a difference",
            kind="count",
            label="Differences without a fault",
        ),
        Metric(
            "clean_repeats",
            "1",
            None,
            "Repeats of the work without an injected fault, on each device",
            kind="count",
            label="Repeats without a fault",
        ),
        Metric(
            "reordered_differs",
            "1",
            None,
            "1 if the same sum or product, computed in another order, has other bits; else 0",
            kind="flag",
            label="Other order gives other bits",
        ),
    ),
    labels=("device", "method", "bits", "cause"),
    most_cost=1.01,
    every=EVERY,
)
