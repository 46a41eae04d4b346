"""The extract worker as a Lambda function: only what is kept counts as done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from metadata_extractors import extract_handler
from metadata_extractors.extract_handler import Environment
from metadata_extractors.limits import ExtractorSpec, Limits
from snapengine.devcloud import DevCloud
from snapengine.engine import Engine
from snapengine.errors import TableMissing, Unreachable, UsageError
from snapengine.extraction_tasks import Task, messages_of
from snapengine.model import ObjectVersion
from snapengine.settings import Settings
from tests.dicom_files import dicom
from tests.extract_house import Site
from tests.worker_fakes import Lines


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    store = f"sqlite:///{tmp_path / 'log.db'}"
    monkeypatch.setenv("SNAPENGINE_STORE", store)
    return Site(cloud.environment(), store)


@pytest.fixture
def environment(site: Site) -> Iterator[Environment]:
    made = Environment(Engine(site.engine.settings))
    yield made
    made.close()


class Context:
    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return round(self._seconds * 1000)


def message(body: str, number: int = 1) -> dict[str, Any]:
    return {
        "eventSource": "aws:sqs",
        "messageId": f"m{number}",
        "body": body,
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:extract",
    }


def of(*tasks: Task) -> str:
    (body,) = messages_of(tasks)
    return body


def test_a_batch_is_extracted_and_covered_when_it_returns(site: Site, environment: Environment) -> None:
    site.register(extractors=("dicom", "object"))
    first, second = site.put("a", dicom(Modality="CT")), site.put("b", b"text")
    assert environment.handle([message(of(first), 1), message(of(second), 2)], Context()) == []
    assert site.outcomes() == {"a": "ok", "b": "not_matched"}
    assert site.outcomes("object") == {"a": "ok", "b": "ok"}


def test_a_warm_invocation_uses_the_same_children(site: Site, environment: Environment) -> None:
    for key in ("a", "b"):
        assert environment.handle([message(of(site.put(key, dicom())))], Context()) == []
        mine = psutil.Process().children()
        children = {each.pid for each in mine if "metadata_extractors.child" in each.cmdline()}
        assert len(children) == 1
    assert site.outcomes() == {"a": "ok", "b": "ok"}


def test_only_what_is_not_done_is_reported(
    site: Site, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    unknown = site.put("a", dicom())._replace(bucket="nobodys")
    records = [
        message("no JSON: 'Doe^Jane'", 1),
        message(of(site.put("b", dicom())), 2),
        message(of(unknown), 3),
    ]
    assert environment.handle(records, Context()) == ["m1", "m3"]
    assert site.outcomes() == {"b": "ok"}
    assert lines.of("malformed-message-left")[0]["message"] == "m1"
    assert lines.of("message-left")[0]["code"] == "bucket-not-enabled"
    assert "Doe^Jane" not in lines.text


def test_an_outage_is_not_waited_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_self: Engine, _bucket: str, _version: ObjectVersion, _start: int, _end: int | None) -> bytes:
        raise Unreachable("no answer")

    monkeypatch.setattr(Engine, "read", away)
    environment = Environment(Engine(site.engine.settings))
    try:
        assert environment.handle([message(of(site.put("a", dicom())))], Context()) == ["m1"]
    finally:
        environment.close()
    assert site.outcomes() == {}


def test_what_cannot_be_begun_in_time_comes_again_and_nothing_runs_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    monkeypatch.setattr(extract_handler, "BEGIN_RESERVE", 3.0)
    monkeypatch.setattr(extract_handler, "END_RESERVE", 1.0)
    monkeypatch.setattr(
        "metadata_extractors.slots.spec_of",
        lambda name, _columns: ExtractorSpec(name, "tests.hostile_extractors:Hostile"),
    )
    site.register(extractors=("hostile",))
    environment = Environment(Engine(site.engine.settings), Limits(wall_seconds=300))
    try:
        well, slow = site.put("a", b"well"), site.put("b", b"sleep")
        assert environment.handle([message(of(well), 1)], Context(3)) == ["m1"]  # too late to begin
        records = [message(of(well), 1), message(of(slow), 2)]
        assert environment.handle(records, Context(6)) == ["m2"]
        assert lines.of("out-of-time")
        assert site.outcomes("hostile") == {"a": "ok"}
        mine = psutil.Process().children()
        assert not [each for each in mine if "metadata_extractors.child" in each.cmdline()]
        assert environment.handle([message(of(well), 1)], Context()) == []
    finally:
        environment.close()


def test_the_entry_point_answers_as_lambda_wants_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_handler, "_environment", None)
    monkeypatch.setattr("snapengine.workers.logs.configure", lambda: None)  # caplog has the root logger here
    event = {"Records": [message(of(site.put("a", dicom())), 1), message("{}", 2)]}
    try:
        assert extract_handler.handler(event, Context()) == {"batchItemFailures": [{"itemIdentifier": "m2"}]}
    finally:
        kept = extract_handler._environment
        assert kept
        kept.close()


@pytest.mark.parametrize("event", [{}, [], {"Records": [{"eventSource": "aws:s3"}]}])
def test_any_other_event_is_refused(event: Any) -> None:
    with pytest.raises(UsageError, match="no batch of SQS messages"):
        extract_handler.handler(event, Context())


def test_without_a_table_it_says_so(tmp_path: Path) -> None:
    environment = Environment(Engine(Settings(store=f"sqlite:///{tmp_path / 'none.db'}")))
    with pytest.raises(TableMissing):
        environment.handle([], Context())
    environment.close()
