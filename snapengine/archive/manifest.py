"""PURE: what the archive consists of. A file counts once a manifest that names it is committed to the table.

<root>/<bucket>/observations/epochs=<first>_<last>/{regular,irregular}-<nonce>-<n>.parquet
<root>/<bucket>/epochs/epochs=<first>_<last>/epochs-<nonce>-<n>.parquet
<root>/<bucket>/objects/checkpoint=<at>_<epoch>/part-<nonce>-<n>.parquet
<root>/<bucket>/histories/checkpoint=<at>_<epoch>/side-<nonce>-<n>.parquet
<root>/<bucket>/metadata/extractor=<name>/epochs=<first>_<last>/rows-<nonce>-<n>.parquet
<root>/<bucket>/metadata/extractor=<name>/checkpoint=<at>_<epoch>/{live,pending}-<nonce>-<n>.parquet
<root>/<bucket>/{objects,histories,metadata/extractor=<name>}/differential=<at>_<epoch>/…  of a differential
<root>/<bucket>/identifying/extractor=<name>/…  the same files with all columns, where any are identifying
<root>/<bucket>/listed/<listing>/part-<n>-<nonce>.parquet  a listing that went straight to Parquet
<root>/<bucket>/manifests/<name of the manifest>-<nonce>.json  a copy, for the day the table is lost
<root>/<bucket>/forgotten.json  of which objects no rows of metadata are kept
<root>/<bucket>/runs.jsonl  what MLflow's runs noted of the bucket
<root>/<bucket>/registry.json  what else the table knows of the bucket, and whose the archive is
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, NamedTuple

from snapengine.errors import BadData, SchemaTooNew

FORMAT_VERSION: Final = 1
"""Of files, and of the manifests that name no rows of metadata."""
ROWS_FORMAT_VERSION: Final = 2
"""Of manifests that do: an archiver that knows nothing of such rows would leave them out."""
DIFFERENTIAL_FORMAT_VERSION: Final = 3
"""Of differentials, which nobody may take for whole live sets."""

Role = Literal[
    "regular",
    "irregular",
    "epochs",
    "objects",
    "gone",
    "side",
    "rows",
    "identifying",
    "live",
    "live_identifying",
    "pending",
    "pending_identifying",
]


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A Parquet file of the archive. It never changes."""

    path: str
    """Below the root, parts separated by `/`."""
    role: Role
    """`regular` and `irregular` observations, `epochs`; a checkpoint's `objects`, or its `side` file; of a
    differential also the keys that are `gone`. Of metadata: a segment's `rows`; of a checkpoint the `live`
    set joined with its rows, and the rows that are `pending`. Those with `identifying` in their name have all
    columns, the others lack identifying ones."""
    rows: int
    size: int
    """Bytes."""
    sha256: str
    """Of the whole file, hexadecimal."""
    footer_size: int
    """Bytes of the Parquet footer, with its length and magic: the end of the file."""
    footer_sha256: str
    min_key: str = ""
    max_key: str = ""
    min_time: int = 0
    """The least and the greatest event time, UTC milliseconds."""
    max_time: int = 0
    max_page: int = 0
    """The greatest page time of its listed observations; 0 where there are none."""
    extractor: str = ""
    """Whose rows of metadata it has; empty where it has none."""


