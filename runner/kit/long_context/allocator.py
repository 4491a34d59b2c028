"""A GPU's caching allocator: the settings of a run, the bytes that it cannot use, and what it says when it is full.

The limit of a run holds for the bytes that the allocator has reserved, the formulas give the bytes that tensors take.
With segments of fixed size, a free part of a segment can be too small for the next request and still counts.
Expandable segments can be given back page by page (20 MiB) when a request is refused, so the two numbers meet. The
limit is checked for a whole request before a segment's free end counts, so near the limit the cache is often given
back.
"""

import re
from collections.abc import MutableMapping

# Torch 2.9 and newer reads both names; with both set, 2.11 and 2.13 ignore PYTORCH_ALLOC_CONF.
_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_SETTINGS = "expandable_segments:True"
BACKEND = "backend"
_LONGEST_TEXT = 200
# The parts of torch's message that a reader needs, in their order; other processes and advice are left out.
_PARTS = (
    (r"Tried to allocate ([\d.]+ \w+)", "asked for {}"),
    (r"([\d.]+ \w+) is allocated by PyTorch", "{} allocated"),
    (r"([\d.]+ \w+) is reserved by PyTorch but unallocated", "{} reserved but unallocated"),
    (r"([\d.]+ \w+) allowed", "{} allowed"),
)
_RESERVE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) (bytes|KiB|MiB|GiB) is reserved by PyTorch but unallocated")
_BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FREE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


def expand_segments(environment: MutableMapping[str, str]) -> None:
    """Set expandable segments for a torch that is imported later; settings of the caller stay as they are."""
    if not any(name in environment for name in _VARIABLES):
        environment[_VARIABLES[-1]] = _SETTINGS


def used_settings() -> dict[str, object]:
    """The settings that the allocator of this process runs with; its `backend`, if it is not torch's own allocator.

    CUDA must have started.
    """
    import torch

    try:
        found = torch.cuda.memory._snapshot().get("allocator_settings", {})  # noqa: SLF001 - no public reading
    except RuntimeError:
        # cudaMallocAsync keeps no list of blocks.
        return {BACKEND: torch.cuda.get_allocator_backend()}
    names = {"expandable_segments": "expandable_segments", "PYTORCH_CUDA_ALLOC_CONF": "settings"}
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}


def refused_reserve(text: str) -> int | None:
    """Bytes that were reserved and not allocated when a request was refused, by torch's message; None without them.

    Only the message has them: before the error arrives, tensors are freed.
    """
    found = _RESERVE.search(text)
    return int(float(found[1]) * _BYTES[found[2]]) if found else None


def refusal(text: str) -> str:
    """One line from torch's message of a GPU out of memory: what was asked for, and what was taken.

    A message of another form gives its first line, cut to 200 characters.
    """
    found = [(re.search(pattern, text), words) for pattern, words in _PARTS]
    parts = [words.format(match[1]) for match, words in found if match is not None]
    if found[0][0] is None:
        return text.partition("\n")[0][:_LONGEST_TEXT]
    free = _FREE.search(text)
    if found[-1][0] is None and free is not None:
        parts.append(f"{free[2]} of {free[1]} free")
    return f"out of memory: {', '.join(parts)}"
