"""Imports transformers without torchao, of which it needs nothing here."""

import importlib
import sys


def import_models() -> None:
    """Import transformers' model classes; the names can then be imported from it as usual.

    Transformers imports torchao if it finds it, for checkpoints that torchao has quantised. On a GPU that starts the
    CUDA driver, after which a process must not fork, and takes seconds of every start. So it finds none. A torchao that
    is imported already stays as it is, and a later import of torchao works.
    """
    if "torchao" in sys.modules or "transformers.modeling_utils" in sys.modules:
        return
    # None makes Python treat the module as not installed (ModuleNotFoundError).
    sys.modules["torchao"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("transformers.modeling_utils")
    finally:
        del sys.modules["torchao"]
