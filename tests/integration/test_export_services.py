"""Export and rollback against a real S3 server, which honours conditions on what is at a copy's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from readers.export import Options, export
from readers.export_copying import Copier, DestinationChanged, Place
from readers.export_outcomes import Tally
from readers.rollback import Rollback
from snapengine import View
from tests.export_house import MIB, House
from tests.servers import Endpoint

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("seaweedfs")]

KEYS = ["a", "ct/1", "ct/a::b", "ct/a*", "[a]", "ct/a?b", "ct/a#b", "a%2Bb", "a+b", "~a", "é"]


@pytest.fixture
def house(seaweedfs_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name, value in seaweedfs_server.environment().items():
        monkeypatch.setenv(name, value)
    return House(tmp_path / "log.db")


def roll_back(house: House, view: View) -> Counter[str]:
    with Rollback(house.engine, view) as work:
        work.plan()
        return work.carry_out()


def test_exact_versions_are_exported_with_metadata_and_a_second_run_finds_them(house: House) -> None:
    for key in KEYS:
        house.put(key, b"old " + key.encode(), ContentType="x/y", Metadata={"m": "1"}, Tagging="t=1")
    old = house.view(at=house.later())
    for key in KEYS:
        house.put(key, b"newer " + key.encode())
    assert house.export(old, "x/").tally.counts == {"copied": len(KEYS)}
    assert house.bodies("x/") == {key: b"old " + key.encode() for key in KEYS}
    head = house.s3.head_object(Bucket=house.other, Key="x/ct/a?b")
    assert (head["ContentType"], head["Metadata"]) == ("x/y", {"m": "1"})
    tags = house.s3.get_object_tagging(Bucket=house.other, Key="x/ct/a?b")["TagSet"]
    assert tags == [{"Key": "t", "Value": "1"}]
    assert house.export(old, "x/").tally.counts == {"there": len(KEYS)}


def test_what_came_in_parts_is_copied_in_parts_and_checked_by_reading_where_etags_do_not_tell(
    house: House, tmp_path: Path
) -> None:
    parts = (b"a" * (5 * MIB + 1), b"b" * (5 * MIB + 1), b"c")
    house.upload("parts", *parts, ContentType="x/y", Tagging="t=1")
    view = house.view()
    assert house.export(view).tally.counts == {"copied": 1}
    assert house.bodies() == {"parts": b"".join(parts)}
    assert house.s3.head_object(Bucket=house.other, Key="parts")["ContentType"] == "x/y"
    again = house.export(view)
    assert again.tally.counts == {"there": 1}
    done = export(house.engine, view, str(tmp_path / "out"), Options())
    assert done.tally.counts == {"copied": 1}
    assert (tmp_path / "out" / "parts").read_bytes() == b"".join(parts)


def test_a_copy_is_refused_where_something_else_came_to_be(house: House) -> None:
    house.put("a", b"old")
    version = house.view()["a"]
    house.s3.put_object(Bucket=house.other, Key="a", Body=b"theirs")
    copier = Copier(house.engine.client("s3"))
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"5d41402abc4b2a76b9719d911017c592"'}):
        with pytest.raises(DestinationChanged, match="left as it is"):
            copier.copy(house.bucket, version, Place(house.other, "a", condition))
    copier.close()
    assert house.bodies() == {"a": b"theirs"}


def test_a_bucket_is_rolled_back_and_a_second_run_finds_nothing_to_do(house: House) -> None:
    for key in KEYS:
        house.put(key, b"old " + key.encode(), Metadata={"m": "1"})
    house.upload("parts", b"a" * (5 * MIB + 1), b"b")
    old = house.view(at=house.later())
    for key in KEYS[::2]:
        house.put(key, b"newer " + key.encode())
    for key in ("parts", *KEYS[1::2]):
        house.delete(key)
    house.put("late", b"late")
    counts = roll_back(house, old)
    assert counts == {"copied": len(KEYS) + 1, "marked": 1}
    live = house.live(house.bucket)
    assert live.pop("parts") == b"a" * (5 * MIB + 1) + b"b"
    assert live == {key: b"old " + key.encode() for key in KEYS}
    assert house.s3.head_object(Bucket=house.bucket, Key="é")["Metadata"] == {"m": "1"}
    assert roll_back(house, old) == {}


@pytest.mark.slow
def test_a_killed_export_to_a_bucket_is_gone_on_with(house: House) -> None:
    bodies = {f"k{number:04}": b"%d" % number * 50 for number in range(400)}
    for key, body in bodies.items():
        house.put(key, body)
    view = house.view()
    command = ["export", view.reference, f"s3://{house.other}/x/", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "snapengine", *command],
        env={**os.environ, "SNAPENGINE_STORE": house.store},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 60
        while len(house.bodies("x/")) < 20:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
    there = house.bodies("x/")
    assert 20 <= len(there) < len(bodies)
    tally: Tally = house.export(view, "x/").tally
    assert tally.counts == {"there": len(there), "copied": len(bodies) - len(there)}
    assert house.bodies("x/") == bodies
