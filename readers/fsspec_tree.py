"""Files and folders of views as fsspec looks at them: info, ls, find, walk, glob."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from glob import has_magic
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate, stringify_path, tokenize

from readers.errors import os_error
from readers.fsspec_lookup import Keys
from readers.fsspec_paths import (
    file_info,
    folder_info,
    folder_of,
    folders_of,
    is_marker,
    prefix_of,
    unique,
)
from snapengine.errors import CannotExpressKey, NoSuchKey, NotFound, SnapEngineError, UsageError
from snapengine.model import ObjectVersion

_MAGIC = re.compile(r"[*?[]")


class Place(NamedTuple):
    """What a path names."""

    keys: Keys
    root: str
    """Of the paths that are given back, all before the key."""
    key: str


class Found(NamedTuple):
    """What is below a prefix."""

    files: list[ObjectVersion]
    folders: set[str]
    """As prefixes."""


@contextmanager
def told(path: str) -> Iterator[None]:
    """What goes wrong in reading or looking up, as `as_told` has it."""
    try:
        yield
    except SnapEngineError as error:
        said = as_told(error, path)
        if said is error:
            raise
        raise said from error


def as_told(error: SnapEngineError, path: str) -> Exception:
    """The `OSError` for it; `FileNotFoundError` only for a key that the view does not show, as some (zarr, of
    a chunk) take that for an empty file. A wrong call, a missing table and their like stay what they are."""
    absent = isinstance(error, NotFound) and not isinstance(error, NoSuchKey)
    if absent or isinstance(error, UsageError):
        return error
    said = os_error(error, path)
    said.__cause__ = error
    return said


class Tree(AbstractFileSystem):  # type: ignore[misc]  # fsspec tells no types
    """Looks at what `place` finds. Nothing is normalized: a path is a key, to the letter.

    Where a name is an object's and a folder's as well, it is the object (`isfile`, `info`); `ls` and `find`
    show what is in the folder. An empty object whose key ends in `/` shows as the folder that it marks.
    """

    protocol = "snap"
    cachable = False

    @abstractmethod
    def place(self, path: str) -> Place:
        """Where a path leads."""

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list | tuple | set):
            return [cls._strip_protocol(one) for one in path]
        return stringify_path(path)

    @classmethod
    def _parent(cls, path: str) -> str:
        """The folder's path."""
        path = cls._strip_protocol(path)
        cut = path.removesuffix("/").rfind("/")
        return folder_of(path[: cut + 1]) if cut >= 0 else ""

    def _at(self, path: Any) -> Place:
        return self.place(self._strip_protocol(path))

    # One path

    def version(self, path: str) -> ObjectVersion:
        """The version that a path names. Raises `FileNotFoundError`."""
        keys, _, key = self._at(path)
        with told(path):
            return keys.find(key)

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Of a file `version_id`, `ETag` (in quotes, as S3 has it) and `LastModified` (UTC; when the version
        came to be) beside fsspec's `name`, `size` and `type`."""
        keys, root, key = self._at(path)
        with told(path):
            try:
                version = keys.find(key) if key else None
            except NoSuchKey:
                if not keys.any_below(prefix_of(key)):
                    raise
                version = None
        if version is None or is_marker(version):
            return folder_info(root, prefix_of(key))
        return file_info(root, version)

    def exists(self, path: str, **_options: Any) -> bool:
        """Raises where that cannot be found out, unlike fsspec's own."""
        return self._type_of(path) is not None

    def isfile(self, path: str) -> bool:
        return self._type_of(path) == "file"

    def isdir(self, path: str) -> bool:
        return self._type_of(path) == "directory"

    def _type_of(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> datetime:
        """When the version came to be; aware, UTC."""
        found: datetime = self.info(path)["LastModified"] if self.isfile(path) else self._has_no_time(path)
        return found

    created = modified

    def _has_no_time(self, path: str) -> Any:
        self.info(path)
        raise IsADirectoryError(f"{path} is a folder: S3 keeps no time of it.")

    def checksum(self, path: str) -> int:
        """Of a file's version: equal where the bytes are."""
        return int(tokenize("checksum", self.ukey(path)), 16)

    def ukey(self, path: str) -> str:
        keys, _, key = self._at(path)
        if self.isdir(path):
            return str(tokenize(keys.view.reference, prefix_of(key)))
        version = self.version(path)
        return str(tokenize(keys.view.bucket, key, version.version_id, version.etag, version.event_time))

    # Folders

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        keys, root, key = self._at(path)
        prefix = prefix_of(key)
        with told(path):
            level = keys.level(prefix)
            if not level.objects and not level.prefixes and key:
                return [file_info(root, keys.find(key))] if detail else [root + keys.find(key).key]
        files = [file_info(root, version) for version in level.objects if not is_marker(version)]
        infos = [*files, *(folder_info(root, below) for below in level.prefixes)]
        if not detail:
            return unique(info["name"] for info in infos)
        return sorted(infos, key=lambda info: (info["name"], info["type"] != "file"))

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **_options: Any,
    ) -> Any:
        """All files below, and folders if asked for; of a path that is a file and no folder, itself."""
        keys, root, key = self._at(path)
        base = prefix_of(key)
        if not (detail or withdirs or maxdepth is not None):
            with told(path):
                names = self._names(keys, root, base)
            return names or ([root + key] if self.isfile(path) else [])
        found = self._listed(path, base, base, maxdepth, withdirs)
        if withdirs and key and self.isdir(path):
            found.folders.add(base)
        infos = _infos(root, found)
        if not infos and self.isfile(path):
            infos = {root + key: self.info(path)}
        return infos if detail else list(infos)

    @staticmethod
    def _names(keys: Keys, root: str, base: str) -> list[str]:
        names = list(keys.names_below(base))
        slashed = keys.many(name for name in names if name.endswith("/"))
        return [root + name for name in names if name not in slashed or not is_marker(slashed[name])]

    def _listed(self, path: str, base: str, start: str, depth: int | None, withdirs: bool) -> Found:
        """Below the folder `base`, and with keys that start with `start`, down to `depth` levels."""
        if depth is not None and depth < 1:
            raise ValueError("maxdepth must be at least 1")
        keys = self._at(path).keys
        with told(path):
            if depth == 1:
                level = keys.level(start)
                objects, folders = level.objects, set(level.prefixes)
            else:
                objects = keys.below(start)
                folders = (
                    {f for one in objects for f in folders_of(one.key, base, depth)} if withdirs else set()
                )
                objects = [v for v in objects if depth is None or v.key.count("/", len(base)) < depth]
        return Found([v for v in objects if not is_marker(v)], (folders if withdirs else set()) - {base})

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: str | Callable[[OSError], Any] = "omit",
        **options: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """As fsspec's. Raises `CannotExpressKey` for a folder without a name (`a//b` has one), which no path
        that is put together of names can lead to; `find` has what is in it."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        detail = options.pop("detail", False)
        keys, root, key = self._at(path)
        prefix = prefix_of(key)
        try:
            listing = self.ls(path, detail=True)
        except FileNotFoundError as error:
            if on_error == "raise":
                raise
            if callable(on_error):
                on_error(error)
            return
        start = len(root) + len(prefix)
        folders = {i["name"][start:]: i for i in listing if i["type"] == "directory"}
        files = {i["name"][start:]: i for i in listing if i["type"] == "file"}
        if odd := next((name for name in folders if name.strip("/") == ""), None):
            raise CannotExpressKey(
                f"{keys.view.reference} has keys below {prefix + odd!r}, a folder without a name: walk "
                "cannot tell of it. find() can, and so can view.list()."
            )
        shown = (
            folder_info(root, prefix)["name"],
            *((folders, files) if detail else (list(folders), list(files))),
        )
        if topdown:
            yield shown
        if maxdepth is None or maxdepth > 1:
            for name in shown[1] if topdown else list(folders):
                deeper = None if maxdepth is None else maxdepth - 1
                yield from self.walk(folders[name]["name"], deeper, topdown, on_error, detail=detail)
        if not topdown:
            yield shown

    # Patterns

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """As fsspec's. Raises `CannotExpressKey` for a pattern that is an object's key as well, and does not
        stand for that object alone."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        detail = options.pop("detail", False)
        place = self._at(path)
        if not has_magic(place.key):
            found = [self.info(path)] if self.exists(path) else []
            # A folder's name may be an object's, which does not fit.
            infos = {info["name"]: info for info in found if self.info(info["name"]) == info}
            return infos if detail else list(infos)
        infos = self._matching(path, place, maxdepth, options.pop("withdirs", True))
        self._refuse_ambiguous(place, infos)
        return infos if detail else list(infos)

    def _matching(
        self, path: str, place: Place, maxdepth: int | None, withdirs: bool
    ) -> dict[str, dict[str, Any]]:
        only_folders = place.key.endswith("/")
        pattern = place.key.rstrip("/") if only_folders else place.key
        first = _MAGIC.search(pattern)
        literal = pattern[: first.start()] if first else pattern
        base = literal[: literal.rfind("/") + 1]
        depth: int | None = pattern.count("/", len(base)) + 1
        if "**" in pattern:
            tail = pattern[pattern.find("**") :].count("/") + 1
            depth = None if maxdepth is None else (depth or 0) - tail + maxdepth
        regex = re.compile(glob_translate(pattern + ("/" if only_folders else "")))
        slash = only_folders or pattern.endswith("/**")
        found = _infos(place.root, self._listed(path, base, literal, depth, withdirs))
        if withdirs and base and pattern[len(base) :].startswith("**") and place.keys.any_below(base):
            folder = folder_info(place.root, base)
            if self.isdir(folder["name"]):  # else that name is an object's, which does not fit
                found = {folder["name"]: folder} | found
        start = len(place.root)
        return {
            name: info
            for name, info in sorted(found.items())
            if regex.match(name[start:] + ("/" if slash and info["type"] == "directory" else ""))
        }

    @staticmethod
    def _refuse_ambiguous(place: Place, infos: Iterable[str]) -> None:
        named = place.root + place.key
        if list(infos) == [named]:
            return
        with told(named):
            try:
                place.keys.find(place.key)
            except NoSuchKey:
                return
        raise CannotExpressKey(
            f"{place.key!r} is an object's key, and a pattern that stands for others too. Name the object to "
            "open() or cat_file(), or in a list; for the pattern write a letter of it in brackets, as [a]*."
        )


def _infos(root: str, found: Found) -> dict[str, dict[str, Any]]:
    """By name, in order; an object goes before a folder of the same name."""
    infos = {info["name"]: info for info in (folder_info(root, prefix) for prefix in found.folders)}
    infos |= {root + version.key: file_info(root, version) for version in found.files}
    return dict(sorted(infos.items()))
