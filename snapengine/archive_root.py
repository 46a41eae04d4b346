"""Which root a bucket's archive has, and where none may be: in a bucket that is watched itself.

What was written there would be observed, archived and observed again, without end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from secrets import token_hex
from typing import Protocol

from snapengine.archive.roots import Root
from snapengine.errors import Refused
from snapengine.lease import ENABLE, Lease
from snapengine.model import BucketConfig
from snapengine.ports import Clock, Registry
from snapengine.settings import Settings


class RootTools(Protocol):
    """What is needed of an engine."""

    settings: Settings
    clock: Clock

    @property
    def store(self) -> Registry: ...

    def root(self, url: str) -> Root: ...


def archive_root(tools: RootTools, config: BucketConfig) -> str:
    """The root of a bucket's archive: the one that it has, or else the one that the settings name.

    Raises `Refused` if there is neither, if the two differ, or if it is in a watched bucket, and `UsageError`
    for what is no place. Nothing is written.
    """
    wanted = tools.settings.archive
    if config.archive is not None:
        if wanted is not None and not same_root(tools, config.archive, wanted):
            raise Refused(
                f"The archive of bucket {config.bucket} is at {config.archive}, and SNAPENGINE_ARCHIVE names "
                f"{wanted}: an archive cannot move. Set SNAPENGINE_ARCHIVE={config.archive}, or unset it."
            )
        chosen = config.archive
    elif wanted is None:
        raise Refused(
            f"Bucket {config.bucket} has no place for an archive yet. Set SNAPENGINE_ARCHIVE to "
            "s3://BUCKET/PREFIX, in a bucket that is not watched, or to file:///FOLDER."
        )
    else:
        chosen = tools.root(wanted).url
    check_root(tools, chosen)
    return chosen


def check_root(tools: RootTools, url: str) -> None:
    """Raises `Refused` for a root in a watched bucket."""
    holder = bucket_of(url)
    watched = {config.bucket for config in tools.store.buckets() if config.enabled}
    if holder is not None and holder in watched:
        raise Refused(root_is_watched(url, holder))


def root_is_watched(url: str, bucket: str) -> str:
    """Why a root cannot be there, in words."""
    return (
        f"{url} cannot hold an archive, as bucket {bucket} is watched: the archive's files would be recorded "
        "and archived again, without end. Choose a bucket that is not, or a folder."
    )


def remember_root(tools: RootTools, bucket: str, url: str) -> BucketConfig:
    """Note in the registration where the archive is, before anything names a file of it; the registration.

    Raises `Refused` if it is elsewhere or the bucket is not registered, `Busy` while somebody changes the
    registration.
    """
    with Lease(tools.store, bucket, ENABLE, tools.clock):
        now = tools.store.config(bucket)
        if now is None:
            raise Refused(
                f"Bucket {bucket} is not registered any more. Run `snapengine enable-bucket {bucket}`."
            )
        if now.archive == url and now.archive_id is not None:
            return now
        if now.archive is not None and not same_root(tools, now.archive, url):
            raise Refused(f"The archive of bucket {bucket} is at {now.archive} by now, not at {url}.")
        check_root(tools, url)
        ours = replace(now, archive=now.archive or url, archive_id=now.archive_id or token_hex(8))
        tools.store.put_config(ours)
        return ours


def same_root(tools: RootTools, one: str, other: str) -> bool:
    """Whether two texts name one place."""
    return one == other or tools.root(one).url == tools.root(other).url


def bucket_of(url: str) -> str | None:
    """The S3 bucket that a root is in, or None."""
    scheme, _, rest = url.partition("://")
    return rest.partition("/")[0] if scheme == "s3" else None


def archived_into(bucket: str, configs: Iterable[BucketConfig]) -> list[str]:
    """The buckets whose archives are in this one."""
    return sorted({c.bucket for c in configs if c.archive is not None and bucket_of(c.archive) == bucket})
