"""A folder of a view as a mapping from names to bytes, which keeps keys as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fsspec.mapping import FSMap

from readers.fsspec_paths import prefix_of


class ExactMap(FSMap):  # type: ignore[misc]  # fsspec tells no types
    """What `get_mapper` gives. fsspec's own takes slashes from the ends of keys, and reads patterns."""

    def __init__(self, root: str, fs: Any, *args: Any, **options: Any) -> None:
        super().__init__(root, fs, *args, **options)
        self._root_key_to_str = prefix_of(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.root, self.fs, False, False, self.missing_exceptions))

    def __getitem__(self, key: str, default: bytes | None = None) -> bytes:
        try:
            data: bytes = self.fs.cat_file(self._key_to_str(key))
        except self.missing_exceptions as error:
            if default is not None:
                return default
            raise KeyError(key) from error
        return data

    def __iter__(self) -> Iterator[str]:
        below = self._root_key_to_str
        return (self._str_to_key(path) for path in self.fs.find(below) if path.startswith(below))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _key_to_str(self, key: str) -> str:
        return f"{self._root_key_to_str}{key}"

    def _str_to_key(self, s: str) -> str:
        return s.removeprefix(self._root_key_to_str)
