"""PURE: one page of ListObjectVersions.

Within a key the most recently stored version comes first, with delete markers in their places among the
others. moto sorts by time, so two changes in one microsecond tie, and it copies every object's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Stored(Protocol):
    """A version or a delete marker, as a bucket keeps it."""

    @property
    def version_id(self) -> str: ...


V = TypeVar("V", bound=Stored)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The parameters of the call. The markers are exclusive: the page begins after them."""

    prefix: str = ""
    delimiter: str = ""
    key_marker: str = ""
    version_id_marker: str = ""
    max_keys: int = 1000


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A row of the page: a version, or (`version` None) a common prefix, which `name` then holds."""

    name: str
    version: V | None
    is_latest: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[V]):
    """`entries` in S3's order; `truncated` if there is more after the last of them."""

    entries: list[Entry[V]]
    truncated: bool


def page_of(versions: Mapping[str, Sequence[V]], request: PageRequest) -> Page[V]:
    """The page that `request` asks for, of each key's versions given in the order they were stored."""
    entries: list[Entry[V]] = []
    if request.max_keys == 0:
        return Page(entries, truncated=False)
    for entry in _all_after_the_markers(versions, request):
        if len(entries) == request.max_keys:
            return Page(entries, truncated=True)
        entries.append(entry)
    return Page(entries, truncated=False)


def _all_after_the_markers(versions: Mapping[str, Sequence[V]], request: PageRequest) -> Iterator[Entry[V]]:
    last_group = ""
    # Python orders text by code point, which is the order of its UTF-8 bytes, which is S3's.
    for key in sorted(versions):
        if not key.startswith(request.prefix) or key < request.key_marker:
            continue
        group = _common_prefix(key, request)
        if group:
            if group not in (last_group, request.key_marker) and key != request.key_marker:
                last_group = group
                yield Entry(group, None)
            continue
        newest_first = list(reversed(versions[key]))
        for position in range(_first_after_marker(key, newest_first, request), len(newest_first)):
            yield Entry(key, newest_first[position], is_latest=position == 0)


def _common_prefix(key: str, request: PageRequest) -> str:
    if not request.delimiter:
        return ""
    end = key.find(request.delimiter, len(request.prefix))
    return "" if end < 0 else key[: end + len(request.delimiter)]


def _first_after_marker(key: str, newest_first: Sequence[V], request: PageRequest) -> int:
    if key != request.key_marker:
        return 0
    if not request.version_id_marker:
        return len(newest_first)
    for position, version in enumerate(newest_first):
        if version.version_id == request.version_id_marker:
            return position + 1
    # The marker was removed between two pages. What S3 then does is not documented; a version listed
    # twice does less harm than one that is left out.
    return 0
