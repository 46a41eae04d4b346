"""The peers of `dicom_headers`: what people do with pydicom, and what our values are compared with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM

from metadata_extractors.base import Extraction
from metadata_extractors.dicom_columns import Column

_PIXEL_DATA: Final = 0x7FE00010


def every_value(data: bytes) -> dict[str, object]:
    """What fastai's `from_dicoms` makes of a whole object, without its summary of the pixels: every value by
    keyword, and each of several under a name of its own."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    elements = [dataset[tag] for tag in dataset.keys() if tag != _PIXEL_DATA]  # noqa: SIM118  # as fastai does
    found: dict[str, object] = {element.keyword: element.value for element in elements}
    for name, value in list(found.items()):
        if isinstance(value, MultiValue):
            found[f"Multi{name}"] = 1
            found |= {f"{name}{place or ''}": one for place, one in enumerate(value)}
    return found


def named_values(data: bytes, tags: Sequence[int]) -> list[object]:
    """The values of these tags, nothing else being read: pydicom's own way to be quick."""
    dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(tags), stop_before_pixels=True)
    return [element.value if (element := _element(dataset, tag)) is not None else None for tag in tags]


def agrees(found: Extraction, data: bytes, columns: Sequence[Column]) -> bool:
    """Whether the values are those that pydicom reads, up to the pixels with all elements: of an object
    whose pixels are cut it otherwise gives none. A value that we call bad, and make null, is passed over."""
    bad = {problem.partition(":")[0] for problem in found.problems}
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    expected = {
        column.name: _expected(dataset, column)
        for column in columns
        if column.form == "value" and column.name not in bad
    }
    return found.outcome in {"ok", "partial"} and all(
        _listed(found.values.get(name)) == value for name, value in expected.items()
    )


def _element(dataset: Dataset, tag: int) -> DataElement | None:
    part = dataset.file_meta if tag >> 16 == 2 else dataset
    found: DataElement | None = part.get(tag)
    return found


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _expected(dataset: Dataset, column: Column) -> list[object]:
    element = _element(dataset, column.tag)
    if element is None or element.is_empty:
        return [None]
    several: Sequence[Any] = element.value if element.VM > 1 else [element.value]
    return [_plain(value, element.VR) for value in several]


def _plain(value: Any, vr: str) -> object:
    """pydicom's value in the type of ours."""
    plain: Mapping[str, Any] = {
        "DA": DA,
        "TM": lambda text: TM(text.replace(":", "")),  # pydicom takes no colons (ACR-NEMA)
        "DS": float,
        "IS": int,
    }
    if vr in plain:
        return plain[vr](value) if value is not None and value != "" else None
    if isinstance(value, int | float | bytes | datetime):
        return value
    return str(value).strip() or None
