"""Copies of exact versions made by S3 itself: no bytes pass here. In parts where the version came in parts.

boto3's managed copy is not used: it cuts parts of its own size, so that the copy's ETag would be another,
takes no condition on what is at the destination, and leaves out metadata and tags of what it copies in parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from readers.export_carrying import asked_of, carried, described_again, found_equal, parts_etag
from readers.export_evidence import NotAsTold, Stored, described, part_count, stored
from snapengine.aws_errors import code_of, translate
from snapengine.errors import PermissionMissing, Refused, SnapEngineError, UsageError, VersionArchived
from snapengine.model import ObjectVersion
from snapengine.stores.objects import refusal_of

LARGEST_COPY: Final = 5 << 30
"""Bytes that CopyObject takes. Source: S3 API Reference, "CopyObject"."""
PART: Final = 512 << 20
"""Bytes of a part, where the version does not say in which parts it came."""
MOST_PARTS: Final = 10_000
PART_WORKERS: Final = 16
"""Parts copied at once, of however many objects."""

_CHANGED: Final = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_ABSENT: Final = {"NoSuchKey", "404"}
"""Of a copy on condition of an ETag also where nothing is at its place any more. Source: S3 User Guide,
"How to prevent object overwrites with conditional writes"."""
_NOT_ACTIVE: Final = {"InvalidObjectState", "ObjectNotInActiveTierError"}


class DestinationChanged(Refused):
    """What is at the destination is not what it was when the copy was planned: it is left as it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy goes, and what must be there."""

    bucket: str
    key: str
    condition: Mapping[str, str]
    """`IfMatch` with the ETag of what is there, or `IfNoneMatch: *`; nothing is written on another."""
    in_place: bool = False
    """The copy takes the version's place in its own bucket: its storage class and KMS key are kept."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that was made, as S3 describes it."""

    stored: Stored
    checked: tuple[str, ...]
    """What is equal to the version's: `size`, and `etag` or `checksum`; `parts`: the ETag is the one of the
    parts that S3 copied; `source`: S3 names the version that it copied from."""


