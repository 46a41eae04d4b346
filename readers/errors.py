"""PURE: our errors as S3 names them and as the operating system does, one mapping for every reader."""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from snapengine.errors import (
    BadData,
    BucketNotEnabled,
    BucketUnknown,
    Busy,
    BytesUnavailable,
    NoSuchKey,
    NotFound,
    Refused,
    SnapEngineError,
    TableMissing,
    TryAgain,
    UsageError,
    VersionArchived,
    VersionGone,
)


class S3Error(NamedTuple):
    """What S3 answers instead: S3 API Reference, "Error responses"."""

    code: str
    status: int
    """Of HTTP."""


WRITE_REFUSED: Final = S3Error("AccessDenied", 403)
"""To whatever would change something: a view is read-only."""
NOT_OFFERED: Final = S3Error("NotImplemented", 501)
"""To a question that a view has no answer to, where S3 would have one."""
ABSENT_IN_HEAD: Final = S3Error("404", 404)
"""S3 answers HEAD without a body, so clients know an absent key by its status: botocore makes it the code."""

_S3: Final[tuple[tuple[type[SnapEngineError], S3Error], ...]] = (
    (NoSuchKey, S3Error("NoSuchKey", 404)),
    (VersionGone, S3Error("NoSuchVersion", 404)),
    (VersionArchived, S3Error("InvalidObjectState", 403)),
    (BytesUnavailable, S3Error("BytesUnavailable", 409)),
    (BucketUnknown, S3Error("NoSuchBucket", 404)),
    (BucketNotEnabled, S3Error("NoSuchBucket", 404)),
    (TableMissing, S3Error("InternalError", 500)),
    (NotFound, S3Error("NoSuchBucket", 404)),  # snapshots, epochs: what a bucket's name may stand for
    (Busy, S3Error("OperationAborted", 409)),
    (Refused, S3Error("AccessDenied", 403)),
    (TryAgain, S3Error("ServiceUnavailable", 503)),
    (UsageError, S3Error("InvalidArgument", 400)),
    (BadData, S3Error("InternalError", 500)),
    (SnapEngineError, S3Error("InternalError", 500)),
)
"""The first that fits counts. `BytesUnavailable` is a code of our own: S3 has none for an object that is not
what the log says of it."""

_ERRNO: Final[tuple[tuple[type[SnapEngineError], int], ...]] = (
    (NotFound, errno.ENOENT),
    (VersionGone, errno.ESTALE),
    (BytesUnavailable, errno.EIO),
    (Busy, errno.EBUSY),
    (Refused, errno.EACCES),
    (TryAgain, errno.ETIMEDOUT),
    (UsageError, errno.EINVAL),
    (SnapEngineError, errno.EIO),
)
"""The first that fits counts. A version that is gone is no `FileNotFoundError`: the view has the key, and who
takes an absent file for an empty one (zarr does, of a chunk) would go on with wrong data."""


def s3_error(error: SnapEngineError) -> S3Error:
    """S3's code and HTTP status for an error of ours; the message is `str(error)`."""
    return next(answer for kind, answer in _S3 if isinstance(error, kind))


def os_error(error: SnapEngineError, path: str | None = None) -> OSError:
    """The `OSError` for an error of ours, of the subclass that Python has for its `errno`: `raise os_error(e,
    path) from e`. `strerror` is our message, `filename` the path as the caller wrote it."""
    number = next(number for kind, number in _ERRNO if isinstance(error, kind))
    return OSError(number, str(error)) if path is None else OSError(number, str(error), path)


def read_only(what: str, path: str | None = None) -> OSError:
    """The `OSError` (`EROFS`) for whatever would change something. `what`: `writing`, say."""
    said = f"A view is read-only: {what} is refused."
    return OSError(errno.EROFS, said) if path is None else OSError(errno.EROFS, said, path)
