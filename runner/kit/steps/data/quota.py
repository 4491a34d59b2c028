"""A control group of its own with a CPU quota, for one process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from runner.kit.own_group import own_group

_PERIOD_US = 100_000


@contextlib.contextmanager
def quota_group(cores: float) -> Iterator[Path]:
    """Make the group and yield its folder; remove it afterwards.

    Args:
        cores: how many cores the quota gives.

    Raises:
        NotApplicableError: no such group can be made here.
    """
    quota_us = round(cores * _PERIOD_US)
    with own_group("cpu") as group:
        if group.version == 1:
            group.limit("cpu.cfs_quota_us", f"{quota_us}")
        else:
            group.limit("cpu.max", f"{quota_us} {_PERIOD_US}")
        yield group.folder
