"""Copies of exact versions made by S3 itself: no bytes pass here. In parts where the version came in parts.

boto3's managed copy is not used: it cuts parts of its own size, so that the copy's ETag would be another,
takes no condition on what is at the destination, and leaves out metadata and tags of what it copies in parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from hashlib import md5
from itertools import accumulate
from typing import Any, Final
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError

from readers.export_evidence import CHECKSUMS, Stored, described, is_plain, part_count, stored, verdict
from snapengine.aws_errors import code_of, translate
from snapengine.errors import BytesUnavailable, PermissionMissing, Refused, SnapEngineError, VersionArchived
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.stores.objects import refusal_of

LARGEST_COPY: Final = 5 << 30
"""Bytes that CopyObject takes. Source: S3 API Reference, "CopyObject"."""
PART: Final = 512 << 20
"""Bytes of a part, where the version does not say in which parts it came."""
MOST_PARTS: Final = 10_000
PART_WORKERS: Final = 16
"""Parts copied at once, of however many objects."""

_ARCHIVED: Final = {"GLACIER", "DEEP_ARCHIVE"}
_CHANGED: Final = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_NOT_ACTIVE: Final = {"InvalidObjectState", "ObjectNotInActiveTierError"}
_HEADERS: Final = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")


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
        self._parts = ThreadPoolExecutor(PART_WORKERS, thread_name_prefix="snapengine-part")

    def close(self) -> None:
        self._parts.shutdown(cancel_futures=True)

    def copy(self, bucket: str, version: ObjectVersion, to: Place) -> Copied:
        """Copy a version, and compare what S3 says of the copy with what it says of the version.

        Raises as reading the version does, `PermissionMissing`, `DestinationChanged`, and `BytesUnavailable`
        for a copy that is not as the version. After a lost reply the copy may be there all the same.
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
                version_id, parts_etag, named = self._in_parts(bucket, version, source, to)
            else:
                version_id, parts_etag, named = self._whole(bucket, version, source, to)
            copy = stored(self._head(to, version_id))
        except (ClientError, BotoCoreError) as error:
            raise self._refusal(error, bucket, version, to) from error
        return Copied(copy, _checked(bucket, version, source, copy, parts_etag, named))

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
            **_source(bucket, version, source),
            MetadataDirective="COPY",
            TaggingDirective="COPY",
            **_carried(source, to),
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
            **_described_again(source, tags.get("TagSet", [])),
            **_carried(source, to),
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
                    **_source(bucket, version, source),
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
            raise BytesUnavailable(
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
        if code in _CHANGED:
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


def _source(bucket: str, version: ObjectVersion, source: Stored) -> dict[str, Any]:
    """The id `null` is used again and again: the ETag says which is meant."""
    return {
        "CopySource": {"Bucket": bucket, "Key": version.key, "VersionId": version.version_id},
        "CopySourceIfMatch": f'"{source.etag}"',
    }


def _carried(source: Stored, to: Place) -> dict[str, Any]:
    """What no copy takes along by itself. What was in an archive comes back to the standard class: it is to
    be read."""
    found = {}
    if redirect := source.reply.get("WebsiteRedirectLocation"):
        found["WebsiteRedirectLocation"] = redirect
    if not to.in_place:
        return found
    storage_class = source.reply.get("StorageClass")
    if storage_class and storage_class not in _ARCHIVED:
        found["StorageClass"] = storage_class
    encryption = source.reply.get("ServerSideEncryption", "")
    if encryption.startswith("aws:kms"):
        found["ServerSideEncryption"] = encryption
        if key := source.reply.get("SSEKMSKeyId"):
            found["SSEKMSKeyId"] = key
    return found


def _described_again(source: Stored, tags: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Metadata, headers, tags and checksum of an upload that is to be as its source."""
    reply = source.reply
    found: dict[str, Any] = {name: reply[name] for name in _HEADERS if reply.get(name)}
    found["Metadata"] = dict(reply.get("Metadata", {}))
    if expires := reply.get("ExpiresString"):
        try:
            found["Expires"] = parsedate_to_datetime(expires)
        except ValueError:
            raise BytesUnavailable(
                f"Its header Expires is {expires!r}, which is no date: what is copied in parts cannot keep "
                "it. Read the object and write it elsewhere by hand."
            ) from None
    if tags:
        found["Tagging"] = urlencode([(tag["Key"], tag["Value"]) for tag in tags])
    for name in CHECKSUMS:
        if name in source.checksums:
            found["ChecksumAlgorithm"] = name
            if reply.get("ChecksumType"):
                found["ChecksumType"] = reply["ChecksumType"]
            break
    return found


def parts_etag(etags: Sequence[str]) -> str:
    """PURE. The ETag that S3 gives to an object of these parts; nothing where theirs are not MD5s."""
    plain = [etag.strip('"') for etag in etags]
    if not all(map(is_plain, plain)):
        return ""
    return f"{md5(b''.join(map(bytes.fromhex, plain)), usedforsecurity=False).hexdigest()}-{len(plain)}"


def _checked(
    bucket: str, version: ObjectVersion, source: Stored, copy: Stored, made_of: str, named: bool
) -> tuple[str, ...]:
    """What was found equal. Raises `BytesUnavailable` for a copy that is not as the version."""
    found = verdict(source, copy)
    if found == "different":
        raise BytesUnavailable(
            f"The copy of s3://{bucket}/{version.key} version {version.version_id} is not as the version: "
            f"{copy.size:,} bytes, ETag {copy.etag}, not {source.size:,} bytes, ETag {source.etag}.",
            version.key,
            version.version_id,
        )
    checked = ["size"] if found == "unknown" else ["size", found]
    if found != "etag" and made_of and made_of == copy.etag:
        checked.append("parts")
    if named and version.version_id != NULL_VERSION:
        checked.append("source")
    return tuple(checked)
