"""PURE: a checkpoint's live set, and what was observed since, made into the live set of a later instant.

Most keys that changed can be settled from the new observations alone, since all that they tell is later than
the checkpoint. Those for which that is not certain are named, to be folded from their whole history: what a
listing has told of since, what is dated before the checkpoint, and removals that could bring an earlier entry
back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import bulkfold, version_table
from snapengine.fold import as_version, merge, state
from snapengine.model import CREATED, EVENT, SLACK_MS, VERSION_DELETED, ObjectVersion, Observation
from snapengine.observation_codec import observations_of
from snapengine.row_bytes import PIECE_ROWS, Added, Piece

Places: TypeAlias = npt.NDArray[np.int64]


class Changes(NamedTuple):
    """What of a live set does not hold."""

    replaced: pa.Array
    """Keys of which its rows do not count; those of the rows below need not be among them."""
    rows: pa.Table
    """Those that count instead, by the live set's columns, in no order."""

    def then(self, later: Changes) -> Changes:
        """Both, one after the other."""
        changed = pa.chunked_array([later.replaced, *later.rows["key"].chunks], pa.string())
        kept = self.rows.filter(pc.invert(pc.is_in(self.rows["key"], value_set=changed.combine_chunks())))
        replaced = pa.concat_arrays([self.replaced, later.replaced])
        return Changes(replaced, pa.concat_tables([kept, later.rows.select(kept.column_names)]))


class Settled(NamedTuple):
    """What the observations since a checkpoint say."""

    rows: pa.Table
    """`VIEW_SCHEMA`: the objects of the keys that they settle, in no order."""
    replaced: pa.Array
    """Keys of which the live set's rows no longer hold."""
    whole: pa.Array
    """Keys that must be folded from their whole history."""


def settle(
    base: pa.Table,
    side: pa.Table,
    delta: pa.Table,
    at: int,
    horizon: int,
    over: Changes | None = None,
) -> Settled:
    """Fold what came after a checkpoint whose instant is `horizon`; `at` is the instant asked for.

    `base` has the live set's `key` and `version_id` (no rows for a slice, which shows nothing so old), `over`
    what of it does not hold; `side` holds all earlier observations of the keys that it names, `delta` all
    later ones, by the log's columns.
    """
    # What a listing told may be the twin of an event in a file that was left out as telling of later.
    again = pc.unique(delta.filter(_listed(delta))["key"])
    side = side.filter(pc.invert(pc.is_in(side["key"], value_set=again)))
    side_keys = pc.unique(side["key"])
    beside = pc.is_in(delta["key"], value_set=side_keys)
    rows = [bulkfold(pa.concat_tables([side, delta.filter(beside)]), at)] if len(side_keys) else []
    others = delta.filter(pc.invert(beside))

    doubtful = pc.unique(others.filter(_doubtful(others, horizon))["key"])
    plain = others.filter(
        pc.and_(
            pc.invert(pc.is_in(others["key"], value_set=doubtful)),
            pc.less_equal(others["event_time"].cast(pa.int64()), at),
        )
    )
    removed = pc.unique(plain.filter(pc.equal(plain["kind"], VERSION_DELETED))["key"])
    with_removals = pc.is_in(plain["key"], value_set=removed)
    simple = plain.filter(pc.invert(with_removals))
    rows.append(bulkfold(simple, at))
    by_removals = _removals(base, over, plain.filter(with_removals), at)
    rows.append(version_table(by_removals.found))
    whole = [*doubtful.to_pylist(), *by_removals.whole]
    return Settled(
        pa.concat_tables(rows),
        _keys([*side_keys.to_pylist(), *pc.unique(simple["key"]).to_pylist(), *by_removals.replaced, *whole]),
        _keys(whole),
    )


def _doubtful(observations: pa.Table, horizon: int) -> pa.ChunkedArray:
    """What may reach back beyond the checkpoint."""
    early = pc.less_equal(observations["event_time"].cast(pa.int64()), horizon + SLACK_MS)
    return pc.or_(_listed(observations), early)


def _listed(observations: pa.Table) -> pa.ChunkedArray:
    return pc.or_(pc.not_equal(observations["origin"], EVENT), pc.is_valid(observations["listing"]))


class _ByRemovals(NamedTuple):
    found: list[ObjectVersion]
    replaced: list[str]
    whole: list[str]


def _removals(base: pa.Table, over: Changes | None, observations: pa.Table, at: int) -> _ByRemovals:
    """Keys with removals: unless what now stands is removed, nothing beneath it matters."""
    result = _ByRemovals([], [], [])
    histories: defaultdict[str, list[Observation]] = defaultdict(list)
    for o in observations_of(observations):
        histories[o.key].append(o)
    standing = _standing(base, over, _keys(list(histories))) if histories else {}
    for key, history in histories.items():
        gone = {o.version_id for o in history if o.kind == VERSION_DELETED}
        top = state(merge(o for o in history if o.kind != VERSION_DELETED), at)
        if top is None and key in standing and standing[key] not in gone:
            continue  # the live set's row stands
        if top is None or top.version_id in gone:
            result.whole.append(key)
            continue
        result.replaced.append(key)
        if top.kind == CREATED:
            result.found.append(as_version(key, top))
    return result


