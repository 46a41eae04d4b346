"""moto's S3 with the versioning and the notifications of the real one.

moto 5.2.5 forgets every earlier version once versioning is suspended, makes no marker for a key that it
has never seen, and tells of deletes only where a key's last version goes. What is not named here is moto's.
"""

from __future__ import annotations

from typing import Any

from moto.core.utils import utcnow
from moto.s3 import notifications
from moto.s3.exceptions import (
    AccessDeniedByLock,
    InvalidNotificationDestination,
    MethodNotAllowed,
    S3ClientError,
)
from moto.s3.models import (
    FakeBucket,
    FakeDeleteMarker,
    FakeKey,
    FakeMultipart,
    FakeTableStorageBucket,
    S3Backend,
)
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends

from snapengine.devcloud import context, rules
from snapengine.devcloud.s3_responses import DevS3Response

# The version id of whatever is stored while versioning is not enabled; a key has at most one such version.
NULL = "null"
_REMOVED = "s3:ObjectRemoved:Delete"
_MARKED = "s3:ObjectRemoved:DeleteMarkerCreated"


class DevS3Backend(S3Backend):
    """One account's buckets. Its methods run under the S3 lock, one request at a time."""

    @property
    def url_paths(self) -> dict[str, Any]:
        # A key may hold line feeds, which moto's `.` does not match.
        return {
            path.replace(">.+)", r">[\s\S]+)"): getattr(DevS3Response, handler.__name__)
            for path, handler in super().url_paths.items()
        }

    def put_bucket_versioning(self, bucket_name: str, status: str) -> None:
        super().put_bucket_versioning(bucket_name, status)
        for _, versions in self.get_bucket(bucket_name).keys.lists():
            for version in versions:
                version._is_versioned = True  # from now on replies name their version, `null`

    def put_object(
        self,
        bucket_name: str,
        key_name: str,
        value: bytes,
        *args: Any,
        **kwargs: Any,
    ) -> FakeKey:
        # A completed multipart upload, which comes with its parts, asks for a second event besides its own.
        silent = kwargs.get("disable_notification") or kwargs.get("multipart") is not None
        kwargs["disable_notification"] = True
        bucket = self.get_bucket(bucket_name)
        earlier = _versions(bucket, key_name)
        _store(bucket, key_name, [])  # moto would dispose of them, were they in its way
        try:
            stored = super().put_object(bucket_name, key_name, value, *args, **kwargs)
        except BaseException:
            _store(bucket, key_name, earlier)
            raise
        stored._is_versioned = bucket.versioning_status is not None
        if bucket.versioning_status != "Enabled":
            stored._version_id = NULL
            earlier = _without(earlier, NULL)
        _store(bucket, key_name, [*earlier, stored])
        if not silent:
            form = "Post" if kwargs.get("request_method") == "POST" else "Put"
            self._tell(f"s3:ObjectCreated:{form}", bucket, stored)
        return stored

    def create_multipart_upload(self, *args: Any, **kwargs: Any) -> FakeMultipart:
        upload = super().create_multipart_upload(*args, **kwargs)
        upload.started = utcnow()  # type: ignore[attr-defined]  # moto keeps no time of an upload
        return upload

    def complete_multipart_upload(self, bucket_name: str, multipart_id: str, body: Any) -> FakeKey | None:
        upload = self.get_bucket(bucket_name).multiparts.get(multipart_id)
        stored = super().complete_multipart_upload(bucket_name, multipart_id, body)
        if stored is not None and upload is not None:
            # "For multipart uploads, the object creation date is the date of initiation" (S3 User Guide,
            # "Working with object metadata"): a listing may show it long before the object could be seen.
            stored.last_modified = upload.started  # type: ignore[attr-defined]  # set above
        return stored

    def delete_object(
        self, bucket_name: str, key_name: str, version_id: str | None = None, bypass: bool = False
    ) -> tuple[bool, dict[str, Any]]:
        bucket = self.get_bucket(bucket_name)
        if isinstance(bucket, FakeTableStorageBucket):
            raise MethodNotAllowed
        if version_id is not None:
            return self._remove(bucket, key_name, version_id, bypass)
        if bucket.versioning_status is None:
            return self._remove(bucket, key_name, NULL, bypass)
        return True, self._mark(bucket, key_name)

    def delete_objects(
        self, bucket_name: str, objects: list[dict[str, Any]], bypass_retention: bool = False
    ) -> tuple[list[tuple[str, str | None, str | None]], list[str]]:
        deleted: list[tuple[str, str | None, str | None]] = []
        refused = []
        for each in objects:
            key, version_id = each["Key"], each.get("VersionId")
            try:
                _, meta = self.delete_object(bucket_name, key, version_id, bypass_retention)
            except AccessDeniedByLock:
                refused.append(key)
            else:
                marker = meta.get("version-id") if "delete-marker" in meta else None
                deleted.append((key, version_id, marker))
        return deleted, refused

    def put_bucket_notification_configuration(
        self, bucket_name: str, notification_config: dict[str, Any]
    ) -> None:
        bucket = self.get_bucket(bucket_name)
        asked = rules.rules_of(notification_config)
        objection = rules.objection(asked)
        if objection:
            raise S3ClientError("InvalidArgument", objection)
        # moto looks at the Region too, but only after it has replaced the configuration.
        if any(rule.target.split(":")[3] != bucket.region_name for rule in asked):
            raise InvalidNotificationDestination
        if context.current().header("x-amz-skip-destination-validation").lower() != "true":
            self._find_destinations(asked)
        super().put_bucket_notification_configuration(bucket_name, notification_config)

    def _find_destinations(self, asked: list[rules.Rule]) -> None:
        for rule in asked:
            _, _, service, region, owner, name = rule.target.split(":", 5)
            missing = (service == "sqs" and name not in sqs_backends[owner][region].queues) or (
                service == "sns" and rule.target not in sns_backends[owner][region].topics
            )
            if missing:
                raise S3ClientError(
                    "InvalidArgument", "Unable to validate the following destination configurations"
                )

    def _mark(self, bucket: FakeBucket, key_name: str) -> dict[str, Any]:
        """Insert a delete marker: for a key never seen, and on top of another marker, too."""
        versions = _versions(bucket, key_name)
        marker = FakeDeleteMarker(_Named(key_name))  # type: ignore[arg-type]  # only its name is read
        if bucket.versioning_status == "Suspended":
            marker._version_id = NULL
            versions = _without(versions, NULL)
        _store(bucket, key_name, [*versions, marker])
        self._tell(_MARKED, bucket, marker)
        return {"version-id": marker.version_id, "delete-marker": "true"}

    def _remove(
        self, bucket: FakeBucket, key_name: str, version_id: str, bypass: bool
    ) -> tuple[bool, dict[str, Any]]:
        """Remove one version or marker for good; the version beneath a marker is then current again.

        Removing what is not there succeeds. Whether S3 then sends an event is not documented: it says that
        failed operations send none, and we send none for one that changes nothing.
        """
        versioned = bucket.versioning_status is not None
        meta = {"version-id": version_id} if versioned else {}
        versions = _versions(bucket, key_name)
        doomed = next((each for each in versions if each.version_id == version_id), None)
        if doomed is None:
            return False, meta
        if isinstance(doomed, FakeKey) and doomed.is_locked(governance_bypass=bypass):
            raise AccessDeniedByLock
        if isinstance(doomed, FakeDeleteMarker):
            meta["delete-marker"] = "true"
        _store(bucket, key_name, _without(versions, version_id))
        self._tell(_REMOVED, bucket, doomed)
        return True, meta

    def _tell(self, event_name: str, bucket: FakeBucket, key: Any) -> None:
        # By way of moto's name for it, behind which stands the publisher of whichever cloud is up.
        notifications.send_event(self.account_id, notifications.S3NotificationEvent(event_name), bucket, key)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def _versions(bucket: FakeBucket, key_name: str) -> list[Any]:
    """A key's versions and markers, in the order they were stored."""
    return list(bucket.keys.getlist(key_name, []))


def _store(bucket: FakeBucket, key_name: str, versions: list[Any]) -> None:
    # Past the methods of moto's dictionary, which dispose of what they drop and fail on markers.
    if versions:
        dict.__setitem__(bucket.keys, key_name, versions)
    else:
        dict.pop(bucket.keys, key_name, None)


def _without(versions: list[Any], version_id: str) -> list[Any]:
    for version in versions:
        if version.version_id == version_id and isinstance(version, FakeKey):
            version.dispose()
    return [version for version in versions if version.version_id != version_id]
