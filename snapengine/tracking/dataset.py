"""A view as MLflow's dataset, and its source: what an input of a run is made of, and back to the view.

MLflow loads this module with every `import mlflow.data`, so it loads little itself. It reads
`from_snapengine`'s annotation as a class, so annotations are not made text here.
"""

import json
from typing import TYPE_CHECKING, Any, Final

from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource

from snapengine.run_notes import view_name

if TYPE_CHECKING:
    from mlflow.types import Schema

    from snapengine.model import RunNote
    from snapengine.tracking.facts import Facts
    from snapengine.views import View

SOURCE_TYPE: Final = "snapengine"
SCHEME: Final = "snap://"

COLUMNS: Final = (
    ("key", "string", True),
    ("version_id", "string", True),
    ("size", "long", False),
    ("etag", "string", False),
    ("event_time", "datetime", True),
    ("time", "string", True),
    ("storage_class", "string", False),
    ("sequencer", "string", False),
)
"""`snapengine.bulkfold.VIEW_SCHEMA` in MLflow's words: name, type, required."""
BECAME: Final = ("became", "string", True)


class SnapEngineSource(DatasetSource):
    """A view or slice, by its reference; `load` gives it."""

    def __init__(self, reference: str, digest: str = "") -> None:
        self.reference = reference
        self.digest = digest
        """`sha256:…`; nothing where it is not known."""

    @staticmethod
    def _get_source_type() -> str:
        return SOURCE_TYPE

    def load(self) -> "View":
        """The view: with a digest that was noted, only if it still has it.

        By the settings of this process, as `snapengine.open_ref`. Raises what that raises, and
        `DigestDiffers`.
        """
        import snapengine
        from snapengine.verify import checked

        view = snapengine.open_ref(self.reference)
        return checked(view, self.digest) if self.digest else view

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return _is_view(raw_source) or (isinstance(raw_source, str) and raw_source.startswith(SCHEME))

    @classmethod
    def _resolve(cls, raw_source: Any) -> "SnapEngineSource":
        return cls(raw_source if isinstance(raw_source, str) else raw_source.reference)

    def to_dict(self) -> dict[Any, Any]:
        told = {"reference": self.reference, "digest": self.digest}
        return {name: text for name, text in told.items() if text}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> "SnapEngineSource":
        return cls(source_dict["reference"], source_dict.get("digest", ""))


class ViewDataset(Dataset):
    """A view as MLflow shows one: name, short digest, columns, and how much it is."""

    def __init__(
        self,
        source: SnapEngineSource,
        *,
        name: str,
        digest: str,
        objects: int | None = None,
        size: int | None = None,
        all_versions: bool = False,
    ) -> None:
        super().__init__(source, name, digest)
        self._objects = objects
        self._size = size
        self._columns = (*COLUMNS, BECAME) if all_versions else COLUMNS

    def _compute_digest(self) -> str:
        raise NotImplementedError("A view's digest is given.")

    @property
    def schema(self) -> "Schema":
        """The view's columns. Raises `ImportError` without pandas, which MLflow needs for it."""
        from mlflow.types import ColSpec, Schema

        return Schema([ColSpec(kind, name, required) for name, kind, required in self._columns])

    @property
    def profile(self) -> dict[str, int]:
        """`num_rows`: objects; `bytes`: of all whose size is known."""
        told = {"num_rows": self._objects, "bytes": self._size}
        return {name: count for name, count in told.items() if count is not None}

    def to_dict(self) -> dict[str, str]:
        columns = [
            {"type": kind, "name": name, "required": required} for name, kind, required in self._columns
        ]
        return {
            **super().to_dict(),
            "schema": json.dumps({"mlflow_colspec": columns}),
            "profile": json.dumps(self.profile),
        }


def dataset_of(note: "RunNote") -> ViewDataset:
    """What a run logs of a view that it noted, whole."""
    from snapengine.digest import short
    from snapengine.reference import parse_reference

    return ViewDataset(
        SnapEngineSource(note.reference, note.digest),
        name=note.name,
        digest=short(note.digest),
        objects=note.objects,
        size=note.bytes,
        all_versions=parse_reference(note.reference).all_versions,
    )


def from_snapengine(view: Any, name: str | None = None, digest: str | None = None) -> ViewDataset:
    """A view, or a `snap://` reference, as a dataset for `mlflow.log_input`: `mlflow.data.from_snapengine`.

    It resolves the view, for its digest. `name`: by default bucket, prefix and instant; `digest`: at most 36
    characters instead of the first 32 of the view's own.
    """
    import snapengine
    from snapengine.digest import short
    from snapengine.tracking.facts import facts_of

    opened: View = view if _is_view(view) else snapengine.open_ref(view)
    facts: Facts = facts_of(opened)
    return ViewDataset(
        SnapEngineSource(opened.reference, facts.digest),
        name=name or view_name(opened.ref, own=False),
        digest=digest or short(facts.digest),
        objects=facts.objects,
        size=facts.bytes,
        all_versions=opened.ref.versions == "all",
    )


def _is_view(source: object) -> bool:
    """Without loading what views need, where nobody has made one."""
    import sys

    views = sys.modules.get("snapengine.views")
    return views is not None and isinstance(source, views.View)
