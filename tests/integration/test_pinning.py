"""Pins hold a view's versions in S3 as long as any pin shows them, and let go of nobody else's holds."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from moto.server import ThreadedMotoServer

import snapengine
from snapengine import Engine, View
from snapengine.cautions import RunNotNoted
from snapengine.cli.main import run as command
from snapengine.errors import NoSuchSnapshot, Refused, UsageError
from snapengine.pinning import pin, pins, unpin
from tests.seed import T0, enable, event, record


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Site:
    """Buckets with and without Object Lock, and their versions."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.s3: Any = engine.s3

    def bucket(self, name: str, *, lock: bool) -> None:
        self.s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
        enable(self.engine, name)

    def put(self, bucket: str, seconds: float, *keys: str) -> None:
        landed = []
        for key in keys:
            reply = self.s3.put_object(Bucket=bucket, Key=key, Body=b"x" * 10)
            landed.append(event(key, reply["VersionId"], seconds, etag=reply["ETag"].strip('"')))
        record(self.engine, landed, bucket)

    def held(self, view: View) -> set[str]:
        return {
            key
            for key, version in view.items()
            if self.s3.head_object(Bucket=view.bucket, Key=key, VersionId=version.version_id).get(
                "ObjectLockLegalHoldStatus"
            )
            == "ON"
        }


