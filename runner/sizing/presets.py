"""The scales at which probes run. Each names a model whose configuration is part of the package."""

PRESETS = ("tiny", "8b", "40b", "70b")
_FULL_NODE = 8


def default_preset(gpus: int) -> str:
    """The default preset for so many usable GPUs: `tiny` for none, `8b` for one to seven, `70b` for eight or more."""
    if gpus == 0:
        return "tiny"
    return "70b" if gpus >= _FULL_NODE else "8b"
