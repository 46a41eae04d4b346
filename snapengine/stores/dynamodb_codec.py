"""PURE: every key layout and item form of the DynamoDB table, and back.

    PK                          SK                                    item
    LOG#<bucket>#<stream>       <number>                              log entry; `form` unless it is "rows"
    KEY#<bucket>#<key>          <event time>#<hash>#<stream>#<number> observation by key; `expires` if let go
    DONE#<bucket>#<stream>      <number>                              DONE mark
    LOG#<bucket>#metadata#<stream>, DONE#<bucket>#metadata#<stream>   likewise, of metadata rows
    IDENTIFYING#<bucket>#<stream> <number>#<nonce>                    all columns of such rows: `payload`
    EPOCH#<bucket>              <number>                              epoch
    BUCKET#<bucket>             CONFIG, LEASE#<task>, PROGRESS#<task> bucket
    BUCKET#<bucket>             CAUGHT_UP, VERIFIED#<hash of prefix>  watermarks
    BUCKETS                     <bucket>                              list of buckets
    ARCHIVE#<bucket>            <name>                                manifest: `body`, its `hash`
    SNAPSHOT#<bucket>           <name>                                snapshot
    RUN#<run id>                NOTE#<bucket>#<hash of reference>     what an MLflow run saw
    RUN#<run id>                EPOCH#<bucket>#<at>                   the epoch that its processes agreed on
    RUNS#<bucket>               <run id>#<hash of reference>          the same notes, by bucket
    AUDIT                       <time>#<nonce>                        audit line
    TABLE                       SCHEMA                                schema version

Identifying columns have partition keys of their own, so that a role can be denied them.
An S3 key has up to 1,024 bytes, and so has a DynamoDB sort key: a key never goes into one.
`expires` is in seconds, as DynamoDB's time to live has it; an item past it that is still there is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from hashlib import blake2b
from typing import Any
from zlib import compress, decompress
from zlib import error as ZlibError  # noqa: N812  # named as the exceptions of today are

from snapengine.errors import ArchiveDamaged, BadData
from snapengine.model import (
    EVENT,
    AuditRecord,
    BucketConfig,
    EntryForm,
    Epoch,
    LogEntry,
    Observation,
    RunNote,
    Snapshot,
    Watermarks,
    watermarks_of,
)

SCHEMA_VERSION = 3
"""2: observations may have left the table for the archive. 3: epochs cover rows of metadata too, which an
older cutter would leave out. The items of a version are items of the next."""
EXPIRES = "expires"
"""The attribute of the table's time to live."""
Item = dict[str, Any]
"""Attribute values in DynamoDB's wire form: {"PK": {"S": "…"}, …}."""

_NUMBER_WIDTH = 12
_TIME_WIDTH = 15
_TEXT_FIELDS = ("sequencer", "etag", "storage_class", "event_name", "listing")
_NUMBER_FIELDS = ("size", "page_time", "position")
_PLAIN_BODY = 4_000
_MAX_BODY = 400_000
"""Bytes of a manifest: compressed above the one, refused above the other, as an item has at most 409,600."""


def log_key(bucket: str, stream: int) -> str:
    return f"LOG#{bucket}#{stream}"


def done_key(bucket: str, stream: int) -> str:
    return f"DONE#{bucket}#{stream}"


def identifying_key(bucket: str, stream: int) -> str:
    return f"IDENTIFYING#{bucket}#{stream}"


def identifying_sort_key(entry_number: int, nonce: str) -> str:
    return f"{number(entry_number)}#{nonce}"


def identifying_between(after: int, to: int) -> tuple[str, str]:
    """The least and the greatest sort key of the numbers `(after, to]`."""
    return number(after + 1), f"{number(to)}$"  # the character after `#`


def identifying_item(bucket: str, stream: int, entry_number: int, nonce: str, payload: bytes) -> Item:
    key = primary_key(identifying_key(bucket, stream), identifying_sort_key(entry_number, nonce))
    return {**key, "payload": {"B": payload}}


def identifying_from(item: Mapping[str, Any]) -> tuple[int, str, bytes]:
    """Number, nonce, payload."""
    entry_number, _, nonce = item["SK"]["S"].partition("#")
    return int(entry_number), nonce, bytes(item["payload"]["B"])


def epoch_key(bucket: str) -> str:
    return f"EPOCH#{bucket}"


def object_key(bucket: str, key: str) -> str:
    return f"KEY#{bucket}#{key}"


def bucket_key(bucket: str) -> str:
    return f"BUCKET#{bucket}"


def number(value: int) -> str:
    """Fixed width, so that text order is number order."""
    return f"{value:0{_NUMBER_WIDTH}d}"


def primary_key(pk: str, sk: str) -> Item:
    return {"PK": {"S": pk}, "SK": {"S": sk}}


def entry_item(entry: LogEntry) -> Item:
    item: Item = {
        **primary_key(log_key(entry.bucket, entry.stream), number(entry.number)),
        "nonce": {"S": entry.nonce},
        "recorded_at": {"N": str(entry.recorded_at)},
        "count": {"N": str(entry.count)},
    }
    if entry.form != "stub":
        item["payload"] = {"B": entry.payload}
    if entry.form != "rows":
        item["form"] = {"S": entry.form}
    return item


