"""What a bucket of any size costs a month: quantities, each with its arithmetic, times list prices.

Everything follows from `Measured`, `Scenario` and `PRICES`; nothing is measured or asked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
DAYS = 30
"""Of a month."""
ENTRY_SECONDS = 0.2
"""A worker commits what it has after so long (`ingest_worker.writer.MAX_AGE`)."""
LONGEST_ENTRY = 500
POLL = 10
"""Messages of a full receive, and of a batch of deletes."""
ITEM_OVERHEAD = 100
"""Bytes that DynamoDB adds to each item it stores."""
EPOCH_READS = 20
"""Read units of a cut: newest epoch, configuration, watermarks, the heads and the DONE marks of 8 streams."""
SEGMENT_SECONDS = 300
ROUND_UNITS = 40
"""Units, read and written each, of an archiver's round: lease, manifests, registration."""
SEGMENT_PUTS = 5
"""Two files of observations, one of epochs, the copies of the manifest and of the registry."""
COMPACTIONS = 3
"""How often an observation is written again: into an hour, a day, a month."""
REQUEST_BYTES = 16 * 2**20
PART_BYTES = 64 * 2**20
CHECKPOINT_SHARE = 0.2
"""Of the bucket: when so much was observed since the last checkpoint another is due."""
MANIFEST_UNITS = 60
"""Read for each view: a hundred manifests or so, and the configuration and the epoch."""
FILE_ROWS = 1_048_576
"""Of a checkpoint's part."""


@dataclass(frozen=True, slots=True)
class Price:
    """A list price of us-east-1."""

    dollars: float
    per: float
    unit: str
    """What `per` of are meant."""
    source: str
    """Where it was read, and as of when."""

    def __str__(self) -> str:
        return f"${self.dollars:g} / {in_words(self.per)} {self.unit}" if self.per != 1 else self._one()

    def _one(self) -> str:
        return f"${self.dollars:g} / {self.unit}"


