"""The extractors that are installed, by entry point."""

from __future__ import annotations

import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from metadata_extractors.base import ExtractorFactory
from snapengine.errors import UsageError

GROUP: Final = "snapengine.extractors"


def extractors() -> dict[str, ExtractorFactory]:
    """All that can be loaded, by name, in the order of their names. A broken one is left out, with a warning.

    Of two with one name, the one whose module sorts first is taken, on every machine.
    """
    found: dict[str, ExtractorFactory] = {}
    for entry_point in _entry_points():
        if entry_point.name in found:
            continue
        try:
            found[entry_point.name] = entry_point.load()
        except Exception as error:  # noqa: BLE001  # another's code: whatever it raises, the rest must work
            warnings.warn(_broken(entry_point, error), stacklevel=2)
    return found


def extractor_factory(name: str) -> ExtractorFactory:
    """The extractor of that name. Raises `UsageError` if there is none or it cannot be loaded."""
    for entry_point in _entry_points():
        if entry_point.name == name:
            try:
                factory: ExtractorFactory = entry_point.load()
            except Exception as error:
                raise UsageError(_broken(entry_point, error)) from error
            return factory
    names = ", ".join(sorted({entry_point.name for entry_point in _entry_points()})) or "none"
    raise UsageError(f"There is no extractor {name!r}. Installed: {names}.")


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry_point: (entry_point.name, entry_point.value))


def _broken(entry_point: EntryPoint, error: Exception) -> str:
    remedy = (
        "Run `pip install 'snapengine[dicom]'`."
        if entry_point.name == "dicom" and isinstance(error, ImportError)
        else "Reinstall or remove the package that brings it."
    )
    return (
        f"The extractor {entry_point.name!r} ({entry_point.value}) cannot be loaded: "
        f"{type(error).__name__}: {error}. {remedy}"
    )
