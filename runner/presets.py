"""The scales at which probes work. Each names a model whose configuration ships with the package."""

PRESETS = ("tiny", "8b", "40b", "70b")
_FULL_NODE = 8


def default_preset(gpus: int) -> str:
    """The preset of a host with that many GPUs: `tiny` without one, `8b` on one to seven, `70b` on eight."""
    if gpus == 0:
        return "tiny"
    return "70b" if gpus >= _FULL_NODE else "8b"
