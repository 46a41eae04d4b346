"""moto's S3 replies, corrected where a view of a bucket's past depends on them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from moto.s3.exceptions import InvalidArgumentError
from moto.s3.models import OWNER, FakeDeleteMarker, FakeKey
from moto.s3.responses import S3Response

from snapengine.devcloud.listing import Entry, Page, PageRequest, page_of

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_PROLOGUE = '<?xml version="1.0" encoding="UTF-8"?>\n'
_OWNER = f"<Owner><ID>{OWNER}</ID><DisplayName>webfile</DisplayName></Owner>"
_MOST_KEYS = 1000
# A carriage return would become a line feed, and other control characters are no XML at all: S3 too writes
# them as references, which its callers avoid by `encoding-type=url`.
_CONTROLS = {chr(code): f"&#{code};" for code in (*range(0x20), 0x7F) if code not in (0x09, 0x0A)}

type_of_reply = tuple[int, dict[str, Any], str | bytes]


class DevS3Response(S3Response):
    """One request to S3."""

    def list_object_versions(self) -> Any:
        """In one list, newest first within a key, markers among the versions; moto gives two lists."""
        asked = self._page_request()
        bucket = self.backend.get_bucket(self.bucket_name)
        page = page_of(dict(bucket.keys.lists()), asked)
        encoding = self._query("encoding-type")
        return 200, {"content-type": "application/xml"}, _listing(bucket.name, asked, page, encoding)

    def get_object(self) -> Any:
        version_id = self._query("versionId")
        marker = self._marker(self.bucket_name, self.parse_key_name(), version_id or None)
        return _reply_about_marker(marker, bool(version_id)) if marker else super().get_object()

    def head_object(
        self, bucket_name: str, query: dict[str, Any], key_name: str, headers: dict[str, Any]
    ) -> Any:
        version_id = query.get("versionId", [None])[0]
        if version_id == "null" and self.backend.get_bucket(bucket_name).versioning_status is None:
            # moto answers 400 to any version of a bucket without versioning; this one it does have.
            query = {name: value for name, value in query.items() if name != "versionId"}
        marker = self._marker(bucket_name, key_name, version_id)
        if marker:
            return _reply_about_marker(marker, version_id is not None)
        return super().head_object(bucket_name, query, key_name, headers)

    def get_bucket_notification(self) -> Any:
        """With the EventBridge switch, which moto keeps but does not show; a rewrite would turn it off."""
        status, headers, body = super().get_bucket_notification()
        configuration = self.backend.get_bucket_notification_configuration(self.bucket_name)
        if configuration is not None and configuration.event_bridge is not None:
            root = ElementTree.fromstring(str(body))  # noqa: S314  # moto's own reply
            ElementTree.SubElement(
                root, root.tag.replace("NotificationConfiguration", "EventBridgeConfiguration")
            )
            body = ElementTree.tostring(root, encoding="unicode")
        return status, headers, body

    def _key_response_post(self, request: Any, body: bytes, bucket_name: str, *args: Any) -> Any:
        status, headers, content = super()._key_response_post(request, body, bucket_name, *args)
        if self.backend.get_bucket(bucket_name).versioning_status is None:
            headers.pop("x-amz-version-id", None)  # moto names the version `null` where S3 names none
        return status, headers, content

    def _query(self, name: str) -> str:
        return str(self.querystring.get(name, [""])[0] or "")

    def _page_request(self) -> PageRequest:
        key_marker, version_id_marker = self._query("key-marker"), self._query("version-id-marker")
        if version_id_marker and not key_marker:
            message = "A version-id marker cannot be specified without a key marker."
            raise InvalidArgumentError(message, "version-id-marker", version_id_marker)
        return PageRequest(
            prefix=self._query("prefix"),
            delimiter=self._query("delimiter"),
            key_marker=key_marker,
            version_id_marker=version_id_marker,
            max_keys=min(int(self._query("max-keys") or _MOST_KEYS), _MOST_KEYS),
        )

    def _marker(self, bucket_name: str, key_name: str, version_id: str | None) -> FakeDeleteMarker | None:
        # Annotated by moto as an object alone, although it was asked for markers too.
        found: Any = self.backend.get_object(bucket_name, key_name, version_id, return_delete_marker=True)
        return found if isinstance(found, FakeDeleteMarker) else None


def _reply_about_marker(marker: FakeDeleteMarker, by_version: bool) -> type_of_reply:
    """405 where the marker itself was asked for, 404 where it is the current version (as GetObject says)."""
    headers = {
        "x-amz-delete-marker": "true",
        "x-amz-version-id": marker.version_id,
        "content-type": "application/xml",
    }
    if not by_version:
        return 404, headers, _error("NoSuchKey", "The specified key does not exist.")
    headers["allow"] = "DELETE"
    headers["last-modified"] = f"{marker.last_modified:%a, %d %b %Y %H:%M:%S} GMT"
    return (
        405,
        headers,
        _error("MethodNotAllowed", "The specified method is not allowed against this resource."),
    )


def _error(code: str, message: str) -> str:
    return f"{_PROLOGUE}<Error><Code>{code}</Code><Message>{message}</Message></Error>"


def _listing(bucket: str, asked: PageRequest, page: Page[FakeKey | FakeDeleteMarker], encoding: str) -> str:
    def name(text: str) -> str:
        return _escaped(quote(text, safe="/") if encoding == "url" else text)

    head = [
        f"<Name>{bucket}</Name><Prefix>{name(asked.prefix)}</Prefix>",
        f"<KeyMarker>{name(asked.key_marker)}</KeyMarker>",
        f"<VersionIdMarker>{asked.version_id_marker}</VersionIdMarker>",
        f"<MaxKeys>{asked.max_keys}</MaxKeys><IsTruncated>{str(page.truncated).lower()}</IsTruncated>",
    ]
    if asked.delimiter:
        head.append(f"<Delimiter>{name(asked.delimiter)}</Delimiter>")
    if encoding:
        head.append(f"<EncodingType>{_escaped(encoding)}</EncodingType>")
    if page.truncated:
        last = page.entries[-1]
        head.append(f"<NextKeyMarker>{name(last.name)}</NextKeyMarker>")
        if last.version is not None:
            head.append(f"<NextVersionIdMarker>{last.version.version_id}</NextVersionIdMarker>")
    rows = [_row(entry, name(entry.name)) for entry in page.entries]
    result = f'<ListVersionsResult xmlns="{_NAMESPACE}">{"".join(head)}{"".join(rows)}</ListVersionsResult>'
    return _PROLOGUE + result


def _row(entry: Entry[FakeKey | FakeDeleteMarker], name: str) -> str:
    version = entry.version
    if version is None:
        return f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
    common = (
        f"<Key>{name}</Key><VersionId>{version.version_id}</VersionId>"
        f"<IsLatest>{str(entry.is_latest).lower()}</IsLatest>"
        f"<LastModified>{version.last_modified_ISO8601}</LastModified>"
    )
    if isinstance(version, FakeDeleteMarker):
        return f"<DeleteMarker>{common}{_OWNER}</DeleteMarker>"
    return (
        f"<Version>{common}<ETag>{escape(version.etag)}</ETag><Size>{version.size}</Size>"
        f"{_OWNER}<StorageClass>{version.storage_class}</StorageClass></Version>"
    )


def _escaped(text: str) -> str:
    return escape(text, _CONTROLS)
