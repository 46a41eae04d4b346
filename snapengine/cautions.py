"""Warnings of ours, as classes that Python's `warnings` can filter; all are `SnapEngineWarning`."""

from __future__ import annotations

import sys
import warnings

_OURS = ("snapengine", "metadata_extractors", "readers", "ingest_worker")


class SnapEngineWarning(UserWarning):
    """The root. An answer stands, and something about it must be known."""


class MetadataMissing(SnapEngineWarning):
    """Objects of the view have no row of metadata, so nothing says whether they would have been chosen."""


class IdentifyingLeftOut(SnapEngineWarning):
    """All columns were asked for, and the identifying ones may not be read: they are not in the answer."""


class SelectionNotKept(SnapEngineWarning):
    """The table did not take what was selected: the view works, its reference opens in this process only."""


class RunNotNoted(SnapEngineWarning):
    """What an MLflow run saw is not noted, or not yet: the view works, the run goes on."""


class NoDigest(SnapEngineWarning):
    """A run noted a view without its digest, so that it is the same cannot be checked."""


def caution(message: str, category: type[SnapEngineWarning]) -> None:
    """Warn at the line outside our packages that called them."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
