"""FP8 inference of a model: linear layers in E4M3, their scales, their accuracy, and proof that they ran."""
