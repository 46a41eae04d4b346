"""Bytes of views' files as fsspec asks for them: open, cat, ranges, get."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import has_magic
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.implementations.local import make_path_posix, trailing_sep
from fsspec.utils import isfilelike, other_paths, stringify_path

from readers.concurrent import PART, Wanted, read_many, read_whole, split, try_many
from readers.errors import read_only
from readers.fsspec_file import SnapFile
from readers.fsspec_lookup import Keys
from readers.fsspec_mapping import ExactMap
from readers.fsspec_paths import folder_of
from readers.fsspec_refusals import ReadOnly
from readers.fsspec_tree import Tree, as_told, told
from snapengine.download import plan_paths, write_file
from snapengine.errors import CannotExpressKey, NoSuchKey, SnapEngineError
from snapengine.model import ObjectVersion

_DOWNLOADS = 8
OnError = Literal["raise", "omit", "return"]


class Reading(ReadOnly, Tree):
    """Reads what `Tree` finds."""

    blocksize = PART
    file_options: Mapping[str, Any] = MappingProxyType({})
    """What files are opened with, unless they are opened with something else."""

    def open(self, path: Any, mode: str = "rb", **options: Any) -> Any:
        """A file over the version that the view shows. `mode` is `rb`, or `r` with fsspec's text options.
        Raises `FileNotFoundError`, and `OSError` (`EROFS`) for any other mode."""
        if mode.replace("t", "").replace("b", "") != "r":
            raise read_only(f"opening with mode {mode!r}", str(path))
        return super().open(path, mode, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> SnapFile:  # noqa: ARG002  # fsspec's order
        keys, _, key = self._at(path)
        with told(path):
            version = keys.find(key)
        given = {name: value for name, value in options.items() if value is not None}
        wanted = {"block_size": self.blocksize, **self.file_options, **given}
        for name in ("autocommit", "size"):
            wanted.pop(name, None)
        return SnapFile(self, path, keys, version, **wanted)

    # One file, or a piece of it

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_options: Any) -> bytes:
        """Bytes `[start, end)`, counted from the end where negative; a large range in parts at once."""
        keys, _, key = self._at(path)
        with told(path):
            version = keys.find(key)
            data = read_whole(keys.read, *_bounded(version, start, end), into=keys.read_into)
        return data[start:end] if version.size is None else data

    def head(self, path: str, size: int = 1024) -> bytes:
        return self.cat_file(path, 0, size)

    def tail(self, path: str, size: int = 1024) -> bytes:
        return self.cat_file(path, -size) if size else b""

    def read_block(self, fn: str, offset: int, length: int | None, delimiter: bytes | None = None) -> bytes:
        if delimiter is None:
            return self.cat_file(fn, offset, None if length is None else offset + length)
        block: bytes = super().read_block(fn, offset, length, delimiter)
        return block

    # Many

    def cat(self, path: Any, recursive: bool = False, on_error: OnError = "raise", **options: Any) -> Any:
        """The bytes of a path; of a list, a pattern or a folder (`recursive`) a dict by path. A name in a
        list that is an object's key is that object, whatever pattern it may look like."""
        if not recursive and isinstance(path, str | os.PathLike):
            name = self._strip_protocol(path)
            if not has_magic(self._at(name).key):
                return self.cat_file(name, **options)
        paths = self.expand_path(path, recursive=recursive)
        if recursive or isinstance(path, str | os.PathLike):
            paths = [one for one in paths if not self.isdir(one)]
        start, end = options.get("start"), options.get("end")
        got = self._ranges(paths, [start] * len(paths), [end] * len(paths), stop=on_error == "raise")
        return {
            one: data
            for one, data in zip(paths, got, strict=True)
            if on_error == "return" or not isinstance(data, Exception)
        }

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,  # noqa: ARG002  # a hint of when to join ranges: they are read at once instead
        on_error: OnError = "return",
        **_options: Any,
    ) -> list[bytes | Exception]:
        """The bytes of each range, in order; `on_error="return"` puts errors in their places."""
        if not isinstance(paths, list):
            raise TypeError("paths: a list")
        first = list(starts) if isinstance(starts, Sequence) else [starts] * len(paths)
        last = list(ends) if isinstance(ends, Sequence) else [ends] * len(paths)
        if not len(paths) == len(first) == len(last):
            raise ValueError("paths, starts and ends are to be of one length")
        return self._ranges([self._strip_protocol(p) for p in paths], first, last, stop=on_error == "raise")

    def _ranges(
        self, paths: Sequence[str], starts: Sequence[int | None], ends: Sequence[int | None], *, stop: bool
    ) -> list[bytes | Exception]:
        """`stop`: raise the first error instead of giving each in its place."""
        groups: dict[int, tuple[Keys, list[int]]] = {}
        names: list[str] = []
        for at, path in enumerate(paths):
            keys, _, key = self._at(path)
            groups.setdefault(id(keys), (keys, []))[1].append(at)
            names.append(key)
        out: list[bytes | Exception] = [b""] * len(paths)
        for keys, group in groups.values():
            with told(str(keys.view)):
                found = keys.many(names[at] for at in group)
            for at in group:
                if names[at] not in found:
                    out[at] = _kept(as_told(NoSuchKey(names[at], keys.view.reference), paths[at]), stop)
            there = [at for at in group if names[at] in found]
            wanted = (_bounded(found[names[at]], starts[at], ends[at]) for at in there)
            for at, data in zip(there, try_many(keys.read, wanted, keys.read_into), strict=True):
                out[at] = _kept(_outcome(data, found[names[at]], starts[at], ends[at], paths[at]), stop)
        return out

    def get_mapper(
        self, root: str = "", check: bool = False, create: bool = False, missing_exceptions: Any = None
    ) -> ExactMap:
        """A folder as a mapping from names, to the letter, to bytes; read-only."""
        return ExactMap(root, self, check, create, missing_exceptions=missing_exceptions)

    # To local files

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **_options: Any,
    ) -> None:
        """Write one file to a local path, whole or not at all; or to a file that is open."""
        outfile = lpath if outfile is None and isfilelike(lpath) else outfile
        info = self.info(rpath)
        if outfile is None and info["type"] == "directory":
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        keys, _, key = self._at(rpath)
        with told(rpath):
            version = keys.find(key)
            if outfile is None:
                write_file(version, Path(lpath), keys.read)
            else:
                for data in read_many(keys.read, split(Wanted(version))):
                    outfile.write(data)
        callback.set_size(version.size)
        callback.relative_update(version.size or 0)

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **_options: Any,
    ) -> None:
        """As fsspec's, several files at once. Raises `CannotExpressKey` before anything is written where a
        key would not be a path's own (`a//b`, `a/`, a key that is a folder of others as well)."""
        pairs = self._pairs(rpath, lpath, recursive, maxdepth)
        callback.set_size(len(pairs))

        def fetch(pair: tuple[str, str]) -> None:
            with callback.branched(*pair) as child:
                self.get_file(*pair, callback=child)

        with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="snapengine-get") as pool:
            for _ in pool.map(fetch, pairs):
                callback.relative_update()

    def _pairs(self, rpath: Any, lpath: Any, recursive: bool, maxdepth: int | None) -> list[tuple[str, str]]:
        """What is written where: fsspec's own rules, which go by slashes at the end of either."""
        if isinstance(rpath, list) and isinstance(lpath, list):
            return list(zip((self._strip_protocol(one) for one in rpath), lpath, strict=True))
        single = isinstance(rpath, str | os.PathLike)
        given = stringify_path(rpath) if single else ""
        target = make_path_posix(stringify_path(lpath))
        paths = self.expand_path(rpath, recursive=recursive, maxdepth=maxdepth)
        folders = {path for path in paths if self.isdir(path)}
        if single and (not recursive or maxdepth is not None):
            paths = [path for path in paths if path not in folders]
            if not paths:
                return []
        plan_paths([self._at(path).key for path in paths if path not in folders], Path())
        into = trailing_sep(stringify_path(lpath)) or Path(target).is_dir()
        magic = has_magic(self._at(given).key) if single else False
        inside = single and (len(paths) == 1 if magic else into and not trailing_sep(given))
        targets = other_paths(paths, target, exists=inside, flatten=not single)
        files = [to for path, to in zip(paths, targets, strict=True) if path not in folders]
        if len(set(files)) < len(files):
            raise CannotExpressKey(f"Several of these files would be one in {target}: get them one by one.")
        return list(zip(paths, targets, strict=True))

    def expand_path(
        self,
        path: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        assume_literal: bool = False,
        **_options: Any,
    ) -> list[str]:
        """Paths, patterns and (`recursive`) folders as paths of what there is, each once, in order. In a list
        an object's key is that object. Raises `FileNotFoundError` where that is nothing."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        single = isinstance(path, str | os.PathLike)
        out: set[str] = set()
        for one in self._strip_protocol([path] if single else list(path)):
            keys, root, key = self._at(one)
            if not assume_literal and has_magic(key) and (single or key not in keys.many([key])):
                matching = self.glob(one, maxdepth=maxdepth)
                out.update(matching)
                if recursive and matching and (maxdepth is None or maxdepth > 1):
                    deeper = None if maxdepth is None else maxdepth - 1
                    out.update(self.expand_path(matching, True, deeper, assume_literal=True))
                continue
            if recursive:
                out.update(self.find(one, maxdepth=maxdepth, withdirs=True))
            if one.endswith("/") and key not in keys.many([key]):
                one = root + folder_of(key)  # noqa: PLW2901  # the same folder, by the name that find has for it
            if not recursive or (one not in out and self.exists(one)):
                out.add(one)
        if not out:
            raise FileNotFoundError(errno.ENOENT, "Nothing there fits", str(path))
        return sorted(out)


def _bounded(version: ObjectVersion, start: int | None, end: int | None) -> Wanted:
    """What to read for bytes `[start:end]`, as Python slices; all of a version whose size nobody told."""
    if version.size is None:
        return Wanted(version)
    first, last, _ = slice(start, end).indices(version.size)
    return Wanted(version, first, max(first, last))


def _kept(outcome: bytes | Exception, stop: bool) -> bytes | Exception:
    if stop and isinstance(outcome, Exception):
        raise outcome
    return outcome


def _outcome(
    data: bytes | Exception, version: ObjectVersion, start: int | None, end: int | None, path: str
) -> bytes | Exception:
    if isinstance(data, SnapEngineError):
        return as_told(data, path)
    if version.size is None and isinstance(data, bytes):
        return data[start:end]
    return data
