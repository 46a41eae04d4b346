"""What of a bucket's archive is whole, read from its root alone: for the day the table is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Final

from snapengine.archive.manifest import ArchiveFile, Checkpoint, Differential, Manifest, Segment, from_json
from snapengine.archive.reading import ArchiveReader
from snapengine.archive.schemas import with_rows
from snapengine.archiving import paths
from snapengine.archiving.registry import FORMAT
from snapengine.errors import ArchiveDamaged, BadData, Refused, SchemaTooNew
from snapengine.model import BucketConfig, Epoch, Snapshot, Watermarks
from snapengine.reference import parse_reference

_AT_ONCE: Final = 8
_SEGMENT: Final = re.compile(r"manifests/segment-[0-9]{1,18}_([0-9]{1,18})-[^/]*")
_EPOCH: Final = re.compile(
    r"(?:(?:observations|epochs|(?:metadata|identifying)/extractor=[^/]+)/epochs=[0-9]{1,18}_"
    r"|manifests/(?:checkpoint|differential)--?[0-9]{1,18}_"
    r"|(?:objects|histories|(?:metadata|identifying)/extractor=[^/]+)/(?:checkpoint|differential)="
    r"-?[0-9]{1,18}_)"
    r"([0-9]{1,18})[-/].*"
)

Checked = Callable[[int, int], None]
"""Told how many bytes were read of files, and how many there are."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """What the table can be built from."""

    bucket: str
    config: BucketConfig
    """As it was when it was last archived."""
    snapshots: tuple[Snapshot, ...]
    segments: tuple[Segment, ...]
    """In order; together all epochs from the first to the last, each once."""
    checkpoints: tuple[Checkpoint, ...]
    highest: int
    """The greatest number of an epoch that anything here is named for."""
    gap: str
    """Why later epochs are not to be had, or nothing."""
    remarks: tuple[str, ...]
    """What is not whole, and changes no answer."""

    @property
    def last(self) -> Segment:
        return self.segments[-1]


def salvage(
    reader: ArchiveReader, bucket: str, *, check: bool = False, checked: Checked = lambda *_: None
) -> Salvage:
    """Read what there is. With `check` every byte of what is to be used, else sizes and epochs only.

    Raises `Refused` if there is no archive of the bucket at the root, `ArchiveDamaged` if what it takes to
    begin is not whole, `SchemaTooNew`, and what the root raises.
    """
    return _Survey(reader, bucket, check=check, checked=checked).take()


class _Survey:
    def __init__(self, reader: ArchiveReader, bucket: str, *, check: bool, checked: Checked) -> None:
        self._reader = reader
        self._root = reader.root
        self._bucket = bucket
        self._check = check
        self._checked = checked
        self._sizes = {stored.path: stored.size for stored in self._root.paths(f"{bucket}/")}
        self._total = sum(self._sizes.values())
        self._read = 0
        self._jumps: set[tuple[int, int]] = set()
        self._remarks: list[str] = []

    def take(self) -> Salvage:
        if not self._sizes:
            raise Refused(f"{self._root.url} holds no archive of bucket {self._bucket}. Look at --root.")
        registry = self._root.read(paths.registry(self._bucket))
        config, snapshots = read_registry(registry, f"{self._root.url}/{paths.registry(self._bucket)}")
        manifests = self._manifests()
        segments = [m for m in manifests if isinstance(m, Segment)]
        chosen, faults = self._tile(segments)
        last = chosen[-1].last if chosen else 0
        lost = max((s.last for s in segments), default=0)
        lost = max(lost, *self._ends(_SEGMENT), 0)
        gap = self._gap(last, lost, faults) if lost > last else ""
        if not chosen:
            raise ArchiveDamaged(gap or f"{self._root.url} holds no epoch of bucket {self._bucket}.")
        self._remarks += faults if not gap else []
        return Salvage(
            self._bucket,
            config,
            tuple(snapshots),
            tuple(chosen),
            tuple(self._whole_checkpoints(manifests, last)),
            max(lost, *self._unnamed(max(lost, last)), *map(_epoch_of, snapshots)),
            gap,
            tuple(self._remarks),
        )

    def _ends(self, pattern: re.Pattern[str]) -> list[int]:
        """The last epochs of what is named so."""
        below = (path.removeprefix(f"{self._bucket}/") for path in self._sizes)
        return [int(match[1]) for path in below if (match := pattern.fullmatch(path))]

    # Manifests

    def _manifests(self) -> list[Manifest]:
        copies = [path for path in self._sizes if paths.owner(self._bucket, path) == "manifest"]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="snapengine-salvage") as pool:
            return [one for one in pool.map(self._manifest, copies) if one is not None]

    def _manifest(self, path: str) -> Manifest | None:
        try:
            manifest = from_json(self._root.read(path).decode())
        except SchemaTooNew:
            raise
        except (BadData, UnicodeDecodeError) as error:
            self._remarks.append(f"{self._root.url}/{path} cannot be read: {error}")
            return None
        if not path.startswith(paths.copies(self._bucket, manifest.name)):
            self._remarks.append(f"{self._root.url}/{path} is the manifest of something else.")
            return None
        return manifest

    def _unnamed(self, last: int) -> list[int]:
        """Epochs of files without any manifest: their segment had not been committed, or its copy is lost."""
        later = sorted(end for end in set(self._ends(_EPOCH)) if end > last)
        if later:
            self._remarks.append(
                f"There are files of epochs up to {later[-1]:,} that no manifest names: their archiving had "
                "not ended. They are not used."
            )
        return [last, *later]

    # Segments

    def _tile(self, segments: Sequence[Segment]) -> tuple[list[Segment], list[str]]:
        """The longest whole ones, from the first epoch on; and what is wrong with others."""
        chosen: list[Segment] = []
        faults: list[str] = []
        after = 0
        while True:
            wanted = [s for s in segments if s.first <= after + 1 <= s.last]
            for segment in sorted(wanted, key=lambda s: (-s.last, s.first)):
                found = self._faults(segment)
                if not found:
                    chosen.append(segment)
                    break
                faults += [fault for fault in found if fault not in faults]
            else:
                return chosen, faults
            after = chosen[-1].last

    def _gap(self, last: int, lost: int, faults: Sequence[str]) -> str:
        why = " ".join([*faults, *self._remarks]) or "Their manifests are missing."
        whole = f"whole up to epoch {last:,}" if last else "not whole from its first epoch on"
        return (
            f"The archive of bucket {self._bucket} at {self._root.url} is {whole}; epochs {last + 1:,} to "
            f"{lost:,} are not to be had. {why}"
        )

    def _faults(self, segment: Segment) -> list[str]:
        files = [f for f in segment.files if f.role == "epochs"]
        found = [fault for file in segment.files if (fault := self._fault(file))]
        if found or not files:
            return found or [f"{segment.name} names no file of epochs."]
        try:
            self._jumps |= set(jumps_in(segment, read_epochs(self._reader, segment)))
        except ArchiveDamaged as error:
            return [str(error)]
        except ValueError as error:
            return [f"{self._root.url}/{files[0].path}: {error}."]
        return []

    def _fault(self, file: ArchiveFile) -> str:
        name = f"{self._root.url}/{file.path}"
        size = self._sizes.get(file.path)
        if size is None:
            return f"{name} is missing."
        if size != file.size:
            return f"{name} has {size:,} bytes instead of {file.size:,}."
        if self._check:
            try:
                self._reader.check(file)
            except ArchiveDamaged as error:
                return str(error)
            self._read += file.size
        self._checked(self._read, self._total)
        return ""

    # Checkpoints

    def _has(self, epoch: int, last: int) -> bool:
        """Whether that epoch is restored: what an earlier rebuild gave up may have left checkpoints."""
        return epoch <= last and not any(before < epoch < after for before, after in self._jumps)

    def _whole_checkpoints(self, manifests: Sequence[Manifest], last: int) -> Iterator[Checkpoint]:
        """With the differentials of those that are whole."""
        names: set[str] = set()
        for one in sorted(manifests, key=lambda one: isinstance(one, Differential)):
            if not isinstance(one, Checkpoint) or one.name in names or not self._has(one.epoch, last):
                continue
            if isinstance(one, Differential) and one.base not in names:
                continue
            faults = [fault for file in one.files if (fault := self._fault(file))]
            if not faults:
                names.add(one.name)
                yield one
            else:
                self._remarks.append(f"A checkpoint is left out, which costs time alone: {faults[0]}")


def _epoch_of(snapshot: Snapshot) -> int:
    return parse_reference(snapshot.reference).epoch or 0


def read_epochs(reader: ArchiveReader, segment: Segment, *, last_only: bool = False) -> Iterator[Epoch]:
    """Those of a segment, as its file has them, in bounded memory. Raises `ArchiveDamaged`."""
    files = [f for f in segment.files if f.role == "epochs"]
    names = {f.name for f in fields(Watermarks)}
    groups = [(file, group) for file in files for group in range(len(reader.groups(file)))]
    for file, group in groups[-1:] if last_only else groups:
        table = with_rows(reader.read(file, groups=[group]))
        if last_only:
            table = table.slice(table.num_rows - 1)
        times = table["time"].cast("int64").to_pylist()
        values = (table[name].to_pylist() for name in ("number", "cover", "watermarks", "rows"))
        for (number, cover, marks, rows), time in zip(zip(*values, strict=True), times, strict=True):
            known = {name: value for name, value in json.loads(marks).items() if name in names}
            yield Epoch(number, time, _by_stream(cover), Watermarks(**known), _by_stream(rows or "{}"))


def _by_stream(text: str) -> dict[int, int]:
    return {int(stream): to for stream, to in json.loads(text).items()}


def jumps_in(segment: Segment, epochs: Iterable[Epoch]) -> list[tuple[int, int]]:
    """Where numbers are left out, as they are where a table was rebuilt before: each time the epochs before
    and after. Raises `ValueError` for epochs that contradict their segment or each other."""
    jumps: list[tuple[int, int]] = []
    before = Epoch(segment.first - 1, -1, {})
    for epoch in epochs:
        grows = all(to <= epoch.cover.get(stream, 0) for stream, to in before.cover.items())
        grows = grows and all(to <= epoch.rows.get(stream, 0) for stream, to in before.rows.items())
        if not (grows and before.number < epoch.number and before.time < epoch.time):
            raise ValueError(f"epoch {epoch.number:,} does not follow epoch {before.number:,}")
        if epoch.number > before.number + 1:
            jumps.append((before.number, epoch.number))
        before = epoch
    if (before.number, before.time, dict(before.cover), dict(before.rows)) != (
        segment.last,
        segment.last_time,
        dict(segment.cover),
        dict(segment.rows_cover),
    ):
        raise ValueError("its last epoch is not its segment's")
    return jumps


def read_registry(data: bytes, name: str) -> tuple[BucketConfig, list[Snapshot]]:
    """What `registry.keep_registry` wrote. Raises `SchemaTooNew`, `ArchiveDamaged`."""
    try:
        body = json.loads(data)
        if body["format"] > FORMAT:
            raise SchemaTooNew(
                f"{name} has format {body['format']}; this snapengine reads up to {FORMAT}. Upgrade it."
            )
        config = BucketConfig(**_known(BucketConfig, body["config"]))
        return config, [Snapshot(**_known(Snapshot, snapshot)) for snapshot in body["snapshots"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveDamaged(f"{name} cannot be read: {error!r}. Restore it from a copy.") from error


def _known(model: type, body: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(model)}
    return {name: value for name, value in body.items() if name in names}
