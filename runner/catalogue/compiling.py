"""torch.compile under the guard."""

from collections.abc import Mapping
from types import MappingProxyType

from runner.catalogue.model import Compiles, Metric, ProbeInfo

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "compile_time": Metric(
            "s",
            "lower",
            "Wall seconds of a compile with its first forward, from an empty cache; imports left out.",
        ),
        "compile_cpu_time": Metric(
            "s",
            "lower",
            "CPU seconds of the same, compilers and workers included: what to compare on a busy host.",
        ),
        "compile_cpu_share": Metric(
            "1",
            None,
            "CPU seconds ÷ wall seconds of a compile; 1 is one core pegged. Slow and stuck look alike.",
        ),
        "compile_finished": Metric(
            "1", "higher", "1 where the compile ended within its deadline, else 0.", kind="flag"
        ),
        "warm_start_time": Metric(
            "s", "lower", "compile_time in a second process that starts from the first one's compile cache."
        ),
        "warm_cache_misses": Metric(
            "1", "lower", "Graphs that a start from the cache had to compile all the same.", kind="count"
        ),
        "compile_setup_time": Metric(
            "s", "lower", "Seconds to import torch and build the model, before a compile."
        ),
        "compile_cache": Metric("B", None, "Bytes that a compile put into its empty cache."),
        "compile_peak_rss": Metric(
            "B", "lower", "Largest resident memory of the compiling process, workers apart."
        ),
        "compiled_difference": Metric(
            "1", "lower", "Largest |compiled − eager| over largest |eager| of the model's answer."
        ),
        "compiler_cpu_time": Metric(
            "s",
            "lower",
            "CPU seconds inside the compiler, those it starts included; the model's own work left out.",
        ),
        "growth_exponent": Metric(
            "1",
            "lower",
            "The p of compiler CPU time ~ size^p, by least squares over all sizes; 0 is flat (label: of what).",
            kind="signed",
        ),
        "graph_size": Metric(
            "1", None, "Size of a point on a curve: operations of the graph, or parameters.", kind="count"
        ),
        "graph_breaks": Metric(
            "1", "lower", "Places at which a compiled graph was cut and Python took over.", kind="count"
        ),
        "recompiles": Metric(
            "1", "lower", "Compiles of code that had been compiled before, for another input.", kind="count"
        ),
        "guard_time": Metric(
            "s", "lower", "Wall seconds until the model has answered, every rung of the ladder."
        ),
        "deadline_overrun": Metric(
            "s",
            "lower",
            "Seconds from the guard's deadline, or from 2 s of compile if those ended later, until control was back.",
        ),
        "processes_left": Metric(
            "1", "lower", "Processes of a guarded compile alive after it was ended.", kind="count"
        ),
        "compile_workers": Metric("1", None, "Inductor compile workers alive on this node.", kind="count"),
        "pegged_processes": Metric(
            "1",
            "lower",
            "Processes with torch loaded that keep a core at least 90 % busy over the window.",
            kind="count",
        ),
    }
)

PROBES: Mapping[str, ProbeInfo] = MappingProxyType(
    {
        "compile_growth": ProbeInfo(
            2,
            "Compile time against the operations of a graph and against the parameters of a model",
            ("compiler_cpu_time", "growth_exponent", "compile_finished", "graph_size"),
            Compiles(unless=()),
            labels=("mode", "turns", "width", "curve"),
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
            # After `--` comes a program of the reader's own. An injected stall is in the way before any compiler is
            # called.
            Compiles(unless=("--look", "--skip-compile", "--compile-mode=eager", "--", "--inject-stall")),
            labels=("preset", "mode", "ended", "start"),
        ),
    }
)
