"""Whatever would change something, refused: a view is read-only."""

from __future__ import annotations

from typing import Any, NoReturn

from readers.errors import read_only


class ReadOnly:
    """The writing half of fsspec's filesystems. What has further names there (`delete`, `upload`, `mkdirs`,
    `write_text`, ...) comes here, too. Each raises `OSError` (`EROFS`)."""

    def mkdir(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("making a folder", _said(path))

    def makedirs(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("making a folder", _said(path))

    def rmdir(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("removing", _said(path))

    def rm(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("removing", _said(path))

    def rm_file(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("removing", _said(path))

    def _rm(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("removing", _said(path))

    def touch(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("writing", _said(path))

    def pipe(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("writing", _said(path))

    def pipe_file(self, path: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("writing", _said(path))

    def put(self, lpath: Any, rpath: Any = None, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ARG002  # fsspec's order
        raise read_only("writing", _said(rpath))

    def put_file(self, lpath: Any, rpath: Any = None, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ARG002  # fsspec's order
        raise read_only("writing", _said(rpath))

    def copy(self, path1: Any, path2: Any = None, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ARG002  # fsspec's order
        raise read_only("copying within it", _said(path2))

    def cp_file(self, path1: Any, path2: Any = None, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ARG002  # fsspec's order
        raise read_only("copying within it", _said(path2))

    def mv(self, path1: Any, *_args: Any, **_options: Any) -> NoReturn:
        raise read_only("moving", _said(path1))

    @property
    def transaction(self) -> NoReturn:
        raise read_only("a transaction")

    def start_transaction(self) -> NoReturn:
        raise read_only("a transaction")

    def end_transaction(self) -> NoReturn:
        raise read_only("a transaction")


def _said(path: Any) -> str | None:
    """One path as it was given; of several none."""
    return path if isinstance(path, str) else None
