"""What happens in the made bucket of `_big_bucket`: who lists it, which events follow, and what is then live.

All of it follows from a seed, a lot of 100 patients at a time, so that ten million objects need no more
memory than a hundred thousand. A patient has 10 series of 100 images. What is live is built slot by slot,
and knows nothing of observations, folds or files: it is what views are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.model import BASELINE, CREATED, EVENT, MARKER_CREATED, VERSION_DELETED
from snapengine.observation_codec import SCHEMA

LOT = 100
"""Patients made at a time."""
SERIES = 10
"""Of a patient."""
PATIENT_OBJECTS = 1000
"""Live objects of a patient, at the end."""
TAIL = 1000
"""Events at most that only the log has when the archive is made: what may come between two runs."""

HOUR, DAY = 3_600_000, 86_400_000
ENABLED = 1_787_000_400_000
"""UTC milliseconds."""
LISTING = "benchmark-listing"
BASELINE_ENDED = ENABLED + HOUR
BEFORE = (ENABLED + DAY, ENABLED + 8 * DAY)
"""When the series 0 to 6 change: before the checkpoint."""
AFTER = (ENABLED + 9 * DAY, ENABLED + 11 * DAY)
"""When the series 7 to 9 change: segments tell of it."""
LATELY = (ENABLED + 12 * DAY, ENABLED + 12 * DAY + 240_000)
"""When some change of which only the log tells."""

# Slots of a series: its images. All but `_NEW` are there when the bucket is listed.
_SLOTS = 101
_TOUCHED, _OVERWRITTEN, _HIDDEN, _NEW = 0, 7, 33, 58
_OLD_REMOVED, _BROUGHT_BACK = 1, 2
"""Series in which the version that was overwritten is removed for good, or the one that overwrote it."""

_ALPHABET = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._", np.uint8)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_UPPER = np.frombuffer(b"0123456789ABCDEF", np.uint8)

LIVE = pa.schema([VIEW_SCHEMA.field(name) for name in ("key", "version_id", "etag", "size")])
"""Of what is live."""

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Lot:
    """Some patients."""

    listed: pa.Table
    """What the baseline's listing shows, by the log's columns, in key order."""
    before: pa.Table
    """Events, by the log's columns, in no order; so the next two."""
    after: pa.Table
    lately: pa.Table
    live: pa.Table
    """In the end, by `LIVE`, in key order."""


