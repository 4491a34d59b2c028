"""Defaults of the options of `gpt_large_optimized`."""

EAGER_S, COMPILED_S = 240.0, 900.0
COMPARED_STARTS = 20
# Ratio that two equal environments must reach. On a CPU starts differ by more, and there is less time.
ALIKE = 0.95
# A comparison on a CPU demonstrates the fault, within half a minute on a slow machine. On a GPU a start takes a few
# seconds: 16 GB of weights, the first use of each kernel, and twice so in two environments.
COMPARED_ON_CPU_S, COMPARED_ON_GPU_S = 26.0, 60.0
