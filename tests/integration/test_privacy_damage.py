"""Damaged rows and files, commands, the Lambda function: what they say holds no identifying value."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from pydantic import SecretStr

from metadata_extractors.base import Extraction
from metadata_extractors.extract_handler import Environment
from metadata_extractors.extracting import Extractors, row_of
from metadata_extractors.limits import Face
from metadata_extractors.privacy import privacy
from metadata_extractors.row_keeping import keyless
from snapengine import Settings
from snapengine.errors import SnapEngineError, Unreachable
from snapengine.extraction_tasks import Task, messages_of
from snapengine.log import RowWriter
from snapengine.metadata_codec import decode
from snapengine.metadata_rows import row_schema
from tests.guarded_cloud import guarded_cloud
from tests.listening import Heard, listening
from tests.marked_dicom import NAME, as_text, damaged, marked, shows
from tests.privacy_house import ADMINISTRATOR, ARCHIVE, BUCKET, LIMITS, House


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    damaged()
    with guarded_cloud() as (cloud, guard):
        made = House(cloud, guard, tmp_path_factory.mktemp("privacy"))
        made.queues()
        made.register(extractors=("dicom",))
        objects = {f"ct/{n:03}": marked(InstanceNumber=str(n)) for n in range(40)}
        made.extract(made.put(objects), "dicom")
        made.archive(checkpoint_now=True)
        yield made
        assert guard.unknown == []


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Heard]:
    with listening(caplog, capfd) as hearing:
        yield hearing


def identifying_payload(house: House) -> bytes:
    return next(
        bytes(item["payload"]["B"]) for item in house.items() if item["PK"]["S"].startswith("IDENTIFYING#")
    )


def test_a_damaged_payload_of_rows_is_told_without_what_is_in_it(house: House, heard: Heard) -> None:
    payload = identifying_payload(house)
    assert shows(as_text(decode(payload).table))
    with pa.CompressedInputStream(pa.BufferReader(payload), "zstd") as squeezed:
        raw = squeezed.read()
    chance = random.Random(7)
    failed = 0
    for _ in range(1_500):
        altered = bytearray(raw)
        for _ in range(chance.choice([1, 1, 4, 30])):
            altered[chance.randrange(len(raw))] = chance.randrange(256)
        cut = bytes(altered[: chance.choice([len(raw), chance.randrange(1, len(raw))])])
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as out:
            out.write(cut)
        try:
            decode(bytes(sink.getvalue()))
        except SnapEngineError as error:
            failed += 1
            heard.failure(error)
    assert failed > 300
    assert shows(heard.text) == []


def test_a_damaged_file_of_identifying_columns_is_told_without_what_is_in_it(
    house: House, heard: Heard
) -> None:
    files = {path: data for path, data in house.files().items() if path.startswith(f"{BUCKET}/identifying/")}
    assert len(files) == 2
    failed = 0
    chance = random.Random(11)
    for path, data in files.items():
        for _ in range(6):
            altered = bytearray(data)
            for _ in range(40):
                altered[chance.randrange(len(data))] = chance.randrange(256)
            failed += _asked_with(house, heard, path, bytes(altered))
        failed += _asked_with(house, heard, path, data[: len(data) // 2])
        with house.acting(ADMINISTRATOR) as engine:
            engine.s3.put_object(Bucket=ARCHIVE, Key=f"snapengine/{path}", Body=data)
    assert failed >= 7
    assert shows(heard.text) == []


def _asked_with(house: House, heard: Heard, path: str, data: bytes) -> bool:
    with house.acting(ADMINISTRATOR) as engine:
        engine.s3.put_object(Bucket=ARCHIVE, Key=f"snapengine/{path}", Body=data)
    with house.acting("researcher") as engine:
        try:
            engine.view(BUCKET).metadata_table(where="PatientName IS NOT NULL", columns=["PatientID"])
        except SnapEngineError as error:
            heard.failure(error)
            return True
    return False


def test_a_value_that_does_not_fit_its_column_is_an_error_without_it(heard: Heard) -> None:
    """An extractor that gives another type than it says; a child would not let it pass."""
    face = Face("1", pa.schema([pa.field("PatientWeight", pa.float64(), metadata={"identifying": "true"})]))
    task = Task(BUCKET, "a", "v", 1, "e", "1", 1)
    assert row_schema(face.schema)
    with pytest.raises(pa.ArrowException) as failed:
        row_of(task, "dicom", face, Extraction("ok", {"PatientWeight": NAME}), 1)
    heard.note(keyless(failed.value))
    assert shows(heard.text) == []


def test_a_store_that_is_away_is_told_without_the_rows(
    house: House, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = house.put({"away/0": marked()})
    with house.acting("extractor") as engine, Extractors(engine, house.clock, 1, LIMITS) as extractors:
        (row,) = extractors.rows(tasks[0], ["dicom"])
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9")

        async def keep() -> None:
            async with engine.log() as log:
                await RowWriter(log, "w", house.clock).append(
                    BUCKET, "dicom", pa.Table.from_batches([row.batch])
                )

        with pytest.raises(Unreachable) as failed:
            asyncio.run(keep())
    heard.failure(failed.value)
    assert shows(heard.text) == []


def test_objects_that_are_read_now_are_de_identified_too(house: House, heard: Heard) -> None:
    house.put({"unread/0": marked(), **{f"unread/{what}": data for what, data in damaged().items()}})
    with house.deidentifying("5ec7e7" * 8), house.acting(ADMINISTRATOR) as engine:
        found = engine.view(BUCKET).metadata_table(prefix="unread/", missing="read")
    rows = {row["key"]: row for row in found.to_pylist()}
    assert (rows["unread/0"]["outcome"], rows["unread/0"]["Modality"]) == ("ok", "CT")
    assert len(rows["unread/0"]["PatientID"]) == 32
    assert shows(as_text(found)) == []
    assert shows(heard.text) == []


def test_the_manifests_hold_no_value(house: House) -> None:
    with house.acting("reader") as engine:
        manifests = engine.store.manifests(BUCKET)
    assert any("identifying" in text for text in manifests)
    assert shows("".join(manifests)) == []


class _Time:
    def get_remaining_time_in_millis(self) -> int:
        return 120_000


def test_the_lambda_function_says_no_value(house: House, heard: Heard) -> None:
    tasks = house.put({f"lambda/{what}": data for what, data in damaged().items()})
    gone = [task._replace(version_id="never-was", key=f"{task.key}x") for task in tasks[:2]]
    bodies = [*messages_of(tasks), *messages_of(gone), f'{{"extraction": "{NAME}"}}', NAME]
    records = [{"messageId": str(n), "body": body} for n, body in enumerate(bodies)]
    with house.acting("extractor") as engine:
        environment = Environment(engine, LIMITS)
        try:
            left = environment.handle(records, _Time())
        finally:
            environment.close()
    assert left == [record["messageId"] for record in records[-2:]]
    assert shows(heard.text) == []


@pytest.mark.parametrize(
    ("role", "code"), [("extractor", 0), ("nothing", 1), ("half", 1)], ids=["works", "denied", "half"]
)
@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "words"])
def test_the_command_extract_says_no_value(house: House, role: str, code: int, options: list[str]) -> None:
    table = {"Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:Query"], "Resource": "*"}
    audit = {**table, "Action": "dynamodb:PutItem"}
    house.guard.policies["nothing"] = [{"Version": "2012-10-17", "Statement": [table]}]
    house.guard.policies["half"] = [{"Version": "2012-10-17", "Statement": [table, audit]}]
    command = [sys.executable, "-X", "dev", "-W", "default", "-m", "snapengine", "--debug", "extract", BUCKET]
    done = subprocess.run(
        [*command, "--prefix", "ct/", "--again", "--processes", "1", *options],
        env={**os.environ, **house.environment_of(role)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert not house.guard.denied("extractor")
    assert shows(done.stdout + done.stderr) == []
    with house.acting(ADMINISTRATOR) as engine:
        assert shows(json.dumps([str(line) for line in engine.store.audit_log()])) == []


def test_nothing_is_left_in_the_temporary_folder(
    house: House, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with house.acting("researcher") as engine:
        table = engine.view(BUCKET).metadata_table(columns=["PatientName"], prefix="ct/")
        assert table.num_rows > 10
    del engine
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_pseudonyms_is_in_no_representation() -> None:
    settings = Settings(deidentify="on", deidentify_key=SecretStr("5ec7e7" * 8))
    rules = privacy(None, settings)
    told = f"{settings!r} {settings} {rules!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert "5ec7e7" not in told
    assert str(bytes.fromhex("5ec7e7"))[2:-1] not in told
