"""torch.compile under the guard."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "compile_time": Metric(
            "s",
            "lower",
            "Wall seconds of a compile and its first forward pass, from an empty cache; imports excluded.",
            label="Compile time",
        ),
        "compile_cpu_time": Metric(
            "s",
            "lower",
            "CPU seconds of the same work, compilers and workers included. Compare this on a busy host.",
            label="CPU time of a compile",
        ),
        "compile_cpu_share": Metric(
            "1",
            None,
            "CPU seconds ÷ wall seconds of a compile; 1 is one fully busy core. Slow and stuck compiles look alike.",
            label="CPU share of a compile",
        ),
        "compile_finished": Metric(
            "1",
            "higher",
            "1 if the compile ended within its deadline, else 0.",
            kind="flag",
            label="Compile finished",
        ),
        "warm_start_time": Metric(
            "s",
            "lower",
            "compile_time in a second process that starts from the compile cache of the first.",
            label="Compile time with a warm cache",
        ),
        "warm_cache_misses": Metric(
            "1",
            "lower",
            "Graphs that a start from the cache still had to compile.",
            kind="count",
            label="Cache misses of a warm start",
        ),
        "compile_setup_time": Metric(
            "s",
            "lower",
            "Seconds to import torch, build the model and start the compile workers, before a compile.",
            label="Time before a compile",
        ),
        "compile_cache": Metric(
            "B", None, "Bytes that a compile wrote into its empty cache.", label="Compile cache size"
        ),
        "compile_peak_rss": Metric(
            "B",
            "lower",
            "Largest resident memory of the compiling process; its workers are not included.",
            label="Peak RSS of a compile",
        ),
        "compiled_difference": Metric(
            "1",
            "lower",
            "Largest |compiled − eager| ÷ largest |eager| over the model's output.",
            label="Difference of compiled from eager",
        ),
        "compile_call_share": Metric(
            "1",
            None,
            "Seconds in the call of torch.compile ÷ those seconds plus the first forward's; near 0 for a lazy call.",
            kind="share",
            label="Share of the call of torch.compile",
        ),
        "compile_call_time": Metric(
            "s", "lower", "Wall seconds in the call of torch.compile itself.", label="Call of torch.compile"
        ),
        "first_forward_time": Metric(
            "s",
            "lower",
            "Wall seconds of the first forward after torch.compile, from an empty cache; the compile included.",
            label="First forward",
        ),
        "compiler_cpu_time": Metric(
            "s",
            "lower",
            "CPU seconds in the compiler and the processes it starts; the model's own work is excluded.",
            label="CPU time in the compiler",
        ),
        "growth_exponent": Metric(
            "1",
            "lower",
            "Exponent p of compiler CPU time ~ size^p, least squares over all sizes; 0 is flat (label: size of what).",
            kind="signed",
            label="Growth exponent of compile time",
        ),
        "growth_fit_r2": Metric(
            "1",
            None,
            "R² of a fit, over ln time (label law: power for growth_exponent; exponential for a constant plus one).",
            kind="share",
            label="Quality of the growth fit (R²)",
        ),
        "growth_per_step": Metric(
            "1",
            "lower",
            "Factor on compiler CPU time, less its constant part, per further turn; only if an exponential fits best.",
            label="Growth per turn",
        ),
        "graph_size": Metric(
            "1",
            None,
            "Size at one point of a curve: operations of the graph, or parameters of the model.",
            kind="count",
            label="Graph or model size",
        ),
        "graph_breaks": Metric(
            "1",
            "lower",
            "Places where the compiled graph was split and execution returned to Python.",
            kind="count",
            label="Graph breaks",
        ),
        "recompiles": Metric(
            "1",
            "lower",
            "Compiles of code that had already been compiled for another input.",
            kind="count",
            label="Recompiles",
        ),
        "guard_time": Metric(
            "s",
            "lower",
            "Wall seconds until the model has produced its output, over all fallback levels.",
            label="Time of a guarded compile",
        ),
        "deadline_overrun": Metric(
            "s",
            "lower",
            "Seconds from the guard's deadline, which counts from the start of the first compile, until it returned.",
            label="Overrun of the deadline",
        ),
        "processes_left": Metric(
            "1",
            "lower",
            "Processes of a guarded compile that were still alive after the guard ended it.",
            kind="count",
            label="Processes left behind",
        ),
        "compile_workers": Metric(
            "1",
            None,
            "Inductor compile workers alive on this node.",
            kind="count",
            label="Live compile workers",
        ),
        "pegged_processes": Metric(
            "1",
            "lower",
            "Processes with torch loaded that kept a core at least 90 % busy over the window.",
            kind="count",
            label="Processes with a busy core",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "compile_call": ProbeInfo(
            1,
            "Time in the call of torch.compile, and time of the first forward, which compiles",
            ("compile_call_share", "compile_call_time", "first_forward_time"),
            Compiles(unless=()),
        ),
        "compile_growth": ProbeInfo(
            2,
            "Compile time against the operations of a graph and against the parameters of a model",
            (
                "compiler_cpu_time",
                "growth_exponent",
                "growth_fit_r2",
                "growth_per_step",
                "compile_finished",
                "graph_size",
            ),
            Compiles(unless=()),
            labels=("mode", "turns", "width", "curve", "law"),
        ),
        "torch_compile_repro": ProbeInfo(
            2,
            "A guarded torch.compile of a block stack, with a bundle for a bug report",
            (
                "compile_time",
                "guard_time",
                "warm_start_time",
                "warm_cache_misses",
                "compile_cpu_time",
                "compile_cpu_share",
                "compile_finished",
                "compile_setup_time",
                "compile_cache",
                "compile_peak_rss",
                "compiled_difference",
                "graph_breaks",
                "recompiles",
                "deadline_overrun",
                "processes_left",
                "compile_workers",
                "pegged_processes",
            ),
            # After `--` comes the reader's own program. An injected stall stops the compile before the compiler.
            Compiles(unless=("--look", "--skip-compile", "--compile-mode=eager", "--", "--inject-stall")),
            labels=("preset", "mode", "ended", "start"),
        ),
    }
)
