"""The short form of `python -m benchmarks dicom_headers`, and what it compares. Never how fast."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import pydicom
import pytest

from benchmarks._dicom_files import HEADER_BYTES, SCAN_BYTES, package_files, scan_files
from benchmarks._dicom_peers import agrees, every_value, named_values
from benchmarks._dicom_stage import stage
from benchmarks.dicom_headers import measure
from metadata_extractors.dicom_columns import plan_columns
from metadata_extractors.dicom_header import pydicom_quietly
from tests.dicom_files import extract

COLUMNS = plan_columns(None)
NAMES = {"CT_small.dcm", "MR_small.dcm", "17106", "reportsi.dcm", "chrH31.dcm", "waveform_ecg.dcm"}


@pytest.mark.services
@pytest.mark.slow
def test_rows_from_s3_and_of_the_peers_agree_and_the_cores_are_given_back() -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    files = [each for each in package_files() if each.name in NAMES]
    with stage() as here:
        result = measure(here, files, objects=8, repetitions=1, threads=2)
    assert result.correct
    assert result.ratios.keys() >= result.targets.keys()
    assert 0 < result.ratios["s3_bytes"] < 0.35
    assert before == (os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set())


def test_the_scans_have_the_sizes_that_are_told_and_the_values_of_the_files() -> None:
    package = package_files()
    scans = scan_files(package)
    assert len(scans) >= 15
    of_files = {each.name: extract(each.data) for each in package}
    for scan in scans:
        assert len(scan.data) >= SCAN_BYTES
        assert extract(scan.data).values == of_files[scan.name].values
        with pydicom_quietly():
            dataset = pydicom.dcmread(io.BytesIO(scan.data))
            assert scan.data.rindex(dataset.PixelData[:4096]) > 0
            header = len(scan.data) - len(dataset.PixelData)
            assert header > HEADER_BYTES
            assert any(tag >> 16 == 0x7FDF for tag in dataset.keys()) or header > 2 * HEADER_BYTES  # noqa: SIM118  # a Dataset iterates over elements


def test_a_wrong_value_is_noticed() -> None:
    data = next(each.data for each in package_files() if each.name == "CT_small.dcm")
    found = extract(data)
    assert agrees(found, data, COLUMNS)
    for name, wrong in (
        ("Rows", 127),
        ("PatientSex", None),
        ("PixelSpacing", [0.661468]),
        ("StudyDate", None),
    ):
        assert not agrees(replace(found, values={**found.values, name: wrong}), data, COLUMNS)
    assert not agrees(replace(found, outcome="failed"), data, COLUMNS)


def test_the_peers_read_what_they_are_said_to_read() -> None:
    data = next(each.data for each in package_files() if each.name == "CT_small.dcm")
    with pydicom_quietly():
        every = every_value(data)
        named = named_values(data, [0x00280010, 0x00020010, 0x00181201])
    assert (every["Rows"], every["PixelSpacing1"], every["MultiPixelSpacing"]) == (128, 0.661468, 1)
    assert "PixelData" not in every
    assert named == [128, "1.2.840.10008.1.2.1", None]