@pytest.fixture
def site(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("SNAPENGINE_STORE", f"sqlite:///{tmp_path}/log.db")
    engine = Engine()
    engine.store.create()
    return Site(engine)


@pytest.fixture
def locked(site: Site, request: pytest.FixtureRequest) -> str:
    name = f"locked-{abs(hash(request.node.name)) % 10**8}"
    site.bucket(name, lock=True)
    site.put(name, 1, "a", "b", "c")
    return name


def test_every_version_of_a_pinned_view_is_held_and_let_go_again(site: Site, locked: str) -> None:
    view = site.engine.view(locked, T0 + 5_000)
    done = pin(site.engine, view, creator="ann")
    assert (done.changed, done.left, done.gone) == (3, 0, [])
    assert site.held(view) == {"a", "b", "c"}
    (kept,) = pins(site.engine, locked)
    assert (kept.reference, kept.digest, kept.creator) == (view.reference, view.digest(), "ann")
    assert pin(site.engine, view, creator="bob").changed == 3  # again changes nothing
    assert len(pins(site.engine, locked)) == 1
    assert unpin(site.engine, view).changed == 3
    assert site.held(view) == set()
    with pytest.raises(NoSuchSnapshot, match="is not pinned"):
        unpin(site.engine, view)


def test_what_another_pin_shows_stays_held_until_that_is_undone_too(site: Site, locked: str) -> None:
    early = site.engine.view(locked, T0 + 1_500)
    site.put(locked, 2, "a", "d")
    late = site.engine.view(locked, T0 + 5_000)
    pin(site.engine, early, creator="ann")
    pin(site.engine, late, creator="ann")
    undone = unpin(site.engine, early)
    assert (undone.changed, undone.left) == (1, 2)  # the overwritten `a` is in no other pin
    assert site.held(early) == {"b", "c"}
    assert site.held(late) == {"a", "b", "c", "d"}
    unpin(site.engine, late)
    assert site.held(early) | site.held(late) == set()


def test_what_somebody_else_held_before_stays_held(site: Site, locked: str) -> None:
    view = site.engine.view(locked, T0 + 5_000)
    site.s3.put_object_legal_hold(Bucket=locked, Key="b", LegalHold={"Status": "ON"})
    assert (pin(site.engine, view, creator="ann").changed, site.held(view)) == (2, {"a", "b", "c"})
    assert pin(site.engine, view, creator="ann").left == 1
    undone = unpin(site.engine, view)
    assert (undone.changed, undone.left, site.held(view)) == (2, 1, {"b"})


def test_versions_that_are_gone_are_told(site: Site, locked: str) -> None:
    view = site.engine.view(locked, T0 + 5_000)
    site.s3.delete_object(Bucket=locked, Key="b", VersionId=view["b"].version_id)
    site.s3.meta.events.register("before-send.s3.PutObjectLegalHold", no_such_version)
    done = pin(site.engine, view, creator="ann")
    assert (done.changed, [version.key for version in done.gone]) == (2, ["b"])
    assert [version.key for version in unpin(site.engine, view).gone] == ["b"]


def no_such_version(request: Any, **_: Any) -> AWSResponse | None:
    """What S3 says of a version that is gone, where moto's server fails."""
    if "/b?" not in request.url:
        return None
    body = (
        b"<Error><Code>NoSuchVersion</Code><Message>The specified version does not exist.</Message></Error>"
    )
    raw: Any = io.BytesIO(body)
    raw.stream = lambda *_, **__: iter([body])
    headers: Any = HeadersDict({"content-type": "application/xml"})
    return AWSResponse(request.url, 404, headers, raw)


def test_a_held_version_cannot_be_removed(site: Site, locked: str) -> None:
    view = site.engine.view(locked, T0 + 5_000)
    pin(site.engine, view, creator="ann")
    with pytest.raises(site.s3.exceptions.ClientError, match="AccessDenied"):
        site.s3.delete_object(Bucket=locked, Key="a", VersionId=view["a"].version_id)
    assert view.prefix == ""


def test_pins_are_made_and_undone_on_the_command_line_and_for_all_that_a_run_saw(
    site: Site, locked: str, tracking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view(locked)
        part = snapengine.view(locked, prefix="b")
    assert command(["pin", f"run:/{run.info.run_id}"]) == 0
    output = capsys.readouterr()
    assert f"{view.reference}: 3 versions held" in output.out
    assert f"{part.reference}: 1 versions held" in output.out
    assert site.held(view) == {"a", "b", "c"}
    assert command(["unpin", view.reference, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["left"], site.held(view)) == (2, 1, {"b"})
    (name,) = (each.name for each in pins(site.engine, locked))
    assert command(["snapshot", "delete", locked, name, "--confirm", name]) == 2
    assert "snapengine unpin" in capsys.readouterr().err
    assert command(["unpin", f"run:/{run.info.run_id}"]) == 1  # one of the two is not pinned any more
    assert command(["unpin", part.reference]) == 0
    assert site.held(view) == set()
    actions = [line.action for line in site.engine.store.audit_log() if line.outcome == "ok"]
    assert actions == ["pin", "pin", "unpin", "unpin"]
    assert command(["pin", f"snap://{locked}@2023-11-15/"]) == 2
    assert command(["pin", locked]) == 2


def test_a_view_may_be_pinned_as_it_is_opened_in_a_run_by_its_end(
    site: Site, locked: str, tracking: str
) -> None:
    with mlflow.start_run() as run:
        view = snapengine.view(locked, pin=True)
        view.select(["a"])
    assert site.held(view) == {"a", "b", "c"}
    (kept,) = pins(site.engine, locked)
    assert kept.creator == f"run:/{run.info.run_id}"
    other = snapengine.view(locked, at=T0 + 5_000, pin=True)
    assert len(pins(site.engine, locked)) == 2
    unpin(site.engine, view)
    assert site.held(other) == {"a", "b", "c"}


def test_a_run_whose_view_cannot_be_pinned_goes_on_and_is_warned(site: Site, tracking: str) -> None:
    site.bucket("open", lock=False)
    site.s3.put_bucket_versioning(Bucket="open", VersioningConfiguration={"Status": "Enabled"})
    site.put("open", 1, "a")
    run = mlflow.start_run()
    view = snapengine.view("open", pin=True)
    with pytest.warns(RunNotNoted, match=r"is not pinned: Bucket open has no Object Lock") as warned:
        mlflow.end_run()
    assert len(warned) == 1
    (kept,) = site.engine.store.notes_of_run(run.info.run_id)
    assert kept.digest == view.digest()
    with pytest.raises(Refused, match="has no Object Lock"):
        snapengine.view("open", pin=True)


def test_without_object_lock_nothing_is_pinned_and_the_message_says_what_to_do(site: Site) -> None:
    site.bucket("unlocked", lock=False)
    site.s3.put_bucket_versioning(Bucket="unlocked", VersioningConfiguration={"Status": "Enabled"})
    site.put("unlocked", 1, "a")
    view = site.engine.view("unlocked", T0 + 5_000)
    with pytest.raises(Refused, match="has no Object Lock"):
        pin(site.engine, view, creator="ann")
    assert pins(site.engine, "unlocked") == []
    with pytest.raises(UsageError, match="all versions"):
        pin(site.engine, site.engine.slice("unlocked", T0, T0 + 5_000, versions="all"), creator="ann")
