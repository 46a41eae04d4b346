"""Baseline and reconcile of the model bucket, page by page: the pure rooms' work, without their shells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from snapengine.buckets.align import Aligned, Alignment
from snapengine.buckets.bookkeeping import Bookkeeping, Mark, Young, observations_of
from snapengine.buckets.compare import KeyListing, again_at, difference
from snapengine.buckets.listing import Page
from snapengine.model import Observation
from snapengine.testing.model_bucket import Marker, ModelBucket

Commit = Callable[[Sequence[Observation]], None]
"""Appends to the log."""
_TRIES = 4
_WHOLE = 1 << 30


class Listing(ABC):
    """A listing of all versions. Between its steps other things may happen to the bucket and to the log."""

    def __init__(
        self, name: str, bucket: ModelBucket, commit: Commit, *, page_size: int, behind: int
    ) -> None:
        """`behind`: by how many milliseconds S3's clock is ahead of what its replies let us be sure of."""
        self.begun: int | None = None
        """The first page's time, as we know it."""
        self.ended_at: int | None = None
        """When the last request was answered."""
        self._name = name
        self._bucket = bucket
        self._commit = commit
        self._page_size = page_size
        self._behind = behind
        self._marker: Marker | None = None
        self._pages_ended = False

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    @property
    def _page_time(self) -> int:
        return self._bucket.now - self._behind

    def go_on(self) -> None:
        """Ask for the next page, or after the last wait for what must be listed again, or end."""
        if not self._pages_ended:
            page, self._marker = self._bucket.page(self._marker, self._page_size, self._page_time)
            self._pages_ended = self._marker is None
            self.begun = page.time if self.begun is None else self.begun
            self._take(page)
        elif (due := self._due()) is not None:
            self._bucket.now = max(self._bucket.now, due + self._behind)
        while (due := self._due()) is not None and due <= self._page_time:
            self._list_again()
        if self._pages_ended and self._due() is None:
            self.ended_at = self._bucket.now

    @abstractmethod
    def _take(self, page: Page) -> None: ...

    @abstractmethod
    def _due(self) -> int | None:
        """When, by S3's clock as we know it, something is to be listed again, if anything is."""

    @abstractmethod
    def _list_again(self) -> None: ...


class Baseline(Listing):
    """As `buckets/baseline.py` does it."""

    def __init__(
        self, name: str, bucket: ModelBucket, commit: Commit, *, page_size: int, behind: int
    ) -> None:
        super().__init__(name, bucket, commit, page_size=page_size, behind=behind)
        self._books = Bookkeeping(Mark(), name)

    def _take(self, page: Page) -> None:
        self._commit(self._books.take(page))

    def _due(self) -> int | None:
        return self._books.young[0].due if self._books.young else None

    def _list_again(self) -> None:
        young: Young = self._books.young.popleft()
        page, _ = self._bucket.page(None, _WHOLE, self._page_time)
        wanted = [entry for entry in page.entries if entry.key in young.keys]
        name = f"{self._name}/{min(young.keys)}/{page.time}"
        self._commit(observations_of(wanted, page.time, name, 0))


@dataclass(frozen=True)
class Compared:
    """What a reconcile found of a key, when it was compared."""

    listing: KeyListing
    at: int
    """When the last page that could show the key was answered."""


@dataclass(frozen=True)
class _Later:
    due: int
    keys: tuple[str, ...]
    tries: int


class Reconcile(Listing):
    """As `buckets/reconcile.py` does it."""

    def __init__(
        self,
        name: str,
        bucket: ModelBucket,
        commit: Commit,
        known: Mapping[str, Sequence[Observation]],
        *,
        page_size: int,
        behind: int,
    ) -> None:
        """`known` is what an epoch cut just before covers, by key."""
        super().__init__(name, bucket, commit, page_size=page_size, behind=behind)
        self.known = {key: list(known[key]) for key in sorted(known, key=str.encode)}
        self.compared: dict[str, Compared] = {}
        self._alignment = Alignment(self.known.items(), name)
        self._later: deque[_Later] = deque()

    def _take(self, page: Page) -> None:
        self._compare(self._alignment.take(page), tries=1)

    def _compare(self, aligned: Iterable[Aligned], tries: int) -> None:
        later: dict[str, int] = {}
        for known, listing in aligned:
            due = again_at(known, listing) if tries < _TRIES else None
            if due is not None:
                later[listing.key] = due
                continue
            self.compared[listing.key] = Compared(listing, self._bucket.now)
            self._commit(difference(known, listing).observations)
        if later:
            self._later.append(_Later(max(later.values()), tuple(later), tries + 1))

    def _due(self) -> int | None:
        return self._later[0].due if self._later else None

    def _list_again(self) -> None:
        later = self._later.popleft()
        known = [(key, self.known.get(key, [])) for key in later.keys]
        name = f"{self._name}/{later.keys[0]}/{self._page_time}/{later.tries}"
        page, _ = self._bucket.page(None, _WHOLE, self._page_time)
        aligned = Alignment(known, name).take(page)
        self._compare((each for each in aligned if each.listing.key in later.keys), later.tries)
