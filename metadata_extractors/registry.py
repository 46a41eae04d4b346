"""The extractors that are installed, by entry point."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from metadata_extractors.base import Extractor, ExtractorFactory
from snapengine.errors import UsageError
from snapengine.extractor_check import checked

GROUP: Final = "snapengine.extractors"
EXTRAS: Final = {"dicom": "dicom", "images": "images", "nifti": "nifti"}
"""What must be installed for those of ours that need more than snapengine does."""


def extractors() -> dict[str, ExtractorFactory]:
    """All that can be loaded, by name, in the order of their names.

    A broken one is left out, with a warning; one of ours whose extra is not installed, without. Of two with
    one name, the one whose module sorts first is taken, on every machine.
    """
    return {entry_point.name: factory for entry_point, factory in _loaded()}


def make_extractors(columns: Mapping[str, Sequence[str]] | None = None) -> dict[str, Extractor]:
    """All that can be loaded and made, in the order of their names, each with the columns named for it.

    A broken one is left out, with a warning. Raises `UsageError` for columns it does not know, and for those
    of an extractor that is not installed.
    """
    asked = dict(columns or {})
    made: dict[str, Extractor] = {}
    for entry_point, factory in _loaded():
        try:
            made[entry_point.name] = checked(factory(asked.get(entry_point.name)), entry_point.name)
        except Exception as error:
            if entry_point.name in asked:
                raise
            warnings.warn(_broken(entry_point, error), stacklevel=2)
    for name in asked.keys() - made.keys():
        extractor_factory(name)
    return made


def make_extractor(name: str, columns: Sequence[str] | None = None) -> Extractor:
    """That one. Raises `UsageError` if there is none, or it cannot be loaded, or does not know a column."""
    return checked(extractor_factory(name)(columns), name)


def extractor_factory(name: str) -> ExtractorFactory:
    """The extractor of that name. Raises `UsageError` if there is none or it cannot be loaded."""
    entry_point = find_entry_point(name)
    try:
        factory: ExtractorFactory = entry_point.load()
    except Exception as error:
        raise UsageError(_broken(entry_point, error)) from error
    return factory


def find_entry_point(name: str) -> EntryPoint:
    """Raises `UsageError` if there is none of that name."""
    for entry_point in _entry_points():
        if entry_point.name == name:
            return entry_point
    names = ", ".join(sorted({entry_point.name for entry_point in _entry_points()})) or "none"
    raise UsageError(f"There is no extractor {name!r}. Installed: {names}.")


def _loaded() -> Iterator[tuple[EntryPoint, ExtractorFactory]]:
    seen = set()
    for entry_point in _entry_points():
        if entry_point.name in seen:
            continue
        seen.add(entry_point.name)
        try:
            factory: ExtractorFactory = entry_point.load()
        except Exception as error:  # noqa: BLE001  # another's code: whatever it raises, the rest must work
            if not _lacks_an_extra(entry_point, error):
                warnings.warn(_broken(entry_point, error), stacklevel=3)
            continue
        yield entry_point, factory


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry_point: (entry_point.name, entry_point.value))


def _lacks_an_extra(entry_point: EntryPoint, error: Exception) -> bool:
    return entry_point.name in EXTRAS and isinstance(error, ModuleNotFoundError)


def _broken(entry_point: EntryPoint, error: Exception) -> str:
    remedy = (
        f"Run `pip install 'snapengine[{EXTRAS[entry_point.name]}]'`."
        if _lacks_an_extra(entry_point, error)
        else "Reinstall or remove the package that brings it."
    )
    return (
        f"The extractor {entry_point.name!r} ({entry_point.value}) cannot be loaded: "
        f"{type(error).__name__}: {error}. {remedy}"
    )
