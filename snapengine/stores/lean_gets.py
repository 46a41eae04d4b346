"""GETs of exact versions at a tenth of botocore's cost, asked for as the client asked before."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest, HeadersDict
from botocore.compat import HAS_CRT, HTTPHeaders
from botocore.exceptions import BotoCoreError
from botocore.utils import percent_encode
from urllib3.exceptions import HTTPError

from snapengine.checksums import crc32
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.stores.connections import Connections, Reply, UnknownReply
from snapengine.stores.sigv4 import SignedSecond, signed_second

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_EVENT: Final = "before-send.s3.GetObject"
_AUTHORIZATION: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request, .*")
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
_NO_HEADERS: Final = HTTPHeaders()
_MISSES: Final = 3
_REST: Final = 60.0
"""Seconds for which a bucket is left to the client, after so many replies in a row that it alone had."""


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """How a client asks for the objects of a bucket."""

    path: str
    """The URL's path up to the key."""
    origin: str
    """Its scheme and host."""
    host: str
    """As in the header `Host`: without the port, where it is the scheme's own."""
    region: str
    headers: Mapping[str, str]
    """Those of every request, by names in lower case."""


class LeanGets:
    """Signed with the client's credentials and sent over connections that its own pool makes, with their TLS
    and timeouts. Left out are endpoint rules, validation, retries and the parsing of errors. A client that
    goes through a proxy makes all its requests itself.

    Nothing is asked for that the client has not asked for in the same form, and no reply but the expected one
    is taken: for all else the client is there. Threads and forked processes may use it.
    """

    def __init__(self, client: S3Client) -> None:
        made: Any = client
        self._session: Any = getattr(getattr(made, "_endpoint", None), "http_session", None)
        known = hasattr(self._session, "_manager") and hasattr(self._session, "_proxy_config")
        self._credentials: Any = getattr(getattr(made, "_request_signer", None), "_credentials", None)
        self._sent = threading.local()
        self._forms: dict[str, _Form] = {}
        self._hosts: dict[str, Connections] = {}
        self._seconds: dict[_Form, tuple[int, Any, SignedSecond]] = {}
        self._misses: dict[str, int] = {}
        self._rest_until: dict[str, float] = {}
        if known and self._credentials is not None:
            self._events: Any = made.meta.events
            self._events.register_first(_EVENT, self._note)

    def read(self, bucket: str, version: ObjectVersion, start: int, stop: int | None) -> bytes | None:
        """Bytes `[start, stop)` of a version whose size is known; None where the client has to be asked."""
        reply = self._get(bucket, version, start, stop, None)
        return None if reply is None else reply.body

    def read_into(self, bucket: str, version: ObjectVersion, start: int, buffer: memoryview) -> bool:
        """The bytes from `start` on that fill the buffer, all of them within the version; False where the
        client has to be asked, with anything in the buffer."""
        return self._get(bucket, version, start, start + len(buffer), buffer) is not None

    def learn(self, bucket: str, version: ObjectVersion) -> None:
        """The client has just had the version, asked for by this thread."""
        request = getattr(self._sent, "request", None)
        self._sent.request = None
        if request is None or time.monotonic() < self._rest_until.get(bucket, 0.0):
            return
        if bucket in self._forms:
            if not self._sent.tried:  # several threads began with the client at once
                return
            self._misses[bucket] = self._misses.get(bucket, 0) + 1
            if self._misses[bucket] >= _MISSES:
                del self._misses[bucket]
                self._rest_until[bucket] = time.monotonic() + _REST
                self._seconds.pop(self._forms.pop(bucket), None)
            return
        if self._session._proxy_config.proxy_url_for(request.url) is None:
            form = _form_of(request, version, self._credentials.get_frozen_credentials())
            if form is not None:
                if form.origin not in self._hosts:
                    pool = self._session._manager.connection_from_url(request.url)
                    self._hosts[form.origin] = Connections(pool)
                self._forms[bucket] = form

    def _note(self, request: Any, **_: object) -> None:
        self._sent.request = request

    def _get(
        self, bucket: str, version: ObjectVersion, start: int, stop: int | None, into: memoryview | None
    ) -> Reply | None:
        self._sent.request = None
        form = self._forms.get(bucket)
        self._sent.tried = form is not None and version.size is not None and stop is not None
        if form is None or version.size is None or stop is None:
            return None
        own: dict[str, str] = {}
        status, place = 200, None
        if version.version_id == NULL_VERSION and version.etag:
            own["if-match"] = f'"{version.etag}"'
        if start > 0 or stop < version.size:
            status, place = 206, f"bytes {start}-{stop - 1}/{version.size}"
            own["range"] = f"bytes={start}-{stop - 1}"
        try:
            reply = self._reply(form, version, own, status, stop - start, into)
        except (BotoCoreError, HTTPError, OSError, UnknownReply):
            return None
        told = reply.headers
        data = into if into is not None else reply.body
        good = (
            reply.read
            and data is not None
            and told.get("content-range") == place
            and told.get("x-amz-version-id", NULL_VERSION) == version.version_id
            and (version.etag is None or told.get("etag") == f'"{version.etag}"')
            and _has_its_checksums(told, data)
        )
        if not good:
            return None
        self._misses.pop(bucket, None)
        return reply

    def _reply(
        self,
        form: _Form,
        version: ObjectVersion,
        own: dict[str, str],
        status: int,
        length: int,
        into: memoryview | None,
    ) -> Reply:
        tail = _tail(version)
        signed = self._second(form)
        path, _, query = tail.partition("?")
        own["authorization"] = signed.authorization(form.path + path, query, own)
        request = _Request(form.origin + form.path + tail, signed.headers, own)
        answered = self._events.emit_until_response(_EVENT, request=request)[1]
        if answered is not None:
            return _answered(answered, status, length, into)
        sent = _text_of(request, form, signed, own)
        return self._hosts[form.origin].get(sent, status, length, into)

    def _second(self, form: _Form) -> SignedSecond:
        """What the requests of this second have in common."""
        credentials = self._credentials.get_frozen_credentials()
        now = int(time.time())
        known = self._seconds.get(form)
        if known is None or known[0] != now or known[1] != credentials:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
            second = signed_second(form.host, form.region, credentials[:3], stamp, form.headers)
            known = self._seconds[form] = (now, credentials, second)
        return known[2]


