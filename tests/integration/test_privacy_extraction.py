"""Whatever goes wrong in extraction, no identifying value is said, or stored on the other side.

Marks (`tests.marked_dicom`) are in every identifying attribute; what the worker says is heard at debug level.
"""

from __future__ import annotations

import asyncio
import io
import json
import urllib.request
from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from metadata_extractors.extract_worker import ExtractWorker, Options
from metadata_extractors.limits import ExtractorSpec, Limits
from metadata_extractors.ranged import RangedReader, extract_from
from metadata_extractors.registry import make_extractor
from snapengine.errors import TryAgain
from snapengine.extraction_tasks import messages_of
from snapengine.metadata_codec import decode
from tests.guarded_cloud import guarded_cloud
from tests.hostile_extractors import SECRET
from tests.iam import Policy
from tests.listening import Heard, listening
from tests.marked_dicom import NAME, as_text, damaged, marked, shows
from tests.privacy_house import EXTRACTING, LIMITS, House

EXTRACTORS = ("dicom", "images", "nifti", "object", "parquet")
_number = count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with guarded_cloud() as (cloud, guard):
        made = House(cloud, guard, tmp_path_factory.mktemp("privacy"))
        damaged()
        others()
        yield made


@pytest.fixture
def house(shared: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr("snapengine.workers.consumer.LAST_POLL", 1)
    monkeypatch.setattr("metadata_extractors.extract_worker.ONCE_PATIENCE", 0.5)
    shared.queues()
    shared.register(extractors=EXTRACTORS)
    shared.guard.asked.clear()
    yield shared
    assert shared.guard.unknown == []


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Heard]:
    with listening(caplog, capfd) as hearing:
        yield hearing


@cache
def others() -> dict[str, bytes]:
    """Files of other kinds with marks where they identify."""
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0132] = f"{NAME} scan", f"{NAME} artist", NAME
    exif.get_ifd(0x8769)[0xA431] = f"{NAME}-serial"
    photo = io.BytesIO()
    Image.new("L", (3, 2)).save(photo, "JPEG", exif=exif)
    volume: Any = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))  # type: ignore[no-untyped-call]  # nibabel's
    volume.header["descrip"], volume.header["aux_file"] = f"{NAME} brain", f"{NAME}.nii"
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"patient": NAME}), sink)
    nifti = volume.to_bytes()
    return {
        "jpeg": photo.getvalue(),
        "jpeg cut": photo.getvalue()[:90],
        "nifti": nifti,
        "nifti cut": nifti[:300],
        "nifti of no type": nifti[:70] + b"\x99\x99" + nifti[72:],
        "parquet": sink.getvalue(),
        "parquet cut": sink.getvalue()[:-20],
        "parquet damaged": sink.getvalue()[:-60] + b"\xff" * 40 + sink.getvalue()[-20:],
    }


def apart(house: House) -> list[str]:
    """Marks in whatever is not on the identifying side: the table, the archive."""
    found = []
    for item in house.items():
        if not item["PK"]["S"].startswith("IDENTIFYING#"):
            told = repr(item)
            if item.get("form", {}).get("S") == "metadata":
                told += as_text(decode(bytes(item["payload"]["B"])).table)
            found += shows(told)
    return found


def send(house: House, objects: dict[str, bytes], **options: object) -> None:
    place = f"{next(_number)}"
    tasks = house.put({f"{place}/{name}": data for name, data in objects.items()}, **options)
    house.send(*messages_of(tasks))


def outcomes(house: House, extractor: str = "dicom") -> dict[str, str]:
    return {key.partition("/")[2]: row["outcome"] for key, row in house.rows(extractor).items()}


def test_whole_and_damaged_files_of_every_kind(house: House, heard: Heard) -> None:
    objects = {"whole": marked(), **damaged(), **others()}
    send(house, objects, Metadata={"patient": NAME}, Tagging=f"name={NAME}", ContentDisposition=NAME)
    worker = house.work(http_port=None)
    metrics = worker.metrics.registry
    found = outcomes(house)
    assert set(objects) <= set(found)
    assert set(found.values()) >= {"ok", "partial", "not_matched", "failed"}
    assert found["whole"] == "ok"
    assert {outcomes(house, name)[kind] for name, kind in _KINDS.items()} == {"ok"}
    assert not house.guard.denied("extractor")
    heard.note(*(str(family) for family in metrics.collect()))
    assert shows(heard.text) == []
    assert apart(house) == []


_KINDS = {"images": "jpeg", "nifti": "nifti", "parquet": "parquet", "object": "jpeg"}


def test_extractors_called_by_hand_say_no_value_either(house: House, heard: Heard) -> None:
    """In the caller's own process, where libraries have their loggers."""
    for data in (marked(), *damaged().values(), *others().values()):
        for name in ("dicom", "images", "nifti", "parquet"):
            found = extract_from(make_extractor(name, None), _reader(data))
            heard.note(found.outcome, found.problems)
    assert shows(heard.text) == []


