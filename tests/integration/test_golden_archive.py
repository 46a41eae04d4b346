"""Archives of every format that was released are read for ever; those of newer ones are refused, in words."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snapengine import Engine, Settings
from snapengine.archive import writing
from snapengine.archive.manifest import ArchiveFile, Segment, from_json, to_json
from snapengine.archive.schemas import ORDER
from snapengine.archive.writing import FileWriter
from snapengine.archiving.rebuild import rebuild_table
from snapengine.bulkfold import versions_of
from snapengine.errors import SchemaTooNew
from snapengine.model import BucketConfig, Epoch, Snapshot, Watermarks
from snapengine.views import View

GOLDEN = Path(__file__).parents[1] / "archive" / "format-1"
T0 = 1_700_000_000_000
BUCKET = "scans"

Row = tuple[str, str, int | None, str | None, int, str, str | None, str | None]

NEW_1: Row = ("ct/new.dcm", "n1", 60, "etag-60", T0 + 60_007, "event", None, "000000003C")
BEFORE: Row = ("ct/before.dcm", "b2", 75, "etag-75", T0 + 75_007, "event", None, "000000004B")
LOST: Row = ("ct/lost.dcm", "l1", 78, "etag-78", T0 + 78_007, "event", None, "000000004E")
REMOVED: Row = ("ct/removed.dcm", "r1", 85, "etag-85", T0 + 85_007, "event", None, "0000000055")
LATE: Row = ("ct/late.dcm", "late", 65, "etag-65", T0 + 65_007, "event", None, "0000000041")
OLD: Row = ("ct/before.dcm", "old", 1000, "etag-1000", T0 - 1_000_000, "listed", "GLACIER", None)
NULL_1: Row = ("ct/null.dcm", "null", 900, "etag-900", T0 - 900_000, "listed", "STANDARD", None)
NULL_2: Row = ("ct/null.dcm", "null", 400, "etag-400", T0 + 400_007, "event", None, "0000000190")
E_2: Row = ("ct/é.dcm", "e2", 500, "etag-500", T0 - 500_000, "listed", "STANDARD", None)
E_1: Row = ("ct/é.dcm", "e1", 600, "etag-600", T0 - 600_000, "listed", "STANDARD", None)
NEW_2: Row = ("ct/new.dcm", "n2", 900, "etag-900", T0 + 900_007, "event", None, "0000000384")
NEWEST: Row = ("ct/newest.dcm", "w1", 1080, "etag-1080", T0 + 1_080_007, "event", None, "0000000438")
LAST: Row = ("ct/last.dcm", "z1", 1400, "etag-1400", T0 + 1_400_007, "event", None, "0000000578")

VIEWS = [
    (30, 1, [OLD, NULL_1, E_2], "sha256:8b13e729d510a016de8d224ef814790869678e7e2d420999fff0c54b1857faee"),
    (
        300,
        2,
        [BEFORE, LOST, NEW_1, NULL_1, REMOVED, E_2],
        "sha256:58e9272e17cb392efac73020954c595194f0b635f7ef790e84d126024b74bb41",
    ),
    (
        300,
        5,
        [BEFORE, LATE, LOST, NEW_1, NULL_1, REMOVED, E_2],
        "sha256:bde54d2c01ff655f4befdda2b52d0ffbf6e17d4ea8d5cb31cb0220ee900cb5cc",
    ),
    (
        800,
        5,
        [BEFORE, LATE, LOST, NEW_1, NULL_2, REMOVED, E_2],
        "sha256:15398eeafc44a1b9d2c2a5bdf05e013453ff5ff2180e9d4104e3130af1f02926",
    ),
    (
        950,
        5,
        [BEFORE, LATE, LOST, NEW_2, NULL_2, REMOVED, E_1],
        "sha256:15b50789750e7fd411331a1cf482f064b4dfcc1b4cb6e7d864510a8252ff095e",
    ),
    (
        1090,
        5,
        [BEFORE, LATE, NEW_2, NEWEST, NULL_2, REMOVED, E_1],
        "sha256:850868150fc57c58e204a751eb4a29b53cbd9b186bfac96b3fa73e06ad1ed4e9",
    ),
    (
        1450,
        6,
        [OLD, LAST, LATE, NEW_2, NEWEST, NULL_2, REMOVED, E_1],
        "sha256:1447d1ea622b94b318b4d8527c6926eaaab822544f791c2bb0564d92fa6b536a",
    ),
]
"""Seconds after T0, epoch, rows, digest: as it was when the archive was made. The checkpoint is (800, 5)."""


def rows_of(view: View) -> list[Row]:
    return [
        (v.key, v.version_id, v.size, v.etag, v.event_time, v.time, v.storage_class, v.sequencer)
        for v in versions_of(view.to_arrow())
    ]


class Restored:
    """An engine whose log is empty, with what the golden archive holds of the bucket beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "archive"
        shutil.copytree(GOLDEN, self.root)
        settings = Settings(store=f"sqlite:///{folder}/log.db", cache="off")
        self.engine = Engine(settings, clock=lambda: T0 + 2_000_000)
        self.engine.store.create()
        self.registry: dict[str, Any] = json.loads((self.root / BUCKET / "registry.json").read_text())
        config = BucketConfig(**self.registry["config"])
        self.engine.store.put_config(replace(config, archive=f"file://{self.root}"))
        self.manifests = {p.stem: p.read_text() for p in (self.root / BUCKET / "manifests").glob("*.json")}
        asyncio.run(self._put_epochs())

    async def _put_epochs(self) -> None:
        async with self.engine.log() as log:
            for file in sorted((self.root / BUCKET / "epochs").glob("*/*.parquet")):
                for row in pq.read_table(file, partitioning=None).to_pylist():
                    cover = {int(stream): last for stream, last in json.loads(row["cover"]).items()}
                    time = round(row["time"].timestamp() * 1000)
                    marks = Watermarks(**json.loads(row["watermarks"]))
                    assert await log.put_epoch(BUCKET, Epoch(row["number"], time, cover, marks))

    def commit(self, change: Callable[[dict[str, Any]], None] | None = None) -> Engine:
        """With the manifests in the table, each changed first."""
        for name, text in self.manifests.items():
            body = json.loads(text)
            if change is not None:
                change(body)
            assert self.engine.store.put_manifest(BUCKET, name, json.dumps(body))
        return self.engine


