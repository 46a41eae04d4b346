"""Pins: every version of a view is held in S3 by a legal hold, until the last pin that shows it is undone.

A pin is kept as a snapshot named `pin/<hash>`. What somebody else held before it stays held after it.
Source: Amazon S3 User Guide, "Locking objects with Object Lock", on legal holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from snapengine.aws_errors import code_of, translate
from snapengine.errors import NoSuchSnapshot, Refused, UsageError
from snapengine.model import ObjectVersion, Snapshot

if TYPE_CHECKING:
    from snapengine.engine import Engine
    from snapengine.views import View

PREFIX: Final = "pin/"
HELD_BEFORE: Final = "held-before"
"""The label with the reference of what somebody else held already."""
WORKERS: Final = 24

_GONE = {"NoSuchVersion", "NoSuchKey", "404", "MethodNotAllowed"}
_NO_HOLD = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"}


@dataclass(slots=True)
class Pinned:
    """What pinning, or undoing it, came to."""

    reference: str
    changed: int = 0
    """Versions whose hold was switched on, or off."""
    left: int = 0
    """Versions that somebody else, or another pin, holds."""
    gone: list[ObjectVersion] = field(default_factory=list)
    """Versions that S3 no longer has: there is nothing to hold."""


def pin(engine: Engine, view: View, *, creator: str) -> Pinned:
    """Hold every version of a view in S3. Safe to repeat, also after it was interrupted.

    Raises `Refused` where the bucket has no Object Lock, `PermissionMissing`, `UsageError` for a slice of all
    versions.
    """
    if view.ref.versions == "all":
        raise UsageError("A slice of all versions cannot be pinned: pin the views that are needed.")
    _check_lock(engine, view.bucket)
    name = pin_name(view.reference)
    known = engine.store.snapshot(view.bucket, name)
    done = Pinned(view.reference)
    before = _held_before(engine, known) if known else _note(engine, view, name, creator)

    def hold(version: ObjectVersion) -> str:
        if (version.key, version.version_id) in before:
            return "left"
        return _set(engine, view.bucket, version, "ON")

    _count(view.versions(), hold, done)
    return done


def unpin(engine: Engine, view: View) -> Pinned:
    """Undo a pin: its holds are taken away, but for those that another pin needs or that were there before.
    Safe to repeat. Raises `NoSuchSnapshot` for a view that is not pinned, `PermissionMissing`."""
    name = pin_name(view.reference)
    known = engine.store.snapshot(view.bucket, name)
    if known is None:
        raise NoSuchSnapshot(f"{view.reference} is not pinned.")
    kept = _held_before(engine, known)
    others = [engine.open_ref(other.reference) for other in pins(engine, view.bucket) if other.name != name]

    def release(version: ObjectVersion) -> str:
        if (version.key, version.version_id) in kept or any(_shows(other, version) for other in others):
            return "left"
        return _set(engine, view.bucket, version, "OFF")

    done = Pinned(view.reference)
    _count(view.versions(), release, done)
    engine.store.delete_snapshot(view.bucket, name)
    return done


def pins(engine: Engine, bucket: str) -> list[Snapshot]:
    """All pins of a bucket."""
    return [each for each in engine.store.snapshots(bucket) if each.name.startswith(PREFIX)]


def pin_name(reference: str) -> str:
    return f"{PREFIX}{sha256(reference.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _shows(view: View, version: ObjectVersion) -> bool:
    shown = view.get(version.key)
    return shown is not None and shown.version_id == version.version_id


def _note(engine: Engine, view: View, name: str, creator: str) -> set[tuple[str, str]]:
    """Keep the pin before its first hold, with what others hold already; that other pins hold is no reason to
    leave it held when both are undone."""
    others = [engine.open_ref(other.reference) for other in pins(engine, view.bucket)]
    found = Pinned(view.reference)
    held: list[ObjectVersion] = []

    def look(version: ObjectVersion) -> str:
        if not any(_shows(other, version) for other in others) and _is_held(engine, view.bucket, version):
            held.append(version)
        return "left"

    _count(view.versions(), look, found)
    labels = {HELD_BEFORE: view.select([v.key for v in held]).reference} if held else {}
    snapshot = Snapshot(
        bucket=view.bucket,
        name=name,
        reference=view.reference,
        digest=view.digest(),
        created_at=engine.clock(),
        creator=creator,
        note=f"legal holds on {len(view):,} versions",
        labels=labels,
    )
    if not engine.store.put_snapshot(snapshot):
        known = engine.store.snapshot(view.bucket, name)
        return _held_before(engine, known) if known else set()
    return {(v.key, v.version_id) for v in held}


def _held_before(engine: Engine, snapshot: Snapshot) -> set[tuple[str, str]]:
    reference = snapshot.labels.get(HELD_BEFORE)
    if reference is None:
        return set()
    return {(v.key, v.version_id) for v in engine.open_ref(reference).versions()}


def _check_lock(engine: Engine, bucket: str) -> None:
    try:
        reply: Any = engine.s3.get_object_lock_configuration(Bucket=bucket)
        on = reply.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled"
    except ClientError as error:
        if code_of(error) not in _NO_HOLD:
            raise translate(error, f"S3 bucket {bucket}") from error
        on = False
    except BotoCoreError as error:
        raise translate(error, f"S3 bucket {bucket}") from error
    if not on:
        raise Refused(
            f"Bucket {bucket} has no Object Lock, so S3 holds none of its versions and nothing was pinned. "
            "Switch it on (S3 console: Properties, Object Lock; it cannot be switched off again), or keep "
            "removals from it by policy. A reference stays resolvable either way; the bytes may go."
        )


def _is_held(engine: Engine, bucket: str, version: ObjectVersion) -> bool:
    try:
        reply: Any = engine.s3.get_object_legal_hold(
            Bucket=bucket, Key=version.key, VersionId=version.version_id
        )
    except ClientError as error:
        if code_of(error) in _NO_HOLD | _GONE:
            return False
        raise translate(error, f"S3 bucket {bucket}") from error
    except BotoCoreError as error:
        raise translate(error, f"S3 bucket {bucket}") from error
    return bool(reply.get("LegalHold", {}).get("Status") == "ON")


def _set(engine: Engine, bucket: str, version: ObjectVersion, status: Any) -> str:
    """Safe to repeat after a lost reply."""
    try:
        engine.s3.put_object_legal_hold(
            Bucket=bucket, Key=version.key, VersionId=version.version_id, LegalHold={"Status": status}
        )
    except ClientError as error:
        if code_of(error) in _GONE:
            return "gone"
        raise translate(error, f"S3 bucket {bucket}") from error
    except BotoCoreError as error:
        raise translate(error, f"S3 bucket {bucket}") from error
    return "changed"


def _count(versions: Iterable[ObjectVersion], act: Callable[[ObjectVersion], str], done: Pinned) -> None:
    """Several at once, in bounded memory; what one raises ends it."""
    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="snapengine-pin")
    waiting: deque[tuple[ObjectVersion, Future[str]]] = deque()

    def take() -> None:
        version, coming = waiting.popleft()
        outcome = coming.result()
        if outcome == "gone":
            done.gone.append(version)
        elif outcome == "changed":
            done.changed += 1
        else:
            done.left += 1

    try:
        for version in versions:
            waiting.append((version, pool.submit(act, version)))
            if len(waiting) >= 8 * WORKERS:
                take()
        while waiting:
            take()
    finally:
        pool.shutdown(cancel_futures=True)
