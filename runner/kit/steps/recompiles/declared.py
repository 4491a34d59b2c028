"""The declaration of the topic `recompiles`; imports no torch."""

from runner.kit.steps.topic import Topic
from runner.vocabulary.model import Metric
from runner.vocabulary.shared import FRAMES_GIVEN_UP, GRAPH_BREAKS

AFTER_LIMIT = "after-limit"
"""The drill that times a forward by Inductor after its function reached the limit."""

RECOMPILES = Topic(
    "recompiles",
    faults=(
        "static-shapes",
        "int-attribute",
        "raised-limit",
        "data-dependent-branch",
        "late-no-grad",
        "late-dtype",
        AFTER_LIMIT,
    ),
    metrics=(
        Metric(
            "compiles_after_warm_up",
            "1",
            "lower",
            "Compiles that the counter saw after the warm-up of the drill; the sum over all drills.",
            kind="count",
            label="Compiles after warm-up",
        ),
        Metric(
            "compiled_graphs",
            "1",
            None,
            "Graphs that were compiled in one drill, warm-up included; the most of all drills.",
            kind="count",
            label="Compiled graphs",
        ),
        FRAMES_GIVEN_UP,
        GRAPH_BREAKS,
        Metric(
            "cause_named",
            "1",
            "higher",
            "1 if in each drill a finding names the function, its file and the guard that was made to fail, else 0.",
            kind="flag",
            label="The cause is named",
        ),
        Metric(
            "limited_over_compiled",
            "1",
            "lower",
            "Time of a forward whose function reached the limit ÷ of a compiled one, same input, in interleaved pairs.",
            label="Time after the limit ÷ compiled",
        ),
    ),
    labels=("fault", "cause"),
    compile=(AFTER_LIMIT,),
    most_cost=1.01,
)
