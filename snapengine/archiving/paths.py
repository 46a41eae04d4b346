"""PURE: where the archive's files are, and whose a path is. The whole layout is in `archive.manifest`."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

Kind = Literal["segment", "checkpoint", "listing", "manifest", "selection"]

_KINDS: Final[dict[Kind, re.Pattern[str]]] = {
    "segment": re.compile(
        r"(observations|epochs|(metadata|identifying)/extractor=[^/]+)/epochs=[0-9]+_[0-9]+/[^/]+"
    ),
    "checkpoint": re.compile(
        r"(objects|histories|(metadata|identifying)/extractor=[^/]+)/"
        r"(checkpoint|differential)=-?[0-9]+_[0-9]+/[^/]+"
    ),
    "listing": re.compile(r"listed/[^/]+/[^/]+"),
    "manifest": re.compile(r"manifests/[^/]+"),
    "selection": re.compile(r"(identifying/)?selections/[^/]+"),
}


def observations(bucket: str, first: int, last: int) -> str:
    """The folder of a segment's `regular` and `irregular` files."""
    return f"{bucket}/observations/epochs={first}_{last}"


def epochs(bucket: str, first: int, last: int) -> str:
    """The folder of a segment's `epochs` file."""
    return f"{bucket}/epochs/epochs={first}_{last}"


class Point(NamedTuple):
    """Of which live set; or of which differences."""

    bucket: str
    at: int
    epoch: int
    differential: bool = False

    @property
    def folder(self) -> str:
        return f"{'differential' if self.differential else 'checkpoint'}={self.at}_{self.epoch}"


def objects(point: Point) -> str:
    """The folder of a checkpoint's live set."""
    return f"{point.bucket}/objects/{point.folder}"


def histories(point: Point) -> str:
    """The folder of a checkpoint's side files."""
    return f"{point.bucket}/histories/{point.folder}"


def rows(bucket: str, extractor: str, first: int, last: int, *, identifying: bool) -> str:
    """The folder of a segment's rows of metadata; those with all columns have one apart."""
    return f"{_of_extractor(bucket, extractor, identifying)}/epochs={first}_{last}"


def live(point: Point, extractor: str, *, identifying: bool) -> str:
    """The folder of a checkpoint's objects with their rows."""
    return f"{_of_extractor(point.bucket, extractor, identifying)}/{point.folder}"


def _of_extractor(bucket: str, extractor: str, identifying: bool) -> str:
    return f"{bucket}/{'identifying' if identifying else 'metadata'}/extractor={extractor}"


def copies(bucket: str, name: str) -> str:
    """How the paths of a manifest's copies start."""
    return f"{bucket}/manifests/{name.replace('#', '-').lower()}-"


def registry(bucket: str) -> str:
    """A copy of what the table knows of the bucket besides its log."""
    return f"{bucket}/registry.json"


def forgotten(bucket: str) -> str:
    """A copy of what the table knows to be forgotten."""
    return f"{bucket}/forgotten.json"


def runs(bucket: str) -> str:
    """A copy of what MLflow's runs noted of the bucket."""
    return f"{bucket}/runs.jsonl"


def selections(bucket: str) -> str:
    """What narrowed views there are of the bucket, and how each was chosen."""
    return f"{bucket}/selections.json"


def selected_rows(bucket: str, name: str) -> str:
    """The rows of the narrowed view with that digest (hexadecimal digits)."""
    return f"{bucket}/selections/{name}-rows.parquet"


def condition(bucket: str, name: str, nonce: str) -> str:
    """How a narrowed view was chosen: a JSON object; without the condition if that is identifying."""
    return f"{bucket}/selections/{name}-condition-{nonce}.json"


def identifying_condition(bucket: str, name: str, nonce: str) -> str:
    """The text of a condition over identifying columns."""
    return f"{bucket}/identifying/selections/{name}-condition-{nonce}.txt"


def owner(bucket: str, path: str) -> Kind | None:
    """What a file is part of. None for what is not the archive's own, and is left alone."""
    place, _, below = path.partition("/")
    if place != bucket:
        return None
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(below)), None)
