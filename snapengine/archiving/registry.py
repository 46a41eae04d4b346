"""A copy of what the table knows of a bucket besides its log, for the day the table is lost.

`<bucket>/registry.json` is one JSON object:

    {"format": 1, "config": {…}, "snapshots": [{…}, …]}

`config` has the fields of `BucketConfig`, each snapshot those of `Snapshot`; a newer snapengine may add some.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from snapengine.archive.roots import Root
from snapengine.archiving import paths
from snapengine.errors import ArchiveDamaged, BucketNotEnabled
from snapengine.ports import Registry

FORMAT: Final = 1


def keep_registry(store: Registry, root: Root, bucket: str) -> bool:
    """Write the copy if it is not as it should be; whether it was written."""
    config = store.config(bucket)
    if config is None:
        raise BucketNotEnabled(f"Bucket {bucket} is not enabled. Run `snapengine enable-bucket {bucket}`.")
    body = {
        "format": FORMAT,
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
