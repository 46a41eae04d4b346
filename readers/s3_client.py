"""A boto3 S3 client that answers as of a view: it reads the versions that are shown, and never writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from functools import wraps
from inspect import signature
from threading import Lock
from typing import Any, Final

from boto3.s3 import inject
from boto3.s3.transfer import TransferConfig

from readers.errors import NOT_OFFERED, WRITE_REFUSED, S3Error
from readers.s3_answers import LISTINGS, Unanswered, listing, ok, page_request, refusal, told, url_encoded
from readers.s3_listing import Listings
from readers.s3_pinning import OBJECTS, Pinning
from snapengine.engine import Engine
from snapengine.errors import SnapEngineError, UsageError
from snapengine.views import View

_OF_THE_BUCKET: Final = frozenset({"HeadBucket", "GetBucketLocation"})
"""Asked of S3 as they are: their answers are of no instant."""
_HELD: Final = "snapengine"
"""Where a request's context holds what is known of it."""
_READING: Final = frozenset({"GET", "HEAD"})
_OTHER_BUCKET: Final = S3Error("AccessDenied", 403)


def client_of(view: View) -> Any:
    """A boto3 S3 client (`mypy_boto3_s3.S3Client`) over the view: see docs/reading.md for what it answers.

    It is a client of its own, made as the engine makes them. Raises `UsageError` for a slice of all versions,
    and without an AWS region.
    """
    if view.ref.versions == "all":
        raise UsageError(
            "A slice of all versions may hold several objects of one key: a client can name only one. Take a "
            "view, or a slice of the last versions."
        )
    engine: object = view.source
    if not isinstance(engine, Engine):
        raise UsageError(f"{view} is not read from S3, so there is no client for it.")
    client = engine.client("s3")
    client.__class__ = type("S3", (_ClientOfView, type(client)), {})
    client._answering(view)
    return client


