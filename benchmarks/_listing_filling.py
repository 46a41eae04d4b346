"""Filling the bucket of `view_vs_listing`, once: the server's folder is kept, with what its replies said.

In the folder: `server/` is SeaweedFS' own, `events.arrow` has an observation for each reply in the order in
which they came, and `filled.json`, written last, says what is there. Without it the filling is begun again.
"""

from __future__ import annotations

import base64
import hmac
import http.client
import json
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import boto3

from benchmarks._listing_history import ROUND_OF_T, ROUNDS, Operation, body_of, make_rounds
from benchmarks._listing_server import CountingSeaweedFs, reaching
from benchmarks.harness import Unavailable
from snapengine.model import CREATED, MARKER_CREATED, Observation
from snapengine.observation_codec import decode, encode
from tools.local_servers import ACCESS_KEY, HOST, SECRET_KEY, ServiceFailed, ServiceUnavailable

BUCKET = "scans"
THREADS = 8
PAUSE = 1.1
"""Seconds between rounds; see `_listing_history`."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Filled:
    """What `filled.json` says."""

    format: int
    objects: int
    seed: int
    at: int
    """T: a whole second in UTC milliseconds, with nothing done for more than a second on either side."""
    began: int
    """UTC milliseconds."""
    ended: int
    """UTC milliseconds; the last event is not after it."""
    versions: int
    markers: int


def prepare(folder: Path, objects: int, seed: int) -> Filled:
    """What is in the folder, having filled it where it was not. Raises `Unavailable` where no server runs."""
    stamp = folder / "filled.json"
    if stamp.exists():
        body = json.loads(stamp.read_text())
        found = {name: body.get(name) for name in ("format", "objects", "seed")}
        if found != {"format": FORMAT, "objects": objects, "seed": seed}:
            raise Unavailable(f"{folder} holds {found}. Remove it, or give another --folder.")
        return Filled(**body)
    server = folder / "server"
    shutil.rmtree(server, ignore_errors=True)
    print(f"filling {server} with {objects:,} objects, once", file=sys.stderr)
    try:
        with CountingSeaweedFs(server) as running:
            filled, events = _fill(running, objects, seed)
    except (ServiceUnavailable, ServiceFailed) as problem:
        raise Unavailable(f"SeaweedFS does not run: {problem}") from problem
    (folder / "events.arrow").write_bytes(encode(events))
    unfinished = folder / "filled.json.new"
    unfinished.write_text(json.dumps(asdict(filled)))
    unfinished.rename(stamp)
    return filled


def load_events(folder: Path) -> list[Observation]:
    """In the order in which they came."""
    return decode((folder / "events.arrow").read_bytes())


def _fill(server: CountingSeaweedFs, objects: int, seed: int) -> tuple[Filled, list[Observation]]:
    with reaching(server):
        client: Any = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    began = _now()
    at = 0
    events: list[Observation] = []
    for number, operations in enumerate(make_rounds(objects, seed)):
        if number == ROUND_OF_T:
            at = _quiet_second()
        elif number:
            time.sleep(PAUSE)
        events += _round(server.port, operations)
        print(f"round {number + 1} of {ROUNDS}: {len(operations):,} requests", file=sys.stderr)
    markers = sum(event.kind == MARKER_CREATED for event in events)
    filled = Filled(FORMAT, objects, seed, at, began, _now(), len(events) - markers, markers)
    return filled, events


def _quiet_second() -> int:
    """A whole second, in UTC milliseconds, more than a second after what was and before what will be done."""
    time.sleep(PAUSE)
    at = (_now() // 1000 + 1) * 1000
    time.sleep(at / 1000 - time.time() + PAUSE)
    return at


def _round(port: int, operations: Sequence[Operation]) -> list[Observation]:
    """All of them, several at a time; what the replies said, in the order in which they came."""
    with ThreadPoolExecutor(THREADS) as pool:
        shares = pool.map(lambda n: _requests(port, operations[n::THREADS]), range(THREADS))
        return sorted((event for share in shares for event in share), key=lambda event: event.sequencer or "")


def _requests(port: int, operations: Sequence[Operation]) -> list[Observation]:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        return [_request(connection, operation) for operation in operations]
    finally:
        connection.close()


def _request(connection: http.client.HTTPConnection, operation: Operation) -> Observation:
    """One request and the event that S3 would tell of it. Never repeated: a version might be there twice."""
    method, body = ("PUT", body_of(operation)) if operation.act == "put" else ("DELETE", None)
    # AWS's older signature, version 2, costs a client next to nothing.
    path, date = f"/{BUCKET}/{operation.key}", formatdate(usegmt=True)
    digest = hmac.digest(SECRET_KEY.encode(), f"{method}\n\n\n{date}\n{path}".encode(), "sha1")
    signature = base64.b64encode(digest).decode()
    connection.request(method, path, body, {"Date": date, "Authorization": f"AWS {ACCESS_KEY}:{signature}"})
    reply = connection.getresponse()
    said = reply.read()
    if reply.status not in {200, 204}:
        raise Unavailable(f"SeaweedFS answered {method} {path} with {reply.status}: {said[:300]!r}")
    now = time.time_ns()
    put = operation.act == "put"
    return Observation(
        kind=CREATED if put else MARKER_CREATED,
        key=operation.key,
        version_id=reply.headers["x-amz-version-id"],
        event_time=now // 1_000_000,
        sequencer=f"{now:018X}",
        size=len(body) if body is not None else None,
        etag=reply.headers["ETag"].strip('"') if put else None,
        event_name="ObjectCreated:Put" if put else "ObjectRemoved:DeleteMarkerCreated",
    )


def _now() -> int:
    return time.time_ns() // 1_000_000
