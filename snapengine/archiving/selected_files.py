"""What the archive has of narrowed views: their rows, and how they were chosen.

`<bucket>/selections.json` names them all:

    {"format": 1, "selections": {"<hex>": {"rows": …, "conditions": ["<nonce>", …], "identifying": […]}}}

`<hex>` is the digest over a narrowed view's rows. A condition's nonce is a hash over all of it, its text
included; `identifying` has those whose text is in a file apart. So every file is known by its content, and
once written it never changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from snapengine.archive.roots import Root
from snapengine.archiving import paths
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.errors import ArchiveDamaged, ArchiveFileMissing, SchemaTooNew
from snapengine.selections import Chosen, chosen_from, digest_of_batches, note_nonce

FORMAT: Final = 1
_PIECE: Final = 16 * 1024 * 1024
"""Bytes of a file that are fetched at a time."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What the archive has of one narrowed view."""

    rows: int
    """How many; -1 where that is not known."""
    conditions: tuple[str, ...] = ()
    """Their nonces, in the order in which they were kept."""
    identifying: tuple[str, ...] = ()
    """Of these, those whose text the archive has apart."""


def read_list(root: Root, bucket: str) -> dict[str, Selected]:
    """By `<hex>`. Raises `ArchiveFileMissing` where nothing is listed yet, `ArchiveDamaged`,
    `SchemaTooNew`."""
    name = f"{root.url}/{paths.selections(bucket)}"
    data = root.read(paths.selections(bucket))
    try:
        body: dict[str, Any] = json.loads(data)
        if body["format"] > FORMAT:
            raise SchemaTooNew(
                f"{name} has format {body['format']}; this snapengine reads up to {FORMAT}. Upgrade it."
            )
        return {
            hexadecimal: Selected(one["rows"], tuple(one["conditions"]), tuple(one["identifying"]))
            for hexadecimal, one in body["selections"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveDamaged(f"{name} cannot be read: {error!r}. Restore it from a copy.") from error


def listed(root: Root, bucket: str) -> dict[str, Selected] | None:
    """The same; None where nothing is listed yet."""
    try:
        return read_list(root, bucket)
    except ArchiveFileMissing:
        return None


def by_name(root: Root, bucket: str) -> dict[str, Selected]:
    """What the files' names tell, where the list is lost. Of conditions the order is not known."""
    found: dict[str, Selected] = {}
    conditions: list[tuple[str, str]] = []
    for stored in root.paths(f"{bucket}/selections/"):
        name, _, rest = stored.path.rpartition("/")[2].partition("-")
        if stored.path == paths.selected_rows(bucket, name):
            found[name] = Selected(-1)
        elif rest.startswith("condition-"):
            conditions.append((name, rest.removeprefix("condition-").removesuffix(".json")))
    for name, nonce in conditions:
        if name in found and nonce:
            one = found[name]
            apart = root.size(paths.identifying_condition(bucket, name, nonce)) is not None
            hidden = (*one.identifying, nonce) if apart else one.identifying
            found[name] = Selected(one.rows, (*one.conditions, nonce), hidden)
    return found


def put_list(root: Root, bucket: str, known: Mapping[str, Selected]) -> None:
    """Replace the list, whole."""
    body = {"format": FORMAT, "selections": {name: asdict(one) for name, one in known.items()}}
    root.put_bytes(paths.selections(bucket), json.dumps(body, sort_keys=True, indent=1).encode())


def named(bucket: str, known: Mapping[str, Selected]) -> set[str]:
    """The paths of all files of narrowed views."""
    found: set[str] = set()
    for name, one in known.items():
        found.add(paths.selected_rows(bucket, name))
        found |= {paths.condition(bucket, name, nonce) for nonce in one.conditions}
        found |= {paths.identifying_condition(bucket, name, nonce) for nonce in one.identifying}
    return found


# Rows


def write_rows(target: Path, pieces: Iterator[pa.Table]) -> int:
    """Write the pieces, a row group each, to a local file; how many rows they have."""
    rows = 0
    with pq.ParquetWriter(target, VIEW_SCHEMA, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(piece, row_group_size=max(piece.num_rows, 1))
            rows += piece.num_rows
    return rows


def read_pieces(source: Path) -> Iterator[pa.Table]:
    """They again. Raises what pyarrow raises for what is no such file."""
    with pq.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group).cast(VIEW_SCHEMA)


def is_whole(source: Path, name: str) -> bool:
    """Whether a local file holds the rows whose digest is `name`, and all of them."""

    def batches() -> Iterator[pa.RecordBatch]:
        for piece in read_pieces(source):
            piece.validate(full=True)
            yield from piece.to_batches()

    try:
        return digest_of_batches(batches) == f"sha256:{name}"
    except (pa.ArrowException, OSError, EOFError):
        return False


def fetch_rows(root: Root, bucket: str, name: str, target: Path) -> int:
    """Copy the rows of a narrowed view into a local file, and look whether they are whole; the file's bytes.

    Raises `ArchiveDamaged` (`ArchiveFileMissing` too), and what the root raises.
    """
    path = paths.selected_rows(bucket, name)
    size = root.size(path)
    if size is None:
        root.read(path, 0, 1)
        raise ArchiveDamaged(f"{root.url}/{path} came into being just now.")
    with target.open("wb") as file:
        for start in range(0, size, _PIECE):
            file.write(root.read(path, start, min(start + _PIECE, size)))
    if not is_whole(target, name):
        raise ArchiveDamaged(f"{root.url}/{path} is not as it was written. Restore it from a copy.")
    return size


# Conditions


def fetch_condition(root: Root, bucket: str, name: str, nonce: str, *, text: bool) -> tuple[Chosen, int]:
    """How a narrowed view was chosen, and the bytes read. With `text` that of an identifying condition is
    there too, and what was read is known to be what was kept; without it its text is None.

    Raises `ArchiveDamaged` (`ArchiveFileMissing` too), and what the root raises.
    """
    read = [paths.condition(bucket, name, nonce)]
    data = root.read(read[0])
    size = len(data)
    whole = False
    try:
        chosen = chosen_from(data)
        if chosen.identifying and text:
            read.append(paths.identifying_condition(bucket, name, nonce))
            apart = root.read(read[1])
            size += len(apart)
            chosen = replace(chosen, query=apart.decode())
        whole = note_nonce(chosen) == nonce or (chosen.identifying and not text)
    except (ValueError, TypeError):
        whole = False
    if not whole:
        files = " or ".join(f"{root.url}/{path}" for path in read)
        raise ArchiveDamaged(f"{files} is not as it was written. Restore it from a copy.")
    return chosen, size
