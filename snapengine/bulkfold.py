"""PURE: the rule of `fold.py` over Arrow tables. Most keys have one observation and need no Python each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.fold import KeyFacts, as_version, fold, live_entries, merge, state
from snapengine.model import CREATED, EVENT, NULL_VERSION, VERSION_DELETED, ObjectVersion, Observation
from snapengine.observation_codec import observations_of
from snapengine.ordering import Fact

_MILLIS = pa.timestamp("ms", tz="UTC")
_FIELDS: list[pa.Field[Any]] = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("version_id", pa.string(), nullable=False),
    pa.field("size", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("event_time", _MILLIS, nullable=False),
    pa.field("time", pa.string(), nullable=False),
    pa.field("storage_class", pa.string()),
    pa.field("sequencer", pa.string()),
]
VIEW_SCHEMA = pa.schema(_FIELDS)
"""A view's rows: one column a field of `ObjectVersion`, in its order; `size` in bytes."""

FEW = 128
"""Observations that are folded one by one in less time than tables of them take."""

BECAME = pa.field("became", pa.string(), nullable=False)
"""Of a row in a slice of all versions, what it was just before the slice's end: `current`, `superseded`
by a newer version, `deleted` (under a delete marker), or `removed` for good."""


def bulkfold(observations: pa.Table, at: int) -> pa.Table:
    """The rows of `VIEW_SCHEMA` that all keys together show at `at` (UTC milliseconds, inclusive).

    `observations` has the log's columns; the result is in ascending order of the keys' UTF-8 bytes.
    """
    shown: list[pa.Table] = []
    rest = observations
    if observations.num_rows > FEW:
        single, several = _split(observations)
        plain, rest = _split_plain(several)
        shown = [_created(single, at), _created(_latest(plain, at), at)]
    folded = [fold(history, at) for history in _by_key(rest).values()]
    return _sorted(pa.concat_tables([*shown, version_table([v for v in folded if v is not None])]))


def _created(entries: pa.Table, at: int) -> pa.Table:
    """Of the entries that decide, each its key's, the objects of `at`, as rows of `VIEW_SCHEMA`."""
    shown = pc.and_(
        pc.equal(entries["kind"], CREATED),
        pc.less_equal(entries["event_time"].cast(pa.int64()), at),
    )
    rows = entries.filter(shown)
    time = pc.if_else(pc.is_valid(rows["listing"]), "listed", "event")
    return pa.table(
        [time if name == "time" else rows[name] for name in VIEW_SCHEMA.names], schema=VIEW_SCHEMA
    )


def _split_plain(observations: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Keys of which all is told by events, each with a sequencer and of a version of its own, each once; and
    the others."""
    told = pc.and_(pc.equal(observations["origin"], EVENT), pc.is_null(observations["listing"]))
    named = pc.and_(
        pc.is_valid(observations["sequencer"]), pc.not_equal(observations["version_id"], NULL_VERSION)
    )
    others = observations.filter(pc.invert(pc.and_(told, named)))["key"]
    facts = observations.group_by(["key", "version_id", "kind"]).aggregate([([], "count_all")])
    repeated = facts.filter(pc.greater(facts["count_all"], 1))["key"]
    special = pc.is_in(
        observations["key"],
        value_set=pc.unique(pa.chunked_array([*others.chunks, *repeated.chunks], pa.string())),
    )
    return observations.filter(pc.invert(special)), observations.filter(special)


def _latest(observations: pa.Table, at: int) -> pa.Table:
    """Of plain keys (`_split_plain`) the entry that decides at `at`, where one is left."""
    begun = observations.filter(pc.less_equal(observations["event_time"].cast(pa.int64()), at))
    removal = pc.equal(begun["kind"], VERSION_DELETED)
    entries, removals = begun.filter(pc.invert(removal)), begun.filter(removal).select(["key", "version_id"])
    if removals.num_rows:
        numbered = entries.append_column("row", pa.array(range(entries.num_rows), pa.int64()))
        left = numbered.join(removals, ["key", "version_id"], join_type="left anti")
        entries = entries.take(left["row"])
    ranked = entries.select(["key", "event_time", "version_id", "kind"]).append_column(
        "sequencer", pc.utf8_rtrim(pc.utf8_lower(entries["sequencer"]), "0")
    )
    names = ("sequencer", "event_time", "version_id", "kind")
    order = pc.sort_indices(ranked, sort_keys=[(name, "ascending") for name in names])
    last = pa.table({"key": entries["key"].take(order), "place": pa.array(range(len(order)), pa.int64())})
    places = last.group_by("key").aggregate([("place", "max")])["place_max"]
    return entries.take(order.take(places))


def bulkfold_all(observations: pa.Table, start: int, at: int) -> pa.Table:
    """Every version created in `[start, at]`, with what it became just before the end, as `BECAME`."""
    rows: list[ObjectVersion] = []
    became: list[str] = []
    for key, history in _by_key(observations).items():
        facts = merge(history)
        created = [f for f in facts.entries if f.kind == CREATED and start <= f.time <= at]
        for fact in sorted(created, key=lambda f: (f.time, f.version_id, f.sequencer or "", f.etag or "")):
            rows.append(as_version(key, fact))
            became.append(_became(facts, fact, at))
    table = version_table(rows).append_column(BECAME, pa.array(became, pa.string()))
    return _sorted(table)


def _became(facts: KeyFacts, fact: Fact, at: int) -> str:
    if not any(entry is fact for entry in live_entries(facts, at)):
        return "removed"
    current = state(facts, at)
    if current is fact:
        return "current"
    return "superseded" if current is not None and current.kind == CREATED else "deleted"


def version_table(versions: Sequence[ObjectVersion]) -> pa.Table:
    """Versions as rows of `VIEW_SCHEMA`."""
    columns = [[getattr(v, name) for v in versions] for name in VIEW_SCHEMA.names]
    arrays = [pa.array(column, type=f.type) for column, f in zip(columns, VIEW_SCHEMA, strict=True)]
    return pa.table(arrays, schema=VIEW_SCHEMA)


def versions_of(table: pa.Table) -> Iterable[ObjectVersion]:
    """Rows of `VIEW_SCHEMA` as versions."""
    for batch in table.select(VIEW_SCHEMA.names).to_batches(max_chunksize=65_536):
        columns = [
            (column.cast(pa.int64()) if column.type == _MILLIS else column).to_pylist()
            for column in batch.columns
        ]
        for row in zip(*columns, strict=True):
            yield ObjectVersion(*row)


def _split(observations: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Keys with one observation, and the others."""
    encoded = pc.dictionary_encode(observations["key"].combine_chunks())
    counts = pc.value_counts(encoded.indices)
    repeated = counts.field(0).filter(pc.greater(counts.field(1), 1))
    several = pc.is_in(encoded.indices, value_set=repeated)
    return observations.filter(pc.invert(several)), observations.filter(several)


def _by_key(observations: pa.Table) -> dict[str, list[Observation]]:
    histories: defaultdict[str, list[Observation]] = defaultdict(list)
    for observation in observations_of(observations):
        histories[observation.key].append(observation)
    return histories


def _sorted(table: pa.Table) -> pa.Table:
    """Arrow compares strings by their UTF-8 bytes, and its sort is stable."""
    return table.take(pc.sort_indices(table, sort_keys=[("key", "ascending")])).combine_chunks()