def test_an_extractor_that_hangs_dies_lies_or_raises_with_a_value_in_its_words(
    house: House, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "metadata_extractors.slots.spec_of",
        lambda name, _columns: ExtractorSpec(name, "tests.hostile_extractors:Hostile"),
    )
    house.register(extractors=("hostile",))
    deeds = ["segfault", "abort", "exit", "leave", "spin", "sleep", "eat", "raise", "lie", "invent", "print"]
    send(house, {deed: deed.encode().ljust(200, b"\0") for deed in (*deeds, "flood", "write_file", "well")})
    house.work(limits=Limits(cpu_seconds=1, wall_seconds=2))
    found = outcomes(house, "hostile")
    assert found["well"] == "ok"
    assert {found[deed] for deed in deeds} == {"failed", "timeout", "ok"}
    plain = "".join(map(str, house.rows("hostile").values()))
    for told in (heard.text, plain):
        assert SECRET not in told
        assert SECRET.partition("^")[0] not in told


def test_objects_that_may_not_be_read(house: House, heard: Heard) -> None:
    house.guard.policies["blind"] = [without(EXTRACTING, "s3:GetObjectVersion")]
    send(house, {"whole": marked()})
    with pytest.raises(TryAgain) as left:
        house.work("blind")
    heard.failure(left.value)
    assert {asked.request.action for asked in house.guard.denied("blind")} == {"s3:GetObjectVersion"}
    assert "message-left" in heard.text
    assert shows(heard.text) == []


def test_rows_whose_identifying_part_may_not_be_written(house: House, heard: Heard) -> None:
    policy = without(EXTRACTING, "dynamodb:PutItem", only="IDENTIFYING#scans#*")
    house.guard.policies["mute"] = [policy]
    send(house, {"never kept": marked()})
    with pytest.raises(TryAgain) as left:
        house.work("mute")
    heard.failure(left.value)
    assert house.guard.denied("mute")
    assert "never kept" not in outcomes(house)
    assert "identifying-refused" in heard.text
    assert shows(heard.text) == []
    assert apart(house) == []


def test_a_store_that_refuses_everything(house: House, heard: Heard) -> None:
    policy = without(EXTRACTING, "dynamodb:PutItem")
    house.guard.policies["readonly"] = [policy]
    send(house, {"never kept either": marked()})
    with pytest.raises(TryAgain) as left:
        house.work("readonly")
    heard.failure(left.value)
    assert shows(heard.text) == []


def test_messages_that_are_no_tasks(house: House, heard: Heard) -> None:
    bodies = [
        f"{NAME} is no JSON",
        json.dumps({"extraction": 1, "bucket": NAME, "objects": [{"key": NAME}]}),
        json.dumps({"extraction": NAME, "bucket": "scans", "objects": []}),
        json.dumps({"Records": [{"s3": {"object": {"key": NAME}}}]}),
    ]
    house.send(*bodies)
    house.work()
    dead = house.messages(house.dead_url)
    assert sorted(message["Body"] for message in dead) == sorted(bodies)
    attributes = json.dumps([message.get("MessageAttributes") for message in dead], default=str)
    heard.note(attributes)
    assert shows(heard.text) == []


def test_health_and_metrics_while_it_works(house: House, heard: Heard) -> None:
    send(house, {"whole": marked(), **damaged()})

    async def watched() -> list[str]:
        with house.acting("extractor") as engine:
            worker = ExtractWorker(engine, Options("w", limits=LIMITS, http_port=_free_port()))
            stop = asyncio.Event()
            running = asyncio.create_task(worker.run(stop))
            found = []
            port = worker._options.http_port
            for _ in range(200):
                await asyncio.sleep(0.1)
                urls = [f"http://127.0.0.1:{port}/{path}" for path in ("healthz", "readyz", "metrics")]
                found += [await asyncio.to_thread(_fetched, url) for url in urls]
                if 'extractor="parquet",outcome=' in found[-1] and 'outcome="failed"' in found[-1]:
                    break
            stop.set()
            await running
            return found

    found = asyncio.run(watched())
    assert 'outcome="failed"' in found[-1]
    heard.note(*found)
    assert shows(heard.text) == []


# Helpers


def without(policy: Policy, action: str, only: str | None = None) -> Policy:
    """The policy without the statements that allow an action (of those with `only` in their condition)."""
    kept = []
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if action in actions and (only is None or only in json.dumps(statement.get("Condition", {}))):
            actions = [one for one in actions if one != action]
        if actions:
            kept.append({**statement, "Action": actions})
    assert kept != policy["Statement"]
    return {**policy, "Statement": kept}


def _reader(data: bytes) -> RangedReader:
    return RangedReader(lambda start, end: data[start:end], len(data), "a/key")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fetched(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  # our own
            return reply.read().decode()  # type: ignore[no-any-return]  # bytes
    except OSError as error:
        return str(error)