class _ClientOfView:
    """What a view's client has beside a plain one's."""

    meta: Any
    view: View
    """The view that it reads."""

    def _answering(self, view: View) -> None:
        self.view = view
        self._pid, self._forked = os.getpid(), Lock()
        self._listings = Listings(view)
        self._pinning = Pinning(view, self)
        events = self.meta.events
        events.register_first("provide-client-params.s3", self._provide)
        events.register_first("before-call.s3", self._before_call)
        events.register_first("after-call.s3", self._after_call)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return client_of, (self.view,)

    def __repr__(self) -> str:
        return f"<S3 client of {self.view.reference}>"

    def close(self) -> None:
        """End its connections, and listings that were left before their end; a later call opens new ones."""
        self._listings.close()
        super().close()  # type: ignore[misc]  # of botocore's client

    def generate_presigned_url(
        self,
        ClientMethod: str,  # noqa: N803  # as boto3 names them
        Params: Mapping[str, Any] | None = None,  # noqa: N803  # boto3's name
        ExpiresIn: int = 3600,  # noqa: N803  # boto3's name
        HttpMethod: str | None = None,  # noqa: N803  # boto3's name
    ) -> str:
        """As boto3's. Refused with a method that would change, or list, what the operation only reads."""
        operation = self.meta.method_to_api_mapping.get(ClientMethod, "")
        if HttpMethod is not None and not (operation in OBJECTS and HttpMethod in _READING):
            raise self._refused(f"{HttpMethod} of {operation or ClientMethod}", HttpMethod)
        url: str = super().generate_presigned_url(ClientMethod, Params, ExpiresIn, HttpMethod)  # type: ignore[misc]  # of botocore's client
        return url

    def _get_credentials(self) -> None:
        """boto3 asks for them to hand transfers to the AWS CRT, which would not see the requests as they are
        pinned here: without them it does not."""

    # A request's way through botocore

    def _provide(
        self, params: Mapping[str, Any], model: Any, context: Any, **_: Any
    ) -> dict[str, Any] | None:
        """Other parameters than those that were given, or a refusal. What botocore will find wrong with them
        is left for it to say."""
        operation, bucket = model.name, params.get("Bucket")
        if operation not in LISTINGS | OBJECTS | _OF_THE_BUCKET:
            raise self._refused(operation, model.http.get("method"))
        if isinstance(bucket, str) and bucket != self.view.bucket:
            raise refusal(
                self,
                operation,
                _OTHER_BUCKET,
                f"This client reads {self.view.bucket} as of {self.view.reference}, and no other bucket: "
                f"{bucket!r} is refused.",
                BucketName=bucket,
            )
        self._in_this_process()
        signing, key = bool(context.get("is_presign_request")), params.get("Key")
        if operation in OBJECTS and isinstance(key, str) and key:
            asked, version = self._pinning.pin(operation, params, signing=signing)
            context[_HELD] = (asked, version)
            return asked
        if operation in LISTINGS and signing:
            raise refusal(self, operation, NOT_OFFERED, "A URL would list what there is then, not the view.")
        asked = dict(params)
        if operation not in OBJECTS:
            context[_HELD] = (asked, None)
        return asked

    def _before_call(self, params: Any, model: Any, context: Any, **_: Any) -> tuple[Any, Any] | None:
        """Answer a listing; let nothing else go to S3 than what has been looked at."""
        operation = model.name
        if _HELD not in context:
            raise self._refused(operation, model.http.get("method"))
        if operation not in LISTINGS:
            return None
        asked, _version = context[_HELD]
        if "ExpectedBucketOwner" in asked:
            self.head_bucket(Bucket=asked["Bucket"], ExpectedBucketOwner=asked["ExpectedBucketOwner"])  # type: ignore[attr-defined]  # of botocore's client
        try:
            found = self._listed(operation, asked)
        except Unanswered as unanswered:
            raise refusal(self, operation, unanswered.answer, str(unanswered)) from None
        except SnapEngineError as error:
            raise told(self, operation, error) from error
        if not context.pop("encoding_type_auto_set", False) and "EncodingType" in asked:
            url_encoded(found)
        return ok(params.get("url", "")), found

    def _listed(self, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        reference = self.view.reference
        request = page_request(operation, asked, reference)
        page = self._listings.page(request)
        return listing(operation, self.view.bucket, asked, request, page, reference)

    def _after_call(self, http_response: Any, parsed: Any, model: Any, context: Any, **_: Any) -> None:
        asked, version = context[_HELD]
        if version is not None:
            self._pinning.check(model.name, asked, version, http_response, parsed)

    def _refused(self, operation: str, method: str | None) -> Exception:
        if method not in _READING:
            message = f"This client reads {self.view.reference} and changes nothing: {operation} is refused."
            return refusal(self, operation, WRITE_REFUSED, message)
        message = f"A view has no answer to {operation}. Ask a plain client for what there is now."
        return refusal(self, operation, NOT_OFFERED, message)

    def _in_this_process(self) -> None:
        """Two processes must not share a connection: after a fork the child opens its own."""
        if self._pid == os.getpid():
            return
        with self._forked:
            if self._pid != os.getpid():
                super().close()  # type: ignore[misc]  # of botocore's client
                self._pid = os.getpid()


def _classic(method: Callable[..., Any]) -> Callable[..., Any]:
    """Of boto3's transfer methods: never by the AWS CRT, whatever the machine, as that makes requests of its
    own."""

    @wraps(method)
    def transfer(self: Any, *args: Any, **named: Any) -> Any:
        bound = signature(method).bind(self, *args, **named)
        given = bound.arguments.get("Config")
        config: Any = TransferConfig() if given is None else copy(given)
        config.preferred_transfer_client = "classic"
        bound.arguments["Config"] = config
        return method(*bound.args, **bound.kwargs)

    return transfer


for _name in ("copy", "download_file", "download_fileobj", "upload_file", "upload_fileobj"):
    setattr(_ClientOfView, _name, _classic(getattr(inject, _name)))
