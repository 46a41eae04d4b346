"""Rows of metadata of neighbouring segments, put together as their observations are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from snapengine.archive.manifest import ArchiveFile, Segment
from snapengine.archive.planning import Bounds, split
from snapengine.archive.roots import Root
from snapengine.archive.row_files import RowSchema, families, members_of
from snapengine.archive.schemas import ROW_GROUP_ROWS
from snapengine.archive.windows import Reader, Window
from snapengine.archiving.row_writing import ALL_KEYS, RANGE_ROWS, Family, in_order, write_rows


def merge_rows(
    reader: Reader,
    root: Root,
    bucket: str,
    run: Sequence[Segment],
    pool: ThreadPoolExecutor,
    renew: Callable[[], None],
) -> list[ArchiveFile]:
    """The files of one segment in place of those of the run, which are neighbours; they are in the root."""
    files: list[ArchiveFile] = []
    for extractor in sorted({f.extractor for s in run for f in s.files if f.role == "rows"}):
        old = [f for s in run for f in s.rows_of(extractor, full=True) if f.rows]
        alike = _alike(reader, old)
        by_id = {id(one.members): one for one in alike}
        made: list[Family] = []
        for schema, groups in families((one.members for one in alike), extractor):
            members = [member for group in groups for member in group]
            together = [by_id[id(group)] for group in groups]
            made.append(Family(schema, members, _merged(reader, schema, together, pool, renew)))
        files += write_rows(root, bucket, extractor, run[0].first, run[-1].last, made)
    return files


class _Alike(NamedTuple):
    """Files of equal columns, and of rows of the same schemas."""

    schema: pa.Schema
    members: list[RowSchema]
    files: list[ArchiveFile]


def _alike(reader: Reader, files: Sequence[ArchiveFile]) -> list[_Alike]:
    found: dict[bytes, _Alike] = {}
    for file in files:
        schema = reader.schema(file)
        own = schema.remove_metadata()
        members = members_of(schema, file.path)
        name = b"".join(one.serialize().to_pybytes() for one in (own, *(m.schema for m in members)))
        alike = found.setdefault(name, _Alike(own, [], []))
        alike.members.extend(members)
        alike.files.append(file)
    return list(found.values())


def _merged(
    reader: Reader,
    schema: pa.Schema,
    together: Sequence[_Alike],
    pool: ThreadPoolExecutor,
    renew: Callable[[], None],
) -> Iterator[pa.Table]:
    """Range by range of keys."""
    windows = [Window.of_files(lambda: reader, one.files, one.schema, pool) for one in together]
    groups: list[Bounds] = []
    for file in [file for one in together for file in one.files]:
        if file.rows > ROW_GROUP_ROWS:
            groups += [Bounds(*group) for group in reader.groups(file)]
        else:
            groups.append(Bounds(file.rows, file.min_key, file.max_key))
    for keys in split(groups, ALL_KEYS, RANGE_ROWS):
        renew()
        yield in_order([window.rows(keys) for window in windows], schema)
