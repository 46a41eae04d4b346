"""PURE: which keys of a view have no exact name at a destination: no file path, or no key of S3."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

from snapengine.download import plan_paths
from snapengine.errors import CannotExpressKey

OURS: Final = ".snapengine-export/"
"""Below the destination: the manifests, and what is not whole yet."""

_LONGEST: Final = 1024
"""Bytes of a key. Source: S3 User Guide, "Naming Amazon S3 objects"."""


def odd_paths(keys: Iterable[str], *, folds: bool) -> Iterator[tuple[str, str]]:
    """The keys, ascending, that no file can be named by exactly, each with the reason; in bounded memory.

    `folds`: the folder does not tell `A` from `a`, or two forms of `é`; then 16 bytes a key are kept. Of
    a key that is the folder of others too, that key alone is odd.
    """
    folders: list[str] = []
    told: set[str] = set()
    twins = _Twins() if folds else None
    for key in keys:
        reason = _no_path(key)
        if twins is not None and not reason and twins.seen(key):
            reason = "differs from another only in ways that this folder does not tell apart"
        if reason:
            yield key, reason
            continue
        # Ascending keys that begin with one another follow each other, whatever lies between.
        while folders and not key.startswith(folders[-1]):
            folders.pop()
        for above in folders:
            if key.startswith(f"{above}/") and above not in told:
                told.add(above)
                yield above, f"is an object, and the folder of {key!r} as well"
        told.intersection_update(folders)
        folders.append(key)


def odd_keys(keys: Iterable[str], prefix: str) -> Iterator[tuple[str, str]]:
    """The same where the destination is a prefix of a bucket, which may have any key that is not too long."""
    for key in keys:
        if key.startswith(OURS):
            yield key, f"lies below {OURS}, where the manifests go"
        elif len((prefix + key).encode()) > _LONGEST:
            yield key, f"would have more than {_LONGEST:,} bytes below {prefix}"


def _no_path(key: str) -> str:
    if key.startswith(OURS):
        return f"lies below {OURS}, where the manifests go"
    try:
        plan_paths([key], Path())
    except CannotExpressKey:
        return "is no exact file path"
    return ""


class _Twins:
    """Names that were seen, as a folder sees them that folds case and composes accents; folders count too,
    as `A/x` and `a` would be in each other's way."""

    def __init__(self) -> None:
        self._files: set[bytes] = set()
        self._folders: set[bytes] = set()

    def seen(self, key: str) -> bool:
        name = _hashed(key)
        above = [_hashed(key[:i]) for i, letter in enumerate(key) if letter == "/"]
        if name in self._files or name in self._folders or not self._files.isdisjoint(above):
            return True
        self._files.add(name)
        self._folders.update(above)
        return False


def _hashed(key: str) -> bytes:
    return blake2b(unicodedata.normalize("NFC", key).casefold().encode(), digest_size=16).digest()
