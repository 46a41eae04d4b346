"""What S3 would answer about a view, in boto3's form: listings, their tokens, and refusals."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from readers.errors import NOT_OFFERED, S3Error, s3_error
from readers.s3_listing import MOST_KEYS, Page, PageRequest, as_entry
from snapengine.errors import SnapEngineError, UsageError

LISTINGS: Final = frozenset({"ListObjects", "ListObjectsV2"})
_INVALID: Final = s3_error(UsageError())
_MARK: Final = 8
"""Bytes of a token that tell which listing it is of."""


def metadata(status: int) -> dict[str, Any]:
    """`ResponseMetadata` of an answer for which S3 was not asked: it has no request id."""
    headers = {"content-type": "application/xml"}
    return {
        "RequestId": "",
        "HostId": "",
        "HTTPStatusCode": status,
        "HTTPHeaders": headers,
        "RetryAttempts": 0,
    }


def refusal(client: Any, operation: str, answer: S3Error, message: str, **details: str) -> ClientError:
    """The error that botocore would raise, of the class that `client.exceptions` has for its code."""
    error = {"Code": answer.code, "Message": message, **details}
    response = {"Error": error, "ResponseMetadata": metadata(answer.status)}
    made: ClientError = client.exceptions.from_code(answer.code)(response, operation)
    return made


def told(client: Any, operation: str, error: SnapEngineError) -> ClientError:
    """The same for an error of ours."""
    return refusal(client, operation, s3_error(error), str(error))


class Unanswered(Exception):
    """A question about a listing to which a view has no answer."""

    def __init__(self, message: str, answer: S3Error = _INVALID) -> None:
        super().__init__(message)
        self.answer = answer


def page_request(operation: str, asked: Mapping[str, Any], reference: str) -> PageRequest:
    """What a listing asks for; `asked` are boto3's parameters. Raises `Unanswered`."""
    if asked.get("FetchOwner") or asked.get("OptionalObjectAttributes"):
        raise Unanswered(
            "A view does not know the owners of objects, nor what is being restored.", NOT_OFFERED
        )
    if asked.get("EncodingType", "url") != "url":
        raise Unanswered("Invalid Encoding Method specified in Request")
    limit = asked.get("MaxKeys", MOST_KEYS)
    if limit < 0:
        raise Unanswered("Argument maxKeys must be an integer between 0 and 2147483647")
    prefix, delimiter = asked.get("Prefix", ""), asked.get("Delimiter", "")
    after = asked.get("Marker" if operation == "ListObjects" else "StartAfter", "")
    if operation == "ListObjectsV2" and "ContinuationToken" in asked:
        after = from_token(asked["ContinuationToken"], reference, prefix, delimiter)
    return PageRequest(prefix, delimiter, after, min(limit, MOST_KEYS))


def listing(
    operation: str, bucket: str, asked: Mapping[str, Any], request: PageRequest, page: Page, reference: str
) -> dict[str, Any]:
    """The parsed response of ListObjects or ListObjectsV2."""
    found: dict[str, Any] = {
        "ResponseMetadata": metadata(200),
        "IsTruncated": page.last is not None,
        "Name": bucket,
        "Prefix": request.prefix,
        "MaxKeys": request.limit,
    }
    if page.objects:
        found["Contents"] = [as_entry(row) for row in page.objects]
    if page.prefixes:
        found["CommonPrefixes"] = [{"Prefix": prefix} for prefix in page.prefixes]
    found |= {name: asked[name] for name in ("Delimiter", "EncodingType") if asked.get(name)}
    if operation == "ListObjects":
        found["Marker"] = request.after
        if page.last is not None and request.delimiter:
            found["NextMarker"] = page.last
        return found
    found["KeyCount"] = len(page.objects) + len(page.prefixes)
    found |= {name: asked[name] for name in ("ContinuationToken", "StartAfter") if asked.get(name)}
    if page.last is not None:
        found["NextContinuationToken"] = as_token(page.last, reference, request.prefix, request.delimiter)
    return found


def url_encoded(found: dict[str, Any]) -> None:
    """Encode keys in place, as S3 does where `EncodingType` is `url`."""
    for name in ("Delimiter", "Marker", "NextMarker", "Prefix", "StartAfter"):
        if name in found:
            found[name] = _url_encoded(found[name])
    for entry in found.get("Contents", ()):
        entry["Key"] = _url_encoded(entry["Key"])
    for entry in found.get("CommonPrefixes", ()):
        entry["Prefix"] = _url_encoded(entry["Prefix"])


def _url_encoded(text: str) -> str:
    return quote_plus(text, safe="/*")


def as_token(last: str, reference: str, prefix: str, delimiter: str) -> str:
    """A continuation token: any client of the same view goes on from it."""
    return base64.urlsafe_b64encode(_mark(reference, prefix, delimiter) + last.encode()).decode()


def from_token(token: str, reference: str, prefix: str, delimiter: str) -> str:
    """The last entry that was listed. Raises `Unanswered` for a token of another view or listing."""
    try:
        given = base64.b64decode(token, altchars=b"-_", validate=True)
        mark, last = given[:_MARK], given[_MARK:].decode()
    except (binascii.Error, ValueError):
        mark, last = b"", ""
    if mark != _mark(reference, prefix, delimiter) or not last:
        raise Unanswered(
            "The continuation token provided is incorrect: it is not of this view, prefix and delimiter."
        )
    return last


def _mark(reference: str, prefix: str, delimiter: str) -> bytes:
    listing = "\0".join((reference, str(len(prefix)), prefix, delimiter))
    return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).digest()[:_MARK]


def ok(url: str) -> AWSResponse:
    """The HTTP reply that goes with a listing."""
    headers: Any = {"content-type": "application/xml"}
    return AWSResponse(url, 200, headers, None)
