"""`view.dataset`: the view's files of one format as a `pyarrow.dataset.Dataset`.

    view.dataset("parquet", prefix="tables/visits/").to_table(filter=pc.field("age") > 50)

What takes such a dataset reads of the view: Polars (`polars.scan_pyarrow_dataset`), DuckDB, Ray, and others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileInfo, FileType, FSSpecHandler, PyFileSystem

from readers.fsspec_fs import ViewFileSystem
from snapengine.errors import NoSuchKey, UsageError
from snapengine.views import View

_PACKED: Final = ("", ".gz", ".bz2", ".zst", ".lz4")
"""What pyarrow unpacks by the name's end, in formats that are not packed themselves."""
SUFFIXES: Final[dict[str, tuple[str, ...]]] = {
    "parquet": (".parquet", ".pq", ".parq"),
    "csv": tuple(".csv" + packed for packed in _PACKED),
    "json": tuple(name + packed for name in (".json", ".jsonl", ".ndjson") for packed in _PACKED),
    "feather": (".feather", ".arrow", ".ipc"),
    "ipc": (".feather", ".arrow", ".ipc"),
    "arrow": (".feather", ".arrow", ".ipc"),
    "orc": (".orc",),
}
"""By format, the ends of the keys (in any case) that are chosen unless others are asked for."""
_HIDDEN: Final = ("_", ".")


def dataset_of(
    view: View,
    format: str | ds.FileFormat = "parquet",  # noqa: A002  # as pyarrow names it
    *,
    prefix: str = "",
    keys: Iterable[str] | None = None,
    suffix: str | Sequence[str] | None = None,
    hidden: bool = False,
    schema: pa.Schema | None = None,
    partitioning: Any = None,
) -> ds.FileSystemDataset:
    """The dataset of the view's files of one format, in key order; `files` has their keys.

    `format`: `parquet`, `csv`, `json` (a document a line), `feather` or `ipc`, `orc`; or a
    `pyarrow.dataset.FileFormat` with options of its own, as `CsvFileFormat(parse_options=...)`.
    `keys`: exactly these objects, in this order. Else those chosen by
    `prefix`: what their keys start with,
    `suffix`: what they end in, one or several; "" for all. None: what is usual (`SUFFIXES`).
    `hidden`: also those with a part of the key, below the prefix's last slash, that begins with `_` or `.`
    (`_delta_log/`, `_temporary/`): they are left out, as pyarrow and Spark do.
    `schema`: as pyarrow has it; None: that of the first file.
    `partitioning`: as pyarrow has it (`"hive"`, names, ...), counted from the prefix's last slash.

    Raises `UsageError` where nothing is chosen, for an unknown format, and for a slice of all versions;
    `NoSuchKey` for one of `keys` that the view does not show. Reading raises as the view's filesystem does.
    """
    fs = ViewFileSystem(view)
    chosen = _existing(view, fs, keys) if keys is not None else _chosen(view, format, prefix, suffix, hidden)
    if not chosen:
        raise UsageError(
            f"{view.reference} has no such file: none below {prefix!r} that ends in "
            f"{' or '.join(map(repr, _suffixes(format, suffix)))}. Name others by suffix=, or keys=."
        )
    dataset: ds.FileSystemDataset = ds.dataset(
        chosen,
        schema=schema,
        format=format,
        filesystem=PyFileSystem(ViewHandler(fs)),
        partitioning=partitioning,
        partition_base_dir=prefix.rpartition("/")[0],
    )
    return dataset


class ViewHandler(FSSpecHandler):  # type: ignore[misc]  # pyarrow tells no types
    """Opens files by exact key for pyarrow: at random for those formats that look here and there, and else
    one block after the other."""

    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        try:
            version = self.fs.version(path)
        except FileNotFoundError:
            return FileInfo(path, FileType.NotFound)
        return FileInfo(path, FileType.File, size=version.size, mtime=version.event_time / 1000)

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, cache_type="none"), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path), mode="r")


def _existing(view: View, fs: ViewFileSystem, keys: Iterable[Any]) -> list[str]:
    wanted = list(keys)
    if isinstance(keys, str) or not all(isinstance(key, str) for key in wanted):
        raise UsageError("keys= wants a list of keys, which are text.")
    found = fs.place("").keys.many(wanted)
    if absent := next((key for key in wanted if key not in found), None):
        raise NoSuchKey(absent, view.reference)
    return wanted


def _chosen(view: View, format: Any, prefix: str, suffix: Any, hidden: bool) -> list[str]:  # noqa: A002  # as above
    ends = tuple(end.lower() for end in _suffixes(format, suffix))
    base = prefix.rfind("/") + 1
    return [
        key
        for key in view.keys_below(prefix)
        if key.lower().endswith(ends)
        and not key.endswith("/")
        and (hidden or not any(part.startswith(_HIDDEN) for part in key[base:].split("/")))
    ]


def _suffixes(format: Any, suffix: Any) -> tuple[str, ...]:  # noqa: A002  # as above
    if suffix is not None:
        return (suffix,) if isinstance(suffix, str) else tuple(suffix)
    name = format if isinstance(format, str) else format.default_extname
    if name not in SUFFIXES:
        raise UsageError(f"There is no format {name!r}. It is one of {', '.join(SUFFIXES)}.")
    return SUFFIXES[name]
