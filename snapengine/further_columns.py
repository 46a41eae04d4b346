"""PURE: columns that a bucket has an extractor fill beside its usual ones, and what tells their rows apart.

Rows with further columns are of a version of the extractor of their own, `1+5d41402abc4b`, and each such
column says in its schema of which versions it is. So a row that lacks a value is told from one that was made
before anybody asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

    from snapengine.model import BucketConfig

VERSIONS: Final = b"versions"
"""In a field's metadata: the extractor's versions whose rows have that further column, by spaces."""


# A use: an extractor's name, and after it, if there are any, the further columns


def use_of(extractor: str, further: Sequence[str] = ()) -> str:
    """`dicom`, or `dicom+SliceLocation,00091001`."""
    return f"{extractor}+{','.join(further)}" if further else extractor


def extractor_of(use: str) -> str:
    return use.partition("+")[0]


def further_of(use: str) -> tuple[str, ...]:
    return tuple(name for name in use.partition("+")[2].split(",") if name)


def uses(extractors: Sequence[str], columns: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Those of a bucket, in the order of its extractors."""
    return tuple(use_of(name, columns.get(name, ())) for name in extractors)


def uses_of(config: BucketConfig) -> tuple[str, ...]:
    return uses(config.extractors, config.extractor_columns)


def in_words(use: str) -> str:
    further = ", ".join(further_of(use))
    return f"{extractor_of(use)} (usual columns and {further})" if further else use


# An extractor that fills them


class Widened:
    """An extractor with its usual columns and further ones."""

    def __init__(self, factory: Callable[[Sequence[str] | None], Any], further: Sequence[str]) -> None:
        """`factory` is what an extractor's entry point names. Raises what that does: `UsageError` for a
        column that it does not know."""
        usual = factory(None).schema.names
        extractor = factory([*usual, *further])
        self._extractor = extractor
        self.further = tuple(name for name in extractor.schema.names if name not in set(usual))
        """As the extractor calls them; those that are usual are left out."""
        self.version = version_with(extractor.version, self.further)
        self.schema = stamped(extractor.schema, self.further, self.version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._extractor, name)


def version_with(version: str, further: Collection[str]) -> str:
    """Of rows with these further columns, in whatever order they were named."""
    if not further:
        return version
    return f"{version}+{blake2b(chr(0).join(sorted(further)).encode(), digest_size=6).hexdigest()}"


def stamped(schema: pa.Schema, further: Collection[str], version: str) -> pa.Schema:
    """The schema, whose further columns say of which version they are."""
    for place, field in enumerate(schema):
        if field.name in further:
            told = {**(field.metadata or {}), VERSIONS: version.encode()}
            schema = schema.set(place, field.with_metadata(told))
    return schema


# What schemas say of them


def versions_of_column(field: pa.Field[Any]) -> frozenset[str] | None:
    """The extractor's versions whose rows have it; None for a usual one, of which nothing is said."""
    told = (field.metadata or {}).get(VERSIONS)
    return None if told is None else frozenset(told.decode().split())


def of_both(one: pa.Field[Any], other: pa.Field[Any]) -> pa.Field[Any]:
    """`one`, with the versions of both; if it is usual in either, nothing is said."""
    first, second = versions_of_column(one), versions_of_column(other)
    if first is None or first == second:
        return one
    told = {name: value for name, value in (one.metadata or {}).items() if name != VERSIONS}
    if second is not None:
        told[VERSIONS] = " ".join(sorted(first | second)).encode()
    return one.with_metadata(told)
