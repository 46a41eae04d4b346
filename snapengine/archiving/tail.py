"""The log behind the archive, epoch by epoch: the entries that each covers and the one before it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter

from snapengine.errors import LogDamaged
from snapengine.model import Epoch, LogEntry
from snapengine.ports import LogReader


class Tail:
    """Each stream is read once, from start to end, as its epochs come."""

    def __init__(
        self,
        store: LogReader,
        bucket: str,
        after: Mapping[int, int],
        newest: Epoch,
        cover: Callable[[Epoch], Mapping[int, int]] = attrgetter("cover"),
    ) -> None:
        """`after`: by stream, the last entry that is archived. Epochs up to `newest` may be asked for.
        `cover`: what an epoch says of the log `bucket`; of a metadata log that is its `rows`."""
        self._store = store
        self._bucket = bucket
        self._at = dict(after)
        self._newest = newest
        self._cover = cover
        self._streams: dict[int, Iterator[LogEntry]] = {}

    def entries(self, epoch: Epoch) -> Iterator[LogEntry]:
        """Those of one epoch; to be asked for in the epochs' order. Raises `LogDamaged` for one missing."""
        for stream, to in sorted(self._cover(epoch).items()):
            while self._at.get(stream, 0) < to:
                entry = next(self._stream(stream), None)
                if entry is None:
                    raise LogDamaged(
                        f"Epoch {epoch.number:,} of bucket {self._bucket} covers entry {to} of stream "
                        f"{stream}, and epoch {self._newest.number:,} does not."
                    )
                self._at[stream] = entry.number
                yield entry

    def _stream(self, stream: int) -> Iterator[LogEntry]:
        if stream not in self._streams:
            after, to = self._at.get(stream, 0), self._cover(self._newest).get(stream, 0)
            self._streams[stream] = iter(self._store.entries(self._bucket, stream, after, to))
        return self._streams[stream]
