"""FP8 inference of a model: linear layers in E4M3, their scales and accuracy, and proof that FP8 kernels ran."""