@pytest.fixture
def restored(tmp_path: Path) -> Restored:
    return Restored(tmp_path)


@pytest.mark.parametrize(("seconds", "epoch", "rows", "digest"), VIEWS)
def test_its_views_are_what_they_were(
    restored: Restored, seconds: int, epoch: int, rows: list[Row], digest: str
) -> None:
    view = restored.commit().view(BUCKET, T0 + seconds * 1000, epoch=epoch)
    assert rows_of(view) == rows
    assert view.digest() == digest
    assert [view[row[0]].version_id for row in rows] == [row[1] for row in rows]


def test_a_snapshot_named_then_has_the_same_digest(restored: Restored) -> None:
    (body,) = restored.registry["snapshots"]
    snapshot = Snapshot(**body)
    engine = restored.commit()
    assert snapshot.name == "run-1"
    assert engine.open_ref(snapshot.reference).digest() == snapshot.digest == VIEWS[2][3]


def test_a_table_is_rebuilt_from_it(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "archive")
    settings = Settings(store=f"sqlite:///{tmp_path}/log.db", cache="off")
    engine = Engine(settings, clock=lambda: T0 + 2_000_000)
    engine.store.create()
    rebuilt = asyncio.run(rebuild_table(engine, BUCKET, f"file://{tmp_path}/archive", check=True))
    assert (rebuilt.epoch, rebuilt.observations, rebuilt.checkpoints, rebuilt.snapshots) == (6, 21, 1, 1)
    for seconds, epoch, rows, digest in VIEWS:
        view = engine.view(BUCKET, T0 + seconds * 1000, epoch=epoch)
        assert rows_of(view) == rows
        assert view.digest() == digest
    assert engine.view(BUCKET, "snapshot:run-1").digest() == VIEWS[2][3]


