"""Rebuilding what a lost table knew of a bucket, from its archive alone.

What was archived is as it was: epochs with their numbers and watermarks, segments, checkpoints, snapshots.
What was not archived is lost, and no number that it had is used again: log entries go on behind stubs, and
the next epoch's number leaves out a million and more. The registration comes last, so that no reader and no
worker sees anything before all is there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import islice
from secrets import token_hex
from typing import Any, Final, Literal

from snapengine.archive.manifest import Differential, Manifest, Segment, to_json
from snapengine.archive_root import bucket_of, check_root, root_is_watched
from snapengine.archiving.forget import restore_forgotten
from snapengine.archiving.letting_go import begin_after
from snapengine.archiving.registry import keep_registry
from snapengine.archiving.runs import NotesRestored, restored_runs
from snapengine.archiving.salvage import Salvage, read_epochs, salvage
from snapengine.archiving.selections import Restored, restore_selections
from snapengine.archiving.tools import ArchiveTools
from snapengine.errors import ArchiveDamaged, Refused
from snapengine.lease import ENABLE, Lease
from snapengine.log import EpochCutter
from snapengine.metadata_rows import metadata_log
from snapengine.model import BucketConfig, Epoch, LogEntry, watermarks_of
from snapengine.ports import LogStore
from snapengine.reference import parse_reference

TASK: Final = "rebuild"
JUMP: Final = 1_000_000
"""By so much, at least, the next epoch's number is beyond the greatest that the archive knows."""
_FASTEST_MS: Final = 50
"""No epochs are cut as fast as that: so many numbers more are left out where the archive is old."""
_BATCH: Final = 256
"""Epochs that are written at a time."""
_SAVED_EVERY: Final = 16
"""Batches."""


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How far it is."""

    step: Literal["checking", "epochs"]
    done: int
    """Bytes checked, or epochs written."""
    of: int | None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the table knows again."""

    bucket: str
    root: str
    epoch: int
    """The last archived one, up to which history is as it was."""
    epoch_time: int
    """UTC milliseconds."""
    epochs: int
    segments: int
    observations: int
    checkpoints: int
    snapshots: int
    next_epoch: int
    """With which recording goes on; the numbers between are those of nothing."""
    lost: str
    """What was accepted as lost of the archive itself, or nothing."""
    remarks: tuple[str, ...]
    listing: str
    """Why no listing can follow yet, or nothing."""
    resumed: bool
    """It went on with a run that had been stopped."""
    selections: int = 0
    """Narrowed views that open again."""
    runs: int = 0
    """Notes of MLflow's runs that are there again."""


Show = Callable[[RebuildProgress], None]


async def rebuild_table(
    tools: ArchiveTools,
    bucket: str,
    url: str,
    *,
    check: bool = False,
    up_to_gap: bool = False,
    progress: Show = lambda _: None,
) -> Rebuilt:
    """Write what the archive at `url` knows of a bucket into a table that knows nothing of it.

    With `check` every file is read first; with `up_to_gap` epochs after the first that cannot be had are
    given up. Until `finish` it has not ended: a run that was stopped is gone on with.

    Raises `Refused` if the table knows the bucket otherwise or the root is no archive's or in a watched
    bucket, `ArchiveDamaged` if history is not whole, `Busy`, and what the store and the root raise.
    """
    root = tools.root(url)
    with Lease(tools.store, bucket, TASK, tools.clock) as lease:
        saved = await asyncio.to_thread(tools.store.progress, bucket, TASK)
        if saved is not None and saved.get("report"):
            return await asyncio.to_thread(_reported, tools, saved, root.url)
        await asyncio.to_thread(_refuse_known, tools, bucket, resumed=saved is not None)
        await asyncio.to_thread(_refuse_watched, tools, bucket, root.url)

        def checked(done: int, of: int) -> None:
            lease.renew()
            progress(RebuildProgress("checking", done, of))

        found = await asyncio.to_thread(salvage, tools.reader(root.url), bucket, check=check, checked=checked)
        if found.gap and not up_to_gap:
            raise ArchiveDamaged(
                f"{found.gap} Restore what is missing from a copy or an earlier version, or give up those "
                "epochs with --up-to-gap. Nothing was changed."
            )
        run = await asyncio.to_thread(_Rebuild, tools, found, root.url, lease, progress)
        return await run.write(saved)


def _refuse_known(tools: ArchiveTools, bucket: str, *, resumed: bool) -> None:
    store = tools.store
    known = store.config(bucket) is not None
    if not resumed:
        known = known or store.newest_epoch(bucket) is not None or bool(store.manifests(bucket))
    if known:
        raise Refused(
            f"{tools.settings.store} knows bucket {bucket} already, and a rebuild would mix two histories. "
            "Set SNAPENGINE_STORE to a new table, made with `snapengine init`. Nothing was changed."
        )


