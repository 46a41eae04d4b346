"""PURE: the receipt of a forgetting: what was taken out where, and where something still is."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

from snapengine.archiving.forget import Done
from snapengine.instants import render

SHOWN: Final = 100
"""So many objects are told one by one, the others by their number and a digest of all."""

DIGESTS: Final = (
    "None changes: digests of views, slices, snapshots and narrowed views are of keys, version ids, ETags "
    "and sizes. Asked for its metadata, a reference of before shows these objects without a row, and counts "
    "them."
)

_CACHES: Final = (
    "caches and tensor snapshots of other machines and users: run `snapengine forget {bucket} --here` there, "
    "or delete the folders SNAPENGINE_CACHE and SNAPENGINE_TENSOR_CACHE; the memory of running processes"
)


def receipt(
    done: Done, *, time: int, by: str, asked: dict[str, Any], units: Iterable[str], names: Iterable[str] = ()
) -> dict[str, Any]:
    """Plain values for JSON. `units` are what was asked for; `names` their keys and prefixes, if they are to
    be told. `time` in UTC milliseconds."""
    known, told = sorted(units), sorted(names)
    objects: dict[str, Any] = {
        "units": len(known),
        "sha256": sha256("\n".join(known).encode()).hexdigest(),
        "first": known[:SHOWN],
    }
    if told:
        objects["names"] = told[:SHOWN]
    log, archive, places = done.log, done.archive, done.places
    return {
        "bucket": done.bucket,
        "time": render(time),
        "by": by,
        "dry_run": not done.applied,
        "asked": asked,
        "objects": objects,
        "number": done.forgotten.number if done.applied else None,
        "log": {"rows": log.rows, "entries": log.entries, "identifying_parts": log.parts},
        "conditions": {
            "every": done.conditions.every,
            "narrowed_views": done.conditions.selections,
            "removed": done.conditions.conditions,
        },
        "archive": {
            "root": done.root,
            "segment_rows": archive.segment_rows,
            "checkpoint_rows": archive.checkpoint_rows,
            "files_rewritten": archive.files,
            "files_deleted": places.files,
            "versions_deleted": places.versions,
        },
        "this_machine": this_machine(done),
        "remains": [*_stays(done), *places.remains] if done.applied else [],
        "digests": DIGESTS,
    }


def this_machine(done: Done) -> dict[str, int]:
    """What was deleted here; `tensor_samples` would be, in a dry run."""
    places = done.places
    return {
        "cached_deleted": places.cached,
        "temporary_deleted": places.temporary,
        "tensor_samples": places.tensors,
    }


def _conditions_left(done: Done) -> list[str]:
    found = [
        "conditions of narrowed views (`view.query`) over columns that identify nobody, as they were asked",
        "of each condition that was removed 96 bits of a hash: who guesses it can tell that it was asked",
    ]
    if not done.conditions.every:
        found.append(
            "conditions over identifying columns of narrowed views that hold none of these objects (such as "
            "`PatientID <> '…'`): --conditions removes all"
        )
    return found


def _stays(done: Done) -> list[str]:
    found = [
        "that these versions existed: key, version id, size, ETag and times, in the log and the archive",
        f"the objects themselves, in bucket {done.bucket}: nothing is deleted there",
        *_conditions_left(done),
        _CACHES.format(bucket=done.bucket),
        "what was exported: DataFrames, files, copies and backups",
    ]
    if done.root is not None and done.root.startswith("s3://"):
        found.append(f"replicas and backups of {done.root}")
    return found