def test_its_files_are_the_ones_that_were_committed(restored: Restored) -> None:
    named = {f.path: f for text in restored.manifests.values() for f in from_json(text).files}
    found = {str(path.relative_to(GOLDEN)): path for path in GOLDEN.rglob("*.parquet")}
    assert named.keys() == found.keys()
    assert {f.role for f in named.values()} == {"regular", "irregular", "epochs", "objects", "side"}
    for name, file in named.items():
        assert hashlib.sha256(found[name].read_bytes()).hexdigest() == file.sha256, name
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 200_000


def test_a_manifest_of_a_newer_format_is_refused(restored: Restored) -> None:
    engine = restored.commit(lambda body: body.update(format=4))
    with pytest.raises(SchemaTooNew, match=r"format 4; this snapengine reads up to 3\. Upgrade"):
        engine.view(BUCKET, T0 + 300_000, epoch=2).digest()


def test_fields_that_a_newer_snapengine_added_to_manifests_are_ignored(restored: Restored) -> None:
    def add(body: dict[str, Any]) -> None:
        body["signed_by"] = {"who": "somebody"}
        body["files"] = [file | {"bloom": [1, 2, 3]} for file in body["files"]]

    engine = restored.commit(add)
    for seconds, epoch, rows, digest in VIEWS:
        view = engine.view(BUCKET, T0 + seconds * 1000, epoch=epoch)
        assert rows_of(view) == rows
        assert view.digest() == digest


def rewritten(restored: Restored, extra: list[pa.Field[Any]]) -> None:
    """The first segment's files of observations again, as a newer snapengine writes them."""
    (name,) = (name for name in restored.manifests if name.startswith("segment-000000000001_"))
    segment = from_json(restored.manifests[name])
    assert isinstance(segment, Segment)
    root = restored.engine.root(f"file://{restored.root}")

    def again(file: ArchiveFile) -> ArchiveFile:
        table = pq.read_table(restored.root / file.path, partitioning=None).replace_schema_metadata(None)
        for field in extra:
            table = table.append_column(field, pa.array(["?"] * table.num_rows, field.type))
        path = file.path.replace(".parquet", "-again.parquet")
        with FileWriter(root, path, file.role, table.schema, sort=ORDER) as writer:
            writer.write(table)
        return writer.file

    files = tuple(f if f.role == "epochs" else again(f) for f in segment.files)
    restored.manifests[name] = to_json(replace(segment, files=files))


def test_a_file_of_a_newer_format_is_refused(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(writing, "FORMAT_VERSION", 2)
        rewritten(restored, [])
    engine = restored.commit()
    with pytest.raises(SchemaTooNew, match=r"parquet has format 2; this snapengine reads up to 1"):
        engine.view(BUCKET, T0 + 300_000, epoch=2).digest()


def test_columns_that_a_newer_snapengine_added_are_ignored(restored: Restored) -> None:
    rewritten(restored, [pa.field("checksum", pa.string())])
    engine = restored.commit()
    for seconds, epoch, rows, digest in VIEWS:
        view = engine.view(BUCKET, T0 + seconds * 1000, epoch=epoch)
        assert rows_of(view) == rows
        assert view.digest() == digest


def test_what_the_registry_keeps_of_a_bucket_is_known_still(restored: Restored) -> None:
    assert restored.registry["format"] == 1
    assert restored.registry["config"].keys() <= {field.name for field in fields(BucketConfig)}
    assert restored.registry["config"]["archive"] == "file:///archive"
