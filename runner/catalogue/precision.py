"""Precision and power: speed, energy, FP8 layers, sweeps compared."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "flop_rate": Metric(
            "FLOP/s",
            "higher",
            "2 × parameters of the blocks × tokens ÷ seconds; attention and embeddings excluded.",
            label="FLOP rate",
        ),
        "signal_to_noise": Metric(
            "dB",
            "higher",
            "10 log₁₀(Σ exact² ÷ Σ (found − exact)²), with the exact result in fp32.",
            kind="signed",
            label="Signal-to-noise ratio",
        ),
        "speed_ratio": Metric(
            "1",
            "higher",
            "Tokens per second ÷ bf16's, in interleaved pairs of windows.",
            label="Speed over bf16",
        ),
        "energy_ratio": Metric(
            "1",
            "higher",
            "Tokens per joule ÷ bf16's, in interleaved pairs of windows.",
            label="Energy efficiency over bf16",
        ),
        "tokens_per_joule": Metric(
            "token/J",
            "higher",
            "Prompt tokens ÷ joules from the hardware's energy counter, idle power included.",
            label="Tokens per joule",
        ),
        "power": Metric("W", None, "Joules ÷ seconds of a window, idle power included.", label="Power"),
        "idle_power": Metric(
            "W",
            "lower",
            "Joules ÷ seconds of a window with the models in memory and nothing running.",
            label="Idle power",
        ),
        "joules_per_token": Metric(
            "J/token", "lower", "1 ÷ tokens_per_joule; idle power included.", label="Joules per token"
        ),
        "tokens_per_joule_above_idle": Metric(
            "token/J",
            "higher",
            "Prompt tokens ÷ (joules − idle power × seconds of the same work).",
            label="Tokens per joule above idle",
        ),
        "joules_per_token_above_idle": Metric(
            "J/token",
            "lower",
            "1 ÷ tokens_per_joule_above_idle: the energy of the work alone.",
            label="Joules per token above idle",
        ),
        "energy_cost": Metric(
            "1",
            "lower",
            "Energy of a million tokens: J/token ÷ 3.6 × PUE × price of a kWh, in the currency of that price (labels).",
            label="Energy cost of a million tokens",
        ),
        "sm_clock": Metric(
            "Hz",
            None,
            "Clock of the GPU's multiprocessors, median of the readings in a window.",
            label="SM clock",
        ),
        "temperature": Metric(
            "degC",
            None,
            "Highest temperature of the GPU in a window.",
            kind="signed",
            label="GPU temperature",
        ),
        "throttled_share": Metric(
            "1",
            "lower",
            "Share of readings with a throttle reason that limits the GPU's clocks.",
            kind="share",
            label="Share of time throttled",
        ),
        "fp8_share": Metric(
            "1",
            "higher",
            "Share of the time of the layers' GEMMs that was spent in FP8 kernels, in one eager forward pass.",
            kind="share",
            label="FP8 share of GEMM time",
        ),
        "layers_in_fp8": Metric(
            "1",
            "higher",
            "Linear layers of the blocks that multiplied FP8 values; the label `product` names the implementation.",
            kind="count",
            label="Layers in FP8",
        ),
        "layers_not_in_fp8": Metric(
            "1",
            "lower",
            "Linear layers of the blocks that did not multiply FP8 values.",
            kind="count",
            label="Layers not in FP8",
        ),
        "saturated_share": Metric(
            "1",
            "lower",
            "Largest share of a layer's inputs that exceed the range of its scale.",
            kind="share",
            label="Share of inputs saturated",
        ),
        "underflow_share": Metric(
            "1",
            "lower",
            "Largest share of a layer's nonzero inputs that its scale rounds to zero.",
            kind="share",
            label="Share of inputs underflowed",
        ),
        "efficiency_change": Metric(
            "1",
            "higher",
            "A mode's efficiency after ÷ before (label: which measure), from geometric means.",
            label="Efficiency after ÷ before",
        ),
        "chance_probability": Metric(
            "1",
            None,
            "Probability that noise alone shows a change this large in any mode; a change is reported at 0.01 or less.",
            kind="share",
            label="Probability of a chance result",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "precision_power_sweep": ProbeInfo(
            3,
            "Speed, energy and accuracy of a prefill in each precision, interleaved",
            (
                # The entry's question is one of energy; without a counter, speed is what is left.
                "energy_ratio",
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
                "energy_cost",
                "sm_clock",
                "temperature",
                "throttled_share",
            ),
            Compiles(on_cpu_with=("--compile-mode",)),
            labels=("model", "batch_size", "tokens", "mode", "compiled", "price_per_kwh", "pue"),
        ),
        "fp8_transformer_engine": ProbeInfo(
            3,
            "Which layers ran in FP8, and how accurate their scales are",
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
