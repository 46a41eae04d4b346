"""PURE: when checkpoints and differentials are due, and which; which segments are put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from snapengine.archive.manifest import Archive, Checkpoint, Differential, Segment

SHARE = 0.2
"""Of the last checkpoint's rows: when more was observed since, another is due."""
LEAST = 20_000
"""Observations for which no checkpoint is made, and no differential, however small the bucket is."""
SETTLED_MS = 300_000
"""So long before its epoch is a checkpoint's instant: few keys have a fact that is later."""
MOST_ROWS = 64_000_000
"""Of segments that are put together."""

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_KEEP_ALL_DAYS = 2
_KEEP_DAILY_DAYS = 90


def checkpoint_due(archive: Archive) -> bool:
    """Whether so much was archived since the newest checkpoint, observations or rows of metadata, that views
    of now would cost a share of the bucket beside it."""
    newest = max(archive.checkpoints, key=lambda c: c.epoch, default=None)
    return _since(archive, newest.epoch if newest else 0) > max(LEAST, SHARE * (newest.rows if newest else 0))


def base_of(archive: Archive, at: int, epoch: int) -> Checkpoint | None:
    """What a differential at that instant and epoch differs from: the newest checkpoint before it."""
    usable = [c for c in archive.checkpoints if c.at <= at and c.epoch <= epoch]
    return max(usable, key=lambda c: (c.at, c.epoch), default=None)


def differential_due(archive: Archive) -> bool:
    """Whether so much was archived since the newest checkpoint that a differential would spare views a lot,
    and twice as much as when the last one was made: all that are made cost about what two of the last do."""
    segment = max(archive.segments, key=lambda s: s.last, default=None)
    newest = base_of(archive, segment.last_time - SETTLED_MS, segment.last) if segment else None
    if newest is None:
        return False
    last = max((d.epoch for d in archive.differentials if d.base == newest.name), default=newest.epoch)
    since = _since(archive, last)
    return since > LEAST and 2 * since >= _since(archive, newest.epoch)


def useless(archive: Archive) -> list[Differential]:
    """The differentials of which the checkpoint does not stand any more."""
    names = {checkpoint.name for checkpoint in archive.checkpoints}
    return [one for one in archive.differentials if one.base not in names]


def _since(archive: Archive, epoch: int) -> float:
    """Observations of later epochs, or rows of metadata, whichever are more: about so many."""
    observations = rows = 0.0
    for s in archive.segments:
        if s.last > epoch:
            share = (s.last - max(epoch, s.first - 1)) / (s.last - s.first + 1)  # of one put together
            observations += s.rows * share
            rows += s.metadata_rows * share
    return max(observations, rows)


def thinned(checkpoints: Iterable[Checkpoint], now: int) -> list[Checkpoint]:
    """The checkpoints that may go: all of the last two days stay, then one a day, after 90 days one a week.
    Views cost the same, but for the observations of a day or a week."""
    going: list[Checkpoint] = []
    kept: set[tuple[str, int]] = set()
    newest_first = sorted(checkpoints, key=lambda c: (c.at, c.epoch), reverse=True)
    for number, checkpoint in enumerate(newest_first):
        days = (now - checkpoint.at) / _DAY_MS
        if number == 0 or days <= _KEEP_ALL_DAYS:
            continue
        period = ("day", checkpoint.at // _DAY_MS)
        if days > _KEEP_DAILY_DAYS:
            period = ("week", checkpoint.at // (7 * _DAY_MS))
        if period in kept:
            going.append(checkpoint)
        kept.add(period)
    return going


def to_put_together(segments: Sequence[Segment], now: int) -> list[list[Segment]]:
    """Runs of neighbours that become one segment each: those of an hour that has ended, of a day, of a month.

    Segments whose items leave the table are kept apart from those whose items stay.
    """
    groups: list[list[Segment]] = []
    standing = sorted(_longest(segments), key=lambda s: s.first)
    for _, same in groupby(standing, key=lambda s: (_period(s.last_time, now), s.leaving_since is None)):
        run: list[Segment] = []
        for segment in same:
            follows = bool(run) and segment.first == run[-1].last + 1  # two archivers may have overlapped
            if run and (not follows or sum(map(_rows, run)) + _rows(segment) > MOST_ROWS):
                groups.append(run)
                run = []
            run.append(segment)
        groups.append(run)
    return [run for run in groups if len(run) > 1]


def _rows(segment: Segment) -> int:
    return segment.rows + segment.metadata_rows


def _longest(segments: Sequence[Segment]) -> list[Segment]:
    """Without those that a longer one holds."""
    return [
        s
        for s in segments
        if not any(o is not s and o.first <= s.first and s.last <= o.last for o in segments)
    ]


def _period(time: int, now: int) -> tuple[str, int]:
    """The longest that `time` is in and that has ended."""
    moment = datetime.fromtimestamp(time / 1000, UTC)
    month = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    next_month = (month + timedelta(days=32)).replace(day=1)
    if next_month.timestamp() * 1000 <= now:
        return ("month", month.year * 12 + month.month)
    if (time // _DAY_MS + 1) * _DAY_MS <= now:
        return ("day", time // _DAY_MS)
    if (time // _HOUR_MS + 1) * _HOUR_MS <= now:
        return ("hour", time // _HOUR_MS)
    return ("none", time)