@dataclass(slots=True)
class Copier:
    """Makes copies with one client; thread-safe."""

    client: Any
    threshold: int = LARGEST_COPY
    """Bytes: a larger version is copied in parts, whatever it came in."""
    part: int = PART
    _parts: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        """Raises `UsageError` for an AWS SDK that knows no condition on what is at a copy's place."""
        if "IfMatch" not in self.client.meta.service_model.operation_model("CopyObject").input_shape.members:
            raise UsageError("This boto3 is too old to copy safely: run `pip install --upgrade boto3`.")
        self._parts = ThreadPoolExecutor(PART_WORKERS, thread_name_prefix="snapengine-part")

    def close(self) -> None:
        self._parts.shutdown(cancel_futures=True)

    def copy(self, bucket: str, version: ObjectVersion, to: Place) -> Copied:
        """Copy a version, and compare what S3 says of the copy with what it says of the version.

        Raises as reading the version does, `PermissionMissing`, `DestinationChanged`, and `NotAsTold` for a
        copy that is not as the version. After a lost reply the copy may be there all the same.
        """
        source = described(self.client, bucket, version)
        if source.archived:
            raise VersionArchived(
                f"s3://{bucket}/{version.key} version {version.version_id} is in {source.archived}: restore "
                "it before it can be copied.",
                version.key,
                version.version_id,
            )
        try:
            if source.size and (part_count(source.etag) or source.size > self.threshold):
                version_id, made_of, named = self._in_parts(bucket, version, source, to)
            else:
                version_id, made_of, named = self._whole(bucket, version, source, to)
            copy = stored(self._head(to, version_id))
        except (ClientError, BotoCoreError) as error:
            raise self._refusal(error, bucket, version, to) from error
        return Copied(copy, found_equal(bucket, version, source, copy, made_of, named))

    def _head(self, to: Place, version_id: str | None) -> Mapping[str, Any]:
        options = {"VersionId": version_id} if version_id else {}
        reply: Mapping[str, Any] = self.client.head_object(
            Bucket=to.bucket, Key=to.key, ChecksumMode="ENABLED", **options
        )
        return reply

    def _whole(
        self, bucket: str, version: ObjectVersion, source: Stored, to: Place
    ) -> tuple[str | None, str, bool]:
        """The copy's version id; nothing; and whether S3 names the version that it copied."""
        reply = self.client.copy_object(
            Bucket=to.bucket,
            Key=to.key,
            **asked_of(bucket, version, source),
            MetadataDirective="COPY",
            TaggingDirective="COPY",
            **carried(source, in_place=to.in_place),
            **to.condition,
        )
        return reply.get("VersionId"), "", self._named(reply, version)

    def _in_parts(
        self, bucket: str, version: ObjectVersion, source: Stored, to: Place
    ) -> tuple[str | None, str, bool]:
        """The same, with the ETag that the parts make."""
        cuts = self.cuts(bucket, version, source)
        tags = self.client.get_object_tagging(Bucket=bucket, Key=version.key, VersionId=version.version_id)
        upload = self.client.create_multipart_upload(
            Bucket=to.bucket,
            Key=to.key,
            **described_again(source, tags.get("TagSet", [])),
            **carried(source, in_place=to.in_place),
        )["UploadId"]
        try:

            def copy_part(numbered: tuple[int, tuple[int, int]]) -> tuple[dict[str, Any], bool]:
                number, (start, end) = numbered
                # A range is taken only of what is larger than 5 MB, and one part is the whole.
                cut = {"CopySourceRange": f"bytes={start}-{end - 1}"} if len(cuts) > 1 else {}
                reply = self.client.upload_part_copy(
                    Bucket=to.bucket,
                    Key=to.key,
                    UploadId=upload,
                    PartNumber=number,
                    **asked_of(bucket, version, source),
                    **cut,
                )
                result = reply["CopyPartResult"]
                checksums = {name: value for name, value in result.items() if name.startswith("Checksum")}
                part = {"PartNumber": number, "ETag": result["ETag"], **checksums}
                return part, self._named(reply, version)

            done = list(self._parts.map(copy_part, enumerate(cuts, 1)))
            reply = self.client.complete_multipart_upload(
                Bucket=to.bucket,
                Key=to.key,
                UploadId=upload,
                MultipartUpload={"Parts": [part for part, _ in done]},
                **to.condition,
            )
        except BaseException as error:
            self._abort(to, upload, error)
            raise
        return reply.get("VersionId"), parts_etag([part["ETag"] for part, _ in done]), all(n for _, n in done)

    def _abort(self, to: Place, upload: str, error: BaseException) -> None:
        """Its parts would be paid for. That it cannot be aborted is told with what went wrong."""
        try:
            self.client.abort_multipart_upload(Bucket=to.bucket, Key=to.key, UploadId=upload)
        except (ClientError, BotoCoreError) as lost:
            error.add_note(f"The upload {upload} of s3://{to.bucket}/{to.key} was not aborted: {lost}")

    def cuts(self, bucket: str, version: ObjectVersion, source: Stored) -> Sequence[tuple[int, int]]:
        """The parts `[start, end)` that a version came in, so that the copy has its ETag; parts of our own
        where it came in one, or the server does not say."""
        count = part_count(source.etag)
        found = self._part_sizes(bucket, version, source, count) if count else None
        if found is None:
            size = max(self.part, -(-source.size // MOST_PARTS))
            found = [min(size, source.size - start) for start in range(0, source.size, size)]
        ends = list(accumulate(found))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def _part_sizes(
        self, bucket: str, version: ObjectVersion, source: Stored, count: int
    ) -> list[int] | None:
        """Asked of the first and the last part; of each only where these do not fit parts of one size."""

        def size_of(number: int) -> int | None:
            reply = self.client.head_object(
                Bucket=bucket,
                Key=version.key,
                VersionId=version.version_id,
                PartNumber=number,
            )
            return int(reply["ContentLength"]) if reply.get("PartsCount") == count else None

        first, last = size_of(1), size_of(count)
        if first is None or last is None:
            return None
        if first * (count - 1) + last == source.size:
            return [first] * (count - 1) + [last]
        sizes = [first, *self._parts.map(size_of, range(2, count)), last]
        known = [size for size in sizes if size is not None]
        return known if len(known) == count and sum(known) == source.size else None

    def _named(self, reply: Mapping[str, Any], version: ObjectVersion) -> bool:
        """Whether S3 names the version that it copied. Raises for another."""
        named = reply.get("CopySourceVersionId")
        if named is not None and named != version.version_id:
            raise NotAsTold(
                f"S3 copied version {named} of {version.key!r} where {version.version_id} was asked for.",
                version.key,
                version.version_id,
            )
        return named is not None

    def _refusal(
        self, error: ClientError | BotoCoreError, bucket: str, version: ObjectVersion, to: Place
    ) -> SnapEngineError:
        code = code_of(error) if isinstance(error, ClientError) else ""
        name = f"s3://{bucket}/{version.key} version {version.version_id}"
        if code in _CHANGED or (code in _ABSENT and "IfMatch" in to.condition):
            described(self.client, bucket, version)  # raises if it was the source that has changed
            return DestinationChanged(
                f"s3://{to.bucket}/{to.key} was changed meanwhile, and is left as it is. Run it again."
            )
        if code in _NOT_ACTIVE:
            return VersionArchived(
                f"{name} is in an archived storage class: restore it before it can be copied.",
                version.key,
                version.version_id,
            )
        if code == "NoSuchBucket":
            return translate(error, f"bucket {to.bucket}")
        found = refusal_of(error, bucket, version)
        if isinstance(found, PermissionMissing) and isinstance(error, ClientError):
            return PermissionMissing(
                f"AWS denied {error.operation_name} of {name} to s3://{to.bucket}/{to.key}. Copying needs "
                "s3:GetObjectVersion and s3:GetObjectVersionTagging of the one, s3:PutObject, "
                "s3:PutObjectTagging and s3:GetObject of the other, and kms:Decrypt and kms:GenerateDataKey "
                "where a KMS key encrypts them.",
                action=error.operation_name,
            )
        return found
