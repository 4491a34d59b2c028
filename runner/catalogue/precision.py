"""Precision and power: speed, energy, FP8 layers, sweeps compared."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "flop_rate": Metric(
            "FLOP/s",
            "higher",
            "2 × parameters of the blocks × tokens ÷ seconds; attention and embeddings left out.",
        ),
        "signal_to_noise": Metric(
            "dB", "higher", "10 log₁₀(Σ exact² ÷ Σ (found − exact)²), exact in fp32.", kind="signed"
        ),
        "speed_ratio": Metric("1", "higher", "Tokens per second ÷ bf16's, in interleaved pairs of windows."),
        "energy_ratio": Metric("1", "higher", "Tokens per joule ÷ bf16's, in interleaved pairs of windows."),
        "tokens_per_joule": Metric(
            "token/J",
            "higher",
            "Prompt tokens ÷ joules, by the hardware's own energy counter, idle power included.",
        ),
        "power": Metric("W", None, "Joules ÷ seconds of a window, idle power included."),
        "idle_power": Metric("W", "lower", "The same with the models in memory and nothing running."),
        "joules_per_token": Metric("J/token", "lower", "1 ÷ tokens_per_joule: idle power included."),
        "tokens_per_joule_above_idle": Metric(
            "token/J", "higher", "Prompt tokens ÷ (joules − idle power × seconds of the same work)."
        ),
        "joules_per_token_above_idle": Metric(
            "J/token", "lower", "1 ÷ tokens_per_joule_above_idle: what the work itself drew."
        ),
        "energy_cost": Metric(
            "1",
            "lower",
            "Energy of a million tokens: J/token ÷ 3.6 × PUE × price of a kWh, in that price's currency (labels).",
        ),
        "sm_clock": Metric("Hz", None, "Clock of the GPU's multiprocessors, median of a window's readings."),
        "temperature": Metric("degC", None, "Highest temperature of the GPU in a window.", kind="signed"),
        "throttled_share": Metric(
            "1", "lower", "Share of readings in which something held the GPU's clocks back.", kind="share"
        ),
        "fp8_share": Metric(
            "1",
            "higher",
            "Share of the time of the layers' matrix products that FP8 kernels took, in one eager forward.",
            kind="share",
        ),
        "layers_in_fp8": Metric(
            "1",
            "higher",
            "Linear layers of the blocks that multiplied FP8 values; the label says with what.",
            kind="count",
        ),
        "layers_not_in_fp8": Metric("1", "lower", "Linear layers of the blocks that did not.", kind="count"),
        "saturated_share": Metric(
            "1", "lower", "Largest share of a layer's inputs beyond what its scale can hold.", kind="share"
        ),
        "underflow_share": Metric(
            "1",
            "lower",
            "Largest share of a layer's nonzero inputs that its scale turns into zero.",
            kind="share",
        ),
        "efficiency_change": Metric(
            "1", "higher", "A mode's efficiency after ÷ before (label: of which measure), geometric means."
        ),
        "chance_probability": Metric(
            "1",
            None,
            "How often chance alone shows a change as clear in any mode; at most 0.01 is called a change.",
            kind="share",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "precision_power_sweep": ProbeInfo(
            3,
            "Speed, energy and accuracy of a prefill in each precision, interleaved",
            (
                "speed_ratio",
                "prefill_tokens_per_second",
                "flop_rate",
                "signal_to_noise",
                "fp8_share",
                "tokens_per_joule",
                "joules_per_token",
                "tokens_per_joule_above_idle",
                "joules_per_token_above_idle",
                "power",
                "idle_power",
                "energy_ratio",
                "energy_cost",
                "sm_clock",
                "temperature",
                "throttled_share",
            ),
            Compiles(on_cpu_with=("--compile-mode",)),
            labels=("model", "batch_size", "tokens", "mode", "price_per_kwh", "pue"),
        ),
        "fp8_transformer_engine": ProbeInfo(
            3,
            "Which layers ran in FP8, and how good their scales are",
            (
                "signal_to_noise",
                "layers_in_fp8",
                "layers_not_in_fp8",
                "fp8_share",
                "saturated_share",
                "underflow_share",
            ),
            labels=("model", "tokens", "product", "of"),
        ),
        "power_efficiency_analyzer": ProbeInfo(
            2,
            "Two power sweeps compared, mode by mode",
            ("efficiency_change", "chance_probability"),
            labels=("mode", "of"),
        ),
    }
)