@dataclass(frozen=True, slots=True)
class Segment:
    """All observations that the epochs `[first, last]` cover and that epoch `first - 1` does not."""

    first: int
    last: int
    files: tuple[ArchiveFile, ...]
    cover: Mapping[int, int]
    """Of epoch `last`: where the log's tail begins."""
    last_time: int
    """Of epoch `last`, UTC milliseconds."""
    listed_until: int
    """The greatest page time of any listed observation in epochs up to `last`."""
    created_at: int
    leaving_since: int | None = None
    """From when on its observations may be missing from the table; None as long as all are there."""
    retired_at: int | None = None
    """When a longer segment took its place; its files stay for a while for readers who have begun."""
    rows_cover: Mapping[int, int] = field(default_factory=dict)
    """Of epoch `last`: where the tail of the metadata log begins."""
    forgotten: int = 0
    """It has no rows of metadata of what had been forgotten by that number (`snapengine.forgotten`)."""

    @property
    def name(self) -> str:
        return f"SEGMENT#{self.first:012d}_{self.last:012d}"

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.observations)

    @property
    def observations(self) -> tuple[ArchiveFile, ...]:
        return tuple(f for f in self.files if f.role in {"regular", "irregular"})

    @property
    def metadata_rows(self) -> int:
        """Of all extractors."""
        return sum(f.rows for f in self.files if f.role == "rows")

    def rows_of(self, extractor: str, *, full: bool) -> tuple[ArchiveFile, ...]:
        """The files that hold each of an extractor's rows once: with `full` those with all columns."""
        return _of(self.files, extractor, "rows", full=full)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The live set of the whole watched bucket at (`at`, `epoch`), resolved."""

    at: int
    """UTC milliseconds, inclusive."""
    epoch: int
    files: tuple[ArchiveFile, ...]
    """The objects, in key order, and the side file: all observations that `epoch` covers of every key that
    has an observation of an event or a page later than `at`. For each extractor the objects with their
    rows (`live`), and the rows of versions that came to be after `at`, or are unknown (`pending`)."""
    created_at: int
    retired_at: int | None = None
    forgotten: int = 0
    """As of a segment."""

    @property
    def name(self) -> str:
        return f"CHECKPOINT#{self.at:015d}_{self.epoch:012d}"

    @property
    def objects(self) -> tuple[ArchiveFile, ...]:
        return tuple(f for f in self.files if f.role == "objects")

    @property
    def side(self) -> tuple[ArchiveFile, ...]:
        return tuple(f for f in self.files if f.role == "side")

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.objects)

    @property
    def extractors(self) -> tuple[str, ...]:
        """Those whose rows it has."""
        return tuple(sorted({f.extractor for f in self.files if f.role == "live"}))

    def live(self, extractor: str, *, full: bool) -> tuple[ArchiveFile, ...]:
        """The objects joined with an extractor's rows, in key order: with `full` all columns. None where the
        checkpoint was made without."""
        return _of(self.files, extractor, "live", full=full)

    def pending(self, extractor: str, *, full: bool) -> tuple[ArchiveFile, ...]:
        return _of(self.files, extractor, "pending", full=full)


@dataclass(frozen=True, slots=True)
class Differential(Checkpoint):
    """What of the live set at (`at`, `epoch`) is not as a checkpoint has it.

    Its `objects` and `live` files have the keys that changed since, `gone` those of which no object stands
    any more; what none of them names is as it was. `side` and `pending` are whole.
    """

    base: str = ""
    """The name of that checkpoint."""

    @property
    def name(self) -> str:
        return f"DIFFERENTIAL#{self.at:015d}_{self.epoch:012d}"

    @property
    def gone(self) -> tuple[ArchiveFile, ...]:
        return tuple(f for f in self.files if f.role == "gone")


class Start(NamedTuple):
    """Where a view can begin."""

    checkpoint: Checkpoint
    """Whole."""
    difference: Differential | None = None
    """From that checkpoint; None where the view begins at the checkpoint itself."""

    @property
    def last(self) -> Checkpoint:
        """Whose instant and epoch it is, whose `side` and `pending` files count."""
        return self.difference or self.checkpoint

    @property
    def at(self) -> int:
        return self.last.at

    @property
    def epoch(self) -> int:
        return self.last.epoch

    @property
    def extractors(self) -> tuple[str, ...]:
        """Those whose rows it has: a differential's alone are not all."""
        known = self.checkpoint.extractors
        return tuple(name for name in self.last.extractors if name in known)


@dataclass(frozen=True, slots=True)
class Listed:
    """A listing whose observations went straight to Parquet, made visible by one entry of the log."""

    stream: int
    number: int
    """The entry that names it."""
    files: tuple[ArchiveFile, ...]
    retired_at: int | None = None
    """When a segment took it over."""

    @property
    def name(self) -> str:
        return f"LISTED#{self.stream:06d}_{self.number:012d}"


_FULL: Final[dict[str, Role]] = {
    "rows": "identifying",
    "live": "live_identifying",
    "pending": "pending_identifying",
}


def _of(files: tuple[ArchiveFile, ...], extractor: str, role: str, *, full: bool) -> tuple[ArchiveFile, ...]:
    """Where no column is identifying there are only the plain files, which then have all columns."""
    own = [f for f in files if f.extractor == extractor]
    whole = tuple(f for f in own if f.role == _FULL[role]) if full else ()
    return whole or tuple(f for f in own if f.role == role)


Manifest = Segment | Checkpoint | Listed
_KINDS: dict[str, type[Any]] = {
    "SEGMENT": Segment,
    "CHECKPOINT": Checkpoint,
    "DIFFERENTIAL": Differential,
    "LISTED": Listed,
}


