"""Signatures of GETs from S3, in their headers: AWS Signature Version 4, as botocore's signer makes them.

Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NO_BODY: Final = hashlib.sha256(b"").hexdigest()
"""`x-amz-content-sha256` of a request without a body."""

UNSIGNED: Final = "user-agent"
"""The one header that botocore sends and does not sign; proxies change it."""


@dataclass(frozen=True, slots=True)
class SignedSecond:
    """What the GETs of one second have in common, from one host and with one key."""

    headers: Mapping[str, str]
    """All that they share but `host`, by names in lower case."""
    lines: str
    """The same, as they are sent."""
    _canonical: str
    _names: str
    _scope: str
    _signing_key: bytes
    _start: str
    _host: str

    def authorization(self, path: str, query: str, own: Mapping[str, str]) -> str:
        """PURE. The header `Authorization` of one of them.

        `path` and `query` are as they are sent, percent-encoded, with at most one parameter. `own` are its
        own headers, sorted by their names, which stand between `host` and `x-amz-`: `if-match`, `range`.
        """
        lines = "".join([f"{name}:{value}\n" for name, value in own.items()])
        names = ";".join(["host", *own, self._names])
        canonical = f"GET\n{path}\n{query}\n{self._host}{lines}{self._canonical}\n{names}\n{NO_BODY}"
        told = self._scope + hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(self._signing_key, told.encode(), "sha256").hex()
        return f"{self._start}, SignedHeaders={names}, Signature={signature}"


def signed_second(
    host: str,
    region: str,
    credentials: tuple[str, str, str | None],
    stamp: str,
    kept: Mapping[str, str],
) -> SignedSecond:
    """PURE. `stamp` is `YYYYMMDDTHHMMSSZ`; `credentials` are access key, secret key and session token; `kept`
    the headers besides, by names in lower case that begin with `x-amz-`, and `user-agent`."""
    access_key, secret_key, token = credentials
    headers = {**kept, "x-amz-date": stamp, "x-amz-content-sha256": NO_BODY}
    if token:
        headers["x-amz-security-token"] = token
    signed = sorted(item for item in headers.items() if item[0] != UNSIGNED)
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    return SignedSecond(
        headers=headers,
        lines="".join(f"{name}: {value}\r\n" for name, value in headers.items()),
        _canonical="".join(f"{name}:{value}\n" for name, value in signed),
        _names=";".join(name for name, _ in signed),
        _scope=f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n",
        _signing_key=_signing_key(secret_key, stamp[:8], region),
        _start=f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}",
        _host=f"host:{host}\n",
    )


@lru_cache(maxsize=16)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
