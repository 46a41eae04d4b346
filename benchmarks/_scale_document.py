"""docs/scale.md as `simulate_scale` writes it, and what it recorded there, read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace

from benchmarks._scale_model import (
    DAYS,
    PRICES,
    Line,
    Measured,
    Scenario,
    archiver_hours,
    checkpoints,
    in_words,
    inventory,
    listing,
    metadata,
    once,
    ours,
    prefix_mib,
    prefix_requests,
    prefix_seconds,
    standing,
    total,
    views,
)

KEEP_DAYS = 30
UNITS: Mapping[str, str] = {
    "entry_bytes": "bytes",
    "by_key_bytes": "bytes",
    "event_bytes": "bytes",
    "listed_bytes": "bytes",
    "object_bytes": "bytes",
    "archive_rate": "observations/s",
    "compaction_rate": "observations/s",
    "checkpoint_rate": "objects/s",
    "view_rate": "objects/s",
    "prefix_ms": "ms",
    "prefix_requests": "GET requests",
    "prefix_mib": "MiB",
    "group_ms": "ms",
    "group_mib": "MiB",
    "bucket_objects": "objects",
}
_WHAT: Mapping[str, str] = {
    "entry_bytes": "a log item with {rows} observations: what a worker gathers in 0.2 s",
    "by_key_bytes": "a by-key item",
    "event_bytes": "an event in a segment, at rest",
    "listed_bytes": "a listed version in a segment, at rest",
    "object_bytes": "an object in a checkpoint, at rest",
    "archive_rate": "from the log to committed segments",
    "compaction_rate": "from eight segments to one",
    "checkpoint_rate": "a checkpoint of the whole bucket",
    "view_rate": "the digest of a view of the whole bucket, streamed",
    "prefix_ms": "a cold view of 1,000 keys, one segment after the checkpoint",
    "prefix_requests": "of that view",
    "prefix_mib": "read for it",
    "group_ms": "one row group of one segment, all columns",
    "group_mib": "the same",
    "bucket_objects": "live in the bucket in which views and checkpoints were measured",
}
_ROW = re.compile(r"^\| `(\w+)` \| ([0-9.e+]+) \|", re.MULTILINE)


def recorded(text: str) -> Measured:
    """The figures of the page's first table. Raises `ValueError` if one is missing."""
    found = {name: float(value) for name, value in _ROW.findall(text)}
    missing = [f.name for f in fields(Measured) if f.name not in found]
    if missing:
        raise ValueError(f"docs/scale.md does not say {', '.join(missing)}")
    return Measured(**{f.name: found[f.name] for f in fields(Measured)})


def page(m: Measured, s: Scenario) -> str:
    """The whole page; nothing in it is written by hand."""
    mine, kept = ours(m, s, None), ours(m, s, KEEP_DAYS)
    looks = views(m, s)
    bills = {"listing": listing(s), "inventory": inventory(m, s), "metadata": metadata(s)}
    return "\n".join(
        [
            _OPENING.format(
                objects=in_words(s.objects), changes=in_words(s.changes), versions=f"{s.versions:g}"
            ),
            *_measured(m, s),
            "",
            *_summary(m, s, mine, kept, looks, bills),
            "",
            *_reading(m, s),
            "",
            "## The arithmetic, a month of 30 days",
            "",
            "The prices' sources are below. A GB is 2^30 bytes, as AWS bills it. No free tier, no discount.",
            "",
            *_bill("snapengine, everything kept in the table", mine),
            *_bill(f"snapengine, `--keep-days {KEEP_DAYS}`", kept),
            *_bill("Views of it", looks),
            *_bill("ListObjectVersions, the same looks", bills["listing"]),
            *_bill("S3 Inventory, daily, all versions", bills["inventory"]),
            *_bill("S3 Metadata, journal and live inventory", bills["metadata"]),
            *_bill("Once, to begin with", list(once(s).values()), summed=False),
            *_assumed(s),
            "",
            "## Prices",
            "",
            "List prices of us-east-1, on demand. Look them up anew before you decide by them.",
            "",
            "| price | of | read in |",
            "|---|---|---|",
            *(
                f"| ${p.dollars:g} | {in_words(p.per) + ' ' if p.per != 1 else ''}{p.unit} | {p.source} |"
                for p in PRICES.values()
            ),
            "",
        ]
    )


def _measured(m: Measured, s: Scenario) -> list[str]:
    rows = [
        f"| `{f.name}` | {getattr(m, f.name):g} | {UNITS[f.name]} | "
        f"{_WHAT[f.name].format(rows=int(s.entry_rows))} |"
        for f in fields(Measured)
    ]
    return ["## Measured", "", "| name | value | unit | of |", "|---|---|---|---|", *rows]