def entry_from(bucket: str, stream: int, item: Mapping[str, Any]) -> LogEntry:
    form: EntryForm = item["form"]["S"] if "form" in item else "rows"
    return LogEntry(
        bucket=bucket,
        stream=stream,
        number=int(item["SK"]["S"]),
        nonce=item["nonce"]["S"],
        recorded_at=int(item["recorded_at"]["N"]),
        count=int(item["count"]["N"]),
        payload=b"" if form == "stub" else bytes(item["payload"]["B"]),
        form=form,
    )


def observation_item(bucket: str, stream: int, entry_number: int, o: Observation) -> Item:
    """The by-key item: a pure function of the entry and the observation."""
    identity = blake2b(repr(tuple(o)).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    item: Item = {
        "PK": {"S": f"KEY#{bucket}#{o.key}"},
        "SK": {"S": f"{o.event_time:015d}#{identity}#{stream}#{entry_number:012d}"},
        "kind": {"S": o.kind},
        "version_id": {"S": o.version_id},
    }
    for name in _TEXT_FIELDS:
        if (text := getattr(o, name)) is not None:
            item[name] = {"S": text}
    for name in _NUMBER_FIELDS:
        if (value := getattr(o, name)) is not None:
            item[name] = {"N": str(value)}
    if o.origin != EVENT:
        item["origin"] = {"S": o.origin}
    return item


def leaving(item: Item, expires_at: int) -> Item:
    """The item, to be removed by the table at `expires_at` (UTC milliseconds) or later, never before."""
    return {**item, EXPIRES: {"N": str(-(-expires_at // 1000))}}


def observation_from(key: str, item: Mapping[str, Any], cover: Mapping[int, int]) -> Observation | None:
    """The observation of a by-key item, or None if the cover (stream → last entry) leaves it out."""
    time, _, stream, entry_number = item["SK"]["S"].split("#")
    if int(entry_number) > cover.get(int(stream), 0):
        return None
    get = item.get
    size, page_time, position = get("size"), get("page_time"), get("position")
    return Observation(
        item["kind"]["S"],
        key,
        item["version_id"]["S"],
        int(time),
        text["S"] if (text := get("sequencer")) else None,
        int(size["N"]) if size else None,
        text["S"] if (text := get("etag")) else None,
        text["S"] if (text := get("storage_class")) else None,
        text["S"] if (text := get("origin")) else EVENT,
        text["S"] if (text := get("event_name")) else None,
        text["S"] if (text := get("listing")) else None,
        int(page_time["N"]) if page_time else None,
        int(position["N"]) if position else None,
    )


def epoch_item(bucket: str, epoch: Epoch) -> Item:
    item: Item = {
        **primary_key(epoch_key(bucket), number(epoch.number)),
        "time": {"N": str(epoch.time)},
        "cover": _cover_value(epoch.cover),
        "watermarks": {"M": _values({**asdict(epoch.watermarks), "verified": None})},
        "verified": {  # a list, as no attribute name may be empty
            "L": [
                {"L": [to_value(prefix), to_value(time)]}
                for prefix, time in sorted(epoch.watermarks.verified.items())
            ]
        },
    }
    return {**item, "rows": _cover_value(epoch.rows)} if epoch.rows else item


def _cover_value(cover: Mapping[int, int]) -> dict[str, Any]:
    return {"M": {str(stream): {"N": str(last)} for stream, last in sorted(cover.items())}}


def _cover_from(value: Mapping[str, Any]) -> dict[int, int]:
    return {int(stream): int(last["N"]) for stream, last in value["M"].items()}


def epoch_from(item: Mapping[str, Any]) -> Epoch:
    return Epoch(
        number=int(item["SK"]["S"]),
        time=int(item["time"]["N"]),
        cover=_cover_from(item["cover"]),
        watermarks=Watermarks(
            **_known(Watermarks, item["watermarks"]["M"]),
            verified={
                from_value(prefix): from_value(time)
                for prefix, time in (pair["L"] for pair in item["verified"]["L"])
            },
        ),
        rows=_cover_from(item["rows"]) if "rows" in item else {},
    )


def archive_key(bucket: str) -> str:
    return f"ARCHIVE#{bucket}"


def manifest_item(bucket: str, name: str, body: str) -> Item:
    """Raises `BadData` for one that no item can hold."""
    data = body.encode()
    item: Item = {**primary_key(archive_key(bucket), name), "hash": body_hash(body)}
    if len(data) <= _PLAIN_BODY:
        return {**item, "body": {"S": body}}
    packed = compress(data, level=9)
    if len(packed) > _MAX_BODY:
        raise BadData(
            f"Manifest {name} of bucket {bucket} has {len(packed):,} bytes when compressed; "
            f"DynamoDB takes up to {_MAX_BODY:,}. Let it name fewer and larger files."
        )
    return {**item, "body": {"B": packed}}


def manifest_from(item: Mapping[str, Any]) -> str:
    """The body. Raises `ArchiveDamaged` if it is not the one that was put."""
    content = item["body"]
    try:
        body = content["S"] if "S" in content else decompress(bytes(content["B"])).decode()
    except (ZlibError, UnicodeDecodeError) as error:
        raise ArchiveDamaged(f"Manifest {item['SK']['S']} in the table cannot be read: {error}.") from error
    if item["hash"] != body_hash(body):
        raise ArchiveDamaged(f"Manifest {item['SK']['S']} in the table is not the one that was put there.")
    return str(body)


def body_hash(body: str) -> dict[str, Any]:
    """Tells a manifest from another of its name, so that a condition need not send it whole."""
    return {"S": blake2b(body.encode(), digest_size=16).hexdigest()}


def config_item(config: BucketConfig) -> Item:
    return {**primary_key(bucket_key(config.bucket), "CONFIG"), **_values(asdict(config))}


def config_from(item: Mapping[str, Any]) -> BucketConfig:
    return BucketConfig(**_known(BucketConfig, item))


def caught_up_item(bucket: str, to: int) -> Item:
    return {**primary_key(bucket_key(bucket), "CAUGHT_UP"), "time": to_value(to)}


def verified_item(bucket: str, prefix: str, begun: int) -> Item:
    """A prefix has up to 1,024 bytes, too many for a sort key beside anything else: its hash goes there."""
    name = blake2b(prefix.encode(), digest_size=12).hexdigest()
    return {
        **primary_key(bucket_key(bucket), f"VERIFIED#{name}"),
        "prefix": to_value(prefix),
        "time": to_value(begun),
    }


def watermarks_from(items: Iterable[Mapping[str, Any]]) -> Watermarks | None:
    """From all items of a bucket's partition; None where the bucket is not registered."""
    by_key = {item["SK"]["S"]: item for item in items}
    if "CONFIG" not in by_key:
        return None
    caught_up = by_key.get("CAUGHT_UP")
    return watermarks_of(
        config_from(by_key["CONFIG"]),
        from_value(caught_up["time"]) if caught_up else None,
        {
            from_value(item["prefix"]): from_value(item["time"])
            for name, item in by_key.items()
            if name.startswith("VERIFIED#")
        },
    )


def snapshot_key(bucket: str) -> str:
    return f"SNAPSHOT#{bucket}"


def snapshot_item(snapshot: Snapshot) -> Item:
    return {
        **primary_key(snapshot_key(snapshot.bucket), snapshot.name),
        **_values({**asdict(snapshot), "labels": None}),
        "labels": {"M": _values(snapshot.labels)},
    }


def snapshot_from(item: Mapping[str, Any]) -> Snapshot:
    labels = {name: from_value(value) for name, value in item["labels"]["M"].items()}
    return Snapshot(**{**_known(Snapshot, item), "labels": labels})


def run_key(run_id: str) -> str:
    return f"RUN#{run_id}"


def runs_key(bucket: str) -> str:
    return f"RUNS#{bucket}"


def run_epoch_sort_key(bucket: str, at: int) -> str:
    return f"EPOCH#{bucket}#{at:0{_TIME_WIDTH}d}"


NOTES_BETWEEN = ("NOTE#", "NOTE$")
"""The least and the greatest sort key of a run's notes."""


def note_items(note: RunNote) -> list[Item]:
    """By bucket, then by run: as these are written, a note that one finds the other has or will have."""
    mark = blake2b(note.reference.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    body = _values(asdict(note))
    return [
        {**primary_key(runs_key(note.bucket), f"{note.run_id}#{mark}"), **body},
        {**primary_key(run_key(note.run_id), f"NOTE#{note.bucket}#{mark}"), **body},
    ]


def note_from(item: Mapping[str, Any]) -> RunNote:
    return RunNote(**_known(RunNote, item))


def audit_item(record: AuditRecord, nonce: str) -> Item:
    return {**primary_key("AUDIT", f"{record.time:0{_TIME_WIDTH}d}#{nonce}"), **_values(asdict(record))}


def audit_from(item: Mapping[str, Any]) -> AuditRecord:
    return AuditRecord(**_known(AuditRecord, item))


def audit_from_time(time: int) -> str:
    """The least sort key of audit lines at or after `time`."""
    return f"{time:0{_TIME_WIDTH}d}"


def _values(plain: Mapping[str, Any]) -> Item:
    """Plain values in wire form; None, empty tuples and empty mappings are left out."""
    return {name: to_value(value) for name, value in plain.items() if value not in (None, (), {})}


def to_value(value: str | int | bool | tuple[str, ...] | Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, tuple):
        return {"L": [{"S": text} for text in value]}
    if isinstance(value, Mapping):
        return {"M": {name: to_value(one) for name, one in value.items()}}
    return {"N": str(value)} if isinstance(value, int) else {"S": value}


def from_value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "L":
        return tuple(from_value(one) for one in content)
    if kind == "M":
        return {name: from_value(one) for name, one in content.items()}
    return int(content) if kind == "N" else content


def _known(model: type, item: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that the model knows; a newer snapengine may have added others."""
    return {f.name: from_value(item[f.name]) for f in fields(model) if f.name in item}
