"""PURE: a checkpoint's live set, and what was observed since, made into the live set of a later instant.

Most keys that changed can be settled from the new observations alone, since all that they tell is later than
the checkpoint. Those for which that is not certain are named, to be folded from their whole history: what a
listing has told of since, what is dated before the checkpoint, and removals that could bring an earlier entry
back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import bulkfold, version_table
from snapengine.fold import as_version, merge, state
from snapengine.model import CREATED, EVENT, SLACK_MS, VERSION_DELETED, ObjectVersion, Observation
from snapengine.observation_codec import observations_of

_FEW = 100
"""So many changes only slice the live set; for more it is copied, once."""
_DENSE = 20
"""If more than one row in so many changes, all are sorted anew, which then takes less."""


class Settled(NamedTuple):
    """What the observations since a checkpoint say."""

    rows: pa.Table
    """`VIEW_SCHEMA`: the objects of the keys that they settle, in no order."""
    replaced: pa.Array
    """Keys of which the live set's rows no longer hold."""
    whole: pa.Array
    """Keys that must be folded from their whole history."""


def settle(base: pa.Table, side: pa.Table, delta: pa.Table, at: int, horizon: int) -> Settled:
    """Fold what came after a checkpoint whose instant is `horizon`; `at` is the instant asked for.

    `base` has the live set's `key` and `version_id` (no rows for a slice, which shows nothing so old);
    `side` holds all earlier observations of the keys that it names, `delta` all later ones, by the log's
    columns.
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
    by_removals = _removals(base, plain.filter(with_removals), at)
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


def _removals(base: pa.Table, observations: pa.Table, at: int) -> _ByRemovals:
    """Keys with removals: unless what now stands is removed, nothing beneath it matters."""
    result = _ByRemovals([], [], [])
    histories: defaultdict[str, list[Observation]] = defaultdict(list)
    for o in observations_of(observations):
        histories[o.key].append(o)
    shown = (
        base.filter(pc.is_in(base["key"], value_set=_keys(list(histories))))
        if histories
        else base.slice(0, 0)
    )
    standing = dict(zip(shown["key"].to_pylist(), shown["version_id"].to_pylist(), strict=True))
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


def put_together(base: pa.Table, replaced: pa.Array, rows: pa.Table) -> pa.Table:
    """The live set without the replaced keys and with the rows, by `base`'s columns, in key order.

    `base` is in key order and has a `key`.
    """
    rows = rows.select(base.column_names)
    if (len(replaced) + rows.num_rows) * _DENSE > base.num_rows:
        gone = pa.concat_arrays([replaced, rows["key"].combine_chunks()])
        kept = base.filter(pc.invert(pc.is_in(base["key"], value_set=gone)))
        together = pa.concat_tables([kept, rows])
        return together.take(pc.sort_indices(together, sort_keys=[("key", "ascending")]))
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("key", "ascending")]))
    new = {key: number for number, key in enumerate(rows["key"].to_pylist())}
    changed = sorted({*replaced.to_pylist(), *new})
    if not changed:
        return base
    cuts: list[tuple[int, int, int | None]] = []
    """Where base is cut, where it goes on, and the row that is put between."""
    for key, (place, present) in zip(changed, _places(base["key"], changed), strict=True):
        cuts.append((place, place + present, new.get(key)))
    return _spliced(base, cuts, rows) if len(cuts) <= _FEW else _taken(base, cuts, rows)


def _places(column: pa.ChunkedArray, wanted: list[str]) -> list[tuple[int, bool]]:
    """Of each wanted key its place among the others, which are in order, and whether it is there."""
    keys = column.combine_chunks() if len(column) else _keys([])
    names = _keys(wanted)
    if hasattr(pc, "search_sorted"):
        places = pc.search_sorted(keys, names).to_pylist()
    else:  # an older pyarrow
        numbers = range(len(keys))
        places = [bisect_left(numbers, key, key=lambda i: keys[i].as_py()) for key in wanted]
    if not len(keys):
        return [(0, False)] * len(wanted)
    there = keys.take(pa.array([min(place, len(keys) - 1) for place in places], pa.int64()))
    return list(zip(places, pc.equal(there, names).to_pylist(), strict=True))


def _spliced(base: pa.Table, cuts: list[tuple[int, int, int | None]], rows: pa.Table) -> pa.Table:
    """A few rows put into many, which are only sliced."""
    pieces: list[pa.Table] = []
    done = 0
    for place, onward, row in cuts:
        pieces.append(base.slice(done, place - done))
        done = onward
        if row is not None:
            pieces.append(rows.slice(row, 1))
    pieces.append(base.slice(done))
    return pa.concat_tables([piece for piece in pieces if piece.num_rows] or [base.slice(0, 0)])


def _taken(base: pa.Table, cuts: list[tuple[int, int, int | None]], rows: pa.Table) -> pa.Table:
    """Many rows put into many, which are copied."""
    numbers = _numbers(base.num_rows + rows.num_rows)
    order: list[pa.Array] = []
    done = 0
    for place, onward, row in cuts:
        order.append(numbers.slice(done, place - done))
        done = onward
        if row is not None:
            order.append(numbers.slice(base.num_rows + row, 1))
    order.append(numbers.slice(done, base.num_rows - done))
    return pa.concat_tables([base, rows]).take(pa.concat_arrays(order))


@lru_cache(maxsize=1)
def _round_numbers(count: int) -> pa.Array:
    return pa.array(range(count), pa.int64())


def _numbers(count: int) -> pa.Array:
    """0, 1, 2, and so on: made for the next power of two, as ranges are of about one size."""
    return _round_numbers(1 << count.bit_length()).slice(0, count)


def _keys(keys: list[str]) -> pa.Array:
    return pa.array(keys, pa.string())


EMPTY_BASE = pa.table({"key": _keys([]), "version_id": _keys([])})
"""Of a slice."""