def _summary(
    m: Measured,
    s: Scenario,
    mine: list[Line],
    kept: list[Line],
    looks: list[Line],
    bills: Mapping[str, list[Line]],
) -> list[str]:
    pages = s.objects * s.versions / 1000
    whole = s.objects / m.view_rate
    prefix = f"{prefix_seconds(m, s):.1f} s"
    rows = [
        (
            "snapengine",
            total(mine) + total(looks),
            f"{_time(whole)}, one machine",
            prefix,
        ),
        (
            f"snapengine, `--keep-days {KEEP_DAYS}`",
            total(kept) + total(looks),
            f"{_time(whole)}, one machine",
            prefix,
        ),
        (
            "ListObjectVersions",
            total(bills["listing"]),
            f"{_time(pages * s.list_seconds)}, page by page",
            f"{s.versions * s.list_seconds:.1f} s",
        ),
        ("S3 Inventory", total(bills["inventory"]), "a day old or two, then a query", "the same query"),
        ("S3 Metadata", total(bills["metadata"]), "an hour old, then a query", "the same query"),
    ]
    return [
        "## A month",
        "",
        _LOOKS.format(months=f"{s.months:g}", prefixes=f"{s.prefix_views:,.0f}"),
        "",
        "| | dollars a month | the whole bucket at T | a prefix at T |",
        "|---|---|---|---|",
        *(f"| {name} | {dollars:,.0f} | {view} | {prefix} |" for name, dollars, view, prefix in rows),
    ]


def _reading(m: Measured, s: Scenario) -> list[str]:
    again = next(each for each in ours(m, s, KEEP_DAYS) if each.what.startswith("letting go")).dollars
    grows = _stored(m, s, s.months) - _stored(m, s, s.months - 1)
    text = _READING.format(
        days=KEEP_DAYS,
        again=f"{again:,.0f}",
        grows=f"{grows:,.0f}",
        months=f"{KEEP_DAYS / DAYS + again / grows:.0f}",
        hours=f"{archiver_hours(m, s):,.0f}",
        checkpoints=f"{checkpoints(s):.2g}",
        standing=f"{standing(s):.0f}",
        requests=f"{prefix_requests(m, s):.0f}",
        mib=f"{prefix_mib(m, s):.0f}",
        prefix=f"{prefix_seconds(m, s):.1f}",
        each=_time(s.objects / m.checkpoint_rate),
    )
    return text.splitlines()


def _stored(m: Measured, s: Scenario, months: float) -> float:
    """Dollars a month for the table's storage, if all is kept, after so many months."""
    lines = ours(m, replace(s, months=months), None)
    return next(each for each in lines if each.what == "the table's storage").dollars


def _bill(name: str, lines: list[Line], *, summed: bool = True) -> list[str]:
    rows = [f"| {each.what} | {each.arithmetic} | {each.dollars:,.2f} |" for each in lines]
    if summed:
        rows.append(f"| **together** | | **{total(lines):,.2f}** |")
    return [f"### {name}", "", "| | | $ |", "|---|---|---|", *rows, ""]


def _assumed(s: Scenario) -> list[str]:
    text = _ASSUMED.format(
        rate=in_words(s.changes / 86_400),
        rows=f"{s.entry_rows:.0f}",
        page=f"{s.list_seconds:g}",
        row=f"{s.journal_bytes:g}",
    )
    return text.splitlines()


def _time(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


_OPENING = """\
# At scale

What a bucket with {objects} objects ({versions} versions each on average) and {changes} changes a day
costs, beside other ways to know what was in it. `python -m benchmarks simulate_scale --write` measured
the first table and computed the rest from it; a test holds the page to that. It is a calculation: nobody
has run this bucket.
"""

_LOOKS = """\
Storage as it is after {months} months. Looks: the whole bucket once a day, {prefixes} prefixes of 1,000
keys a day."""

_READING = """\
Read it so:

- **We cost more than S3's own tables and reports.** Most of it is the price of recording each change by
  itself, in DynamoDB and SQS, and of keeping it there; the archive itself is cheap. S3 Metadata is the
  better bargain where an answer will do that is an hour old and that nothing pins, S3 Inventory where one
  of yesterday will.
- What they do not tell: the bucket at *any* past instant, and the same answer again later. Of versions
  that were removed for good a journal tells from its beginning on, a report or a listing never. Queries
  of reports and tables (Athena) are not in the bills.
- ListObjectVersions costs nothing between two looks. For a few looks a month, or for a prefix of which
  every version is still there, it is the cheapest; a prefix costs it two pages.
- `--keep-days {days}` writes each by-key item once more, to give it its time to live: ${again} a month.
  Without it the table's storage costs ${grows} more each month, so that after {months} months
  `--keep-days` is the cheaper.
- A prefix's view reads a row group of the checkpoint and one of each segment after it: between two
  checkpoints {standing} segments stand on average, which makes {requests} requests, {mib} MiB and {prefix} s
  cold; with the local cache the files of earlier looks are there already.
- The archiver is busy {hours} hours a month. A checkpoint takes {each}; {checkpoints} a month are due."""

_ASSUMED = """\
### Assumed, not measured

- Changes come evenly: {rate} a second, so {rows} in a log entry. In bursts entries are larger and fewer,
  and their share of the bill falls.
- SQS's receives and deletes are full (10 messages). Nearly empty ones could triple that line.
- All changes are new objects: the largest kind of item.
- A page of ListObjectVersions takes {page} s. Prefixes can be listed side by side, for the same price in
  less time.
- A row of S3 Metadata's tables takes {row} bytes, and its fee for live inventory counts versions.
- Rates were measured on two cores, beside other work, with the archive in a folder: a billion rows are
  taken to go as fast as those of the bucket that was measured. S3's own latency is not in them, nor are,
  for views of the whole bucket, the changes since the checkpoint (of a tenth of the objects on average,
  most of them put together in a differential).
- No checkpoint is thinned out in a year: those that are a week apart stay."""
