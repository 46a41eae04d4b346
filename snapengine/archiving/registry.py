"""A copy of what the table knows of a bucket besides its log, for the day the table is lost.

`<bucket>/registry.json` is one JSON object:

    {"format": 1, "config": {…}, "snapshots": [{…}, …], "last_epoch": …}

It also says whose the archive is: one table's. Another table that archived into it would sweep away, as
nobody's, what the first one's manifests name.

`config` has the fields of `BucketConfig`, each snapshot those of `Snapshot`; a newer snapengine may add some.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from snapengine.archive.roots import Root
from snapengine.archiving import paths
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, BucketNotEnabled, Refused
from snapengine.model import BucketConfig
from snapengine.ports import Registry

FORMAT: Final = 1


def claim(store: Registry, root: Root, bucket: str, last_epoch: int) -> None:
    """Begin or go on with the archive as this table's own; `last_epoch` is the last that it knows archived.

    Raises `Refused` if it is another table's, or if this one is older than its own archive.
    """
    config = _registered(store, bucket)
    name = f"{root.url}/{paths.registry(bucket)}"
    try:
        data = root.read(paths.registry(bucket))
    except ArchiveFileMissing:
        data = b""
    if data:
        try:
            body = json.loads(data)
            owner, archived = body["config"].get("archive_id"), body.get("last_epoch", 0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveDamaged(f"{name} cannot be read: {error!r}. Restore it from a copy.") from error
        if owner is not None and owner != config.archive_id:
            raise Refused(
                f"{name} says that this archive is another table's. Give this one a root of its own; for a "
                "trial of a rebuild, a copy of the archive. Nothing was changed."
            )
        if archived > last_epoch:
            raise Refused(
                f"{name} says that epochs up to {archived:,} are archived, and this table knows of "
                f"{last_epoch:,}: it is older than its archive, as one restored from a backup is. What it "
                f"lacks is in the archive: run `snapengine rebuild {bucket}` into a new table. Nothing was "
                "changed."
            )
    keep_registry(store, root, bucket, last_epoch)


def _registered(store: Registry, bucket: str) -> BucketConfig:
    config = store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    return config


def keep_registry(store: Registry, root: Root, bucket: str, last_epoch: int) -> bool:
    """Write the copy if it is not as it should be; whether it was written."""
    config = _registered(store, bucket)
    body = {
        "format": FORMAT,
        "last_epoch": last_epoch,
        "config": asdict(config),
        "snapshots": [asdict(snapshot) for snapshot in store.snapshots(bucket)],
    }
    data = json.dumps(body, ensure_ascii=False, sort_keys=True, indent=1).encode()
    path = paths.registry(bucket)
    try:
        if root.read(path) == data:
            return False
    except ArchiveDamaged:  # missing, or changed while it was read
        pass
    root.put_bytes(path, data)
    return True
