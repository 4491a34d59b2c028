"""What records call a node of a cluster: a keyed hash of Slurm's name for it."""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from runner.errors import StoreError
from runner.evidence.code import user_cache
from runner.placed import PlacedFileError, read_placed

_KEY_BYTES = 32


def cluster_alias(node: str, key: bytes) -> str:
    """A node's alias in records: `node-` and six hexadecimal digits, not to be guessed from its name without the key.

    The cluster's name for a node is hashed, and not the machine id as on a single node: nodes started from one
    image often share that.
    """
    return f"node-{hmac.new(key, node.encode(), hashlib.sha256).hexdigest()[:6]}"


def alias_key(cache: Path | None = None) -> bytes:
    """The secret of this user's aliases, made once and kept in the user's cache folder.

    Raises:
        StoreError: it can be neither read nor kept; aliases would change with every campaign.
    """
    place = (cache or user_cache()) / "alias-key"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            _make(place)
        key = read_placed(place, _KEY_BYTES, links=False)
    except OSError as error:
        raise StoreError(f"cannot keep the key of node aliases in {place}: {error.strerror}") from error
    except PlacedFileError as error:
        raise StoreError(f"cannot read the key of node aliases: {error}; remove it for a new one") from error
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{place} is no key of node aliases; remove it for a new one")
    return key


def _make(place: Path) -> None:
    # Whole under its name or not at all, and never open to others: half a key would make names easy to guess.
    descriptor, name = tempfile.mkstemp(prefix=".alias-key.", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(name, place)
    finally:
        Path(name).unlink()
