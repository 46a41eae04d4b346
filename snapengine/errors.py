"""Every error that snapengine raises, by what the caller should do about it.

    SnapEngineError
    ├── UsageError              correct the call: exit code 2
    │   ├── BadTime             a time without a zone, or text that is none
    │   ├── FutureTime          an instant that has not been yet
    │   ├── BadReference        text that is no `snap://` reference
    │   └── CannotExpressKey    a key that this reader cannot name exactly
    ├── NotFound                look elsewhere, or create it
    │   ├── NoSuchKey           the view has no object of that key (a KeyError too)
    │   ├── NoSuchEpoch
    │   ├── NoSuchSnapshot
    │   ├── NoSuchSelection
    │   ├── NoSuchRun
    │   ├── BucketUnknown       S3 has no such bucket, or not for these credentials
    │   ├── BucketNotEnabled
    │   └── TableMissing
    ├── Refused                 nothing was changed; the message says why and names the ways out
    │   ├── PermissionMissing
    │   ├── CredentialsMissing
    │   ├── IdentifyingRefused  identifying columns, without the right to them
    │   └── Busy                somebody else is at it
    ├── TryAgain                nothing is wrong with the call
    │   ├── NotYetComplete
    │   └── Unreachable         an endpoint that does not answer, or throttles without end
    ├── BytesUnavailable        the version is known, its bytes are not to be had
    │   ├── VersionGone
    │   └── VersionArchived
    └── BadData                 what was stored or sent is not what it should be
        ├── MalformedMessage
        ├── SchemaTooNew
        ├── LogDamaged
        ├── DigestDiffers
        └── ArchiveDamaged
            └── ArchiveFileMissing

Each class has a stable `code`, which programs may rely on; the wording of a message may change.
"""

from __future__ import annotations

from typing import ClassVar


class SnapEngineError(Exception):
    """The root. `str(error)` is one sentence or two, with the remedy."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (DataLoader workers): rebuild without calling __init__.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(
    kind: type[SnapEngineError], args: tuple[object, ...], state: dict[str, object]
) -> SnapEngineError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(SnapEngineError):
    """The call is wrong; the same call will always fail."""

    code = "usage"
    exit_code = 2


class BadTime(UsageError):
    """Not a time, or a time without a zone."""

    code = "bad-time"


class FutureTime(UsageError):
    """An instant more than a second after now."""

    code = "future-time"


class BadReference(UsageError):
    """Text that is no `snap://` reference."""

    code = "bad-reference"


class CannotExpressKey(UsageError):
    """A key that the asked-for form (a file path, say) cannot name exactly; never another object instead."""

    code = "cannot-express-key"


class NotFound(SnapEngineError):
    """Something named in the call does not exist."""

    code = "not-found"


class NoSuchKey(NotFound, KeyError):
    """The view has no object of that key."""

    code = "no-such-key"

    def __init__(self, key: str, reference: str) -> None:
        super().__init__(f"{reference} has no object {key!r}.")
        self.key = key

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class NoSuchEpoch(NotFound):
    """An epoch that has not been cut."""

    code = "no-such-epoch"


class NoSuchSnapshot(NotFound):
    """The bucket has no snapshot of that name."""

    code = "no-such-snapshot"


class NoSuchSelection(NotFound):
    """A narrowed view whose rows this table does not hold, or holds of another view."""

    code = "no-such-selection"


class NoSuchRun(NotFound):
    """An MLflow run that is not there, or has noted no such view."""

    code = "no-such-run"


class BucketUnknown(NotFound):
    """S3 has no such bucket, or hides it from these credentials."""

    code = "bucket-unknown"


class BucketNotEnabled(NotFound):
    """Nobody has run `snapengine enable-bucket` for this bucket in this table."""

    code = "bucket-not-enabled"


class TableMissing(NotFound):
    """The table that holds the log does not exist."""

    code = "table-missing"


class Refused(SnapEngineError):
    """The request is understood and was not carried out; nothing was changed."""

    code = "refused"


class PermissionMissing(Refused):
    """AWS denied an action; `action` names it."""

    code = "permission-missing"

    def __init__(self, message: str, action: str = "") -> None:
        super().__init__(message)
        self.action = action


class CredentialsMissing(Refused):
    """The AWS SDK found no credentials, or ones that are not valid."""

    code = "credentials-missing"


class IdentifyingRefused(Refused):
    """Identifying columns were asked for without the right to them; everything else may be had."""

    code = "identifying-refused"


class Busy(Refused):
    """Another process holds the lease for this task."""

    code = "busy"


class TryAgain(SnapEngineError):
    """The same call may succeed later."""

    code = "try-again"


class NotYetComplete(TryAgain):
    """The level of completeness asked for has not been reached within the timeout."""

    code = "not-yet-complete"


class Unreachable(TryAgain):
    """An endpoint did not answer, or kept throttling, for as long as we were willing to try."""

    code = "unreachable"


class BytesUnavailable(SnapEngineError):
    """The view knows the version, but its bytes cannot be had."""

    code = "bytes-unavailable"

    def __init__(self, message: str, key: str = "", version_id: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.version_id = version_id


class VersionGone(BytesUnavailable):
    """The version was removed from S3 for good after the view's instant."""

    code = "version-gone"


class VersionArchived(BytesUnavailable):
    """The version is in an archived storage class and must be restored before it can be read."""

    code = "version-archived"


class BadData(SnapEngineError):
    """Stored or received data is not what it should be."""

    code = "bad-data"


class MalformedMessage(BadData):
    """A queue message that is no S3 event in any form we know. It is never dropped, only set aside."""

    code = "malformed-message"


class SchemaTooNew(BadData):
    """The table or file was written by a newer snapengine."""

    code = "schema-too-new"


class LogDamaged(BadData):
    """An entry that an epoch covers is missing or cannot be read: no answer is given from the rest."""

    code = "log-damaged"


class DigestDiffers(BadData):
    """A view that was noted with a digest, and has another now."""

    code = "digest-differs"


class ArchiveDamaged(BadData):
    """A file of the archive is missing, cut short or altered; the message names it. Nothing is answered from
    the rest."""

    code = "archive-damaged"


class ArchiveFileMissing(ArchiveDamaged):
    """A file of the archive is not there: lost, or let go since its manifest was read. Whoever reads the
    manifests again and still finds it named has a damaged archive."""

    code = "archive-file-missing"
