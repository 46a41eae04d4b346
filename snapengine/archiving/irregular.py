"""PURE: which observations of a segment may reach back, and change what views of earlier instants show."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.model import EVENT, SLACK_MS

LATE_MS = 120_000
"""An event that was committed more than so long after it happened came late."""


def irregular(rows: pa.Table, before: Mapping[int, int], listed_until: int) -> pa.ChunkedArray:
    """For each row whether it is irregular: listed, late, or of the time up to a listing.

    `rows` has `snapengine.archive.schemas.ARCHIVED`'s columns. `before`: for each epoch the time of the one
    before it, where there is one. `listed_until`: the greatest page time so far, 0 for none. All in UTC
    milliseconds.
    """
    times = rows["event_time"].cast(pa.int64())
    found = pc.or_(
        pc.not_equal(rows["origin"], EVENT),
        pc.or_(pc.is_valid(rows["listing"]), pc.is_valid(rows["page_time"])),
    )
    epochs = pa.array(before.keys(), pa.int64())
    bounds = pa.array((time - LATE_MS for time in before.values()), pa.int64())
    bound = bounds.take(pc.index_in(rows["epoch"], value_set=epochs).combine_chunks())
    found = pc.or_(found, pc.fill_null(pc.less(times, pa.chunked_array([bound])), False))
    if listed_until:
        found = pc.or_(found, pc.less_equal(times, listed_until + SLACK_MS))
    return found
