"""S3's replies as S3 wrote them: the XML that botocore's parser would rearrange or leave parts out of."""

from __future__ import annotations

import threading
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError, XMLParser

from snapengine.errors import BadData

_BODY = "SnapengineBody"
_NOTHING = b"<Nothing/>"


class _Wanted(threading.local):
    """Whether the call under way on this thread wants its XML; botocore runs its hooks on the caller's."""

    how: Literal["no", "too", "only"] = "no"


_wanted = _Wanted()


def with_xml(
    client: Any, operation: str, method: str, *, parsed: bool, **arguments: Any
) -> tuple[dict[str, Any], bytes]:
    """Call an S3 operation; its reply, and the XML. Unless `parsed`, the reply holds its metadata alone:
    botocore takes six times as long over a page of a listing as we do.

    Other calls of the client, on any thread, are as ever. Raises what the call raises.
    """
    # The `unique_id` makes registering again do nothing.
    event = f"before-parse.s3.{operation}"
    client.meta.events.register_last(event, _keep_body, unique_id=f"snapengine-{operation}")
    _wanted.how = "too" if parsed else "only"
    try:
        reply = getattr(client, method)(**arguments)
    finally:
        _wanted.how = "no"
    return reply, bytes(reply.pop(_BODY))


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    if _wanted.how == "no" or response_dict["status_code"] != 200:
        return
    customized_response_dict[_BODY] = response_dict["body"]  # botocore adds it to the reply
    if _wanted.how == "only":
        response_dict["body"] = _NOTHING


def parse_xml(body: bytes) -> Element:
    """The root of a reply. A document type, which S3 never sends, could declare entities: refused."""
    if b"<!DOCTYPE" in body:
        raise BadData("A reply of S3 holds a document type definition. Check AWS_ENDPOINT_URL.")
    parser = XMLParser(encoding="utf-8")  # noqa: S314  # without a document type there are no entities
    try:
        parser.feed(body)
        return parser.close()
    except ParseError as error:
        raise BadData(f"A reply of S3 is not XML: {error}. Check AWS_ENDPOINT_URL.") from error


def local_name(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]
