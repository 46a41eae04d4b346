"""`snapengine extract`: what is already there, once, however often it is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metadata_extractors.backfill import Report, backfill
from metadata_extractors.limits import ExtractorSpec
from snapengine.archiving.run import archive_bucket
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import (
    BucketNotEnabled,
    PermissionMissing,
    SnapEngineError,
    TryAgain,
    Unreachable,
    UsageError,
)
from snapengine.forgotten import key_unit, tell
from snapengine.model import ObjectVersion
from snapengine.row_reading import joined
from snapengine.settings import Settings
from tests.dicom_files import dicom
from tests.extract_house import Site


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    store = f"sqlite:///{tmp_path / 'log.db'}"
    monkeypatch.setenv("SNAPENGINE_STORE", store)
    return Site(cloud.environment(), store)


def landed(site: Site, *keys: str) -> None:
    site.observe(*(site.put(key, dicom(Modality="CT", PatientName=key)) for key in keys))


def extracted(site: Site, **options: Any) -> Report:
    given: dict[str, Any] = {"processes": 2} | options
    return asyncio.run(backfill(site.engine, site.bucket, "w", **given))


def test_every_version_of_the_view_has_a_row_afterwards_and_is_not_read_twice(site: Site) -> None:
    landed(site, "a", "b", "c")
    report = extracted(site)
    assert (report.looked_at, report.had_rows, report.untried.total()) == (3, 0, 0)
    assert report.outcomes["dicom"] == {"ok": 3}
    assert {row["PatientName"] for row in site.rows().values()} == {"a", "b", "c"}
    landed(site, "d")
    again = extracted(site)
    assert (again.looked_at, again.had_rows) == (4, 3)
    assert again.outcomes["dicom"] == {"ok": 1}
    assert site.stored().num_rows == 4


def test_what_the_worker_has_extracted_is_not_done_again(site: Site) -> None:
    tasks = [site.put(key, dicom()) for key in ("a", "b")]
    site.observe(*tasks)
    site.send(tasks[0])
    site.run()
    assert extracted(site).outcomes["dicom"] == {"ok": 1}
    assert site.stored().num_rows == 2


def test_with_again_and_for_a_new_version_of_the_extractor_it_is_read_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed(site, "a")
    first = extracted(site)
    assert extracted(site, again=True).outcomes["dicom"] == {"ok": 1}
    assert site.stored().num_rows == 2
    monkeypatch.setattr(
        "metadata_extractors.slots.spec_of",
        lambda name, _columns: ExtractorSpec(name, "tests.newer_dicom:NewerDicom"),
    )
    newer = extracted(site)
    assert newer.versions == {"dicom": "1000"}
    assert newer.outcomes["dicom"] == {"ok": 1}
    assert extracted(site).had_rows == 1
    assert {row["extractor_version"] for row in site.rows().values()} == {"1000"}
    epoch = site.engine.store.epoch(site.bucket, first.epoch)
    assert epoch
    assert sum(epoch.rows.values()) == 1  # an old reference still sees the old row alone


def test_a_prefix_an_instant_and_an_extractor_can_be_chosen(site: Site) -> None:
    landed(site, "ct/1", "mr/1")
    then = site.engine.store.newest_epoch(site.bucket)
    landed(site, "ct/1")
    report = extracted(site, prefix="ct/", extractors=["object", "dicom", "object"])
    assert (report.looked_at, list(report.versions)) == (1, ["object", "dicom"])
    assert then
    assert site.outcomes() == {"ct/1": "ok"}
    assert site.outcomes("object") == {"ct/1": "ok"}
    instant = min(version.event_time for version in site.engine.view(site.bucket).values())
    assert extracted(site, at=instant).looked_at >= 1


def test_of_several_extractors_each_gets_what_it_lacks(site: Site) -> None:
    landed(site, "a", "b")
    extracted(site, extractors=["dicom"], prefix="a")
    report = extracted(site, extractors=["dicom", "object"])
    assert report.outcomes == {"dicom": {"ok": 1}, "object": {"ok": 2}}
    assert (report.looked_at, report.had_rows) == (2, 0)


def test_a_null_version_has_a_row_of_its_own(site: Site) -> None:
    site.versioning("Suspended")
    landed(site, "a")
    extracted(site)
    time.sleep(0.01)
    site.observe(site.put("a", dicom(Modality="MR")))
    assert extracted(site).outcomes["dicom"] == {"ok": 1}
    assert [row["Modality"] for row in site.rows().values()].count("MR") == 1


def test_without_extractors_or_bucket_it_says_what_to_do(site: Site) -> None:
    site.register(extractors=())
    with pytest.raises(UsageError, match="--extractor"):
        extracted(site)
    with pytest.raises(UsageError, match="There is no extractor 'dicon'"):
        extracted(site, extractors=["dicon"])
    site.bucket = "nobodys"
    with pytest.raises(BucketNotEnabled):
        extracted(site)


def test_what_is_forgotten_is_counted_and_not_read(site: Site) -> None:
    landed(site, "a", "b")

    async def forget() -> None:
        async with site.engine.log() as log:
            await tell(log, site.bucket, "forget", [key_unit("b")], site.engine.clock)

    asyncio.run(forget())
    report = extracted(site)
    assert (report.looked_at, report.forgotten) == (2, 1)
    assert report.outcomes["dicom"] == {"ok": 1}


class Refusing(Engine):
    def __init__(self, settings: Settings, error: SnapEngineError, *keys: str) -> None:
        super().__init__(settings)
        self._error = error
        self._keys = keys

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        if not self._keys or version.key in self._keys:
            raise self._error
        return super().read(bucket, version, start, end)


def test_what_s3_refuses_is_counted_and_tried_by_the_next_run(site: Site) -> None:
    landed(site, "a", "b", "c")
    engine = site.engine
    site.engine = Refusing(engine.settings, PermissionMissing("denied"), "b")
    report = extracted(site)
    assert report.untried == {"permission-missing": 1}
    assert report.outcomes["dicom"] == {"ok": 2}
    site.engine = engine
    assert extracted(site).outcomes["dicom"] == {"ok": 1}


def test_where_everything_is_refused_it_ends_early(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metadata_extractors.backfill.HOPELESS", 3)
    landed(site, *(f"k{number}" for number in range(20)))
    site.engine = Refusing(site.engine.settings, PermissionMissing("denied"))
    with pytest.raises(PermissionMissing):
        extracted(site, processes=1)


def test_an_outage_ends_it_and_what_is_stored_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metadata_extractors.backfill.PATIENCE", 0.1)
    landed(site, "a", "b")
    extracted(site, prefix="a")
    engine = site.engine
    site.engine = Refusing(engine.settings, Unreachable("no answer"))
    with pytest.raises(TryAgain):
        extracted(site)
    site.engine = engine
    assert extracted(site).had_rows == 1


# As a command


def test_the_command_says_what_it_did(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    landed(site, "a", "b")
    site.observe(site.put("c", b"text"))
    assert run(["extract", site.bucket, "--processes", "1"]) == 0
    shown = capsys.readouterr()
    assert "3 objects, 0 had rows, 3 rows stored" in shown.out
    assert "dicom 1: 2 ok, 1 not_matched" in shown.out
    assert run(["extract", site.bucket, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["objects"], told["had_rows"]) == (3, 3)
    assert told["extractors"] == {"dicom": {"version": "1", "rows": {}}}
    lines = list(site.engine.store.audit_log())
    assert [(line.action, line.outcome) for line in lines] == [("extract", "started"), ("extract", "ok")] * 2
    assert lines[1].detail == "3 objects, 0 had rows, 3 rows stored"


def test_the_exit_code_is_1_if_some_could_not_be_tried(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    landed(site, "a", "b")
    read = Engine.read

    def refuse(self: Engine, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        if version.key == "b":
            raise PermissionMissing("denied")
        return read(self, bucket, version, start, end)

    monkeypatch.setattr(Engine, "read", refuse)
    assert run(["extract", site.bucket, "--json", "--processes", "1"]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["untried"] == {"permission-missing": 1}
    assert json.loads(shown.err)["code"] == "try-again"


def test_a_run_that_is_killed_is_gone_on_with(site: Site) -> None:
    landed(site, *(f"k{number:03}" for number in range(500)))
    command = [sys.executable, "-m", "snapengine", "extract", site.bucket, "--processes", "1"]
    process = subprocess.Popen(
        command, env={**os.environ, **site.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not stored_entries(site):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(10)
    report = extracted(site)
    assert report.looked_at == 500
    assert report.had_rows > 0
    assert report.outcomes["dicom"].total() + report.had_rows == 500
    assert len(site.outcomes()) == 500


def stored_entries(site: Site) -> int:
    """Of rows, whether or not an epoch covers them."""

    async def ask() -> int:
        async with site.engine.log() as log:
            heads = [await log.head(f"{site.bucket}#metadata", s) for s in range(site.config.streams)]
            return sum(heads)

    return asyncio.run(ask())


# From the archive


def test_what_the_archive_has_rows_of_is_not_read_again(site: Site, tmp_path: Path) -> None:
    hour = 3_600_000
    ahead = site.engine.clock() + hour
    settings = Settings(
        store=site.engine.settings.store, archive=f"file://{tmp_path / 'archive'}", cache="off"
    )
    site.register(baseline_started=1, baseline_ended=1)
    landed(site, *(f"ct/{number}" for number in range(6)), "mr/1")
    extracted(site, prefix="ct/")
    site.engine = Engine(settings, clock=lambda: ahead)  # a checkpoint is of five minutes ago
    landed(site, "ct/last")
    report = asyncio.run(archive_bucket(site.engine, site.bucket, checkpoint_now=True))
    assert report.checkpoint
    (checkpoint,) = site.engine.archive(site.bucket).checkpoints
    assert "dicom" in checkpoint.extractors
    landed(site, "ct/2", "new")
    view, epoch = site.engine.view(site.bucket), site.engine.store.newest_epoch(site.bucket)
    assert epoch
    assert joined(site.engine, view.ref, epoch, "dicom", identifying=False).files
    found = extracted(site)
    assert (found.looked_at, found.had_rows) == (9, 5)
    assert found.outcomes["dicom"] == {"ok": 4}
    assert extracted(site, prefix="ct/").had_rows == 7
    assert len(site.outcomes()) == 9