def _refuse_watched(tools: ArchiveTools, bucket: str, url: str) -> None:
    check_root(tools, url)
    if bucket_of(url) == bucket:
        raise Refused(root_is_watched(url, bucket))


def _reported(tools: ArchiveTools, saved: dict[str, Any], url: str) -> Rebuilt:
    """All but the listing was done by an earlier run."""
    body = json.loads(str(saved["report"]))
    if body["root"] != url:
        raise _another(tools, body["bucket"], body["root"])
    if tools.store.config(body["bucket"]) is None:
        tools.store.put_config(BucketConfig(**json.loads(str(saved["config"]))))
    _take_over(tools, url, body["bucket"])
    return Rebuilt(**{**body, "remarks": tuple(body["remarks"]), "resumed": True})


def _take_over(tools: ArchiveTools, url: str, bucket: str) -> None:
    """The archive is the new table's: an archiver of the old one, if it still runs, is refused by now."""
    keep_registry(tools.store, tools.root(url), bucket, tools.archive(bucket).last_epoch)


def _another(tools: ArchiveTools, bucket: str, root: object) -> Refused:
    return Refused(
        f"{tools.settings.store} holds a rebuild of bucket {bucket} that has not ended, from {root} or from "
        "another state of it. Go on with that one, or set SNAPENGINE_STORE to a new table."
    )


