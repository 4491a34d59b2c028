"""What `gpu_state --group clocks` measures."""

from runner.vocabulary.model import Metric

METRICS: tuple[Metric, ...] = (
    Metric(
        "power_limit_share",
        "1",
        "higher",
        "Power limit that is in force ÷ default limit of the board.",
        label="Power limit ÷ default",
    ),
    Metric(
        "loaded_sm_clock",
        "Hz",
        "higher",
        "Median clock of the multiprocessors, over the readings of a watch in which the GPU was busy.",
        label="Clock under load",
    ),
    Metric(
        "clock_over_peers",
        "1",
        None,
        "Clock under load ÷ median of the GPUs of the node that are as busy; the lowest of the node.",
        label="Slowest clock ÷ median",
    ),
    Metric(
        "clock_last_over_first",
        "1",
        None,
        "Median clock in the last fifth of a watch under load ÷ that in the first fifth.",
        label="Clock at the end ÷ at the start",
    ),
    Metric(
        "power_capped_share",
        "1",
        None,
        "Share of a watch in which the power limit held the clocks back, by the driver's counter of nanoseconds.",
        kind="share",
        label="Time at the power limit",
    ),
    Metric(
        "hardware_slowdown_share",
        "1",
        "lower",
        "Share of a watch in hardware thermal slowdown or power brake, the larger one, by the driver's counters.",
        kind="share",
        label="Time in hardware slowdown",
    ),
    Metric(
        "thermal_share_below_85",
        "1",
        "lower",
        "Share of a watch in which heat held the clocks back while the GPU showed less than 85 °C.",
        kind="share",
        label="Slowed by heat below 85 °C",
    ),
)
