"""The extractor of image headers and EXIF: JPEG, PNG, TIFF, GIF, WebP, BMP and JPEG 2000, with Pillow.

No pixel is decoded, and Pillow's other formats are not offered an object: some start programs.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from metadata_extractors.base import Extraction, Reader, column
from metadata_extractors.columns import pick
from metadata_extractors.ranged import ReaderFile

_OPENERS: Final[tuple[tuple[bytes, type[Any]], ...]] = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImageFile),
    (b"\xff\x4f\xff\x51", Jpeg2KImageFile),
)

_IFD0, _EXIF, _GPS = 0, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
_Exif = Mapping[int, Mapping[int, Any]]


def _text(value: Any) -> str:
    raw = value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value)
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
    if not text:
        raise ValueError
    return text


def _number(value: Any) -> float:
    number = float(value[0] if isinstance(value, tuple) else value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    return int(_number(value))


def _moment(value: Any) -> datetime:
    return datetime.strptime(_text(value), "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007  # EXIF has the wall clock


_EXIF_COLUMNS: Final[tuple[tuple[str, int, int, pa.DataType, Callable[[Any], object], str, bool], ...]] = (
    ("Make", _IFD0, 0x010F, pa.string(), _text, "", False),
    ("Model", _IFD0, 0x0110, pa.string(), _text, "", False),
    ("Software", _IFD0, 0x0131, pa.string(), _text, "", False),
    ("Orientation", _IFD0, 0x0112, pa.int64(), _whole, "", False),
    ("DateTime", _IFD0, 0x0132, pa.timestamp("s"), _moment, "", True),
    ("DateTimeOriginal", _EXIF, 0x9003, pa.timestamp("s"), _moment, "", True),
    ("OffsetTimeOriginal", _EXIF, 0x9011, pa.string(), _text, "", True),
    ("ExposureTime", _EXIF, 0x829A, pa.float64(), _number, "s", False),
    ("FNumber", _EXIF, 0x829D, pa.float64(), _number, "", False),
    ("PhotographicSensitivity", _EXIF, 0x8827, pa.int64(), _whole, "", False),
    ("FocalLength", _EXIF, 0x920A, pa.float64(), _number, "mm", False),
    ("LensModel", _EXIF, 0xA434, pa.string(), _text, "", False),
    ("BodySerialNumber", _EXIF, 0xA431, pa.string(), _text, "", True),
    ("ImageDescription", _IFD0, 0x010E, pa.string(), _text, "", True),
    ("Artist", _IFD0, 0x013B, pa.string(), _text, "", True),
    ("Copyright", _IFD0, 0x8298, pa.string(), _text, "", True),
    ("GPSLatitude", _GPS, 0x0002, pa.float64(), _number, "deg", True),
    ("GPSLongitude", _GPS, 0x0004, pa.float64(), _number, "deg", True),
    ("GPSAltitude", _GPS, 0x0006, pa.float64(), _number, "m", True),
)
_SIGNS: Final = {"GPSLatitude": (1, "S"), "GPSLongitude": (3, "W")}

_FIELDS: Final = (
    column("Format", pa.string(), "the file's first bytes"),
    column("Width", pa.int64(), "header", unit="{pixel}"),
    column("Height", pa.int64(), "header", unit="{pixel}"),
    column("Mode", pa.string(), "header, as Pillow names pixel formats"),
    *(
        column(
            name, kind, f"EXIF {tag:04X}" if ifd != _GPS else f"EXIF GPS {tag:04X}", unit=unit, identifying=i
        )
        for name, ifd, tag, kind, _, unit, i in _EXIF_COLUMNS
    ),
)


class ImageExtractor:
    """Reads the headers of images, by ranges, wherever in the file they are."""

    name = "images"
    version = "1"

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self._fields = pick(_FIELDS, columns)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(self._fields)

    def matches(self, key: str, size: int | None, head: bytes) -> bool:  # noqa: ARG002  # names lie
        return _opener(head) is not None

    def extract(self, reader: Reader) -> Extraction:
        opener = _opener(reader.read(0, 32))
        size = reader.size if reader.size is not None else getattr(reader.facts(), "size", None)
        if opener is None:
            return Extraction("not_matched")
        if size is None:
            return Extraction("failed", problems=("the object's size is not known",))
        file = ReaderFile(reader, size)
        problems: list[str] = []
        values: dict[str, object] = {}
        raised = ""
        with _quietly():
            try:
                image = opener(file, "")
                values |= {"Format": image.format, "Mode": image.mode}
                values |= {"Width": image.size[0], "Height": image.size[1]}
                found, problems = _exif(image)
                values |= found
            except Exception as error:  # noqa: BLE001  # Pillow raises a dozen kinds for damaged files
                raised = type(error).__name__
        if file.refused:
            return Extraction("failed", problems=("the header costs more bytes than may be read",))
        if file.short:
            raised = "the object ends within its header"
        if raised and not values:
            return Extraction("failed", problems=(f"the header cannot be read ({raised})",))
        named = {field.name: values.get(field.name) for field in self._fields}
        return Extraction("partial" if raised else "ok", named, (*([raised] if raised else []), *problems))


_quiet: ContextVar[bool] = ContextVar("pillow_quiet", default=False)
for _name in ("PIL.TiffImagePlugin", "PIL.PngImagePlugin"):
    logging.getLogger(_name).addFilter(lambda _record: not _quiet.get())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings, and its debug log in this thread: both may hold values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = _quiet.set(True)
        try:
            yield
        finally:
            _quiet.reset(token)


def _opener(head: bytes) -> type[Any] | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImageFile
    if (
        head[:2] == b"BM"
        and len(head) >= 18
        and struct.unpack("<I", head[14:18])[0] in {12, 40, 52, 56, 64, 108, 124}
    ):
        return BmpImageFile
    return next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)


def _exif(image: Image.Image) -> tuple[dict[str, object], list[str]]:
    """EXIF by column, and what of it was no good. A PNG's behind its pixels is not looked for."""
    if not isinstance(image, TiffImageFile) and not {"exif", "Raw profile type exif"} & image.info.keys():
        return {}, []
    base = image.getexif()
    tags: _Exif = {_IFD0: base, _EXIF: base.get_ifd(_EXIF), _GPS: base.get_ifd(_GPS)}
    values: dict[str, object] = {}
    problems = []
    for name, ifd, tag, _, convert, _, _ in _EXIF_COLUMNS:
        raw = tags[ifd].get(tag)
        if raw is None or raw in {"", b""}:
            continue
        try:
            values[name] = _angle(raw, tags[_GPS], *_SIGNS[name]) if name in _SIGNS else convert(raw)
        except (ValueError, TypeError, ArithmeticError, LookupError):
            problems.append(f"{name}: no value of its kind")
    if values.get("GPSAltitude") is not None and tags[_GPS].get(5) in {1, b"\x01"}:
        values["GPSAltitude"] = -_number(values["GPSAltitude"])
    return values, problems


def _angle(raw: Any, gps: Mapping[int, Any], sign_tag: int, negative: str) -> float:
    """Degrees, minutes and seconds as degrees; negative to the south and to the west."""
    degrees, minutes, seconds = (_number(part) for part in raw)
    angle = degrees + minutes / 60 + seconds / 3600
    if not 0 <= angle <= 180:
        raise ValueError
    return -angle if _text(gps[sign_tag]).upper() == negative else angle
