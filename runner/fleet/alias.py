"""Aliases of cluster nodes in records: a keyed hash of the Slurm node name."""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from runner.base.errors import StoreError
from runner.base.placed import PlacedFileError, read_placed

_KEY_BYTES = 32


def cluster_alias(node: str, key: bytes) -> str:
    """The alias of a node: `node-` and six hexadecimal digits, which cannot be derived from its name without the key.

    The Slurm node name is hashed, not the machine id as on a single node, because nodes that boot from one image often
    share the machine id.
    """
    return f"node-{hmac.new(key, node.encode(), hashlib.sha256).hexdigest()[:6]}"


def alias_key(cache: Path) -> bytes:
    """The secret key of this user's aliases, generated once and stored in this folder.

    Raises:
        StoreError: it cannot be read or stored; aliases would change with every campaign.
    """
    place = cache / "alias-key"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            _make(place)
        key = read_placed(place, _KEY_BYTES, links=False)
    except OSError as error:
        raise StoreError(f"cannot store the key of node aliases in {place}: {error.strerror}") from error
    except PlacedFileError as error:
        raise StoreError(
            f"cannot read the key of node aliases: {error}; remove it to create a new key"
        ) from error
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{place} is not a key of node aliases; remove it to create a new key")
    return key


def _make(place: Path) -> None:
    # Created atomically and never readable by others: a partial key would make names easy to guess.
    descriptor, name = tempfile.mkstemp(prefix=".alias-key.", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(name, place)
    finally:
        Path(name).unlink()
