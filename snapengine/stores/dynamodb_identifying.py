"""What DynamoDB says to a role that may not have the partitions of identifying columns, as our error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from snapengine.aws_errors import translated
from snapengine.errors import IdentifyingRefused, PermissionMissing


@contextmanager
def identifying_columns(target: str, bucket: str) -> Iterator[None]:
    """Raise SDK exceptions from within as ours; a denial as `IdentifyingRefused`."""
    try:
        with translated(target):
            yield
    except PermissionMissing as error:
        raise IdentifyingRefused(
            f"This role may not have the identifying columns of bucket {bucket}: {target} denied "
            f"{error.action} on IDENTIFYING#{bucket}#*. Leave those columns out, or have it allowed."
        ) from error