@dataclass(frozen=True, slots=True)
class Made:
    """Which bucket: it has `objects` live ones, a multiple of 1,000."""

    objects: int
    seed: int

    @property
    def patients(self) -> int:
        return self.objects // PATIENT_OBJECTS

    @property
    def lots(self) -> int:
        return -(-self.patients // LOT)

    def prefix(self, patient: int) -> str:
        """Of a patient's 1,000 objects."""
        return f"ct/patient-{patient:06}/"

    def lot_of(self, patient: int) -> int:
        return patient // LOT

    def all_lots(self) -> Iterator[Lot]:
        return (self.lot(number) for number in range(self.lots))

    def live_below(self, patient: int) -> pa.Table:
        """What is live of one patient."""
        live = self.lot(self.lot_of(patient)).live
        return live.slice(patient % LOT * PATIENT_OBJECTS, PATIENT_OBJECTS)

    def lot(self, number: int) -> Lot:
        return _Lot(self, number).made()

    def deletions(self) -> pa.Table:
        """A day after all else the first image of each of some series gets a delete marker; by time."""
        return pa.concat_tables(_Lot(self, number).deletions() for number in range(self.lots))

    def uploads(self, times: tuple[int, int]) -> Iterator[pa.Table]:
        """Another history: as many objects, each put once in `[first, after)`; in no order of times."""
        return (_Lot(self, number).uploads(times) for number in range(self.lots))


class _Lot:
    """Every slot has the version that the listing shows, or the first event's; some have a second one."""

    def __init__(self, made: Made, number: int) -> None:
        self._chance = np.random.default_rng([made.seed, number])
        first = number * LOT
        patients = min(LOT, made.patients - first)
        self._series = patients * SERIES
        """Of this lot."""
        self._number = np.arange(first * SERIES, first * SERIES + self._series)
        every = max(1, made.patients * SERIES // TAIL)
        self._touched = self._number % every == 0
        """Series of which only the log's tail tells something."""
        slots = self._series * _SLOTS
        self._keys = _keys(np.repeat(self._number, _SLOTS), np.tile(np.arange(1, _SLOTS + 1), self._series))
        self._versions, self._etags, self._sizes = self._content(slots)
        self._modified = ENABLED - 1000 * self._chance.integers(DAY // 1000, 730 * DAY // 1000, slots)
        self._live = self._versions.copy(), self._etags.copy(), self._sizes.copy()
        self._first_row = first * SERIES * (_SLOTS - 1)

    def _content(self, rows: int) -> tuple[Numbers, Numbers, Numbers]:
        """Version ids, ETags and sizes."""
        versions = _ALPHABET[self._chance.integers(0, 64, (rows, 32), dtype=np.uint8)]
        etags = _HEX[self._chance.integers(0, 16, (rows, 32), dtype=np.uint8)]
        return versions, etags, self._chance.integers(200_000, 600_000, rows)

    def uploads(self, times: tuple[int, int]) -> pa.Table:
        """Each slot is put for the first time, as an event tells it; in no order."""
        slots = self._chance.permutation(self._series * _SLOTS)[: self._series * (_SLOTS - 1)]
        content = self._versions[slots], self._etags[slots], self._sizes[slots]
        return self._put(slots, self._chance.integers(*times, len(slots)), *content)

    def made(self) -> Lot:
        place = self._number % SERIES
        early, late = place < 7, place >= 7
        events = {which: self._events(which, times) for which, times in ((0, BEFORE), (1, AFTER))}
        before, after = (
            pa.concat_tables([table.filter(pa.array(chosen[series])) for table, series in events[which]])
            for which, chosen in ((0, early), (1, late))
        )
        return Lot(self._listing(), before, after, self._lately(), self._at_last())

    def _listing(self) -> pa.Table:
        slots = np.arange(self._series * _SLOTS)
        shown = slots[slots % _SLOTS != _NEW]
        position = self._first_row + np.arange(len(shown))
        return _table(
            len(shown),
            kind=CREATED,
            key=_texts(self._keys[shown]),
            version_id=_texts(self._versions[shown]),
            event_time=pa.array(self._modified[shown]),
            size=pa.array(self._sizes[shown]),
            etag=_texts(self._etags[shown]),
            storage_class="STANDARD",
            origin=BASELINE,
            listing=LISTING,
            page_time=pa.array(ENABLED + np.minimum(position, HOUR - 1)),
            position=pa.array(position),
        )

    def _events(self, which: int, times: tuple[int, int]) -> list[tuple[pa.Table, Numbers]]:
        """What happens to every series, and to which of this lot a row belongs; `which` draws apart."""
        series = np.arange(self._series)
        first, last = times
        when = self._chance.integers(first, last - HOUR, (3, self._series))
        place = self._number % SERIES
        mine = place < 7 if which == 0 else place >= 7
        over, hidden, new = (series * _SLOTS + slot for slot in (_OVERWRITTEN, _HIDDEN, _NEW))
        again = self._content(self._series)
        marker = self._content(self._series)[0]
        stays = mine & (place != _BROUGHT_BACK)
        for live, values in zip(self._live, again, strict=True):
            live[over[stays]] = values[stays]
        found = [
            (self._put(over, when[0], *again), series),
            (self._put(new, when[2], self._versions[new], self._etags[new], self._sizes[new]), series),
            (self._removal(hidden, when[1], MARKER_CREATED, "DeleteMarkerCreated", marker), series),
        ]
        for place_of, versions in ((_OLD_REMOVED, self._versions[over]), (_BROUGHT_BACK, again[0])):
            some = series[place == place_of]
            later = when[0][some] + HOUR // 2
            gone = self._removal(over[some], later, VERSION_DELETED, "Delete", versions[some])
            found.append((gone, some))
        return found

    def _lately(self) -> pa.Table:
        series = np.flatnonzero(self._touched)
        slots = series * _SLOTS + _TOUCHED
        content = self._content(len(slots))
        for live, values in zip(self._live, content, strict=True):
            live[slots] = values
        return self._put(slots, self._chance.integers(*LATELY, len(slots)), *content)

    def deletions(self) -> pa.Table:
        slots = np.flatnonzero(self._touched) * _SLOTS + _TOUCHED
        times = self._chance.integers(LATELY[1] + HOUR, LATELY[1] + DAY, len(slots))
        return self._removal(
            slots, times, MARKER_CREATED, "DeleteMarkerCreated", self._content(len(slots))[0]
        )

    def _put(self, slots: Numbers, times: Numbers, *content: Numbers) -> pa.Table:
        versions, etags, sizes = content
        return _table(
            len(slots),
            kind=CREATED,
            key=_texts(self._keys[slots]),
            version_id=_texts(versions),
            event_time=pa.array(times),
            sequencer=self._sequencers(times),
            size=pa.array(sizes),
            etag=_texts(etags),
            origin=EVENT,
            event_name="ObjectCreated:Put",
        )

    def _removal(self, slots: Numbers, times: Numbers, kind: str, name: str, versions: Numbers) -> pa.Table:
        return _table(
            len(slots),
            kind=kind,
            key=_texts(self._keys[slots]),
            version_id=_texts(versions),
            event_time=pa.array(times),
            sequencer=self._sequencers(times),
            origin=EVENT,
            event_name=f"ObjectRemoved:{name}",
        )

    def _sequencers(self, times: Numbers) -> pa.Array:
        """As S3's: `00`, the second, and what only it knows; 18 hexadecimal digits."""
        seconds = (times // 1000).astype(np.uint64)
        digits = [(seconds >> np.uint64(shift)) & np.uint64(15) for shift in range(28, -4, -4)]
        rest = self._chance.integers(0, 16, (len(times), 8), dtype=np.uint8)
        zeros = np.zeros((len(times), 2), np.uint8)
        return _texts(_UPPER[np.hstack([zeros, np.stack(digits, axis=1).astype(np.uint8), rest])])

    def _at_last(self) -> pa.Table:
        slots = np.arange(self._series * _SLOTS)
        slots = slots[slots % _SLOTS != _HIDDEN]
        versions, etags, sizes = self._live
        columns = [_texts(self._keys[slots]), _texts(versions[slots]), _texts(etags[slots])]
        return pa.table([*columns, pa.array(sizes[slots])], schema=LIVE)


def _keys(series: Numbers, images: Numbers) -> Numbers:
    """`ct/patient-000123/series-07/IM-0001.dcm`: equally long, so that they are a matrix of bytes."""
    template = b"ct/patient-000000/series-00/IM-0000.dcm"
    keys = np.tile(np.frombuffer(template, np.uint8), (len(series), 1))
    for start, width, numbers in ((11, 6, series // SERIES), (25, 2, series % SERIES), (31, 4, images)):
        for place in range(width):
            keys[:, start + width - 1 - place] += (numbers // 10**place % 10).astype(np.uint8)
    return keys


def _texts(letters: Numbers) -> pa.Array:
    """Rows of a matrix of ASCII."""
    rows, width = letters.shape
    offsets = pa.py_buffer(np.arange(rows + 1, dtype=np.int32) * np.int32(width))
    return pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(np.ascontiguousarray(letters)))


def _table(rows: int, **columns: Any) -> pa.Table:
    """By the log's columns; a text stands in all rows, and what is not given is null."""
    arrays = []
    for field in SCHEMA:
        column = columns.get(field.name)
        if column is None:
            column = pa.nulls(rows, field.type)
        elif isinstance(column, str):
            column = pa.repeat(pa.scalar(column, pa.string()), rows)
        arrays.append(pc.cast(column, field.type))
    return pa.table(arrays, schema=SCHEMA)
