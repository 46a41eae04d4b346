"""PURE: which files, row groups and log entries a view needs. The answer is the same whatever it chooses.

A view at (at, epoch) is a checkpoint's live set and what the later epochs tell. A plan tiles those epochs
without a gap: the archive's segments, the longest first, and the log's tail behind them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from snapengine.archive.manifest import Archive, ArchiveFile, Checkpoint, Segment, Start
from snapengine.errors import LogDamaged
from snapengine.instants import render
from snapengine.model import SLACK_MS, Epoch

_SKIP_MS = 1000
"""A listed time is cut to the second: a fact may be dated so much before its event."""


class Gap(LogDamaged):
    """The manifests and the log leave epochs out: they changed while they were read, or one is lost."""


class KeyRange(NamedTuple):
    """Keys from `first` (inclusive) to `after` (exclusive; None: to the end), in the order of UTF-8 bytes,
    which is Python's order of text."""

    first: str
    after: str | None

    def overlaps(self, least: str, greatest: str) -> bool:
        return greatest >= self.first and (self.after is None or least < self.after)

    def includes(self, least: str, greatest: str) -> bool:
        return least >= self.first and (self.after is None or greatest < self.after)


def keys_below(prefix: str) -> KeyRange:
    """All keys that start with `prefix`."""
    return KeyRange(prefix, _successor(prefix))


def one_key(key: str) -> KeyRange:
    return KeyRange(key, next_key(key))


def next_key(key: str) -> str:
    """The first text after `key`."""
    return key + "\0"


def _successor(prefix: str) -> str | None:
    """The first text after all that start with `prefix`; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    last = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= last <= 0xDFFF else last)


@dataclass(frozen=True, slots=True)
class Part:
    """Of a segment the epochs `(after, to]`, in the files that can matter."""

    after: int
    to: int
    whole: bool
    """All of the segment's epochs: no row needs to be looked at."""
    files: tuple[ArchiveFile, ...]
    leaving: bool = False
    """The table may have no items of its observations any more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What resolving reads."""

    start: Start | None
    """Where the view begins: None if with the whole history."""
    objects: tuple[ArchiveFile, ...]
    """The checkpoint's live set, as far as it is needed."""
    side: tuple[ArchiveFile, ...]
    delta: tuple[Part, ...]
    """The epochs after the start; without one, all."""
    history: tuple[Part, ...]
    """All archived epochs: for keys that the delta alone cannot settle."""
    tail: Mapping[int, tuple[int, int]]
    """By stream, the log's entries `(after, to]` that no segment holds."""
    changed: tuple[ArchiveFile, ...] = ()
    """A differential's objects, and the keys that are gone, as far as they are needed."""
    gone: tuple[ArchiveFile, ...] = ()

    @property
    def entries(self) -> int:
        """How many entries of the log are read."""
        return sum(to - after for after, to in self.tail.values())

    @property
    def files(self) -> list[ArchiveFile]:
        """Those that are read in any case."""
        delta = (file for part in self.delta for file in part.files)
        return [*self.objects, *self.changed, *self.gone, *self.side, *delta]

    def in_words(self) -> str:
        """What it costs, for people."""
        rows = sum(f.rows for part in self.delta for f in part.files)
        log = f"{self.entries:,} log entries"
        if self.start is None:
            archived = (
                f"{rows:,} observations in {sum(len(p.files) for p in self.delta)} files and " if rows else ""
            )
            return f"No checkpoint is old enough: the whole history is read, {archived}{log}."
        live = sum(f.rows for f in self.objects)
        checkpoint, difference = self.start
        differential = ""
        if difference is not None and (files := (*self.changed, *self.gone)):
            differential = (
                f"at most {sum(f.rows for f in files):,} keys that had changed by {render(difference.at)}, "
                f"epoch {difference.epoch:,}, in {len(files)} files; "
            )
        return (
            f"The checkpoint of {render(checkpoint.at)}, epoch {checkpoint.epoch:,}: at most "
            f"{live:,} live objects in {len(self.objects)} files; {differential}then {rows:,} "
            f"observations in {sum(len(p.files) for p in self.delta)} files and {log}."
        )


def make_plan(
    archive: Archive, epoch: Epoch, at: int, keys: KeyRange, *, start: int | None = None, base: bool = True
) -> Plan:
    """The plan for a view at `at` (or a slice `[start, at]`), as `epoch` knows it. Raises `Gap`.

    A slice shows only what was created from `start` on: a checkpoint before that tells nothing of it, but
    where to begin. Without `base` no checkpoint is used (for all observations).
    """
    begin = newest_start(archive, at if start is None else start - 1, epoch.number) if base else None
    archived = min(epoch.number, archive.last_epoch)
    history = tile(archive.segments, 0, archived, keys)
    delta = history
    if begin is not None:
        delta = tile(archive.segments, begin.epoch, archived, keys, until=at)
    shown = begin if start is None else None
    difference = shown.difference if shown else None
    return Plan(
        start=begin,
        objects=_overlapping(shown.checkpoint.objects, keys) if shown else (),
        side=_overlapping(begin.last.side, keys) if begin else (),
        delta=delta,
        history=history,
        tail=_tail(archive, epoch),
        changed=_overlapping(difference.objects, keys) if difference else (),
        gone=_overlapping(difference.gone, keys) if difference else (),
    )


