"""A user of a bucket who does things at random through a plain boto3 client, and what the server then lists.

Nothing of the engine is imported here. It stays within what SeaweedFS does as S3 does (docs/services.md):
versioning is on from the start, no key is the folder of another, and no key has `//` or the like.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.recorder import Recorder

KEYS = [
    "ct/patient 1/é+ü.dcm",
    "ct/patient 1/0001.dcm",
    "ct/patient%202/0001.dcm",
    "mr/a=b&c;d.dcm",
    "mr/日本/🫀.dcm",
    "README",
    "UPPER.txt",
    "~last",
]

Shown = dict[str, tuple[str, str | None, int | None]]
"""By key: version id, ETag, size in bytes."""


class Listed(NamedTuple):
    """A row of ListObjectVersions, as boto3 gives it."""

    created: bool
    """False for a marker."""
    version_id: str
    last_modified: int
    etag: str | None
    size: int | None


class User:
    """Does things to a bucket, at random, through a plain client."""

    def __init__(self, client: Any, bucket: str, seed: int) -> None:
        self.recorder = Recorder(client)
        self._s3 = client
        self._bucket = bucket
        self._chance = random.Random(seed)
        self._acts: list[Callable[[str], None]] = [
            *(4 * [self._put]),
            *(2 * [self._delete]),
            *(2 * [self._remove_a_version]),
            self._copy,
            self._upload_in_parts,
            self._delete_several,
        ]

    def act(self) -> None:
        """One operation, which S3 tells of by at least one event."""
        told = len(self.recorder.events)
        while len(self.recorder.events) == told:
            self._chance.choice(self._acts)(self._chance.choice(KEYS))

    def _content(self) -> bytes:
        return self._chance.choice([b"", b"same", self._chance.randbytes(self._chance.randrange(50))])

    def _put(self, key: str) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=self._content())

    def _delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._bucket, Key=key)

    def _existing(self) -> list[tuple[str, str, bool]]:
        """Key, version id, and whether it is an object and no marker."""
        rows = [(key, row) for key, rows in listed(self._s3, self._bucket).items() for row in rows]
        return [(key, row.version_id, row.created) for key, row in rows]

    def _remove_a_version(self, _: str) -> None:
        if existing := self._existing():
            key, version_id, _created = self._chance.choice(existing)
            self._s3.delete_object(Bucket=self._bucket, Key=key, VersionId=version_id)

    def _copy(self, key: str) -> None:
        if objects := [each for each in self._existing() if each[2]]:
            of, version_id, _ = self._chance.choice(objects)
            source = {"Bucket": self._bucket, "Key": of, "VersionId": version_id}
            self._s3.copy_object(Bucket=self._bucket, Key=key, CopySource=source)

    def _upload_in_parts(self, key: str) -> None:
        place = {"Bucket": self._bucket, "Key": key}
        upload = self._s3.create_multipart_upload(**place)["UploadId"]
        part = self._s3.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"part" + self._content())
        if self._chance.random() < 0.5:  # something else comes to be while it is open
            self._put(key)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        self._s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)

    def _delete_several(self, key: str) -> None:
        existing = self._existing()
        chosen = self._chance.sample(existing, min(2, len(existing)))
        objects = [{"Key": of, "VersionId": version_id} for of, version_id, _ in chosen]
        self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": [*objects, {"Key": key}]})


def listed(client: Any, bucket: str) -> dict[str, list[Listed]]:
    """Everything that exists: by key, as the server orders it, which boto3's reply has lost."""
    page: list[bytes] = []

    def keep(http_response: Any, **_: Any) -> None:
        page.append(http_response.content)

    client.meta.events.register("after-call.s3.ListObjectVersions", keep)
    try:
        reply = client.list_object_versions(Bucket=bucket)
    finally:
        client.meta.events.unregister("after-call.s3.ListObjectVersions", keep)
    assert not reply["IsTruncated"]
    order = re.findall(r"<VersionId>(.+?)</VersionId>", page[0].decode())
    found: dict[str, list[Listed]] = {}
    for name in ("Versions", "DeleteMarkers"):
        for row in reply.get(name, ()):
            etag = row["ETag"].strip('"') if "ETag" in row else None
            modified = int(row["LastModified"].timestamp() * 1000)
            one = Listed(name == "Versions", row["VersionId"], modified, etag, row.get("Size"))
            found.setdefault(row["Key"], []).append(one)
    return {key: sorted(rows, key=lambda row: order.index(row.version_id)) for key, rows in found.items()}


def shown_now(client: Any, bucket: str) -> Shown:
    """What the server shows, from both of its listings, which must agree."""
    shown = {
        row["Key"]: (row["VersionId"], row["ETag"].strip('"'), row["Size"])
        for row in client.list_object_versions(Bucket=bucket).get("Versions", ())
        if row["IsLatest"]
    }
    objects = client.list_objects_v2(Bucket=bucket).get("Contents", ())
    assert {key: rest for key, (_, *rest) in shown.items()} == {
        row["Key"]: [row["ETag"].strip('"'), row["Size"]] for row in objects
    }, "the server's listings contradict each other"
    return shown
