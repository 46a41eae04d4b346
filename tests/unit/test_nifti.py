"""NIfTI headers, also gzipped, against what nibabel reads of the whole file."""

from __future__ import annotations

import gzip
import random
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pytest

from metadata_extractors.base import Extraction
from metadata_extractors.nifti import NiftiExtractor
from metadata_extractors.ranged import RangedReader, extract_from

FILES = sorted(
    path
    for path in (Path(nibabel.__file__).parent / "tests" / "data").iterdir()
    if path.name.endswith((".nii", ".nii.gz")) and path.stat().st_size
)


def nifti(version: int = 1) -> bytes:
    kind: Any = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(np.zeros((4, 5, 6, 7), np.int16), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_zooms((2.0, 2.0, 3.0, 1500.0))
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"] = b"Doe Jane"
    return bytes(image.to_bytes())


def extract(data: bytes) -> tuple[Extraction, int]:
    reader = RangedReader(lambda start, end: data[start:end], len(data))
    return extract_from(NiftiExtractor(), reader), reader.fetched


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_values_are_those_that_nibabel_reads(path: Path) -> None:
    found, _ = extract(path.read_bytes())
    image: Any = nibabel.load(path)
    header = getattr(image, "nifti_header", image.header)  # of CIFTI, which wraps one
    assert found.outcome == "ok"
    assert found.values["Shape"] == list(header.get_data_shape())
    assert found.values["Zooms"] == pytest.approx([float(zoom) for zoom in header.get_zooms()])
    assert found.values["DataType"] == header.get_value_label("datatype")
    assert found.values["Affine"] == pytest.approx(header.get_best_affine().ravel().tolist())


def test_there_are_files_to_compare() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_are_in_millimetres_and_seconds_whatever_the_file_has(version: int, packed: bool) -> None:
    data = nifti(version)
    found, _ = extract(gzip.compress(data) if packed else data)
    values = found.values
    assert (found.outcome, values["NiftiVersion"], values["Shape"]) == ("ok", version, [4, 5, 6, 7])
    assert (values["VoxelSize"], values["TimeStep"]) == ([2.0, 2.0, 3.0], 1.5)
    assert (values["SpatialUnit"], values["TimeUnit"], values["DataType"]) == ("mm", "msec", "int16")
    assert (values["Description"], values["BigEndian"]) == ("Doe Jane", False)


def test_no_more_than_the_first_range_of_a_large_file_is_read() -> None:
    packed = gzip.compress(nifti() + random.Random(1).randbytes(1_000_000))
    found, cost = extract(packed)
    assert (found.outcome, cost) == ("ok", 65_536)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_ends_within_its_header_gives_no_value(packed: bool) -> None:
    data = gzip.compress(nifti()) if packed else nifti()
    for length in range(348 if not packed else 100):
        found, _ = extract(data[:length])
        assert found.outcome in {"failed", "not_matched", "ok"}
        if found.values:
            assert found.values == extract(data)[0].values


def test_a_gzip_bomb_is_inflated_no_further_than_a_header() -> None:
    bomb = gzip.compress(nifti() + bytes(200_000_000), 6)
    assert len(bomb) < 1_000_000
    assert extract(bomb)[0].outcome == "ok"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x1f\x8b", b"\x1f\x8b no gzip", gzip.compress(bytes(1000), mtime=0), bytes(400)],
    ids=["empty", "two bytes of gzip", "no gzip", "gzip of zeros", "zeros"],
)
def test_other_objects_do_not_match(data: bytes) -> None:
    assert extract(data)[0].outcome == "not_matched"


def test_a_gzip_file_with_a_long_name_before_its_data_is_read() -> None:
    raw = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    named = (
        b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 2000 + b"\0" + raw.compress(nifti()) + raw.flush() + bytes(8)
    )
    assert extract(named)[0].outcome == "ok"


def test_damaged_headers_never_raise_and_always_fit_the_schema() -> None:
    draw = random.Random(5)
    files = [nifti(), nifti(2)]
    for _ in range(500):
        data = bytearray(draw.choice(files))
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(540)] = draw.randrange(256)
        found, _ = extract(bytes(data))
        pa.RecordBatch.from_pylist([dict(found.values)], schema=NiftiExtractor().schema)
        assert "Doe" not in "".join(found.problems)
