"""A view's keys as a filesystem asks for them: singly, many at once, by level, and below a prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from readers.fsspec_paths import refuse_all_versions
from snapengine.bulkfold import versions_of
from snapengine.errors import NoSuchKey
from snapengine.model import ObjectVersion
from snapengine.views import Listing, View

_PATIENCE: Final = 64
"""So many look-ups of a view whose rows are not in memory, or an eighth of as many listings: then they are
read once and kept, if they are few."""
_LISTING: Final = 8
_REMEMBERED: Final = 20_000
_SEVERAL: Final = 16
_SCAN: Final = 4_096
"""More keys than this of a view that is not kept are found by reading its rows rather than one by one."""


class Keys:
    """What a view shows, by key. Thread-safe; a view never changes, so nothing here grows stale."""

    def __init__(self, view: View) -> None:
        """Raises `UsageError` for a slice of all versions."""
        if view.ref.versions == "all":
            raise refuse_all_versions(view.reference)
        self.view = view
        self._known: dict[str, ObjectVersion] = {}
        self._asked = 0

    def find(self, key: str) -> ObjectVersion:
        """Raises `NoSuchKey`, and what looking up raises."""
        version = self._known.get(key)
        if version is None:
            self._ask(1)
            version = self.view[key]
            self._remember([version])
        return version

    def many(self, keys: Iterable[str]) -> dict[str, ObjectVersion]:
        """Those that there are, by key."""
        known = self._known
        wanted = set(keys)
        found = {key: known[key] for key in wanted if key in known}
        missing = sorted(wanted - found.keys())
        versions = list(self._looked_up(missing))
        self._remember(versions)
        return found | {version.key: version for version in versions}

    def _looked_up(self, keys: Sequence[str]) -> Iterator[ObjectVersion]:
        if len(keys) <= _SEVERAL:
            yield from filter(None, map(self._find_or_none, keys))
            return
        if len(keys) <= _PATIENCE or (len(keys) <= _SCAN and self.view.rows_if_few() is None):
            with ThreadPoolExecutor(_SEVERAL, thread_name_prefix="snapengine-look") as pool:
                yield from filter(None, pool.map(self._find_or_none, keys))
            return
        values = pa.array(keys, pa.string())
        for batch in self.view.to_batches():
            rows = batch.filter(pc.is_in(batch["key"], value_set=values))
            yield from versions_of(pa.Table.from_batches([rows]))

    def _find_or_none(self, key: str) -> ObjectVersion | None:
        try:
            return self.find(key)
        except NoSuchKey:
            return None

    def level(self, prefix: str) -> Listing:
        """The objects directly below the prefix, and the prefixes of the next level."""
        self._ask(_LISTING)
        return self.view.list(prefix, "/")

    def below(self, prefix: str) -> list[ObjectVersion]:
        self._ask(_LISTING)
        return self.view.list(prefix).objects

    def names_below(self, prefix: str) -> Iterator[str]:
        self._ask(_LISTING)
        return self.view.keys_below(prefix)

    def any_below(self, prefix: str) -> bool:
        """Whether a key starts with it."""
        return next(iter(self.names_below(prefix)), None) is not None

    @property
    def read(self) -> Callable[[ObjectVersion, int, int | None], bytes]:
        return self.view.read_version

    @property
    def read_into(self) -> Callable[[ObjectVersion, int, memoryview], None]:
        return self.view.read_into

    def _ask(self, weight: int) -> None:
        if self._asked < _PATIENCE:
            self._asked += weight
            if self._asked >= _PATIENCE:
                self.view.rows_if_few()

    def _remember(self, versions: Sequence[ObjectVersion]) -> None:
        if len(self._known) + len(versions) > _REMEMBERED:
            self._known = {}
        self._known.update((version.key, version) for version in versions)
