"""`forget` by a condition over identifying columns: nothing it says, notes or leaves has their values."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from snapengine.metadata_codec import decode
from tests.dicom_files import dicom
from tests.guarded_cloud import guarded_cloud
from tests.marked_dicom import NAME, as_text, marked, plain, shows
from tests.privacy_house import ADMINISTRATOR, BUCKET, House

OTHER = "Somebody else"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """All marks are in the scans of one patient."""
    with guarded_cloud() as (cloud, guard):
        made = House(cloud, guard, tmp_path_factory.mktemp("privacy"))
        theirs = {f"ct/{n}": marked() for n in range(3)}
        made.extract(made.put({**theirs, "mr/0": dicom(**plain(), PatientID=OTHER)}), "dicom")
        made.archive(checkpoint_now=True)
        made.extract(made.put({"ct/3": marked()}), "dicom")
        yield made
        assert guard.unknown == []


def forget(house: House, role: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "default",
            "-m",
            "snapengine",
            "--debug",
            "forget",
            BUCKET,
            *options,
        ],
        env={**os.environ, **house.environment_of(role)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def everything_said(house: House) -> str:
    with house.acting(ADMINISTRATOR) as engine:
        return json.dumps([str(line) for line in engine.store.audit_log()])


def identifying_side(house: House) -> str:
    """All rows with identifying columns, of the table and of the archive."""
    found = [
        as_text(decode(bytes(item["payload"]["B"])).table)
        for item in house.items()
        if item["PK"]["S"].startswith("IDENTIFYING#")
    ]
    for path, data in house.files().items():
        if path.startswith(f"{BUCKET}/identifying/"):
            found.append(as_text(pq.ParquetFile(io.BytesIO(data)).read()))
    return "".join(found)


@pytest.mark.parametrize(
    ("role", "where", "code"),
    [
        ("reader", f"PatientID = '{NAME} long'", "identifying-refused"),
        (ADMINISTRATOR, "CAST(PatientName AS INTEGER) > 3", "usage"),
        (ADMINISTRATOR, f"CAST('{NAME}' AS INTEGER) > Rows", "usage"),
        (ADMINISTRATOR, f"PatientName = '{NAME}", "usage"),
    ],
)
def test_what_cannot_be_forgotten_is_told_without_values(
    house: House, role: str, where: str, code: str
) -> None:
    done = forget(house, role, "--where", where, "--yes", "--json")
    assert done.returncode in {1, 2}
    assert code in done.stderr
    assert shows(done.stdout + done.stderr) == []
    assert shows(everything_said(house)) == []


def test_forgetting_a_patient_names_nobody(house: House) -> None:
    assert shows(identifying_side(house))
    done = forget(house, ADMINISTRATOR, "--where", f"PatientID = '{NAME} long'", "--yes", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert shows(done.stdout + done.stderr) == []
    assert shows(everything_said(house)) == []
    left = identifying_side(house)
    assert shows(left) == []
    assert OTHER in left
    assert shows(repr(house.items())) == []
