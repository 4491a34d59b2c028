"""Names of NCCL's environment variables: of each version, from its library, and what its manual says of them.

`KNOWN`: every name and the versions that read it. `SYSTEM`: describe the installation and may stay (two of them for the
tools around NCCL, such as the `NCCL_VERSION` of its container images); every other known name overrides NCCL's own
choice. `RENAMED`: old names and their replacements. `RETIRED`: in old manuals, and read by no version since 2.18.
"""

import difflib
import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

Version = tuple[int, int]
"""Major and minor version."""

PREFIX = "NCCL_"
# As many single-character mistakes as a misspelt name may have.
_MOST_MISTAKES = 2
_SIMILAR = 0.85


def parse_names(text: str) -> dict[str, tuple[Version, Version]]:
    """Read the table: `FIRST-LAST: NAME NAME …`, continuation lines indented, comments with `#`.

    Raises:
        ValueError: a line is of another form.
    """
    found: dict[str, tuple[Version, Version]] = {}
    versions: tuple[Version, Version] | None = None
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        names = line
        if not line.startswith(" "):
            span, _, names = line.partition(":")
            first, _, last = span.partition("-")
            versions = (parse_version(first), parse_version(last))
        if versions is None:
            raise ValueError(f"no version before the names {line.strip()[:80]!r}")
        found |= dict.fromkeys((PREFIX + name for name in names.split()), versions)
    return found


def parse_version(text: str) -> Version:
    """Major and minor version of `2.28` or `2.28.9`.

    Raises:
        ValueError: it does not begin with two numbers.
    """
    major, minor, *_ = [*text.split("."), ""]
    return int(major), int(minor)


def format_version(version: Version) -> str:
    """A version as in NCCL's releases: `2.28`."""
    return ".".join(map(str, version))


def misspelt(name: str) -> str | None:
    """The known name of which this one is a misspelling, or None.

    A misspelling has at most two characters left out, added, replaced or exchanged with their neighbour, not counting
    small letters and characters that no name of NCCL has, and at most half of the characters of each word.
    """
    name = re.sub(r"[^A-Z0-9_]", "", name.upper())
    for near in difflib.get_close_matches(name, KNOWN, n=5, cutoff=_SIMILAR):
        if _mistakes(name, near) <= _MOST_MISTAKES and _has_its_words(name, near):
            return near
    return None


def _has_its_words(name: str, near: str) -> bool:
    """Whether no word between underscores is another one: NCCL_IB_ENABLE is not NCCL_WIN_ENABLE."""
    ours, theirs = name.split("_"), near.split("_")
    return len(ours) != len(theirs) or all(
        2 * _mistakes(one, other) <= max(len(one), len(other))
        for one, other in zip(ours, theirs, strict=True)
    )


def _mistakes(one: str, other: str) -> int:
    """Edits between two words, an exchange of neighbours counted as one (optimal string alignment)."""
    before: list[int] = []
    above = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        line = [row]
        for column, right in enumerate(other, start=1):
            cost = min(above[column] + 1, line[-1] + 1, above[column - 1] + (left != right))
            if row > 1 and column > 1 and left == other[column - 2] and one[row - 2] == right:
                cost = min(cost, before[column - 2] + 1)
            line.append(cost)
        before, above = above, line
    return above[-1]


KNOWN: Mapping[str, tuple[Version, Version]] = MappingProxyType(
    parse_names((resources.files(__package__) / "names.txt").read_text(encoding="utf-8"))
)
OLDEST = min(first for first, _ in KNOWN.values())
NEWEST = max(last for _, last in KNOWN.values())
SYSTEM = frozenset(
    """
    NCCL_SOCKET_IFNAME NCCL_SOCKET_FAMILY NCCL_SOCKET_RETRY_CNT NCCL_SOCKET_RETRY_SLEEP_MSEC NCCL_SOCKET_NTHREADS
    NCCL_NSOCKS_PERTHREAD NCCL_SOCKET_POLL_TIMEOUT_MSEC NCCL_SOCKET_MAGIC NCCL_CROSS_NIC NCCL_IB_HCA NCCL_IB_TIMEOUT
    NCCL_IB_RETRY_CNT NCCL_IB_GID_INDEX NCCL_IB_ADDR_FAMILY NCCL_IB_ADDR_RANGE NCCL_IB_ROCE_VERSION_NUM NCCL_IB_SL
    NCCL_IB_TC NCCL_IB_FIFO_TC NCCL_IB_PKEY NCCL_IB_RAIL_POLICY NCCL_IB_RETURN_ASYNC_EVENTS NCCL_OOB_NET_ENABLE
    NCCL_OOB_NET_IFNAME NCCL_UID_STAGGER_THRESHOLD NCCL_UID_STAGGER_RATE NCCL_NET_PLUGIN NCCL_TUNER_PLUGIN
    NCCL_PROFILER_PLUGIN NCCL_ENV_PLUGIN NCCL_GIN_PLUGIN NCCL_RMA_PLUGIN NCCL_RAS_ENABLE NCCL_RAS_ADDR
    NCCL_RAS_TIMEOUT_FACTOR NCCL_HOSTID NCCL_COMM_ID NCCL_MNNVL_UUID NCCL_MNNVL_CLIQUE_ID NCCL_CONF_FILE
    NCCL_NET_GDR_C2C NCCL_SET_THREAD_NAME NCCL_IB_MERGE_NICS NCCL_IB_MERGE_VFS NCCL_DEBUG_FILE
    NCCL_DEBUG_TIMESTAMP_FORMAT NCCL_DEBUG_TIMESTAMP_LEVELS NCCL_LIBRARY_PATH NCCL_VERSION
    """.split()  # noqa: SIM905 - as a list it would be one name a line
)
RETIRED = frozenset(
    "NCCL_CHECKS_DISABLE NCCL_IB_CUDA_SUPPORT NCCL_LL_THRESHOLD NCCL_SINGLE_RING_THRESHOLD NCCL_TREE_THRESHOLD".split()  # noqa: SIM905 - as above
)
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "NCCL_ASYNC_ERROR_HANDLING": "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "NCCL_BLOCKING_WAIT": "TORCH_NCCL_BLOCKING_WAIT",
        "NCCL_DESYNC_DEBUG": "TORCH_NCCL_DESYNC_DEBUG",
        "NCCL_ENABLE_TIMING": "TORCH_NCCL_ENABLE_TIMING",
        "NCCL_IB_GDR_LEVEL": "NCCL_NET_GDR_LEVEL",
        "NCCL_MAX_NRINGS": "NCCL_MAX_NCHANNELS",
        "NCCL_MIN_NRINGS": "NCCL_MIN_NCHANNELS",
    }
)
