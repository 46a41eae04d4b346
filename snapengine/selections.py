"""The rows of narrowed views, kept in the table under a digest of their own: what was chosen stays chosen.

They are entries of a log that no bucket has, `<bucket>#selection#<hex>`: stream 0 holds the rows in chunks,
stream 1 one entry, put last, that says how many chunks there are, stream 2 how they were chosen.
Chunks are a pure function of the rows, so that several who keep the same rows put the same entries.

The log `<bucket>#selection` tells of which selections there may be something to find: it is told before
anything of a selection is put, its rows or how they were chosen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from secrets import token_hex
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.cautions import SelectionNotKept, caution
from snapengine.digest import digest_batches
from snapengine.errors import IdentifyingRefused, LogDamaged, NoSuchSelection, SchemaTooNew
from snapengine.model import LogEntry, SnapshotRef
from snapengine.ports import Clock, LogReader, LogStore
from snapengine.reference import render_reference, without_selection

ROWS: Final = 0
WHOLE: Final = 1
QUERIES: Final = 2
"""The streams."""

CHUNK_BYTES: Final = 300_000
"""Of rows uncompressed, so that whatever they are an entry fits into an item of DynamoDB (400 KB)."""

_FORMAT: Final = 1
_LAST: Final = 10**12 - 1
"""No entry has a greater number."""
_AT_ONCE: Final = 16
_ROW_BYTES: Final = 48
"""Numbers, offsets and the like."""
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclass(frozen=True, slots=True)
class Chosen:
    """How a narrowed view came to be."""

    of: str
    """The reference of the view that was narrowed."""
    query: str | None = None
    """The condition; None where objects were named one by one."""
    extractor: str | None = None
    """Whose columns the condition speaks of."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Objects by what the condition said of them: `matched`, `not_matched`, `unknown`, `without_row`."""
    identifying: bool = False
    """The condition speaks of identifying columns, and may hold values of them."""


def selection_log(bucket: str, selection: str) -> str:
    """The name under which the log holds a selection; no bucket can have it."""
    return f"{bucket}#selection#{selection.removeprefix('sha256:')}"


def selections_log(bucket: str) -> str:
    """The name under which the log tells of a bucket's selections, in stream 0: an entry's payload is the
    digest's hexadecimal digits. A selection may be told of more than once."""
    return f"{bucket}#selection"


def selection_digest(rows: pa.Table) -> str:
    """`sha256:<hex>` over all columns of a view's rows, in their order.

    A view's own digest says which bytes it shows. This one also says since when, and where from, so that the
    rows kept under it are those of one view to the letter.
    """
    return digest_of_batches(rows.to_batches)


def digest_of_batches(batches: Callable[[], Iterable[pa.RecordBatch]]) -> str:
    """The same of rows that are read twice, in bounded memory."""
    data = digest_batches(batches())
    facts = digest_batches(_facts(batch) for batch in batches())
    return f"sha256:{sha256(f'{data} {facts}'.encode()).hexdigest()}"


def _facts(batch: pa.RecordBatch) -> pa.Table:
    """What `digest` leaves out, in the columns that it reads."""
    parts = [batch["time"]]
    for name in ("storage_class", "sequencer"):
        known = pc.if_else(pc.is_valid(batch[name]), "=", "-")
        parts.append(pc.binary_join_element_wise(known, pc.fill_null(batch[name], ""), ""))
    return pa.table(
        {
            "key": batch["key"],
            "version_id": batch["version_id"],
            "etag": pc.binary_join_element_wise(*parts, " "),
            "size": batch["event_time"].cast(pa.int64()),
        }
    )


def chunks(rows: pa.Table) -> Iterator[pa.Table]:
    """PURE. The rows in pieces of some `CHUNK_BYTES`, the same for the same rows on any machine."""
    if not rows.num_rows:
        return
    sizes = pa.chunked_array([pa.array([_ROW_BYTES] * rows.num_rows, pa.int64())])
    for column in rows.columns:
        if pa.types.is_string(column.type):
            length = pc.fill_null(pc.binary_length(column), 0).cast(pa.int64()).combine_chunks()
            sizes = pc.add(sizes, length)
    before = pc.subtract(pc.cumulative_sum(sizes), sizes)
    numbers = pc.divide(before, CHUNK_BYTES)
    counts = pc.value_counts(numbers.combine_chunks()).field("counts").to_pylist()
    start = 0
    for count in counts:
        yield rows.slice(start, count)
        start += count


