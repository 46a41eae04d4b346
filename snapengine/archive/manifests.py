"""The manifests of a bucket's archive, as the table has them, or had them a moment ago."""

from __future__ import annotations

import time
from threading import Lock

from snapengine.archive.manifest import Archive, archive_of, from_json
from snapengine.model import Epoch
from snapengine.ports import LogReader

LATELY_SECONDS = 60.0
"""For so long manifests may be remembered. What leaves the table does so a day after its manifest says so."""


class Manifests:
    """Reads them; remembers the last ones of each bucket. Thread-safe."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._lock = Lock()
        self._known: dict[str, tuple[float, int, Archive]] = {}

    def read(self, bucket: str, *, lately: Epoch | None = None) -> Archive:
        """As they stand now. With `lately` those of the last minute will do, if that epoch was there then."""
        if lately is not None:
            known = self._known.get(bucket)
            if known and abs(time.time() - known[0]) < LATELY_SECONDS and lately.number <= known[1]:
                return known[2]
        began = time.time()
        archive = archive_of([from_json(body) for body in self._log.manifests(bucket)])
        if lately is not None:
            with self._lock:
                self._known[bucket] = (began, lately.number, archive)
        return archive
