"""PURE: what fsspec calls paths, and the keys and prefixes that they stand for.

A file's path is its key, to the letter. A folder is a prefix that ends in `/`; its path leaves that slash
out, unless what is left would be empty or end in `/` itself, and so be another folder's: `a//` is the folder
of `a//b`, and `a` that of `a/b`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from snapengine.errors import BadReference, UsageError
from snapengine.instants import to_datetime
from snapengine.model import ObjectVersion
from snapengine.reference import parse_reference

PROTOCOL = "snap://"
_SELECT = "?select="
_NONE = _SELECT + "none"


def prefix_of(folder: str) -> str:
    """The prefix that a folder's path stands for; with or without its slash at the end."""
    return folder if not folder or folder.endswith("/") else folder + "/"


def folder_of(prefix: str) -> str:
    """The path of the folder with that prefix, which ends in `/` or is empty."""
    shorter = prefix[:-1]
    return prefix if shorter.endswith("/") or not shorter else shorter


def folders_of(key: str, base: str, depth: int | None) -> Iterator[str]:
    """The prefixes between `base` and the key, at most `depth` levels down."""
    level, cut = 1, key.find("/", len(base))
    while cut >= 0 and (depth is None or level <= depth):
        yield key[: cut + 1]
        level, cut = level + 1, key.find("/", cut + 1)


def is_marker(version: ObjectVersion) -> bool:
    """Whether it is what consoles leave to show an empty folder: an empty object whose key ends in `/`."""
    return version.size == 0 and version.key.endswith("/")


def file_info(root: str, version: ObjectVersion) -> dict[str, Any]:
    """What fsspec shows of a file."""
    return {
        "name": root + version.key,
        "size": version.size,
        "type": "file",
        "version_id": version.version_id,
        "ETag": None if version.etag is None else f'"{version.etag}"',
        "LastModified": to_datetime(version.event_time),
        "StorageClass": version.storage_class,
        "mtime": version.event_time / 1000,
    }


def folder_info(root: str, prefix: str) -> dict[str, Any]:
    """What fsspec shows of a folder."""
    path = root + folder_of(prefix) if prefix else root.removesuffix("/")
    return {"name": path, "size": 0, "type": "directory"}


class Located(NamedTuple):
    """A path of the filesystem `snap`, taken apart."""

    authority: str
    """`BUCKET@TIME`, with what else it says before its first slash: what a view is opened by."""
    key: str
    """Below the bucket, to the letter."""


def path_of(url: str) -> str:
    """`snap://BUCKET@TIME/KEY`, to what fsspec calls its path: `BUCKET@TIME/KEY`. Paths stay as they are.

    What a narrowed view selects goes to the front, as `?` stands for any character in fsspec's patterns:
    `snap://scans@T~1/ct/a?select=sha256:…` is `scans@T~1~sha256:…/ct/a`. Raises `BadReference`.
    """
    if not url.startswith(PROTOCOL):
        return url
    rest = url.removeprefix(PROTOCOL)
    if _SELECT not in rest:
        return rest
    parsed = parse_reference(url)
    base, _, _ = rest.rpartition(_SELECT)
    if not parsed.selection:
        return base
    authority, slash, key = base.partition("/")
    return f"{authority}~{parsed.selection}{slash}{key}"


def url_of(path: str) -> str:
    """The other way: a URL that `path_of` reads as this path."""
    if path.startswith(PROTOCOL):
        return path
    return PROTOCOL + path + (_NONE if _SELECT in path else "")


def located(path: str) -> Located:
    """Raises `BadReference` for a path that names no bucket and time."""
    authority, _, key = path.partition("/")
    bucket, at, time = authority.partition("@")
    if not bucket:
        raise BadReference("Paths here begin with a bucket and a time: snap://BUCKET@TIME/KEY.")
    if not at or not time:
        raise BadReference(
            f"snap://{path} names no time. Write snap://{bucket}@2026-11-20T09:00:00Z/{key} for the bucket "
            f"as it was then, or snap://{bucket}@now/{key}."
        )
    return Located(authority, key)


def reference_of(authority: str) -> str:
    """The reference of the whole bucket (or of all that a narrowed view selects) that an authority names."""
    rest, mark, digest = authority.rpartition("~sha256:")
    return f"{PROTOCOL}{rest}/{_SELECT}sha256:{digest}" if mark else f"{PROTOCOL}{authority}/"


def is_relative(text: str) -> bool:
    """Whether a time means another instant each time that it is asked for: `now`, a look-back."""
    return text == "now" or text.startswith("-")


def refuse_all_versions(reference: str) -> UsageError:
    return UsageError(
        f"{reference} is a slice of all versions, which has several objects of one key: a path cannot tell "
        "them apart. Leave `~all` (versions='all') out, or read them by view.versions() and read_version."
    )


def unique(names: Iterable[str]) -> list[str]:
    """In order, each once."""
    return sorted(set(names))
