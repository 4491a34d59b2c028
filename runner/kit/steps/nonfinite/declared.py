"""The declaration of the topic `nonfinite`."""

from runner.kit.steps.topic import Topic
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import CHANGED_BY_SKIP, MODULE_NAMED

FAULTS = ("overflow", "masked-row", "bad-sample", "nan-gradient", "inf-gradient", "poisoned-save", "survived")

NONFINITE = Topic(
    "nonfinite",
    FAULTS,
    (
        MODULE_NAMED,
        CHANGED_BY_SKIP,
        Metric(
            "nonfinite_findings",
            "1",
            "lower",
            "Steps in which the guard finds a value that is not finite.",
            kind="count",
            label="Steps with a finding",
        ),
        Metric(
            "guarded_steps", "1", None, "Steps that the guard watched.", kind="count", label="Steps watched"
        ),
        Metric(
            "poisoned_weights",
            "1",
            "lower",
            "Parameters with a NaN or an infinity after the step with the fault.",
            kind="count",
            label="Parameters that are not finite",
        ),
        Metric(
            "poisoned_saves",
            "1",
            "lower",
            "Checkpoints that were written, without an error, with a parameter that is not finite.",
            kind="count",
            label="Poisoned checkpoints",
        ),
        Metric(
            "finite_loss",
            "1",
            "higher",
            "1 if the loss with the grown weight is finite, else 0.",
            kind="flag",
            label="Loss is finite",
        ),
        Metric(
            "loss_growth",
            "1",
            "lower",
            "Loss with the grown weight ÷ loss before, where both are finite.",
            label="Growth of the loss",
        ),
        Metric(
            "nonfinite_rows",
            "1",
            "lower",
            "Rows of the attention's output that are not finite, with one row of the mask all masked.",
            kind="count",
            label="Attention rows that are not finite",
        ),
    ),
    labels=("fault", "dtype", "attention", "update", "save"),
    most_cost=1.05,
)
