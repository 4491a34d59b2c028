"""Method versions as the source of a probe declares them, without an import of the probe.

An import would load the code of today, and the gate needs the versions of older commits. The digest of a step needs no
more of a probe than this number.
"""

import functools
import re
from importlib import resources

# `Probe("name", method_version=2, …`; `"name": ProbeInfo(2, …` in commits that had one catalogue of all probes.
_DECLARED = re.compile(
    rb'\b(?:Probe|Declaration)\(\s*"(?P<name>\w+)",\s*method_version=(?P<version>\d+)\b'
    rb'|"(?P<old_name>\w+)": ProbeInfo\(\s*(?P<old_version>\d+)\b'
)


def declared_versions(source: bytes) -> dict[str, int]:
    """The method versions that a module declares, by probe."""
    found = (match.groupdict() for match in _DECLARED.finditer(source))
    return {
        (one["name"] or one["old_name"]).decode(): int(one["version"] or one["old_version"]) for one in found
    }


@functools.cache
def method_version(probe: str) -> int | None:
    """Today's method version of a probe; None for an unknown one."""
    for package in ("runner.probes", "runner.record.tools"):
        source = resources.files(package) / f"{probe}.py"
        if source.is_file():
            return declared_versions(source.read_bytes()).get(probe)
    return None