class _Request(AWSPreparedRequest):
    """As those hear of it who listen to what the client sends. Few look at its headers, and botocore's kind
    of them is slow to make."""

    def __init__(self, url: str, shared: Mapping[str, str], own: Mapping[str, str]) -> None:
        super().__init__("GET", url, _NO_HEADERS, None, False)
        self.shown: HTTPHeaders | None = None
        """What a listener has seen, and may have changed; None where none looked."""
        self._plain = shared, own

    @property
    def headers(self) -> HTTPHeaders:
        if self.shown is None:
            shared, own = self._plain
            self.shown = cast("HTTPHeaders", HeadersDict({**shared, **own}))
        return self.shown

    @headers.setter
    def headers(self, value: HTTPHeaders) -> None:
        self.shown = value


def _text_of(request: _Request, form: _Form, second: SignedSecond, own: Mapping[str, str]) -> bytes:
    """What is sent. Raises `UnknownReply` for what is the client's to send, or to refuse."""
    if request.shown is None:
        lines, count = second.lines, len(second.headers)
    else:
        lines, count, own = "", 0, {name: _text(value) for name, value in request.shown.items()}
    lines += "".join([f"{name}: {value}\r\n" for name, value in own.items()])
    target = request.url.removeprefix(form.origin)
    text = f"GET {target} HTTP/1.1\r\nHost: {form.host}\r\nAccept-Encoding: identity\r\n{lines}\r\n"
    if not text.isascii() or not text.count("\r") == text.count("\n") == count + len(own) + 4:
        raise UnknownReply("The request has characters that end a header's line.")
    return text.encode("ascii")


def _answered(answer: Any, status: int, length: int, into: memoryview | None) -> Reply:
    """The reply of whoever takes the place of the network, as the one of a server."""
    headers = {name.lower(): _text(value) for name, value in answer.headers.items()}
    body = bytes(answer.content)
    if answer.status_code != status or len(body) != length:
        return Reply(answer.status_code, headers)
    if into is None:
        return Reply(status, headers, body, read=True)
    into[:] = body
    return Reply(status, headers, read=True)


def _tail(version: ObjectVersion) -> str:
    """The URL from the key on, as botocore writes it."""
    return f"{percent_encode(version.key, safe='/~')}?versionId={percent_encode(version.version_id)}"


def _form_of(request: Any, version: ObjectVersion, keys: Any) -> _Form | None:
    """The form of a request that a client sent; None for one of any kind that is not known here: unsigned,
    signed otherwise or by other credentials than `keys`, or with headers that say more. That it would be
    signed here with the same signature is proved."""
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    tail = _tail(version)
    base = request.url.removesuffix(tail)
    scope = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if (
        request.method != "GET"
        or base == request.url
        or not base.endswith("/")
        or scope is None
        or scope[1] != keys.access_key
        or headers.keys() - _KEPT - _OF_ONE_CALL
    ):
        return None
    scheme, location, path, _, _ = urlsplit(base)
    host, origin = _host(base), f"{scheme}://{location}"
    kept = {name: value for name, value in headers.items() if name in _KEPT}
    own = {name: headers[name] for name in ("if-match", "range") if name in headers}
    signed = signed_second(host, scope[2], keys[:3], headers.get("x-amz-date", ""), kept)
    encoded, _, query = (path + tail).partition("?")
    if base != origin + path or signed.authorization(encoded, query, own) != headers["authorization"]:
        return None
    return _Form(path, origin, host, scope[2], kept)


def _host(url: str) -> str:
    """RFC 9110, 7.2: without the port where it is the scheme's own."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    own = {"http": 80, "https": 443}.get(parts.scheme)
    return name if parts.port in {None, own} else f"{name}:{parts.port}"


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _has_its_checksums(headers: Mapping[str, str], data: bytes | memoryview) -> bool:
    """Whether the bytes are what those of their checksums say that botocore looks at; False also where awscrt
    has to tell, which botocore uses if it is installed."""
    told = {
        name: value
        for name, value in headers.items()
        if name.startswith("x-amz-checksum-") and name != "x-amz-checksum-type" and "-" not in value
    }
    if not told:
        return True
    computed = {
        "x-amz-checksum-crc32": lambda: crc32(data).to_bytes(4, "big"),
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
