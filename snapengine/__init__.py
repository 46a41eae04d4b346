"""Consistent, read-only views of S3 buckets at any past time.

    view = snapengine.view("scans", at="2026-11-20T09:00:00Z", prefix="ct/")
    with view.open("ct/0001.dcm") as file: ...

The functions here use an engine made of the environment's settings; `Engine(settings)` is one of your own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Unpack

from snapengine.errors import SnapEngineError
from snapengine.model import Completeness, ObjectVersion, SnapshotRef

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from snapengine.diff import Diff
    from snapengine.engine import Engine, EpochInput
    from snapengine.instants import TimeInput
    from snapengine.model import Level
    from snapengine.settings import Settings
    from snapengine.views import MetadataOptions, View

__version__ = "0.1.0"
__all__ = [
    "Completeness",
    "Diff",
    "Engine",
    "ObjectVersion",
    "Settings",
    "SnapEngineError",
    "SnapshotRef",
    "View",
    "metadata",
    "metadata_table",
    "open_ref",
    "slice",
    "view",
]

_LAZY = {"Diff": "diff", "Engine": "engine", "Settings": "settings", "View": "views"}


def view(
    bucket: str,
    at: TimeInput = None,
    *,
    prefix: str = "",
    epoch: EpochInput = None,
    require: Level = "provisional",
    timeout: float = 300.0,
    note: bool | str = True,
    pin: bool = False,
) -> View:
    """The bucket (or the keys that start with `prefix`) as it was at `at`, inclusive.

    `at`: an aware datetime, a zoned pandas Timestamp, epoch milliseconds (int), a date (midnight UTC), or
    text: RFC 3339 with a zone, a date, `now`, a look-back such as `-24h`, `snapshot:NAME`, or `run:/ID` for
    the very view that an MLflow run noted. None: what `SNAPENGINE_AT` says, else when the active MLflow run
    began, else now.
    `epoch`: as known then: an epoch's number, or a time (the last cut at or before it); the newest if None.
    `require`: the least level of `view.completeness`. `settled` waits for workers, up to `timeout` seconds;
    `verified` lists the prefix now, stores what was missing, and resolves there. With an explicit epoch
    nothing is waited for.
    `note`: whether the active MLflow run notes the view; text is the context that MLflow shows with it.
    `pin`: hold its versions in S3 by legal hold, where Object Lock is on. In a run that notes it this is done
    by the run's end, and warns where it cannot be; else before it returns, and raises `Refused`.

    Raises `BadTime`, `FutureTime`, `BucketNotEnabled`, `TableMissing`, `NoSuchEpoch`, `NoSuchSnapshot`,
    `NoSuchRun`, `DigestDiffers`, `NotYetComplete`, `Unreachable`, and `UsageError` for a prefix that is not
    watched.
    """
    from snapengine.tracking import opening

    return opening.view(
        _engine(), bucket, at, note, pin=pin, prefix=prefix, epoch=epoch, require=require, timeout=timeout
    )


def slice(  # noqa: A001  # the field's word; the built-in is not used in this module
    bucket: str,
    start: TimeInput,
    end: TimeInput = None,
    *,
    prefix: str = "",
    epoch: EpochInput = None,
    versions: Literal["last", "all"] = "last",
    require: Level = "provisional",
    timeout: float = 300.0,
    note: bool | str = True,
) -> View:
    """What was ingested in the half-open interval `[start, end)`, as a view.

    For every key its state just before `end`, if that version was created in the interval; with
    `versions="all"` every version created in it, with what became of it (column `became`).
    Time inputs, `require`, `timeout`, `note` and errors as for `view`; `end` is None as `at` is there. The
    level is that of the slice's end, and `snapshot:NAME` stands for the snapshot's instant; `end="run:/ID"`
    for the slice that the run noted.
    """
    from snapengine.tracking import opening

    return opening.slice_(
        _engine(),
        bucket,
        start,
        end,
        note,
        prefix=prefix,
        epoch=epoch,
        versions=versions,
        require=require,
        timeout=timeout,
    )


def open_ref(
    reference: str, *, require: Level = "provisional", timeout: float = 300.0, note: bool | str = True
) -> View:
    """The view or slice that `snap://BUCKET@AT~EPOCH/PREFIX` names: the same for ever.

    `require`, `timeout` and `note` as for `view`: a reference with an epoch has its level for ever, so
    nothing is waited for. Raises `BadReference`, and what `view` raises.
    """
    from snapengine.tracking import opening

    return opening.open_ref(_engine(), reference, note, require=require, timeout=timeout)


def metadata(
    bucket: str,
    at: TimeInput = None,
    *,
    epoch: EpochInput = None,
    extractor: str = "dicom",
    **options: Unpack[MetadataOptions],
) -> pd.DataFrame:
    """Metadata of the bucket's objects as of `at`, by a condition, as a DataFrame with Arrow types.

        snapengine.metadata("scans", at="-7d", where="Modality = 'CT' AND PatientAgeYears > 50",
                            columns=["PatientID", "PatientAgeYears"])

    The same as `view(...).metadata(extractor, where=..., columns=..., ...)`; raises what `view` raises, too.
    """
    return _view(bucket, at, epoch, options).metadata(extractor, **options)


def metadata_table(
    bucket: str,
    at: TimeInput = None,
    *,
    epoch: EpochInput = None,
    extractor: str = "dicom",
    **options: Unpack[MetadataOptions],
) -> pa.Table:
    """The same as a `pyarrow.Table`."""
    return _view(bucket, at, epoch, options).metadata_table(extractor, **options)


def _view(bucket: str, at: TimeInput, epoch: EpochInput, options: MetadataOptions) -> View:
    return view(bucket, at, prefix=options.get("prefix", ""), epoch=epoch)


def _engine() -> Engine:
    """An engine for the environment as it is now; the same one while that stays the same."""
    import os

    from snapengine.engine import Engine
    from snapengine.settings import load_settings

    settings = load_settings()
    aws = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (settings, aws)
    if key not in _engines:
        _engines.clear()
        _engines[key] = Engine(settings)
    return _engines[key]


_engines: dict[object, Engine] = {}


def __getattr__(name: str) -> Any:
    """Classes are loaded when they are asked for, so that `import snapengine` stays light."""
    if name == "tracking":
        return import_module("snapengine.tracking")
    if name in _LAZY:
        return getattr(import_module(f"snapengine.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'snapengine' has no attribute {name!r}")
