"""What probes share. A probe of its own needs little more than these:

* `probe`: the contract of a probe, its document, `measured` and `single` measurements, `say`.
* `options`: options that take counts, numbers, flags or words, in tables; `--model` and `--batch-size`.
* `usable`: the GPUs that torch can use; a probe must not measure the host instead.
* `budget` and `interleaved`: how much time there is; rounds of interleaved samples, their end, and their paired ratios.
* `profiling`: kernels by layer, CUDA graph launches, and torch's profiler around a call.
* `transformer`: a model of a shape with random weights, or of a folder with its own; random tokens for it. The largest
  preset that fits is `runner.sizing.models.fitting_model`.
* `allocations`: peak memory of tensors, and a limit, on any device.
* `ranks` and `tensor_parallel`: processes that work together, and a model split over them.
* `collective_timing`: bandwidth of collectives in one environment or several.
* `compile_guard`: a compile in a process that can be killed.
* `compile_options`: its modes, and the options `--compile-mode` and `--skip-compile`, without the guard itself.

Every command that reads entries imports the modules of all probes for their declarations, so these import only `probe`,
`options`, `undo`, `compile_options` and metrics at their top. The work of a probe is imported inside its `_run`; the
folders and the other modules hold that work. None of them imports torch at its top.
"""