@dataclass(frozen=True, slots=True)
class Archive:
    """All manifests of a bucket, read at one time; those that were retired apart."""

    segments: tuple[Segment, ...] = ()
    """By first epoch, the longest first."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """By instant, then by epoch; whole ones."""
    differentials: tuple[Differential, ...] = ()
    """In the same order."""
    listed: tuple[Listed, ...] = ()
    retired: tuple[Manifest, ...] = ()

    @property
    def standing(self) -> tuple[Manifest, ...]:
        """Those of which the files are needed."""
        return (*self.segments, *self.checkpoints, *self.differentials, *self.listed)

    @property
    def starts(self) -> tuple[Start, ...]:
        """Where views can begin, in no order."""
        whole = {checkpoint.name: checkpoint for checkpoint in self.checkpoints}
        return (
            *(Start(checkpoint) for checkpoint in self.checkpoints),
            *(Start(whole[one.base], one) for one in self.differentials if one.base in whole),
        )

    @property
    def last_epoch(self) -> int:
        """The last archived one; 0 where there is none."""
        return max((s.last for s in self.segments), default=0)


def archive_of(manifests: list[Manifest]) -> Archive:
    """What a segment has taken over is no listing's any more, whatever a late writer says."""
    standing = [m for m in manifests if m.retired_at is None]
    segments = [m for m in standing if isinstance(m, Segment)]
    archived = max(segments, key=lambda s: s.last).cover if segments else {}
    points = sorted((m for m in standing if isinstance(m, Checkpoint)), key=lambda c: (c.at, c.epoch))
    return Archive(
        segments=tuple(sorted(segments, key=lambda s: (s.first, -s.last))),
        checkpoints=tuple(c for c in points if not isinstance(c, Differential)),
        differentials=tuple(c for c in points if isinstance(c, Differential)),
        listed=tuple(m for m in standing if isinstance(m, Listed) and m.number > archived.get(m.stream, 0)),
        retired=tuple(m for m in manifests if m.retired_at is not None),
    )


def retired(manifest: Manifest, at: int) -> Manifest:
    return replace(manifest, retired_at=at)


def to_json(manifest: Manifest) -> str:
    """One line, the same for equal manifests."""
    body = {"format": FORMAT_VERSION, "kind": manifest.name.partition("#")[0], **asdict(manifest)}
    # What was written before there were rows of metadata stays as it is, to the letter.
    body["files"] = [_without_empty(file, "extractor") for file in body["files"]]
    if isinstance(manifest, Segment):
        for name in ("cover", "rows_cover"):
            body[name] = {str(stream): last for stream, last in sorted(body[name].items())}
        body = _without_empty(body, "rows_cover")
    body = _without_empty(body, "forgotten")
    if "rows_cover" in body or any(file.extractor for file in manifest.files):
        body["format"] = ROWS_FORMAT_VERSION
    if isinstance(manifest, Differential):
        body["format"] = DIFFERENTIAL_FORMAT_VERSION
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _without_empty(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name or value}


def from_json(text: str) -> Manifest:
    """Raises `SchemaTooNew` for one that a newer snapengine made, `BadData` for what is none."""
    try:
        body = json.loads(text)
        if body["format"] > DIFFERENTIAL_FORMAT_VERSION:
            raise SchemaTooNew(
                f"The archive has format {body['format']}; this snapengine reads up to "
                f"{DIFFERENTIAL_FORMAT_VERSION}. Upgrade it."
            )
        kind = _KINDS[body["kind"]]
        known = {f.name: body[f.name] for f in fields(kind) if f.name in body}
        known["files"] = tuple(files_from(body["files"]))
        if kind is Segment:
            for name in {"cover", "rows_cover"} & known.keys():
                known[name] = {int(stream): last for stream, last in known[name].items()}
        manifest: Manifest = kind(**known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(f"This is no manifest of an archive: {text[:80]!r} ({error!r}).") from error
    return manifest


def files_from(bodies: list[dict[str, Any]]) -> list[ArchiveFile]:
    """A newer snapengine may have added fields."""
    names = {f.name for f in fields(ArchiveFile)}
    return [ArchiveFile(**{name: value for name, value in body.items() if name in names}) for body in bodies]


def files_to_payload(files: list[ArchiveFile]) -> bytes:
    """The payload of a log entry that names Parquet files instead of holding observations."""
    return json.dumps([asdict(f) for f in files], ensure_ascii=False, separators=(",", ":")).encode()


def files_from_payload(payload: bytes) -> list[ArchiveFile]:
    return files_from(json.loads(payload))