# Keeping


async def keep(store: LogStore, ref: SnapshotRef, rows: pa.Table, clock: Clock) -> None:
    """Keep the rows that a narrowed view's reference selects. Safe to repeat, also by several at once.

    A lost reply: whoever repeats it finds the same entry. Until the last entry stands, none of it counts.
    """
    await keep_chunks(store, ref.bucket, ref.selection, chunks(rows), clock)


async def keep_chunks(
    store: LogStore, bucket: str, selection: str, pieces: Iterator[pa.Table], clock: Clock
) -> None:
    """The same of rows that come in the `chunks` they are kept in, and have the digest `selection`."""
    log = selection_log(bucket, selection)
    nonce = log.rpartition("#")[2][:24]
    if await store.get_entry(log, WHOLE, 1) is not None:
        return
    await _tell(store, bucket, selection, clock)

    async def put(stream: int, number: int, count: int, payload: bytes) -> None:
        entry = LogEntry(log, stream, number, nonce, clock(), count, payload, "metadata")
        if not await store.put_entry(entry):
            raise LogDamaged(f"Entry {number} of stream {stream} of {log} is not of that selection.")

    rows, number = 0, 0
    while some := list(islice(pieces, _AT_ONCE)):
        places = enumerate(some, number + 1)
        await asyncio.gather(*(put(ROWS, place, piece.num_rows, _encoded(piece)) for place, piece in places))
        rows, number = rows + sum(piece.num_rows for piece in some), number + len(some)
    whole = {"format": _FORMAT, "rows": rows, "chunks": number}
    await put(WHOLE, 1, rows, json.dumps(whole).encode())


async def _tell(store: LogStore, bucket: str, selection: str, clock: Clock) -> None:
    """Have the selection found by who looks for a bucket's."""
    log, nonce = selections_log(bucket), token_hex(12)
    payload = selection.removeprefix("sha256:").encode()
    number = await store.head(log, 0) + 1
    while not await store.put_entry(LogEntry(log, 0, number, nonce, clock(), 1, payload, "metadata")):
        number += 1


def _encoded(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, VIEW_SCHEMA, options=_OPTIONS) as writer:
        writer.write_table(rows.combine_chunks())
    return bytes(sink.getvalue())


# Opening


def kept(store: LogReader, ref: SnapshotRef) -> pa.Table:
    """The rows of a narrowed view, checked against its reference. Raises `NoSuchSelection`, `LogDamaged`."""
    reference = render_reference(ref)
    pieces = kept_chunks(store, ref.bucket, ref.selection, reference)
    rows = pa.concat_tables([VIEW_SCHEMA.empty_table(), *pieces]).combine_chunks()
    if selection_digest(rows) != ref.selection:
        raise LogDamaged(f"What {reference} selects is not what was kept: its digest is another.")
    return rows


def kept_chunks(store: LogReader, bucket: str, selection: str, name: str) -> Iterator[pa.Table]:
    """The rows of a selection in the pieces that they are kept in; `name` is what messages call it. Their
    digest is not looked at. Raises `NoSuchSelection`, `LogDamaged`."""
    log = selection_log(bucket, selection)
    try:
        whole = json.loads(next(store.entries(log, WHOLE, 0, 1)).payload)
    except LogDamaged:
        raise NoSuchSelection(
            f"The table does not hold what {name} selects. Open it where it was selected, or with the "
            "SNAPENGINE_STORE that was set there."
        ) from None
    except ValueError as error:
        raise LogDamaged(f"What {name} selects cannot be read: {error}.") from None
    if whole.get("format") != _FORMAT:
        raise SchemaTooNew(f"What {name} selects was kept by another snapengine. Upgrade this one.")
    rows = 0
    try:
        for entry in store.entries(log, ROWS, 0, int(whole["chunks"])):
            piece = _decoded(entry.payload)
            rows += piece.num_rows
            yield piece
    except (pa.ArrowException, OSError, EOFError) as error:
        raise LogDamaged(f"What {name} selects cannot be read: {type(error).__name__}.") from None
    if rows != whole["rows"]:
        raise LogDamaged(f"What {name} selects is not what was kept: it has {rows:,} rows.")


