"""GETs of exact versions at less than half of botocore's cost, asked for as the client asked before."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HAS_CRT
from botocore.exceptions import BotoCoreError
from botocore.utils import percent_encode
from urllib3.exceptions import HTTPError

from snapengine.model import NULL_VERSION, ObjectVersion

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_EVENT: Final = "before-send.s3.GetObject"
_SCOPE: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, .*")
_KEPT: Final = frozenset({"user-agent", "x-amz-checksum-mode"})
_OF_ONE_CALL: Final = frozenset(
    {
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "if-match",
        "range",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amzn-trace-id",
    }
)
_MISSES: Final = 3
_REST: Final = 60.0
"""Seconds for which a bucket is left to the client, after so many replies in a row that it alone had."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a client asks for the objects of a bucket."""

    base: str
    """The URL up to the key."""
    origin: str
    """Its scheme and host."""
    region: str
    headers: Mapping[str, str]
    pool: Any
    """The client's own connections to that host, as it has set them up."""


class LeanGets:
    """Signs and sends with the client's own parts: its credentials, botocore's signer, and its connections,
    with their TLS and timeouts. Left out are endpoint rules, validation, retries and the parsing of errors. A
    client that goes through a proxy makes all its requests itself.

    Nothing is asked for that the client has not asked for in the same form, and no reply but the expected one
    is taken: for all else the client is there.
    """

    def __init__(self, client: S3Client) -> None:
        made: Any = client
        self._session: Any = getattr(getattr(made, "_endpoint", None), "http_session", None)
        known = hasattr(self._session, "_manager") and hasattr(self._session, "_proxy_config")
        self._credentials: Any = getattr(getattr(made, "_request_signer", None), "_credentials", None)
        self._sent = threading.local()
        self._forms: dict[str, _Form] = {}
        self._misses: dict[str, int] = {}
        self._rest_until: dict[str, float] = {}
        if known and self._credentials is not None:
            self._events: Any = made.meta.events
            self._events.register_first(_EVENT, self._note)

    def read(self, bucket: str, version: ObjectVersion, start: int, stop: int | None) -> bytes | None:
        """Bytes `[start, stop)` of a version whose size is known; None where the client has to be asked."""
        self._sent.request = None
        form = self._forms.get(bucket)
        if form is None or version.size is None or stop is None:
            return None
        headers = dict(form.headers)
        status, place = 200, None
        if start > 0 or stop < version.size:
            status, place = 206, f"bytes {start}-{stop - 1}/{version.size}"
            headers["Range"] = f"bytes={start}-{stop - 1}"
        if version.version_id == NULL_VERSION and version.etag:
            headers["If-Match"] = f'"{version.etag}"'
        try:
            found, told, data = self._reply(form, version, headers)
        except (BotoCoreError, HTTPError, OSError):
            return None
        good = (
            found == status
            and told.get("content-range") == place
            and len(data) == stop - start
            and told.get("x-amz-version-id", NULL_VERSION) == version.version_id
            and (version.etag is None or told.get("etag") == f'"{version.etag}"')
            and _has_its_checksums(told, data)
        )
        if not good:
            return None
        self._misses.pop(bucket, None)
        return bytes(data)

    def learn(self, bucket: str, version: ObjectVersion) -> None:
        """The client has just had the version, asked for by this thread."""
        request = getattr(self._sent, "request", None)
        self._sent.request = None
        if request is None or time.monotonic() < self._rest_until.get(bucket, 0.0):
            return
        if bucket in self._forms:
            self._misses[bucket] = self._misses.get(bucket, 0) + 1
            if self._misses[bucket] >= _MISSES:
                del self._misses[bucket]
                self._rest_until[bucket] = time.monotonic() + _REST
                self._forms.pop(bucket, None)
            return
        if self._session._proxy_config.proxy_url_for(request.url) is None:
            pool = self._session._manager.connection_from_url(request.url)
            access_key = self._credentials.get_frozen_credentials().access_key
            form = _form_of(request, version, access_key, pool)
            if form is not None:
                self._forms[bucket] = form

    def _note(self, request: Any, **_: object) -> None:
        self._sent.request = request

    def _reply(
        self, form: _Form, version: ObjectVersion, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers (without regard to case) and body."""
        request = AWSRequest("GET", form.base + _tail(version), headers=headers)
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", form.region).add_auth(request)
        prepared = request.prepare()
        answered = self._events.emit_until_response(_EVENT, request=prepared)[1]
        if answered is not None:
            return answered.status_code, answered.headers, answered.content
        reply = form.pool.urlopen(
            "GET",
            prepared.url.removeprefix(form.origin),
            headers=prepared.headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            decode_content=False,
        )
        return reply.status, reply.headers, reply.data


def _tail(version: ObjectVersion) -> str:
    """The URL from the key on, as botocore writes it."""
    return f"{percent_encode(version.key, safe='/~')}?versionId={percent_encode(version.version_id)}"


def _form_of(request: Any, version: ObjectVersion, access_key: str, pool: Any) -> _Form | None:
    """The form of a request that a client sent; None for one of any kind that is not known here: unsigned,
    signed otherwise or by other credentials, or with headers that say more."""
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    tail = _tail(version)
    base = request.url.removesuffix(tail)
    scope = _SCOPE.fullmatch(headers.get("authorization", ""))
    if (
        request.method != "GET"
        or base == request.url
        or not base.endswith("/")
        or scope is None
        or scope[1] != access_key
        or headers.keys() - _KEPT - _OF_ONE_CALL
    ):
        return None
    kept = {name: value for name, value in headers.items() if name in _KEPT}
    scheme, host = urlsplit(base)[:2]
    return _Form(base, f"{scheme}://{host}", scope[2], kept, pool)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _has_its_checksums(headers: Mapping[str, str], data: bytes) -> bool:
    """Whether the bytes are what those of their checksums say that botocore looks at; False also where awscrt
    has to tell, which botocore uses if it is installed."""
    told = {
        name: value
        for name, value in ((name.lower(), value) for name, value in headers.items())
        if name.startswith("x-amz-checksum-") and name != "x-amz-checksum-type" and "-" not in value
    }
    if not told:
        return True
    computed = {
        "x-amz-checksum-crc32": lambda: zlib.crc32(data).to_bytes(4, "big"),
        "x-amz-checksum-sha1": lambda: hashlib.sha1(data, usedforsecurity=False).digest(),
        "x-amz-checksum-sha256": lambda: hashlib.sha256(data).digest(),
    }
    if told.keys() - computed.keys() and HAS_CRT:
        return False
    return all(
        base64.b64encode(computed[name]()).decode() == value
        for name, value in told.items()
        if name in computed
    )
