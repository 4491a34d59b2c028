"""The NCCL version of this Python and of a running process. Nothing is loaded or run."""

import re
from importlib import metadata
from pathlib import Path

from runner.base.placed import PlacedFileError, read_placed
from runner.kit.nccl.names import Version, parse_version

# The kernel's limit is about 65,000 mappings; a process with torch has a few thousand, of 100 bytes each.
_MOST_MAPS_BYTES = 32 << 20
# Libraries that show that a process uses NCCL: libnccl, or torch's library with NCCL linked in.
_HOLDS_NCCL = re.compile(rb"/lib(?:nccl|torch_cuda)[^/\n]*\.so")
_LIBRARY = re.compile(r"^[0-9a-f]+-\S+(?: +\S+){4} +(?P<path>/.*/libnccl\.so[^/]*)$", re.MULTILINE)
_IN_NAME = re.compile(r"libnccl\.so\.(\d+\.\d+)")
_PACKAGE = re.compile(r"nvidia_nccl_cu\d+-(\d+\.\d+)[^-]*\.dist-info")
_PACKAGES = ("nvidia-nccl-cu11", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-nccl-cu14")


def installed_version() -> Version | None:
    """The version that a torch of this Python would load; None if it has no package of NCCL, or several."""
    found = set()
    for name in _PACKAGES:
        try:
            # A broken package has no version, whatever the type says.
            found.add(parse_version(metadata.version(name) or ""))
        except (metadata.PackageNotFoundError, ValueError):
            continue
    return found.pop() if len(found) == 1 else None


def holds_nccl(maps: bytes) -> bool:
    """Whether a process with these memory mappings has NCCL, or torch's CUDA library, loaded."""
    return _HOLDS_NCCL.search(maps) is not None


def read_maps(folder: Path) -> bytes:
    """The memory mappings of a process.

    Args:
        folder: its folder in `/proc`.

    Raises:
        PlacedFileError: it ended, or belongs to another user.
    """
    return read_placed(folder / "maps", _MOST_MAPS_BYTES)


def loaded_version(folder: Path) -> Version | None:
    """The version of the NCCL that a process has loaded; None if it has none, or its version is not told.

    The name of the library tells it (`libnccl.so.2.28.9`), or the package that the library lies in.

    Args:
        folder: the process's folder in `/proc`.
    """
    try:
        maps = read_maps(folder).decode(errors="replace")
    except PlacedFileError:
        return None
    found = {_version_of(Path(match["path"]), folder / "root") for match in _LIBRARY.finditer(maps)}
    return found.pop() if len(found) == 1 else None


def _version_of(library: Path, root: Path) -> Version | None:
    named = _IN_NAME.match(library.name)
    if named:
        return parse_version(named[1])
    # site-packages/nvidia/nccl/lib/libnccl.so.2
    packages = root / str(library.parents[min(3, len(library.parents) - 1)]).lstrip("/")
    try:
        names = sorted(path.name for path in packages.glob("nvidia_nccl_cu*.dist-info"))
    except OSError:
        return None
    versions = {parse_version(found[1]) for found in map(_PACKAGE.fullmatch, names) if found}
    return versions.pop() if len(versions) == 1 else None
