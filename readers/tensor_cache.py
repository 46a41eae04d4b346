"""Tensor snapshots: the decoded samples of one view by one transform, on the local disk for the next epoch.

A snapshot is named by the view's digest and by what the transform says of itself: its name, its parameters
as far as they are printed, and the version that it declares. Each sample is a file of its own, put under its
name when it is whole, with a checksum: what is torn, altered or missing is decoded again. Any number of
processes may share the folder; its size is bounded, and it may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import AbstractAsyncContextManager
from functools import partial
from hashlib import sha256
from types import FunctionType, MethodType
from typing import Any, Final, Protocol

from readers.torch_samples import FORMAT, decode_sample, encode_sample
from snapengine import Settings
from snapengine.archive.cache import Cache
from snapengine.errors import UsageError
from snapengine.forgotten import Forgotten, read_forgotten
from snapengine.model import NULL_VERSION, ObjectVersion
from snapengine.ports import LogStore
from snapengine.requiring import in_thread
from snapengine.tensor_folder import ForgottenHere, forget_here, labelled, unlabelled

MISSING: Final = object()
"""Given where a sample is not kept."""

_ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")
_SETTING: Final = "SNAPENGINE_TENSOR_CACHE"

_logger = logging.getLogger(__name__)


def transform_of(decode: Any, declared: str | None) -> str:
    """What names a transform: where it is from, how it and what it holds are printed, its declared version.

    That is `declared`, or else its attribute `version`. Raises `UsageError` without one.
    """
    if decode is None:
        raise UsageError("cache=True keeps what `decode` makes of objects, and there is no `decode`.")
    version = declared if declared is not None else getattr(decode, "version", None)
    name = _ADDRESS.sub("", repr(decode))
    if not isinstance(version, str) or not version:
        raise UsageError(
            f"{name} declares no version, so nothing says that it makes the same of an object as it did "
            "yesterday. Give to_torch(decode_version='1'), or set `decode.version = '1'`, and another one "
            "whenever it, or what it uses, gives other samples; or leave `cache` off."
        )
    return json.dumps([*_printed(decode), version])


def _printed(decode: Any) -> list[str]:
    """Its module, how it prints itself, and what it holds where that does not tell: of a function what it
    encloses and its defaults, of an object that prints no more than its address its attributes."""
    module = getattr(decode, "__module__", None) or type(decode).__module__
    found = [module, _ADDRESS.sub("", repr(decode))]
    held: Any = None
    if isinstance(decode, partial):
        return [*found, *_printed(decode.func)]
    if isinstance(decode, MethodType):
        return [*found, *_printed(decode.__self__), *_printed(decode.__func__)]
    if isinstance(decode, FunctionType):
        cells = [_content(cell) for cell in decode.__closure__ or ()]
        held = [cells, decode.__defaults__, decode.__kwdefaults__]
    elif repr(decode) == object.__repr__(decode):
        held = object.__getstate__(decode)
    return [*found, sha256(_ADDRESS.sub("", repr(held)).encode("utf-8", "backslashreplace")).hexdigest()]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing has been assigned to it
        return None


class TensorSnapshot:
    """The samples of one view by one transform. Pickles; thread-safe."""

    def __init__(self, settings: Settings, bucket: str, digest: str, transform: str) -> None:
        """`digest`: of the view; `transform`: see `transform_of`."""
        self._made_of = (settings, bucket, digest, transform)
        self._bucket = bucket
        told = json.dumps([FORMAT, bucket, digest, transform])
        self._name = sha256(told.encode()).hexdigest()[:32]
        folder = settings.tensor_folder
        self._cache: Cache | None = None
        if folder is None:
            _logger.warning("No tensor snapshots are kept, as %s is off.", _SETTING)
            return
        self._cache = Cache(folder, settings.tensor_cache_bytes, setting=_SETTING)
        self._forgotten = ForgottenHere(folder, bucket, settings.store)

    def __reduce__(self) -> tuple[Any, ...]:
        return (TensorSnapshot, self._made_of)

    def has(self, version: ObjectVersion) -> bool:
        """Whether a sample is there, by its name alone: it may turn out to be damaged."""
        return self._cache is not None and self._cache.has(self._name_of(version))

    def get(self, version: ObjectVersion) -> Any:
        """The sample, or `MISSING`."""
        if self._cache is None or self._forgotten.covers(version):
            return MISSING
        name = self._name_of(version)
        kept = self._cache.get(name)
        if kept is None:
            return MISSING
        try:
            return self._sample_in(kept, version)
        except ValueError as error:  # whole, and still no sample of ours
            _logger.warning("A sample of %r in the tensor snapshots is made anew: %s", version.key, error)
            self._cache.drop(name)
            return MISSING

    def _sample_in(self, kept: bytes, version: ObjectVersion) -> Any:
        label, data = unlabelled(kept)
        if label != (self._bucket, version.key, version.version_id, version.etag):
            raise ValueError(f"it is of {label.key!r}")
        return decode_sample(data)

    def put(self, version: ObjectVersion, sample: Any) -> None:
        """Keep a sample, unless its object is forgotten, or nothing says which bytes it was made of. Raises
        `UsageError` for one that cannot be kept; never for the disk's sake."""
        data = encode_sample(sample)
        nameless = version.version_id == NULL_VERSION and not version.etag
        if self._cache is None or nameless or self._forgotten.covers(version):
            return
        name = self._name_of(version)
        self._cache.put(name, labelled(self._bucket, version, data))
        if self._forgotten.covers(version):  # it may have been told in between: see `tensor_folder`
            self._cache.drop(name)

    def _name_of(self, version: ObjectVersion) -> str:
        told = json.dumps([version.key, version.version_id, version.etag, version.size])
        return f"{sha256(told.encode()).hexdigest()[:40]}-{self._name}"


class Table(Protocol):
    """What is needed of an engine."""

    @property
    def settings(self) -> Settings: ...

    def log(self) -> AbstractAsyncContextManager[LogStore]: ...


def hear_of_forgotten(table: Table, bucket: str) -> None:
    """Before samples are used: have the folder know what the table says is forgotten, and hold none of it."""

    async def ask() -> Forgotten:
        async with table.log() as log:
            return await read_forgotten(log, bucket)

    settings = table.settings
    folder = settings.tensor_folder
    if folder is not None:
        forgotten = in_thread(ask())
        forget_here(folder, bucket, settings.store, forgotten, once=True)