_S3_PAGE = "a copy of aws.amazon.com/s3/pricing, US East (N. Virginia), undated, after July 2025"
_DYNAMODB_PAGE = "airbyte.com/data-engineering-resources/dynamodb-pricing, July 2025 (after the cut of 2024)"
_FARGATE_PAGE = "factualminds.com/blog/amazon-fargate-ecs-task-pricing-2026, June 2026"
PRICES: Mapping[str, Price] = {
    "sqs": Price(0.40, 1e6, "requests of up to 64 KB", "cloudburn.io/blog/amazon-sqs-pricing, March 2026"),
    "write": Price(0.625, 1e6, "write request units (1 KB)", _DYNAMODB_PAGE),
    "read": Price(0.125, 1e6, "read request units (4 KB)", _DYNAMODB_PAGE),
    "table": Price(0.25, 1, "GB and month in DynamoDB", "aws.amazon.com/dynamodb/pricing, undated copy"),
    "s3": Price(0.023, 1, "GB and month in S3 Standard", "cloudburn.io/blog/amazon-s3-pricing, March 2026"),
    "put": Price(0.005, 1e3, "PUT or LIST requests", "c3x.dev; as S3 Tables' own in " + _S3_PAGE),
    "get": Price(0.0004, 1e3, "GET requests", "as S3 Tables' own in " + _S3_PAGE),
    "inventory": Price(0.0025, 1e6, "entries listed by S3 Inventory", "several public repositories, 2025"),
    "journal": Price(0.30, 1e6, "updates, or objects backfilled (S3 Metadata)", _S3_PAGE),
    "live": Price(0.10, 1e6, "objects and month, above 1 billion (S3 Metadata)", _S3_PAGE),
    "tables": Price(0.0265, 1, "GB and month in S3 Tables", _S3_PAGE),
    "tables_compaction": Price(0.005, 1, "GB compacted in S3 Tables", _S3_PAGE),
    "vcpu": Price(0.04048, 1, "vCPU and hour (Fargate, Linux, x86)", _FARGATE_PAGE),
    "memory": Price(0.004445, 1, "GB and hour (Fargate)", _FARGATE_PAGE),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What `simulate_scale` measures; the fields are the names in `docs/scale.md`."""

    entry_bytes: float
    """Of a log item with as many observations as a worker gathers in 0.2 s at the scenario's rate."""
    by_key_bytes: float
    """Of a by-key item, by DynamoDB's rule."""
    event_bytes: float
    """Of an event in a segment."""
    listed_bytes: float
    """Of a listed version in a segment."""
    object_bytes: float
    """Of an object in a checkpoint."""
    archive_rate: float
    """Observations a second from the log to a committed segment."""
    compaction_rate: float
    """Observations a second from shorter segments into a longer one."""
    checkpoint_rate: float
    """Objects a second."""
    view_rate: float
    """Objects a second that a streamed digest takes."""
    prefix_ms: float
    """Of a cold view of 1,000 keys."""
    prefix_requests: float
    prefix_mib: float
    group_ms: float
    """Of reading one more row group of a segment, all columns: what each segment adds to a prefix's view."""
    group_mib: float
    bucket_objects: float
    """Of the bucket in which views and checkpoints were measured."""


@dataclass(frozen=True, slots=True)
class Scenario:
    objects: float = 1e9
    changes: float = 1e7
    """A day."""
    versions: float = 2.0
    """An object has on average, as S3 keeps them."""
    months: float = 12
    """After which storage is counted."""
    prefix_views: float = 1000
    """Of 1,000 keys, a day."""
    list_seconds: float = 0.1
    """Assumed of a page of ListObjectVersions."""
    journal_bytes: float = 200
    """Assumed of a row of S3 Metadata's tables."""

    @property
    def monthly(self) -> float:
        """Changes."""
        return self.changes * DAYS

    @property
    def entry_rows(self) -> float:
        """Observations of a log entry, if changes come evenly."""
        return min(LONGEST_ENTRY, max(1.0, math.floor(self.changes / 86_400 * ENTRY_SECONDS)))


@dataclass(frozen=True, slots=True)
class Line:
    """Of a bill."""

    what: str
    arithmetic: str
    dollars: float


def line(what: str, counted: str, quantity: float, price: str) -> Line:
    """`counted` shows where the quantity comes from."""
    return Line(what, f"{counted} × {PRICES[price]}", quantity / PRICES[price].per * PRICES[price].dollars)


def in_words(number: float) -> str:
    """Three digits that matter, and `million` where they are many."""
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if abs(number) >= size:
            return f"{number / size:.4g}{name}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def total(lines: list[Line]) -> float:
    return sum(each.dollars for each in lines)


def ours(m: Measured, s: Scenario, keep_days: int | None) -> list[Line]:
    """A month; `keep_days`: how long by-key items stay in the table (None: for ever)."""
    entries = s.monthly / s.entry_rows
    entry_units = math.ceil(m.entry_bytes / 1024)
    item_units = math.ceil(m.by_key_bytes / 1024)
    n, e = in_words(s.monthly), in_words(entries)
    cuts = 86_400.0 * DAYS
    lines = [
        line("SQS: sends, receives, deletes", f"{n} × (1 + 2/{POLL})", s.monthly * (1 + 2 / POLL), "sqs"),
        line("log entries", f"{e} × {entry_units}", entries * entry_units, "write"),
        line("DONE marks", e, entries, "write"),
        line("by-key items", f"{n} × {item_units}", s.monthly * item_units, "write"),
        line("epochs, one a second", in_words(cuts), cuts, "write"),
        line("reads of those", f"{in_words(cuts)} × {EPOCH_READS}", cuts * EPOCH_READS, "read"),
    ]
    rounds = 86_400 / SEGMENT_SECONDS * DAYS
    units = entries * m.entry_bytes / 4096 + rounds * ROUND_UNITS
    counted = f"({e} × {m.entry_bytes:,.0f} B / 4 KB + {rounds:,.0f} rounds × {ROUND_UNITS})"
    lines += [
        line("archiver's reads", counted, units, "read"),
        line("archiver's marks", f"{rounds:,.0f} × {ROUND_UNITS}", rounds * ROUND_UNITS, "write"),
    ]
    if keep_days is not None:
        lines.append(line("letting go: items written again", n, s.monthly * item_units, "write"))
    kept = s.changes * (keep_days if keep_days is not None else s.months * DAYS)
    item = m.by_key_bytes + ITEM_OVERHEAD
    entry = (m.entry_bytes + ITEM_OVERHEAD) / s.entry_rows
    stored = kept * (item + entry) / GIB
    lines.append(
        line(
            "the table's storage",
            f"{in_words(kept)} × ({item:.0f} + {entry:.0f}) B = {stored:,.0f} GB",
            stored,
            "table",
        ),
    )
    return [*lines, *_archive(m, s), *_computing(m, s)]


def checkpoints(s: Scenario) -> float:
    """A month."""
    return s.monthly / (CHECKPOINT_SHARE * s.objects)


def with_differentials(s: Scenario) -> float:
    """As many checkpoints would be as much work: the differentials of one have at most two fifths of its rows
    together, since the last has a fifth, and each of the others half of the next."""
    return checkpoints(s) * (1 + 2 * CHECKPOINT_SHARE)


def _archive(m: Measured, s: Scenario) -> list[Line]:
    segments = 86_400 / SEGMENT_SECONDS * DAYS
    longer = 24 * DAYS + DAYS + 5
    parts = m.object_bytes * s.objects / PART_BYTES + 2 * s.objects / FILE_ROWS
    made = with_differentials(s)
    puts = (segments + longer) * SEGMENT_PUTS + made * parts
    gets = (
        segments * SEGMENT_PUTS * (1 + COMPACTIONS)
    ) * 2 + made * m.object_bytes * s.objects / REQUEST_BYTES
    observed = s.objects * m.listed_bytes + s.monthly * s.months * m.event_bytes
    held = 1 + made * s.months
    stored = (observed + held * s.objects * m.object_bytes) / GIB
    work = f"{made:.2g} checkpoints' worth × {parts:,.0f}"
    counted = f"({segments:,.0f} + {longer} segments) × {SEGMENT_PUTS} + {work}"
    return [
        line("archive: PUT", counted, puts, "put"),
        line("archive: GET (read back, compaction, checkpoints)", in_words(gets), gets, "get"),
        line(
            "archive: storage",
            f"({in_words(s.objects)} × {m.listed_bytes:.0f} B + "
            f"{in_words(s.monthly * s.months)} × {m.event_bytes:.0f} B + {held:.0f} checkpoints' worth × "
            f"{in_words(s.objects)} × {m.object_bytes:.0f} B) = {stored:,.0f} GB",
            stored,
            "s3",
        ),
    ]


def archiver_hours(m: Measured, s: Scenario) -> float:
    """Of computing, a month."""
    seconds = s.monthly / m.archive_rate + COMPACTIONS * s.monthly / m.compaction_rate
    return (seconds + with_differentials(s) * s.objects / m.checkpoint_rate) / 3600


def _computing(m: Measured, s: Scenario) -> list[Line]:
    vcpu, memory = PRICES["vcpu"].dollars, PRICES["memory"].dollars
    hours = archiver_hours(m, s)
    return [
        Line("a worker", f"730 h × (1 vCPU × ${vcpu:g} + 2 GB × ${memory:g})", 730 * (vcpu + 2 * memory)),
        Line(
            "the archiver",
            f"{hours:.1f} h × (2 vCPU × ${vcpu:g} + 4 GB × ${memory:g})",
            hours * (2 * vcpu + 4 * memory),
        ),
    ]


def standing(s: Scenario) -> float:
    """Segments after the newest checkpoint, on average: of days, of hours, of five minutes. Differentials,
    which spare a view many of them, are left out of the account."""
    return CHECKPOINT_SHARE * s.objects / s.changes / 2 + 24 / 2 + 3600 / SEGMENT_SECONDS / 2


def prefix_requests(m: Measured, s: Scenario) -> float:
    """Of one view: what was measured has one such segment; each has a footer and a row group to ask for."""
    return m.prefix_requests + 2 * (standing(s) - 1)


def prefix_seconds(m: Measured, s: Scenario) -> float:
    return (m.prefix_ms + m.group_ms * (standing(s) - 1)) / 1000


def prefix_mib(m: Measured, s: Scenario) -> float:
    return m.prefix_mib + m.group_mib * (standing(s) - 1)


def views(m: Measured, s: Scenario) -> list[Line]:
    """Of a month: one of the whole bucket a day, and those of prefixes."""
    gets = s.objects * m.object_bytes / REQUEST_BYTES
    many = s.prefix_views * DAYS
    hours = DAYS * s.objects / m.view_rate / 3600
    vcpu, memory = PRICES["vcpu"].dollars, PRICES["memory"].dollars
    asked = prefix_requests(m, s)
    units = (many + DAYS) * MANIFEST_UNITS
    return [
        line("the whole bucket, daily", f"{DAYS} × {gets:,.0f}", DAYS * gets, "get"),
        Line(
            "computing for that",
            f"{hours:.1f} h × (2 vCPU × ${vcpu:g} + 4 GB × ${memory:g})",
            hours * (2 * vcpu + 4 * memory),
        ),
        line("prefixes of 1,000 keys", f"{many:,.0f} × {asked:.0f}", many * asked, "get"),
        line("manifests for all", f"({many:,.0f} + {DAYS}) × {MANIFEST_UNITS}", units, "read"),
    ]


def listing(s: Scenario) -> list[Line]:
    """ListObjectVersions, for each of the same looks."""
    pages = s.objects * s.versions / 1000
    many = s.prefix_views * DAYS
    return [
        line("the whole bucket, daily", f"{DAYS} × {in_words(pages)}", DAYS * pages, "put"),
        line("prefixes of 1,000 keys", f"{many:,.0f} × {s.versions:.0f}", many * s.versions, "put"),
    ]


def inventory(m: Measured, s: Scenario) -> list[Line]:
    """S3 Inventory, daily, of all versions; the last seven reports are kept."""
    rows = s.objects * s.versions
    stored = 7 * rows * m.object_bytes / GIB
    return [
        line("reports", f"{DAYS} × {in_words(rows)}", DAYS * rows, "inventory"),
        line("seven reports, as large as our checkpoints", f"{stored:,.0f} GB", stored, "s3"),
    ]


def metadata(s: Scenario) -> list[Line]:
    """S3 Metadata: journal and live inventory tables."""
    rows = s.objects * s.versions
    journal = s.monthly * s.months * s.journal_bytes / GIB
    live = rows * s.journal_bytes / GIB
    stored = f"({in_words(s.monthly * s.months)} + {in_words(rows)}) rows × {s.journal_bytes:.0f} B (assumed)"
    lines = [
        line("journal", in_words(s.monthly), s.monthly, "journal"),
        line("tables", f"{stored} = {journal + live:,.0f} GB", journal + live, "tables"),
        line("their compaction", f"{(journal / s.months):,.0f} GB", journal / s.months, "tables_compaction"),
    ]
    if rows > 1e9:
        lines.insert(1, line("live inventory", in_words(rows), rows, "live"))
    return lines


def once(s: Scenario) -> dict[str, Line]:
    """What beginning costs."""
    return {
        "snapengine": line("the baseline's listing", in_words(s.objects / 1000), s.objects / 1000, "put"),
        "S3 Metadata": line("backfill", in_words(s.objects), s.objects, "journal"),
    }
