"""What the sibling packages bring, by entry point: `snapengine` imports none of them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from snapengine.errors import UsageError


def installed(group: str) -> list[str]:
    """The names of a group's entry points, in their order. Nothing is loaded: one of them may be broken."""
    return sorted({entry_point.name for entry_point in entry_points(group=group)})


def load_one(group: str, name: str) -> Any:
    """The object that an entry point names. Raises `UsageError` if it is missing or cannot be loaded."""
    found = entry_points(group=group, name=name)
    if not found:
        raise UsageError(f"Nothing installed offers {name!r} ({group}). Reinstall snapengine.")
    try:
        return next(iter(found)).load()
    except ImportError as error:
        raise UsageError(
            f"{name!r} needs a package that is not installed: {error}. Run `pip install 'snapengine[all]'`."
        ) from error
