"""Samples of a view's objects: read ahead by many requests at once, decoded one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from readers.concurrent import Wanted, try_many
from readers.tensor_cache import MISSING, TensorSnapshot
from readers.torch_rows import ViewRows
from snapengine.errors import SnapEngineError
from snapengine.model import ObjectVersion

Decode = Callable[[str, bytes], Any]
"""`(key, data)` to a sample."""


class Sample(NamedTuple):
    """What a dataset gives of an object where nothing decodes it."""

    key: str
    data: bytes
    """The whole object."""


class SampleReader:
    """Reads samples in the order asked for. Thread-safe as far as `decode` is; pickles if that does."""

    def __init__(self, rows: ViewRows, decode: Decode | None, snapshot: TensorSnapshot | None) -> None:
        self._rows = rows
        self._decode = decode
        self._snapshot = snapshot

    def samples(self, versions: Iterable[ObjectVersion]) -> Iterator[Any]:
        """A sample of each version, in order. Raises what reading and `decode` raise, once its turn comes;
        `decode`'s errors carry a note that names the object."""
        coming: deque[ObjectVersion] = deque()

        def wanted() -> Iterator[Wanted]:
            for version in versions:
                coming.append(version)
                # Of what is kept nothing need be read: it has its turn among the others as an empty range.
                kept = self._snapshot is not None and self._snapshot.has(version)
                yield Wanted(version, 0, 0) if kept else Wanted(version)

        view = self._rows.view
        for outcome in try_many(view.read_version, wanted(), view.read_into):
            version = coming.popleft()
            if isinstance(outcome, Exception):
                raise outcome
            yield self._sample(version, outcome)

    def _sample(self, version: ObjectVersion, data: bytes) -> Any:
        if self._snapshot is None:
            return self._decoded(version, data)
        sample = self._snapshot.get(version)
        if sample is MISSING:
            if not data and version.size != 0:  # it was kept a moment ago
                data = self._rows.view.read_version(version)
            sample = self._decoded(version, data)
            self._snapshot.put(version, sample)
        return sample

    def _decoded(self, version: ObjectVersion, data: bytes) -> Any:
        if self._decode is None:
            return Sample(version.key, data)
        try:
            return self._decode(version.key, data)
        except Exception as error:
            if not isinstance(error, SnapEngineError):
                view = self._rows.view
                error.add_note(
                    f"while decoding {version.key!r}, version {version.version_id}, of {view.reference}"
                )
            raise
