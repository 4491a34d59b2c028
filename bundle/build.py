"""Makes the bundle: one file with this project's wheel and those of its dependencies, for several Pythons.

A zipapp with the wheels inside rather than pex or shiv: shiv holds one platform a file, and pex for foreign platforms
needs a recorded description of each interpreter and does not compare its unpacked cache with what was packed. Wheels
are taken as they were published, by hash; the program that unpacks them (`start.py`) is standard library alone.

    python bundle/build.py WHEELS_FOLDER dist/runbook.pyz

WHEELS_FOLDER has a folder of wheels for each target, named `cp312-x86_64` and so on. The same wheels make the same
bytes.
"""

import argparse
import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
# Of the C library that all of the wheels run on; `nox -s bundle` asks for wheels of no newer one.
GLIBC = (2, 28)
_SHEBANG = b"#!/usr/bin/env python3\n"
# The earliest time that a zip file can hold.
_TIME = (1980, 1, 1, 0, 0, 0)
# Nothing imports or reads these once a wheel is unpacked.
_LEFT_OUT = ("RECORD", "INSTALLER", "direct_url.json")


class BuildError(Exception):
    """Why no bundle can be made of these wheels: one line."""


def main() -> None:
    """Make the bundle and print its size and digest."""
    parser = argparse.ArgumentParser(description="Make the bundle of a folder of wheels.")
    parser.add_argument("wheels", type=Path, help="a folder with a folder of wheels for each target")
    parser.add_argument("out", type=Path, help="the file to make")
    arguments = parser.parse_args()
    try:
        size, digest = build(arguments.wheels, arguments.out)
    except (BuildError, OSError, zipfile.BadZipFile) as error:
        parser.exit(2, f"bundle: {error}\n")
    print(f"{arguments.out}: {size / 1e6:.1f} MB, sha256 {digest}")


def build(wheels: Path, out: Path) -> tuple[int, str]:
    """Write the bundle; its size in bytes and SHA-256.

    Raises:
        BuildError: there is no target, two targets differ in what they hold, or a wheel is not a plain one.
    """
    targets = {
        folder.name: sorted(folder.glob("*.whl")) for folder in sorted(wheels.iterdir()) if folder.is_dir()
    }
    held = {name: {_project(path) for path in paths} for name, paths in targets.items()}
    if not targets or not all(held.values()):
        raise BuildError(f"{wheels} does not have a folder of wheels for each target")
    for name, projects in held.items():
        differing = projects ^ next(iter(held.values()))
        if differing:
            raise BuildError(f"{name} and another target differ in {', '.join(sorted(differing))}")
    unique: dict[str, Path] = {}
    for path in (path for paths in targets.values() for path in paths):
        if unique.setdefault(path.name, path).read_bytes() != path.read_bytes():
            raise BuildError(f"{path} and {unique[path.name]} differ")
    manifest = {
        "glibc": GLIBC,
        "targets": {name: [f"wheels/{path.name}" for path in paths] for name, paths in targets.items()},
        "wheels": {f"wheels/{name}": _files(unique[name]) for name in sorted(unique)},
    }
    members = {name: (HERE / name).read_bytes() for name in ("__main__.py", "start.py")}
    members["manifest.json"] = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    members |= {f"wheels/{name}": unique[name].read_bytes() for name in sorted(unique)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=out.parent, prefix=".bundle-", delete=False) as file:
        try:
            file.write(_SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, content in members.items():
                    info = zipfile.ZipInfo(name, _TIME)
                    info.external_attr = 0o644 << 16
                    archive.writestr(info, content)
            file.flush()
            os.fchmod(file.fileno(), 0o755)
            Path(file.name).replace(out)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    data = out.read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()


def _project(wheel: Path) -> str:
    return wheel.name.partition("-")[0].lower()


def _files(wheel: Path) -> dict[str, str]:
    """Name → SHA-256 of what is to be unpacked."""
    found: dict[str, str] = {}
    with zipfile.ZipFile(wheel) as packed:
        for info in packed.infolist():
            top, _, rest = info.filename.partition("/")
            if top.endswith(".data") and rest.startswith("scripts/"):
                continue
            if top.endswith(".data"):
                raise BuildError(f"{wheel.name} installs {info.filename} outside of site-packages")
            if info.is_dir() or (top.endswith(".dist-info") and rest in _LEFT_OUT):
                continue
            found[info.filename] = hashlib.sha256(packed.read(info)).hexdigest()
    return found


if __name__ == "__main__":
    main()
