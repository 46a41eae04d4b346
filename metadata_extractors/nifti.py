"""The extractor of NIfTI headers (versions 1 and 2, also gzipped): shape, voxel sizes, data type."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from metadata_extractors.base import Extraction, NeedMoreBytes, Prefix, Reader, column
from metadata_extractors.columns import pick
from metadata_extractors.ranged import from_front

_HEADER_BYTES: Final = {1: 348, 2: 540}
_MOST: Final = 540
_GZIP: Final = b"\x1f\x8b"
_TO_MM: Final = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_TO_SECONDS: Final = {"sec": 1.0, "msec": 0.001, "usec": 0.000001}

_FIELDS: Final = (
    column("NiftiVersion", pa.int64(), "magic"),
    column("Shape", pa.list_(pa.int64()), "dim[1:]"),
    column("DataType", pa.string(), "datatype"),
    column("BitsPerVoxel", pa.int64(), "bitpix", unit="bit"),
    column("Zooms", pa.list_(pa.float64()), "pixdim[1:], in the units that the next two columns name"),
    column("SpatialUnit", pa.string(), "xyzt_units"),
    column("TimeUnit", pa.string(), "xyzt_units"),
    column("VoxelSize", pa.list_(pa.float64()), "pixdim[1:4] and xyzt_units", unit="mm"),
    column("TimeStep", pa.float64(), "pixdim[4] and xyzt_units", unit="s"),
    column("Slope", pa.float64(), "scl_slope"),
    column("Intercept", pa.float64(), "scl_inter"),
    column("QformCode", pa.int64(), "qform_code"),
    column("SformCode", pa.int64(), "sform_code"),
    column("Affine", pa.list_(pa.float64()), "sform, else qform, else zooms; 16 values by row", unit="mm"),
    column("BigEndian", pa.bool_(), "byte order of sizeof_hdr"),
    column("Intent", pa.string(), "intent_code"),
    column("Description", pa.string(), "descrip", identifying=True),
    column("AuxFile", pa.string(), "aux_file", identifying=True),
    column("IntentName", pa.string(), "intent_name", identifying=True),
)


class NiftiExtractor:
    """Reads NIfTI headers, also gzipped: no more is inflated than a header is long."""

    name = "nifti"
    version = "1"

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self._fields = pick(_FIELDS, columns)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(self._fields)

    def matches(self, key: str, size: int | None, head: bytes) -> bool:  # noqa: ARG002  # the magic tells
        return _version(_start(head)[0]) is not None

    def extract(self, reader: Reader) -> Extraction:
        return from_front(reader, self.parse)

    def parse(self, prefix: Prefix) -> Extraction:
        """The values in the header. Raises `NeedMoreBytes` where the prefix, not the last, ends within it."""
        start, damaged = _start(prefix.data)
        version = _version(start)
        length = _HEADER_BYTES[version or 2]
        if len(start) < length and not prefix.last and not damaged:
            raise NeedMoreBytes(max(length, len(prefix.data) + 1))
        if version is None:
            return Extraction("not_matched")
        if len(start) < length:
            why = "the compressed header is damaged" if damaged else "the object ends within the header"
            return Extraction("failed", problems=(why,))
        kind: Any = Nifti1Header if version == 1 else Nifti2Header
        try:
            header = kind.from_fileobj(io.BytesIO(start[:length]), check=False)
            values, problems = _values(header, version)
        except (HeaderDataError, ValueError, KeyError, OverflowError) as error:
            return Extraction("failed", problems=(f"the header is damaged ({type(error).__name__})",))
        named = {field.name: values[field.name] for field in self._fields}
        return Extraction("ok", named, tuple(problems))


def _start(data: bytes) -> tuple[bytes, bool]:
    """As much of a header as the data hold, inflated if need be; and whether they are damaged."""
    if data[:2] != _GZIP:
        return data[:_MOST], False
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, _MOST), False
    except zlib.error:
        return b"", True


def _version(start: bytes) -> int | None:
    if start[344:348] in {b"n+1\0", b"ni1\0"}:
        return 1
    if start[4:12] in {b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"}:
        return 2
    return None


def _values(header: Any, version: int) -> tuple[dict[str, object], list[str]]:
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise ValueError
    shape = [int(length) for length in header["dim"][1 : dimensions + 1]]
    if min(shape) < 0:
        raise ValueError
    zooms = [_finite(zoom) for zoom in header["pixdim"][1 : dimensions + 1]]
    problems = []
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        space = time = "unknown"
        problems.append("xyzt_units: no unit of the standard")
    try:
        data_type, intent = header.get_value_label("datatype"), header.get_value_label("intent_code")
    except KeyError:
        data_type = intent = None
        problems.append("datatype: none of the standard")
    to_mm, to_seconds = _TO_MM.get(space), _TO_SECONDS.get(time)
    affine = [_finite(number) for number in header.get_best_affine().ravel()]
    values: dict[str, object] = {
        "NiftiVersion": version,
        "Shape": shape,
        "DataType": data_type,
        "BitsPerVoxel": int(header["bitpix"]),
        "Zooms": zooms,
        "SpatialUnit": None if space == "unknown" else space,
        "TimeUnit": None if time == "unknown" else time,
        "VoxelSize": [_times(zoom, to_mm) for zoom in zooms[:3]] if to_mm else None,
        "TimeStep": _times(zooms[3], to_seconds) if dimensions > 3 else None,
        "Slope": _finite(header["scl_slope"]),
        "Intercept": _finite(header["scl_inter"]),
        "QformCode": int(header["qform_code"]),
        "SformCode": int(header["sform_code"]),
        "Affine": affine,
        "BigEndian": header.endianness == ">",
        "Intent": intent,
        "Description": _text(header["descrip"]),
        "AuxFile": _text(header["aux_file"]),
        "IntentName": _text(header["intent_name"]),
    }
    return values, problems


def _finite(number: Any) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


def _times(value: float | None, factor: float | None) -> float | None:
    return None if value is None or factor is None else value * factor


def _text(field: Any) -> str | None:
    return bytes(field.item()).split(b"\0", 1)[0].decode("utf-8", "replace").strip() or None
