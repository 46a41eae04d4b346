"""Image headers and EXIF: what they say, by ranges, and never more than they say."""

from __future__ import annotations

import io
import random
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from metadata_extractors.base import Extraction
from metadata_extractors.images import ImageExtractor
from metadata_extractors.ranged import RangedReader, extract_from

SECRET = "Doe Jane"


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110], tags[0x0112] = "Zeiss", "Axio", 6
    tags[0x0132], tags[0x013B] = "2026:11:20 09:08:07", SECRET
    of_exif = {0x829A: 0.004, 0x8827: 200, 0x9003: "2026:11:19 09:08:07"}
    of_gps = {1: "S", 2: (33.0, 51.0, 36.0), 3: "E", 4: (151.0, 12.0, 0.0), 5: b"\x00", 6: 19.5}
    for ifd, values in ((ExifTags.IFD.Exif, of_exif), (ExifTags.IFD.GPSInfo, of_gps)):
        tags.get_ifd(ifd).update(values)
        tags[ifd] = dict(values)  # without it Pillow leaves the directory out of a TIFF
    return tags


def image(kind: str, size: tuple[int, int] = (300, 200), **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = random.Random(1).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def extract(
    data: bytes, columns: list[str] | None = None, max_bytes: int = 16 * 2**20
) -> tuple[Extraction, int]:
    """What was found, and the bytes that it cost."""
    reader = RangedReader(lambda start, end: data[start:end], len(data), "a.bin", max_bytes=max_bytes)
    return extract_from(ImageExtractor(columns), reader), reader.fetched


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000"])
def test_a_header_gives_format_and_size(kind: str) -> None:
    found, _ = extract(image(kind), ["Format", "Width", "Height", "Mode"])
    assert (found.outcome, found.problems) == ("ok", ())
    mode = "P" if kind == "GIF" else "RGB"
    assert found.values == {"Format": kind, "Width": 300, "Height": 200, "Mode": mode}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_gives_typed_values(kind: str) -> None:
    found, _ = extract(image(kind, exif=exif()))
    values = {name: value for name, value in found.values.items() if value is not None}
    assert found.problems == ()
    expected = {
        "Make": "Zeiss", "Model": "Axio", "Orientation": 6, "Artist": SECRET,
        "DateTime": datetime.fromisoformat("2026-11-20T09:08:07"),
        "DateTimeOriginal": datetime.fromisoformat("2026-11-19T09:08:07"),
        "ExposureTime": pytest.approx(0.004), "PhotographicSensitivity": 200,
        "GPSLatitude": pytest.approx(-33.86), "GPSLongitude": pytest.approx(151.2), "GPSAltitude": 19.5,
    }  # fmt: skip
    assert {name: values.get(name) for name in expected} == expected


def test_only_the_header_of_a_large_image_is_read() -> None:
    data = image("JPEG", (2000, 2000), exif=exif(), quality=95)
    found, cost = extract(data)
    assert (found.outcome, found.values["Make"]) == ("ok", "Zeiss")
    assert len(data) > 2_000_000
    assert cost <= 65_536


def test_a_directory_at_the_end_of_a_tiff_is_read_by_ranges() -> None:
    data = image("TIFF", (2000, 1000))
    assert int.from_bytes(data[4:8], "little") < 8 + len(data)
    moved = data[:4] + (len(data)).to_bytes(4, "little") + data[8:]
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    moved += data[at : at + 2 + 12 * count + 4]
    found, cost = extract(moved, ["Width", "Height"])
    assert (found.outcome, found.values) == ("ok", {"Width": 2000, "Height": 1000})
    assert cost < 200_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_an_image_that_ends_too_early_gives_true_values_or_none(kind: str) -> None:
    data = image(kind, (40, 30), **({"exif": exif()} if kind in {"JPEG", "PNG", "TIFF", "WEBP"} else {}))
    complete = extract(data)[0].values
    for length in range(0, min(len(data), 2000), 7):
        found, _ = extract(data[:length])
        for name, value in found.values.items():
            assert value is None or value == complete[name], (length, name)


def test_what_cannot_be_read_within_the_budget_is_a_failure_that_says_so() -> None:
    found, cost = extract(image("WEBP", (800, 800), lossless=True), max_bytes=100_000)
    assert (found.outcome, found.problems) == ("failed", ("the header costs more bytes than may be read",))
    assert cost <= 100_000


def test_damaged_images_never_raise_and_always_fit_the_schema() -> None:
    draw = random.Random(3)
    files = [image(kind, (40, 30), exif=exif()) for kind in ("JPEG", "PNG", "TIFF", "WEBP")]
    for _ in range(400):
        data = bytearray(draw.choice(files))
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(min(len(data), 1200))] = draw.randrange(256)
        found, _ = extract(bytes(data))
        pa.RecordBatch.from_pylist([dict(found.values)], schema=ImageExtractor().schema)
        assert SECRET not in "".join(found.problems)


def test_an_image_of_more_pixels_than_fit_in_memory_is_only_a_header() -> None:
    header = image("PNG")
    huge = header[:16] + (200_000).to_bytes(4, "big") * 2 + header[24:]
    assert extract(huge, ["Width", "Height"])[0].values in ({"Width": 200_000, "Height": 200_000}, {})


@pytest.mark.parametrize("data", [b"", b"BM", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"RIFF\0\0\0\0WAVEfmt "])
def test_other_objects_do_not_match(data: bytes) -> None:
    assert extract(data + bytes(len(data)))[0].outcome == "not_matched"


def test_places_names_and_times_are_identifying() -> None:
    fields = ImageExtractor().schema
    hidden = {field.name for field in fields if field.metadata[b"identifying"] == b"true"}
    assert {
        "Artist",
        "Copyright",
        "GPSLatitude",
        "GPSLongitude",
        "DateTimeOriginal",
        "BodySerialNumber",
    } < hidden
    assert not {"Width", "Format", "Make", "Orientation"} & hidden
