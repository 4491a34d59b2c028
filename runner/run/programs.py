"""Which programs and packages a step finds first: those of the Python that runs this one."""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from runner.base.places import running_package


def with_our_programs(
    environment: Mapping[str, str],
    scratch: Path,
    executable: Path | None = None,
    packages: Path | None = None,
) -> dict[str, str]:
    """The environment with a PATH on which `python` is the Python that runs this program.

    Where PYTHONPATH is set, this program's packages come first on it: a cluster's modules often put an older pydantic
    there, and a second copy of this package would be measured under the name of this one. PYTHONPATH is left as it is
    where those packages include torch: the torch to measure is then the caller's to choose.

    Args:
        environment: the caller's.
        scratch: a folder of this run alone. Where no `python` is beside the interpreter (Debian's own has only
            `python3`), a link of that name is made in it.
        executable: the interpreter; the running one when left out.
        packages: the folder of this program's packages; that of the running one when left out.
    """
    executable = executable or Path(sys.executable)
    folders = [str(executable.parent)]
    if not (executable.parent / "python").exists():
        programs = scratch / "programs"
        with contextlib.suppress(FileExistsError):
            programs.mkdir(mode=0o700, parents=True)
            (programs / "python").symlink_to(executable)
        folders.insert(0, str(programs))
    path = os.pathsep.join([*folders, environment.get("PATH", os.defpath)])
    packages = packages or running_package().parent
    others = environment.get("PYTHONPATH", "")
    if not others or (packages / "torch").exists():
        return {**environment, "PATH": path}
    return {**environment, "PATH": path, "PYTHONPATH": os.pathsep.join([str(packages), others])}