def _standing(base: pa.Table, over: Changes | None, keys: pa.Array) -> dict[str, str]:
    """Of these keys the version ids that the live set shows."""
    found = [base] if over is None else [base, over.rows]
    shown = [rows.filter(pc.is_in(rows["key"], value_set=keys)) for rows in found]
    pairs = [zip(rows["key"].to_pylist(), rows["version_id"].to_pylist(), strict=True) for rows in shown]
    standing = dict(pairs[0])
    if over is not None:
        for key in over.replaced.filter(pc.is_in(over.replaced, value_set=keys)).to_pylist():
            standing.pop(key, None)
        standing.update(pairs[1])
    return standing


def put_together(base: pa.Table, replaced: pa.Array, rows: pa.Table) -> pa.Table:
    """The live set without the replaced keys and with the rows, by `base`'s columns, in key order.

    `base` is in key order and has a `key`. Only what is near a change is copied.
    """
    rows = rows.select(base.column_names)
    merged = [rows.slice(0, 0)]
    for piece in pieces_together(base, replaced, rows):
        if piece.added is None or piece.order is None:
            merged.append(pa.Table.from_batches([piece.held]))
        else:
            more = piece.added.within(piece.first, piece.after)
            both = pa.Table.from_batches([piece.held, more]).combine_chunks()
            merged.append(both.take(pa.array(piece.order)))
    return pa.concat_tables(merged)


def pieces_together(base: pa.Table, replaced: pa.Array, rows: pa.Table) -> Iterator[Piece]:
    """The same, not put together yet: pieces of the live set, each with the rows that belong there."""
    rows = rows.combine_chunks()
    more = _batch(rows.take(pc.sort_indices(rows, sort_keys=[("key", "ascending")])))
    keys = more["key"]
    pieces = [piece for piece in base.to_batches(max_chunksize=PIECE_ROWS) if piece.num_rows]
    if not pieces:
        yield from (Piece(more.slice(start, PIECE_ROWS)) for start in range(0, len(keys), PIECE_ROWS))
        return
    added = Added(more)
    changed = pc.unique(pa.chunked_array([replaced, keys]))
    changed = changed.take(pc.array_sort_indices(changed))
    into = _search(changed, keys)
    lasts = pa.array([piece["key"][-1] for piece in pieces[:-1]], pa.string())
    bounds = zip(_parts(changed, lasts), _parts(keys, lasts), strict=True)
    for piece, ((start, stop), (first, after)) in zip(pieces, bounds, strict=True):
        if start == stop:
            yield Piece(piece)
            continue
        order = _order(piece["key"], changed.slice(start, stop - start), into[first:after] - start)
        yield Piece(piece, added, first, after, order)


def _parts(keys: pa.Array, lasts: pa.Array) -> Iterator[tuple[int, int]]:
    """Of keys in order, where those begin and end that belong to each piece."""
    return pairwise([0, *_search(keys, lasts, "right").tolist(), len(keys)])


def _order(held: pa.Array, changed: pa.Array, new: Places) -> Places:
    """Of keys in order, and the new ones after them, the places of those that count, in order; `changed` are
    the keys of which the held ones do not, `new` the places of the new ones among these."""
    count = len(held)
    places = _search(held, changed)
    inside = places[places < count]
    same = pc.equal(held.take(pa.array(inside)), changed.slice(0, len(inside)))
    gone = inside[same.to_numpy(zero_copy_only=False)]
    into, added = places[new], np.arange(len(new))
    stays = np.ones(count, np.bool_)
    stays[gone] = False
    order = np.empty(count - len(gone) + len(new), np.int64)
    held_there = np.ones(len(order), np.bool_)
    places = into - np.searchsorted(gone, into) + added
    held_there[places] = False
    order[held_there] = np.flatnonzero(stays)
    order[places] = count + added
    return order


def _search(keys: pa.Array, wanted: pa.Array, side: Literal["left", "right"] = "left") -> Places:
    """Where in keys that are in order the others belong: before equal ones, or after them."""
    if hasattr(pc, "search_sorted"):
        return np.asarray(pc.search_sorted(keys, wanted, side=side), np.int64)
    numbers = range(len(keys))  # an older pyarrow
    bisect = bisect_left if side == "left" else bisect_right
    found = [bisect(numbers, key, key=lambda i: keys[i].as_py()) for key in wanted.to_pylist()]
    return np.array(found, np.int64)


def _batch(rows: pa.Table) -> pa.RecordBatch:
    return pa.record_batch([column.combine_chunks() for column in rows.columns], schema=rows.schema)


def _keys(keys: list[str]) -> pa.Array:
    return pa.array(keys, pa.string())


EMPTY_BASE = pa.table({"key": _keys([]), "version_id": _keys([])})
"""Of a slice."""