def _decoded(payload: bytes) -> pa.Table:
    with pa.ipc.open_stream(payload) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table.cast(VIEW_SCHEMA)


# Conditions


async def note(store: LogStore, ref: SnapshotRef, chosen: Chosen, clock: Clock) -> None:
    """Keep how a selection came to be, once. A condition over identifying columns is kept apart, as they are;
    where the store does not take it there, all else is kept without it, and a warning says so.

    Two who note the same at the same time may note it twice, which tells nothing else.
    """
    try:
        await put_note(store, ref.bucket, ref.selection, chosen, note_nonce(chosen), clock)
    except IdentifyingRefused as refused:
        bare = replace(chosen, query=None)
        await put_note(store, ref.bucket, ref.selection, bare, note_nonce(bare), clock)
        text = f"The condition that gave {render_reference(ref)} was not kept with it: {refused}"
        caution(text, SelectionNotKept)


async def put_note(
    store: LogStore, bucket: str, selection: str, chosen: Chosen, nonce: str, clock: Clock
) -> None:
    """The same of one whose `note_nonce` is known. Raises `IdentifyingRefused` where the store does not take
    its condition; then nothing was kept."""
    log = selection_log(bucket, selection)
    told = asdict(chosen) | ({"query": None} if chosen.identifying else {})
    payload = json.dumps(told, sort_keys=True).encode()
    last = await store.head(log, QUERIES)
    for number in range(1, last + 1):
        entry = await store.get_entry(log, QUERIES, number)
        if entry is not None and entry.nonce == nonce:
            return
    await _tell(store, bucket, selection, clock)
    while True:
        last += 1
        if chosen.identifying and chosen.query is not None:
            await store.put_identifying(log, QUERIES, last, nonce, chosen.query.encode())
        if await store.put_entry(LogEntry(log, QUERIES, last, nonce, clock(), 1, payload, "metadata")):
            return


def note_nonce(chosen: Chosen) -> str:
    """Of the entry that keeps it, so that it is kept once: its condition has its part in it."""
    return sha256(json.dumps(asdict(chosen), sort_keys=True).encode()).hexdigest()[:24]


async def noted(store: LogStore, reader: LogReader, ref: SnapshotRef) -> list[Chosen]:
    """How a narrowed view came to be, the first way first: the same rows may have been chosen by several. A
    condition that this role may not read is None."""
    log = selection_log(ref.bucket, ref.selection)
    last = await store.head(log, QUERIES)
    entries = [entry for n in range(1, last + 1) if (entry := await store.get_entry(log, QUERIES, n))]
    base = render_reference(replace(ref, selection=""))
    found = [(entry, chosen_from(entry.payload)) for entry in entries]
    found = [(entry, chosen) for entry, chosen in found if without_selection(chosen.of) == base]
    hidden: dict[str, str] = {}
    if any(chosen.identifying for _, chosen in found):
        try:
            parts = reader.identifying(log, QUERIES, 0, last)
            hidden = {nonce: payload.decode() for _, nonce, payload in parts}
        except IdentifyingRefused:
            hidden = {}
    return [
        Chosen(**(asdict(chosen) | {"query": hidden.get(entry.nonce)})) if chosen.identifying else chosen
        for entry, chosen in found
    ]


def bases(store: LogReader, ref: SnapshotRef) -> Iterator[str]:
    """The references of the views from which a selection was chosen, one for each note of it."""
    try:
        for entry in store.entries(selection_log(ref.bucket, ref.selection), QUERIES, 0, _LAST):
            yield without_selection(chosen_from(entry.payload).of)
    except LogDamaged:  # there are no more: a reader does not know how many
        return


def chosen_from(payload: bytes) -> Chosen:
    """What an entry of the stream of conditions holds. Raises `ValueError`, `TypeError` for anything else."""
    told: dict[str, Any] = json.loads(payload)
    return Chosen(**{name: told[name] for name in Chosen.__dataclass_fields__ if name in told})
