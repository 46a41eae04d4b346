"""Rows of thirty objects, and the question that is asked of them in tests."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from snapengine import View
from snapengine.cautions import MetadataMissing

QUESTION = "Modality = 'CT' AND PatientSex = 'M' AND PatientAgeYears > 50"

KEYS = [f"ct/{n:03}" for n in range(30)]


def values(n: int) -> dict[str, Any]:
    age = None if n % 7 == 0 else float(n * 3)
    return {
        "Modality": ["CT", "MR", "CT"][n % 3],
        "PatientID": f"MARK-{n // 4}",
        "PatientSex": "MF"[n % 2],
        "PatientAge": None if age is None else f"{round(age):03}Y",
        "PatientAgeYears": age,
        "StudyDate": 19_000 + n,
        "PixelSpacing": [1.0, 2.0],
        "Rows": 512,
    }


ROWS = {key: values(n) for n, key in enumerate(KEYS) if n not in {4, 11}}
ROWS["ct/005"] = {"outcome": "failed", "error": "cannot be read"}

CHOSEN = [
    key
    for key, row in ROWS.items()
    if row.get("Modality") == "CT" and row["PatientSex"] == "M" and (row["PatientAgeYears"] or 0) > 50
]


def quietly(view: View, **options: Any) -> pd.DataFrame:
    with pytest.warns(MetadataMissing):
        return view.metadata(**options)
