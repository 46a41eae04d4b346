"""S3, SQS and DynamoDB on a laptop, in one process and on loopback alone."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypedDict
from uuid import uuid4

import moto.s3.models
import moto.s3.notifications
import moto.sqs.models
from moto.moto_api._internal.models import moto_api_backend

from snapengine.devcloud.publisher import Publisher
from snapengine.devcloud.s3_backend import DevS3Backend
from snapengine.devcloud.server import LOOPBACK, READY_PATH, Dispatcher, LoopbackServer
from snapengine.devcloud.sqs_backend import DevSQSBackend, receivable
from snapengine.errors import Unreachable

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"
_CREDENTIAL = "devcloud"
_READY_WITHIN = 10.0


class ClientArguments(TypedDict):
    """What `boto3.client(service, **arguments)` needs to reach the cloud whatever the environment says."""

    endpoint_url: str
    region_name: str
    aws_access_key_id: str
    aws_secret_access_key: str


class DevCloud:
    """An embedded cloud, up between `start` and `stop` or inside a `with`.

    moto keeps its state in module globals: all clouds of one process share one state, which is empty when
    the first of them starts and dropped when the last one stops. Two processes share nothing.
    """

    def __init__(self, port: int = 0) -> None:
        """`port` 0 takes any that is free."""
        self._port = port
        self._parts = ExitStack()
        self._server: LoopbackServer | None = None
        self._dispatcher = Dispatcher(identity=uuid4().hex)
        self._config_file = Path(os.devnull)

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError(
                "The embedded cloud is not running: use it inside `with DevCloud() as cloud:`."
            )
        return int(self._server.port)

    @property
    def endpoint_url(self) -> str:
        """The one URL of every service."""
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Return once the server that answers is this one. Raises `Busy` if the port is taken."""
        with ExitStack() as parts:
            parts.enter_context(_corrected_moto())
            folder = Path(parts.enter_context(TemporaryDirectory(prefix="snapengine-devcloud-")))
            self._config_file = folder / "config"
            self._config_file.write_text(f"[default]\nregion = {REGION}\n", encoding="utf-8")
            self._server = LoopbackServer(self._port, self._dispatcher)
            parts.callback(self._forget_server)
            thread = threading.Thread(
                target=self._server.serve_forever, args=(0.05,), name="snapengine-devcloud", daemon=True
            )
            thread.start()
            parts.callback(thread.join, 5.0)
            parts.callback(self._server.stop)
            self._wait_until_ready()
            self._parts = parts.pop_all()

    def stop(self) -> None:
        """End the server and its connections; what was stored is gone."""
        self._parts.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def reset(self) -> None:
        """Drop every bucket, queue and table, as between two tests that share one server."""
        with self._dispatcher.standstill():
            moto_api_backend.reset()

    def client_arguments(self) -> ClientArguments:
        return {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": _CREDENTIAL,
            "aws_secret_access_key": _CREDENTIAL,
        }

    def environment(self) -> dict[str, str]:
        """The variables by which an AWS client without arguments finds this cloud, and nothing else.

        The fake credentials are for this process alone. A file with a default profile stands in for the
        user's own, so that a profile or an endpoint set there cannot lead a client to real AWS.
        """
        endpoints = ("", "_S3", "_SQS", "_DYNAMODB", "_STS", "_SNS")
        proxied = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
        direct = ",".join(filter(None, [proxied, LOOPBACK, "localhost"]))
        return {
            **{f"AWS_ENDPOINT_URL{suffix}": self.endpoint_url for suffix in endpoints},
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false",
            "AWS_USE_FIPS_ENDPOINT": "false",
            "AWS_USE_DUALSTACK_ENDPOINT": "false",
            "AWS_ACCESS_KEY_ID": _CREDENTIAL,
            "AWS_SECRET_ACCESS_KEY": _CREDENTIAL,
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_PROFILE": "default",
            "AWS_DEFAULT_PROFILE": "default",
            "AWS_CONFIG_FILE": str(self._config_file),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": direct,
            "no_proxy": direct,
            "SNAPENGINE_STORE": "dynamodb://snapengine",
        }

    def _forget_server(self) -> None:
        self._server = None

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _READY_WITHIN
        while time.monotonic() < end:
            connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=1.0)
            try:
                connection.request("GET", READY_PATH)
                if self._dispatcher.is_identified_by(connection.getresponse().read()):
                    return
            except OSError:
                pass  # not yet
            finally:
                connection.close()
        raise Unreachable(
            f"The embedded cloud at {self.endpoint_url} did not answer in {_READY_WITHIN:.0f} s."
        )


_users = 0
_users_lock = threading.Lock()
_replaced = ExitStack()


@contextmanager
def _corrected_moto() -> Iterator[None]:
    """moto with our S3 and SQS in it, put back when the last cloud of this process has stopped."""
    global _users  # noqa: PLW0603 - moto's own state is as global
    with _users_lock:
        if _users == 0:
            _replace_parts()
        _users += 1
    try:
        yield
    finally:
        with _users_lock:
            _users -= 1
            if _users == 0:
                _replaced.close()


def _replace_parts() -> None:
    publisher = Publisher()
    moto_api_backend.reset()  # backends made before would stay moto's own
    _replaced.callback(moto_api_backend.reset)
    for owner, name, value in (
        (moto.s3.models.s3_backends, "backend", DevS3Backend),
        (moto.sqs.models.sqs_backends, "backend", DevSQSBackend),
        (moto.s3.notifications, "send_event", publisher.send_event),
        (moto.s3.notifications, "send_test_event", publisher.send_test_event),
        (moto.sqs.models.Queue, "messages", property(receivable)),
        # "Does it have version ids", which moto denies to a bucket whose versioning is suspended.
        (moto.s3.models.FakeBucket, "is_versioned", property(_has_versions)),
    ):
        _replaced.callback(setattr, owner, name, owner.__dict__[name])
        setattr(owner, name, value)


def _has_versions(bucket: Any) -> bool:
    return bucket.versioning_status is not None
