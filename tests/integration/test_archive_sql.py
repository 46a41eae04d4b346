"""docs/sql.md: DuckDB, PySpark and Polars read the archive by path, and SQL gives what `view` shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from snapengine.bulkfold import versions_of
from snapengine.views import View
from tests.integration.archive_history import BUCKET, START, ArchivedBucket
from tests.integration.test_golden_archive import GOLDEN, T0, VIEWS
from tests.spark_session import spark_rows

DOCS = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
HOUR_MS = 3_600_000

Row = tuple[Any, ...]
"""Key, version id, size, ETag, event time in ms, time, storage class, sequencer, and whether it is exact."""

pytestmark = [pytest.mark.xdist_group("archive-sql")]


def statements(engine: str | None, number: int = 0) -> list[str]:
    """Those of a block of the page: of one engine, or of both (None)."""
    blocks = re.findall(r"(?:(DuckDB|Spark):\n\n)?```sql\n(.*?)```", DOCS, re.DOTALL)
    sql = [text for name, text in blocks if name == (engine or "")][number]
    lines = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
    return [statement for statement in lines.split(";") if statement.strip()]


def of(root: Path, sql: Iterable[str], at: int = START, epoch: int = 0) -> list[str]:
    """The page's own words, with this archive, instant and epoch."""
    instant = datetime.fromtimestamp(at / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")
    ours = {
        "s3://archive/snapengine": str(root),
        "2026-11-20 09:00:00.000+00:00": instant,
        "1234": str(epoch),
        "<at>_<epoch>": f"{at}_{epoch}",
    }
    return [re.sub("|".join(map(re.escape, ours)), lambda m: ours[m[0]], one) for one in sql]


@pytest.fixture
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB that downloads nothing."""
    config: dict[str, Any] = {"autoinstall_known_extensions": "false", "threads": 1}
    with duckdb.connect(":memory:", config=config) as connection:
        yield connection


def asked(duck: duckdb.DuckDBPyConnection, root: Path, at: int, epoch: int) -> list[Row]:
    """What the query gives in DuckDB, in order of the keys."""
    for statement in of(root, [*statements("DuckDB", 1), *statements(None)], at, epoch):
        duck.execute(statement)
    return sorted(duck.fetchall())


def rows_of(view: View) -> list[Row]:
    return [
        (v.key, v.version_id, v.size, v.etag, v.event_time, v.time, v.storage_class, v.sequencer)
        for v in versions_of(view.to_arrow())
    ]


def exact_share(site: ArchivedBucket, rows: list[Row], at: int, epoch: int) -> float:
    """What is exact is what the view shows, no key of the view is missing; the share of exact keys."""
    open_keys = {row[0] for row in rows if not row[-1]}
    assert all(row[1:-1] == (None,) * 7 for row in rows if not row[-1])
    assert len({row[0] for row in rows}) == len(rows)
    view = site.engine.view(BUCKET, at, epoch=epoch)
    shown = rows_of(view)
    assert [row[:-1] for row in rows if row[-1]] == [row for row in shown if row[0] not in open_keys]
    known = sum(1 for key in site.keys if any(e.key == key for e in site.s3.events))
    return 1 - len(open_keys) / known


def questions(site: ArchivedBucket, count: int) -> list[tuple[int, int]]:
    """Instants and epochs: of the end, and any."""
    newest = site.engine.store.newest_epoch(BUCKET)
    assert newest is not None
    times = [e.event_time for e in site.s3.events]
    some = [
        (
            site.random.choice(times) + site.random.choice([-1, 0, 0, 300]),
            site.random.randint(1, newest.number),
        )
        for _ in range(count)
    ]
    return [(newest.time, newest.number), *some]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ArchivedBucket:
    """Events alone, late, twice and in any order; versioning is suspended for a while."""
    site = ArchivedBucket(tmp_path_factory.mktemp("plain"), seed=1)
    for part in range(8):
        if part in {3, 5}:
            site.s3.switch()
        site.deeds(120)
        site.write()
        site.cut()
        if part % 2:
            site.archive()
        site.s3.now += HOUR_MS // 3
    site.archive()
    return site


def lived(folder: Path, seed: int, versioning: Any) -> ArchivedBucket:
    """A bucket from before it was watched; some events are lost, and listings find what they told."""
    site = ArchivedBucket(folder, seed, versioning)
    site.deeds(250)
    site.forget()
    for part in range(8):
        if part in {0, 3, 6}:
            site.s3.now += 5000
            site.take_listing()
        if versioning == "enabled" and part in {4, 5}:
            site.s3.switch()  # and back again
        site.deeds(60)
        site.write(lost=0.1)
        site.cut()
        if part % 2:
            site.archive(checkpoint=part == 5)
        site.s3.now += HOUR_MS // 3
    site.archive(checkpoint=True)
    return site


@pytest.fixture(scope="module")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> ArchivedBucket:
    return lived(tmp_path_factory.mktemp("versioned"), 2, "enabled")


@pytest.fixture(scope="module")
def unversioned(tmp_path_factory: pytest.TempPathFactory) -> ArchivedBucket:
    return lived(tmp_path_factory.mktemp("unversioned"), 3, "off")


def test_of_a_bucket_known_from_events_alone_every_row_is_exact(
    plain: ArchivedBucket, duck: duckdb.DuckDBPyConnection
) -> None:
    for at, epoch in questions(plain, 12):
        assert exact_share(plain, asked(duck, plain.root, at, epoch), at, epoch) == 1.0, (at, epoch)


def test_with_listings_too_exact_rows_are_the_views_and_nearly_all_keys_are(
    versioned: ArchivedBucket, duck: duckdb.DuckDBPyConnection
) -> None:
    shares = [exact_share(versioned, asked(duck, versioned.root, *q), *q) for q in questions(versioned, 12)]
    assert min(shares) >= 0.9, shares


def test_without_versioning_most_keys_are_exact_too(
    unversioned: ArchivedBucket, duck: duckdb.DuckDBPyConnection
) -> None:
    shares = [
        exact_share(unversioned, asked(duck, unversioned.root, *q), *q) for q in questions(unversioned, 12)
    ]
    assert min(shares) >= 0.8, shares


def test_the_folders_of_segments_do_overlap(plain: ArchivedBucket) -> None:
    """What the tests before this one read was there twice, in part."""
    folders = [f.name.partition("=")[2].split("_") for f in (plain.root / BUCKET / "observations").iterdir()]
    spans = sorted((int(first), int(last)) for first, last in folders)
    assert any(following[0] <= before[1] for before, following in pairwise(spans)), spans


def test_no_row_is_exact_where_an_epoch_is_not_archived(
    plain: ArchivedBucket, duck: duckdb.DuckDBPyConnection
) -> None:
    newest = plain.engine.store.newest_epoch(BUCKET)
    assert newest is not None
    rows = asked(duck, plain.root, newest.time, newest.number + 1)
    assert rows
    assert not any(row[-1] for row in rows)


def test_the_newest_archived_epoch_is_found(
    versioned: ArchivedBucket, duck: duckdb.DuckDBPyConnection
) -> None:
    (statement,) = of(versioned.root, statements("DuckDB", 0))
    newest = versioned.engine.store.newest_epoch(BUCKET)
    assert newest is not None
    assert duck.execute(statement).fetchall() == [(newest.number,)]


def test_a_checkpoint_is_the_view(versioned: ArchivedBucket, duck: duckdb.DuckDBPyConnection) -> None:
    which, objects = statements("DuckDB", 2)
    found = duck.execute(*of(versioned.root, [which])).fetchall()
    assert len(found) == 2
    for at, epoch in found:
        rows = duck.execute(*of(versioned.root, [objects], at, epoch)).fetchall()
        assert sorted(rows) == rows_of(versioned.engine.view(BUCKET, at, epoch=epoch))


@pytest.mark.parametrize(("seconds", "epoch", "rows"), [view[:3] for view in VIEWS])
def test_the_golden_archive_is_read_too(
    duck: duckdb.DuckDBPyConnection, seconds: int, epoch: int, rows: list[Row]
) -> None:
    assert asked(duck, GOLDEN, T0 + seconds * 1000, epoch) == [(*row, True) for row in rows]


def test_polars_counts_what_duckdb_counts(versioned: ArchivedBucket, duck: duckdb.DuckDBPyConnection) -> None:
    newest = versioned.engine.store.newest_epoch(BUCKET)
    assert newest is not None
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    names: dict[str, Any] = {}
    (ours,) = of(versioned.root, [code], epoch=newest.number - 1)
    exec(ours, names)  # noqa: S102  # our own page
    told: pl.DataFrame = names["told"]
    glob = f"{versioned.root}/{BUCKET}/observations/*/*.parquet"
    counted = duck.execute(
        "SELECT kind, count(*) FROM (SELECT DISTINCT * FROM read_parquet(?, hive_partitioning = false) "
        "WHERE epoch <= ?) GROUP BY kind",
        [glob, newest.number - 1],
    ).fetchall()
    assert sorted(told.rows()) == sorted(counted)
    assert len(counted) == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_spark_gives_what_duckdb_gives(
    versioned: ArchivedBucket,
    unversioned: ArchivedBucket,
    duck: duckdb.DuckDBPyConnection,
    tmp_path: Path,
) -> None:
    jobs: list[str] = []
    asked_of: list[tuple[ArchivedBucket, int, int]] = []
    for site in (versioned, unversioned):
        at, epoch = questions(site, 1)[-1]
        asked_of.append((site, at, epoch))
        jobs += of(site.root, [*statements("Spark", 0), *statements(None)], at, epoch)
    point = versioned.engine.archive(BUCKET).checkpoints[-1]
    jobs += of(versioned.root, statements("Spark", 1), point.at, point.epoch)
    *found, checkpoint = [rows for rows in spark_rows(jobs, tmp_path) if rows]
    assert len(found) == 2
    for (site, at, epoch), rows in zip(asked_of, found, strict=True):
        assert sorted(map(tuple, rows)) == asked(duck, site.root, at, epoch)
    view = versioned.engine.view(BUCKET, point.at, epoch=point.epoch)
    assert sorted(map(tuple, checkpoint)) == rows_of(view)
