"""What of a view differs from S3, given what S3 says of each version."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from snapengine import Engine, View
from snapengine.errors import (
    CredentialsMissing,
    PermissionMissing,
    SnapEngineError,
    Unreachable,
    UsageError,
    VersionGone,
)
from snapengine.instants import render
from snapengine.model import ObjectVersion
from snapengine.stores.objects import S3Objects, StoredVersion
from snapengine.verify import Difference, differences, digest_given, same_digest
from tests.seed import T0, enable, engine_at, event, record, removal

FULL = "sha256:" + "0123456789abcdef" * 4


class Stored:
    """S3 as a test wants it: by key a description, or the error that asking raises; else as written."""

    def __init__(self, **answers: StoredVersion | Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self._lock = Lock()

    def head(self, bucket: str, version: ObjectVersion) -> StoredVersion:
        with self._lock:
            self.asked.append(version.key)
        answer = self.answers.get(version.key, StoredVersion(version.etag or "?", version.size or 0, None))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = engine_at(tmp_path / "log.db")
    enable(engine)
    return engine


def view_of(engine: Engine, *keys: str) -> View:
    record(engine, [event(key, f"v-{key}", 1) for key in keys])
    return engine.view("scans", T0 + 60_000)


def found(stored: Stored, view: View) -> list[Difference]:
    return [difference for difference in differences(stored, view) if difference]


def test_what_s3_still_has_as_it_was_does_not_differ(engine: Engine) -> None:
    stored = Stored()
    view = view_of(engine, "a", "b", "c")
    assert list(differences(stored, view)) == [None, None, None]
    assert sorted(stored.asked) == ["a", "b", "c"]


def test_each_way_to_differ_has_its_name(engine: Engine) -> None:
    stored = Stored(
        archived=StoredVersion("etag-v-archived", 10, "DEEP_ARCHIVE"),
        denied=PermissionMissing("no"),
        etag=StoredVersion("other", 10, None),
        gone=VersionGone("gone"),
        size=StoredVersion("etag-v-size", 11, None),
        unreadable=SnapEngineError("HeadObject failed: 400 Bad Request"),
    )
    view = view_of(engine, *stored.answers, "same")
    by_key = {difference.key: difference for difference in found(stored, view)}
    assert {key: difference.kind for key, difference in by_key.items()} == {
        "archived": "archived",
        "denied": "denied",
        "etag": "different",
        "gone": "gone",
        "size": "different",
        "unreadable": "unreadable",
    }
    assert by_key["etag"].detail == "ETag other, not etag-v-etag"
    assert by_key["size"].detail == "11 bytes, not 10"
    assert "DEEP_ARCHIVE" in by_key["archived"].detail
    assert "s3:ListBucket" in by_key["denied"].detail
    assert "the log does not know why" in by_key["gone"].detail
    assert by_key["gone"].since is None


def test_of_a_version_that_is_gone_the_log_says_since_when_and_why(engine: Engine) -> None:
    view = view_of(engine, "a", "b")
    record(engine, [removal("a", "v-a", 100)])
    (gone,) = found(Stored(a=VersionGone("gone")), view)
    assert (gone.kind, gone.version_id, gone.since) == ("gone", "v-a", T0 + 100_000)
    assert gone.detail == f"since {render(T0 + 100_000)}: ObjectRemoved:Delete"


def test_what_the_log_thinks_gone_and_s3_still_has_does_not_differ(engine: Engine) -> None:
    view = view_of(engine, "a")
    record(engine, [removal("a", "v-a", 100)])
    assert found(Stored(), view) == []


def test_a_null_version_that_was_overwritten_is_gone(engine: Engine) -> None:
    record(engine, [event("a", "null", 1, etag="old"), event("b", "null", 1, etag="old")])
    view = engine.view("scans", T0 + 2_000)
    record(engine, [event("a", "null", 9, etag="new")])
    overwritten = StoredVersion("new", 10, None)
    known, unknown = found(Stored(a=overwritten, b=overwritten), view)
    assert (known.kind, known.since) == ("gone", T0 + 9_000)
    assert "overwritten (ObjectCreated:Put)" in known.detail
    assert (unknown.kind, unknown.since) == ("gone", None)
    assert unknown.detail == "overwritten: ETag new, not old"


def test_what_nobody_told_of_a_version_is_not_compared(engine: Engine) -> None:
    record(engine, [event("a", "v1", 1)._replace(etag=None, size=None)])
    assert found(Stored(a=StoredVersion("any", 12345, None)), engine.view("scans")) == []


def test_many_versions_are_told_of_in_their_order(engine: Engine) -> None:
    keys = [f"k{number:04}" for number in range(700)]
    lost = {key: VersionGone("gone") for key in keys[::7]}
    view = view_of(engine, *keys)
    stored = Stored(**lost)
    told = list(differences(stored, view))
    assert len(told) == len(keys)
    assert [difference.key for difference in told if difference] == list(lost)
    assert sorted(stored.asked) == keys


@pytest.mark.parametrize("error", [Unreachable("away"), CredentialsMissing("expired")])
def test_an_s3_that_cannot_be_asked_is_no_difference(engine: Engine, error: SnapEngineError) -> None:
    view = view_of(engine, "a", "b")
    with pytest.raises(type(error)):
        found(Stored(b=error), view)


def test_nothing_more_is_asked_once_nobody_wants_the_answers(engine: Engine) -> None:
    keys = [f"k{number:04}" for number in range(1000)]
    view = view_of(engine, *keys)
    stored = Stored()
    answers = differences(stored, view)
    next(answers)
    answers.close()
    assert len(stored.asked) < len(keys)


def test_a_digest_may_be_given_in_full_or_short() -> None:
    short = FULL.removeprefix("sha256:")[:32]
    for text in (FULL, FULL.upper().replace("SHA256", "sha256"), f"sha256:{short}", short, f" {FULL} "):
        assert same_digest(digest_given(text), FULL)
        assert not same_digest(digest_given(text), FULL.replace("0", "1"))


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:12", FULL[:-1], "md5:" + "0" * 32, "x" * 64])
def test_what_is_no_digest_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="is no digest"):
        digest_given(text)


class Client:
    """A boto3 client that knows one reply to HEAD."""

    def __init__(self, **reply: Any) -> None:
        self._reply = {"ETag": '"e"', "ContentLength": 3, **reply}

    def head_object(self, **_: Any) -> dict[str, Any]:
        return self._reply


@pytest.mark.parametrize(
    ("reply", "archived"),
    [
        ({}, None),
        ({"StorageClass": "STANDARD_IA"}, None),
        ({"StorageClass": "GLACIER_IR"}, None),
        ({"StorageClass": "GLACIER"}, "GLACIER"),
        ({"StorageClass": "DEEP_ARCHIVE", "Restore": 'ongoing-request="true"'}, "DEEP_ARCHIVE"),
        (
            {
                "StorageClass": "GLACIER",
                "Restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"',
            },
            None,
        ),
        ({"StorageClass": "INTELLIGENT_TIERING"}, None),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "ARCHIVE_ACCESS"}, "ARCHIVE_ACCESS"),
    ],
)
def test_a_version_is_archived_where_it_must_be_restored_first(
    reply: dict[str, str], archived: str | None
) -> None:
    client: Any = Client(**reply)
    stored = S3Objects(client).head("scans", ObjectVersion("k", "v", 3, "e", T0))
    assert stored == StoredVersion("e", 3, archived)
