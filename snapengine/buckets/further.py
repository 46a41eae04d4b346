"""What `enable-bucket` asks extractors: whether they can be used, and about further columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from snapengine.errors import BadData, UsageError
from snapengine.extractor_check import checked
from snapengine.further_columns import Widened
from snapengine.metadata_codec import MAX_ROW_BYTES, encode
from snapengine.metadata_rows import row_schema
from snapengine.plugins import installed, load_one

EXTRACTORS: Final = "snapengine.extractors"
"""The group of entry points by which packages bring extractors."""


def check_extractors(extractors: Sequence[str]) -> None:
    """Raises `UsageError` for one that is not installed, or cannot be used."""
    _check_installed(extractors)
    for name in extractors:
        try:
            checked(load_one(EXTRACTORS, name)(None), name)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"The extractor {name!r} cannot be used: {type(error).__name__}: {error}. Reinstall or "
                "remove the package that brings it."
            ) from error


def _check_installed(extractors: Sequence[str]) -> None:
    """Raises `UsageError` for one that is not. None is loaded."""
    there = installed(EXTRACTORS) if extractors else []
    for name in extractors:
        if name not in there:
            raise UsageError(
                f"There is no extractor {name!r} here. Installed are: {', '.join(there) or 'none'}. Install "
                "the package that brings it, here and where `snapengine extract-worker` runs."
            )


def checked_columns(extractor: str, further: Sequence[str]) -> tuple[str, ...]:
    """The columns, as the extractor calls them, without its usual ones. Raises `UsageError` for one that it
    does not know, that cannot stand in a row, or for more than a row has room for."""
    if not further:
        return ()
    _check_installed([extractor])
    try:
        widened = Widened(load_one(EXTRACTORS, extractor), further)
        packed = encode(extractor, row_schema(widened.schema).empty_table())
    except (UsageError, BadData) as error:
        raise UsageError(f"Further columns of {extractor}: {error}") from error
    except Exception as error:
        raise UsageError(f"The extractor {extractor!r} cannot be asked: {type(error).__name__}.") from error
    if any("," in name or not name for name in widened.further):
        raise UsageError(f"Further columns of {extractor}: a name may have no comma.")
    size = max(len(packed.plain), len(packed.identifying or b""))
    if size > MAX_ROW_BYTES // 2:
        raise UsageError(
            f"Further columns of {extractor}: their names alone take {size:,} of the {MAX_ROW_BYTES:,} bytes "
            "that a row may have. Name fewer."
        )
    return widened.further