class _Rebuild:
    def __init__(self, tools: ArchiveTools, found: Salvage, url: str, lease: Lease, progress: Show) -> None:
        self._tools = tools
        self._store = tools.store
        self._found = found
        self._bucket = found.bucket
        self._url = url
        self._lease = lease
        self._progress = progress
        [self._last] = read_epochs(tools.reader(url), found.last, last_only=True)
        names = "".join(f.sha256 for s in found.segments for f in s.files)
        began = max(tools.clock(), found.last.last_time + 1)
        self._state: dict[str, str | int] = {
            "root": url,
            "segments": blake2b(names.encode(), digest_size=16).hexdigest(),
            "next": found.highest + JUMP + (began - found.last.last_time) // _FASTEST_MS,
            "began": began,
            "archive_id": token_hex(8),
            "epochs": 0,
        }

    async def write(self, saved: dict[str, str | int] | None) -> Rebuilt:
        if saved is not None:
            if any(saved.get(name) != self._state[name] for name in ("root", "segments")):
                raise _another(self._tools, self._bucket, saved.get("root"))
            self._state |= saved
        await asyncio.to_thread(self._save)
        epoch = self._epoch()
        async with self._tools.log() as log:
            await self._stubs(log)
            root = self._tools.root(self._url)
            await restore_forgotten(self._tools, log, root, self._bucket)
            narrowed = await restore_selections(self._tools, log, root, self._bucket, self._lease.renew)
            notes = await asyncio.to_thread(restored_runs, self._tools, root, self._bucket, self._lease.renew)
            written = await self._epochs(log)
            await asyncio.to_thread(self._registry)
            await self._put_epoch(log, epoch)
        report = self._report(written, narrowed, notes, resumed=saved is not None)
        self._state["report"] = json.dumps(asdict(report))
        self._state["config"] = json.dumps(asdict(self._config()))
        await asyncio.to_thread(self._save)
        await asyncio.to_thread(self._store.put_config, self._config())
        await asyncio.to_thread(_take_over, self._tools, self._url, self._bucket)
        return report

    def _save(self) -> None:
        self._lease.renew()
        self._store.save_progress(self._bucket, TASK, self._state)

    @property
    def _began(self) -> int:
        return int(self._state["began"])

    @property
    def _next(self) -> int:
        return int(self._state["next"])

    # What is written, in order

    async def _stubs(self, log: LogStore) -> None:
        """Both logs go on behind what the last archived epoch covers."""
        ends = [(self._bucket, *end) for end in sorted(self._last.cover.items())]
        ends += [(metadata_log(self._bucket), *end) for end in sorted(self._last.rows.items())]
        for name, stream, number in ends:
            if not number:
                continue
            seed = f"{self._state['segments']}{name.removeprefix(self._bucket)}/{stream}"
            nonce = blake2b(seed.encode(), digest_size=12).hexdigest()
            entry = LogEntry(name, stream, number, nonce, self._began, 0, b"", "stub")
            if not await log.put_entry(entry):
                raise _another(self._tools, self._bucket, "elsewhere")
            await log.mark_done(name, stream, number)

    async def _epochs(self, log: LogStore) -> int:
        """All of them as they were; how many."""
        written = int(self._state["epochs"])
        epochs = _epochs_of(self._tools, self._url, self._found.segments)
        await asyncio.to_thread(lambda: next(islice(epochs, written, written), None))
        batches = 0
        while batch := await asyncio.to_thread(lambda: list(islice(epochs, _BATCH))):
            await asyncio.gather(*(self._put_epoch(log, epoch) for epoch in batch))
            written += len(batch)
            batches += 1
            if batches % _SAVED_EVERY == 0:
                self._state["epochs"] = written
                await asyncio.to_thread(self._save)
            self._progress(RebuildProgress("epochs", written, None))
        self._state["epochs"] = written
        await asyncio.to_thread(self._save)
        return written

    async def _put_epoch(self, log: LogStore, epoch: Epoch) -> None:
        if not await log.put_epoch(self._bucket, epoch):
            standing = await asyncio.to_thread(self._store.epoch, self._bucket, epoch.number)
            if standing != epoch:
                raise _another(self._tools, self._bucket, "elsewhere")

    def _registry(self) -> None:
        """Manifests and snapshots. No observation of a segment has an item of its own any more."""
        found = self._found
        manifests: list[Manifest] = [replace(s, leaving_since=self._began) for s in found.segments]
        for manifest in [*manifests, *found.checkpoints]:
            self._lease.renew()
            if not self._store.put_manifest(self._bucket, manifest.name, to_json(manifest)):
                raise _another(self._tools, self._bucket, "elsewhere")
        for snapshot in found.snapshots:
            self._store.put_snapshot(snapshot)
        begin_after(self._store, self._bucket, found.last.last)

    def _epoch(self) -> Epoch:
        """The first that was never archived: it knows what the last one knew."""
        last = self._last
        return Epoch(
            self._next, self._began, dict(last.cover), watermarks_of(self._config()), dict(last.rows)
        )

    def _config(self) -> BucketConfig:
        """As archived, but for what is true of the bucket only since now."""
        config, last = self._found.config, self._last
        marks = last.watermarks
        ended = config.baseline_ended if config.baseline_ended is not None else marks.baseline_ended
        started = config.baseline_started if config.baseline_started is not None else ended
        return replace(
            config,
            archive=self._url,
            archive_id=str(self._state["archive_id"]),
            streams=max(config.streams, *(stream + 1 for stream in (*last.cover, *last.rows))),
            baseline_started=started,
            baseline_ended=ended,
            # What was removed between the last archived epoch and now may be unknown, and so views say.
            enabled_at=self._began if config.enabled else config.enabled_at,
        )

    def _report(self, epochs: int, narrowed: Restored, notes: NotesRestored, *, resumed: bool) -> Rebuilt:
        found, config = self._found, self._config()
        listing = ""
        if not config.enabled:
            listing = f"Bucket {self._bucket} is disabled: what is in it now is not looked at."
        elif config.baseline_ended is None:
            listing = f"The baseline had not ended: `snapengine enable-bucket {self._bucket}` takes it anew."
        return Rebuilt(
            bucket=self._bucket,
            root=self._url,
            epoch=found.last.last,
            epoch_time=found.last.last_time,
            epochs=epochs,
            segments=len(found.segments),
            observations=sum(s.rows for s in found.segments),
            checkpoints=sum(not isinstance(one, Differential) for one in found.checkpoints),
            snapshots=len(found.snapshots),
            next_epoch=self._next,
            lost=found.gap,
            remarks=(*found.remarks, *self._unresolved(), *narrowed.remarks, *notes.remarks),
            listing=listing,
            resumed=resumed,
            selections=narrowed.selections,
            runs=notes.notes,
        )

    def _unresolved(self) -> Iterator[str]:
        for snapshot in self._found.snapshots:
            epoch = parse_reference(snapshot.reference).epoch
            if epoch is not None and epoch > self._found.last.last:
                yield f"Snapshot {snapshot.name} is of epoch {epoch:,}, which was not archived: it is lost."


def _epochs_of(tools: ArchiveTools, url: str, segments: Sequence[Segment]) -> Iterator[Epoch]:
    after = 0
    for segment in segments:
        for epoch in read_epochs(tools.reader(url), segment):
            if epoch.number > after:
                yield epoch
        after = segment.last


async def finish(tools: ArchiveTools, bucket: str, listed_at: int | None) -> Epoch | None:
    """The end of a rebuild. `listed_at`: when the listing began that was compared with it (UTC milliseconds,
    S3's clock), None without one. History is recorded again from there on, or else from the rebuild on.
    Returns the epoch that says so."""

    def note() -> bool:
        with Lease(tools.store, bucket, ENABLE, tools.clock):
            config = tools.store.config(bucket)
            if config is None or config.enabled_at is None or listed_at is None:
                return False
            if listed_at < config.enabled_at:
                tools.store.put_config(replace(config, enabled_at=listed_at))
            return True

    epoch = None
    if await asyncio.to_thread(note):
        async with tools.log() as log:
            epoch = await EpochCutter(log, bucket, tools.clock).cut()
    await asyncio.to_thread(tools.store.clear_progress, bucket, TASK)
    return epoch
