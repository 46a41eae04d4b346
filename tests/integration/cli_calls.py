"""The command, run as people run it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3

from snapengine import Engine
from snapengine.devcloud import DevCloud
from snapengine.instants import render
from tests.seed import T0, enable, event, record, removal

NASTY = "ct/\x1b[31mred\r\n\x07"

EARLY, LATE = render(T0 + 10_000), render(T0 + 200_000)

Lines = list[dict[str, Any]]


def snapengine(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "snapengine", *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
        cwd=cwd,
    )


def at_a_terminal(*arguments: str, typed: str = "", env: dict[str, str] | None = None) -> tuple[int, str]:
    """The real command with a terminal for its three streams; exit code and all that was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", *arguments],
        env={**os.environ, "TERM": "xterm", **(env or {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    if typed:
        os.write(ours, typed.encode())
    shown = b""
    while True:
        try:
            data = os.read(ours, 65_536)
        except OSError:  # how Linux says that the other side has closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    return process.wait(60), shown.decode()


# Bytes


class Bucket:
    """A versioned bucket in the cloud; each write goes into the log by hand."""

    def __init__(self, cloud: DevCloud, engine: Engine) -> None:
        self.s3: Any = boto3.client("s3", **cloud.client_arguments())
        self.engine = engine
        self.name = f"b-{uuid4().hex}"
        self.s3.create_bucket(Bucket=self.name)
        self.s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
        self._seconds = 0
        enable(engine, self.name)

    def put(self, key: str, body: bytes) -> str:
        """The instant just after, as text."""
        reply = self.s3.put_object(Bucket=self.name, Key=key, Body=body)
        self._seconds += 1
        seen = event(key, reply["VersionId"], self._seconds, size=len(body), etag=reply["ETag"].strip('"'))
        record(self.engine, [seen], self.name)
        return render(seen.event_time)

    def remove(self, key: str, version: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key, VersionId=version)
        self._seconds += 1
        record(self.engine, [removal(key, version, self._seconds)], self.name)