def starting_only(archive: Archive, start: Start) -> Archive:
    """The same where views can begin nowhere else."""
    difference = () if start.difference is None else (start.difference,)
    return replace(archive, checkpoints=(start.checkpoint,), differentials=difference)


def newest_start(
    archive: Archive, at: int, epoch: int, extractor: str | None = None, *, of: Checkpoint | None = None
) -> Start | None:
    """The newest that a view at `at` can begin at, as `epoch` knows it: of those that have the extractor's
    rows, and of those with that checkpoint."""
    usable = [
        start
        for start in archive.starts
        if start.at <= at
        and start.epoch <= epoch
        and (extractor is None or extractor in start.extractors)
        and (of is None or of.name == start.checkpoint.name)
    ]
    return max(usable, key=lambda start: (start.at, start.epoch), default=None)


def tile(
    segments: Sequence[Segment],
    after: int,
    to: int,
    keys: KeyRange,
    *,
    until: int | None = None,
    files_of: Callable[[Segment], Iterable[ArchiveFile]] = attrgetter("observations"),
) -> tuple[Part, ...]:
    """The epochs `(after, to]`, each once, from as few segments as there are; of each segment `files_of` it.

    With `until`, regular files that tell only of later instants are left out. Raises `Gap`.
    """
    parts: list[Part] = []
    while after < to:
        longest = max(
            (s for s in segments if s.first <= after + 1 <= s.last), key=lambda s: s.last, default=None
        )
        if longest is None:
            raise Gap(f"No segment of the archive holds epoch {after + 1:,}, though later ones are archived.")
        end = min(longest.last, to)
        files = tuple(
            file
            for file in _overlapping(files_of(longest), keys)
            if until is None or file.role == "irregular" or file.min_time - _SKIP_MS <= until
        )
        whole = after < longest.first and end == longest.last
        # Any segment of these epochs may have been the one that was marked before they were put together.
        leaving = any(s.leaving_since is not None and s.first <= end and s.last > after for s in segments)
        parts.append(Part(after, end, whole, files, leaving))
        after = end
    return tuple(parts)


def _overlapping(files: Iterable[ArchiveFile], keys: KeyRange) -> tuple[ArchiveFile, ...]:
    return tuple(file for file in files if file.rows and keys.overlaps(file.min_key, file.max_key))


def _tail(archive: Archive, epoch: Epoch) -> dict[int, tuple[int, int]]:
    last = max(archive.segments, key=lambda s: s.last, default=None)
    if last is not None and last.last >= epoch.number:
        return {}
    return _behind(last.cover if last else {}, epoch.cover)


def row_tail(archive: Archive, epoch: Epoch) -> dict[int, tuple[int, int]]:
    """By stream of the metadata log the entries `(after, to]` that no segment holds."""
    last = max(archive.segments, key=lambda s: s.last, default=None)
    if last is not None and last.last >= epoch.number:
        return {}
    return _behind(last.rows_cover if last else {}, epoch.rows)


def _behind(archived: Mapping[int, int], cover: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    return {
        stream: (archived.get(stream, 0), to) for stream, to in cover.items() if to > archived.get(stream, 0)
    }


class Bounds(NamedTuple):
    """Of a row group."""

    rows: int
    min_key: str
    max_key: str


def groups_in(groups: Sequence[Bounds], keys: KeyRange) -> list[int]:
    """The numbers of the row groups that can hold keys of the range."""
    return [number for number, group in enumerate(groups) if keys.overlaps(group.min_key, group.max_key)]


def groups_of(groups: Sequence[Bounds], keys: Sequence[str]) -> list[int]:
    """The numbers of the row groups that can hold any of the keys, which are in order."""
    return [
        number
        for number, group in enumerate(groups)
        if bisect_left(keys, group.min_key) < bisect_right(keys, group.max_key)
    ]


def split(groups: Iterable[Bounds], keys: KeyRange, rows: int) -> list[KeyRange]:
    """The range in pieces that hold some `rows` each (and what overlaps), cut where row groups begin."""
    inside = sorted((g for g in groups if keys.overlaps(g.min_key, g.max_key)), key=lambda g: g.min_key)
    cuts: list[str] = []
    held = 0
    for group in inside:
        if held and held + group.rows > rows and group.min_key > (cuts[-1] if cuts else keys.first):
            cuts.append(group.min_key)
            held = 0
        held += group.rows
    return [
        KeyRange(first, after) for first, after in zip([keys.first, *cuts], [*cuts, keys.after], strict=True)
    ]


def changed_between(parts: Iterable[Part], after: int, to: int) -> list[ArchiveFile]:
    """The files that can hold an observation of an event or a page in `(after, to]` (UTC milliseconds)."""
    return [
        file
        for part in parts
        for file in part.files
        if max(file.max_time, file.max_page) > after and file.min_time - SLACK_MS <= to
    ]
