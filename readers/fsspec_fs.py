"""Views as fsspec filesystems: `view.fs`, whose paths are keys, and the protocol `snap`, of URLs.

fs = snapengine.view("scans", at="2026-11-20T09:00:00Z").fs
fs.cat("ct/0001.dcm")

pandas.read_csv("snap://scans@2026-11-20T09:00:00Z/ct/index.csv")
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from fsspec.utils import stringify_path, tokenize

from readers.fsspec_lookup import Keys
from readers.fsspec_opening import Opening
from readers.fsspec_paths import located, path_of, url_of
from readers.fsspec_reading import Reading
from readers.fsspec_tree import Place
from snapengine.errors import CannotExpressKey, UsageError
from snapengine.views import View

_OF_FSSPEC = {
    "asynchronous",
    "batch_size",
    "listings_expiry_time",
    "loop",
    "max_paths",
    "use_listings_cache",
}
"""What fsspec and zarr hand to every filesystem; there is nothing here for it to change."""
_OF_FILES = {"block_size", "cache_type", "cache_options"}
_OF_CHAINS = {"fo", "target_protocol", "target_options"}


class ViewFileSystem(Reading):
    """A read-only filesystem over one view. Paths are keys, relative to the bucket; `""` is its root.

    It pickles with the view's rows (up to 2,000,000), so that nothing is resolved again elsewhere.
    """

    def __init__(self, view: View, _token: str | None = None) -> None:
        """Raises `UsageError` for a slice of all versions."""
        super().__init__()
        self.view = view
        self._keys = Keys(view)
        self._token = _token or str(tokenize("snap", view.reference, _nonce_of(view.source)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.view, self._token))

    @property
    def _fs_token(self) -> str:
        return self._token

    @property
    def fsid(self) -> str:
        """The view's reference."""
        return self.view.reference

    def place(self, path: str) -> Place:
        if path == "/" and not self._keys.any_below("/"):
            return Place(self._keys, "", "")  # many write the root so
        return Place(self._keys, "", path)

    def unstrip_protocol(self, name: str) -> str:
        """`snap://BUCKET@AT~EPOCH/KEY`, which opens the same version for ever."""
        ref = self.view.reference.removeprefix("snap://")
        authority, _, _ = ref.partition("/")
        selection = f"~{self.view.ref.selection}" if self.view.ref.selection else ""
        return url_of(f"{authority}{selection}/{name}")

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:  # noqa: ARG002  # fsspec's signature
        raise UsageError(
            f"The filesystem of {self.view.reference} does not go into JSON. Pickle it, or open the "
            "reference where it is needed: snapengine.open_ref(...).fs, or snap:// URLs."
        )


class SnapFileSystem(Reading):
    """The protocol `snap`: paths are `BUCKET@TIME/KEY`, URLs `snap://BUCKET@TIME/KEY`, with all that a
    reference may say of a view before its first slash.

    A time without an epoch is resolved once in a process, at the epoch that is the newest then, so that all
    that is read of it is one view; `now` and look-backs once for a filesystem, counted from when it was made.
    `invalidate_cache` forgets both. An instance pickles with the views that it has opened, and its `now`.
    """

    def __init__(
        self, *, require: Any = "provisional", timeout: float = 300.0, note: Any = True, **options: Any
    ):
        """`require`, `timeout` and `note` as for `snapengine.open_ref`; `block_size`, `cache_type` and
        `cache_options` are those of files that are opened without."""
        if options.keys() & _OF_CHAINS:
            raise CannotExpressKey(
                "A `::` after snap:// is a chain of filesystems to fsspec, which would leave out what "
                "follows it. For a key that holds `::` use the filesystem: fs.open('BUCKET@TIME/KEY')."
            )
        if unknown := options.keys() - _OF_FSSPEC - _OF_FILES:
            raise UsageError(
                f"snap:// has no option {', '.join(sorted(unknown))}. It has require, timeout, note and "
                "those of files (block_size, cache_type, cache_options); "
                "credentials and endpoints are the AWS SDK's (AWS_PROFILE, ...)."
            )
        super().__init__()
        self.file_options = {name: options[name] for name in _OF_FILES & options.keys()}
        self._opening = Opening({"require": require, "timeout": timeout, "note": note})

    def __reduce__(self) -> tuple[Any, ...]:
        return (_with, (type(self), self.file_options, self._opening))

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list | tuple | set):
            return [cls._strip_protocol(one) for one in path]
        return path_of(stringify_path(path))

    def unstrip_protocol(self, name: str) -> str:
        return url_of(name)

    @property
    def _fs_token(self) -> str:
        return self._opening.token

    @property
    def fsid(self) -> str:
        return self._opening.token

    def place(self, path: str) -> Place:
        authority, key = located(path)
        return Place(self._opening.keys(authority), f"{authority}/", key)

    def view(self, path: str) -> View:
        """The view that a path is read from."""
        return self.place(self._strip_protocol(path)).keys.view

    def invalidate_cache(self, path: Any = None) -> None:  # noqa: ARG002  # fsspec's signature
        self._opening.forget()


def filesystem_of(view: View) -> ViewFileSystem:
    """`view.fs`."""
    return ViewFileSystem(view)


def _with(kind: type[SnapFileSystem], file_options: dict[str, Any], opening: Opening) -> SnapFileSystem:
    made = kind(**opening.options, **file_options)
    made._opening = opening
    return made


_nonces: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _nonce_of(source: Any) -> str:
    """What tells one source from another: equal references of two tables are not the same data."""
    return _nonces.setdefault(source, uuid4().hex)
