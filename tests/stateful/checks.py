"""The promises of SEMANTICS.md, each a named check, over views that a real `Engine` gives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import pyarrow as pa

from snapengine.bulkfold import versions_of
from snapengine.fold import fold, merge
from snapengine.model import CREATED, NULL_VERSION, Completeness, Epoch, LogEntry, ObjectVersion, Observation
from snapengine.testing.model_bucket import ModelBucket, Version
from snapengine.views import View
from tests.stateful.archive_steps import SiteEngine
from tests.stateful.backends import Site
from tests.stateful.knowledge import Known, shown
from tests.stateful.listings import Listing, Reconcile

Rows = dict[str, ObjectVersion]
_SENTENCES = ("a_", "an_", "after_", "facts_", "nothing_", "where_")


@dataclass(frozen=True)
class Taken:
    """A view that was taken, and what it showed."""

    reference: str
    table: pa.Table
    digest: str
    completeness: Completeness


@dataclass(frozen=True)
class EndedListing:
    listing: Listing
    epoch: int
    """The first that covers all of it."""


class Checks:
    """Knows the truth, what was committed, and what was ever shown."""

    def __init__(
        self,
        site: Site,
        engine: SiteEngine,
        told_by: Callable[[LogEntry], list[Observation]],
        bucket: ModelBucket,
        keys: Sequence[str],
        held: Counter[str],
    ) -> None:
        self._site = site
        self._told_by = told_by
        self._bucket = bucket
        self._keys = keys
        self._engine = engine
        self.held = held
        """By promise, how often something was really checked."""
        self.attempted: set[Observation] = set()
        """Given to a writer, whatever came of it."""
        self.committed: set[Observation] = set()
        """Of these the writer was told that they are in the log."""
        self.epochs: list[Epoch] = []
        self.taken: list[Taken] = []
        self.listings: list[EndedListing] = []
        self._entries: dict[int, list[list[Observation]]] = defaultdict(list)
        self._known: dict[int, dict[str, list[Observation]]] = {0: {}}

    @classmethod
    def promises(cls) -> list[str]:
        """The names of all checks: a promise's name is a sentence."""
        return [name for name in vars(cls) if name.startswith(_SENTENCES)]

    # Epochs

    def new_epochs(self) -> None:
        newest = self._site.store.newest_epoch(self._site.bucket)
        for number in range(len(self.epochs) + 1, (newest.number if newest else 0) + 1):
            epoch = self._site.store.epoch(self._site.bucket, number)
            assert epoch is not None, f"epoch {number} is missing, but there are later ones"
            if self.epochs:
                self.an_epoch_is_later_and_covers_no_less(self.epochs[-1], epoch)
            self.epochs.append(epoch)
            self.an_epoch_covers_nothing_that_nobody_committed(epoch)

    def an_epoch_is_later_and_covers_no_less(self, before: Epoch, after: Epoch) -> None:
        self.held["an_epoch_is_later_and_covers_no_less"] += 1
        assert after.time > before.time
        assert all(after.cover[stream] >= last for stream, last in before.cover.items())
        marks = [(e.watermarks.caught_up or 0, e.watermarks.verified.get("", 0)) for e in (before, after)]
        assert all(new >= old for old, new in zip(*marks, strict=True))

    def an_epoch_covers_nothing_that_nobody_committed(self, epoch: Epoch) -> None:
        self.held["an_epoch_covers_nothing_that_nobody_committed"] += 1
        assert {o for of_key in self.known(epoch.number).values() for o in of_key} <= self.attempted

    def an_epoch_covers_all_that_was_committed_before(
        self, epoch: Epoch, owed: Collection[Observation]
    ) -> None:
        self.held["an_epoch_covers_all_that_was_committed_before"] += 1
        covered = {o for of_key in self.known(epoch.number).values() for o in of_key}
        assert set(owed) <= covered

    def known(self, number: int) -> dict[str, list[Observation]]:
        """By key, what the log's entries hold that an epoch covers; read from the log once."""
        if number not in self._known:
            found: dict[str, list[Observation]] = defaultdict(list)
            for stream, last in self.epochs[number - 1].cover.items():
                entries = self._entries[stream]
                for entry in self._site.store.entries(self._site.bucket, stream, len(entries), last):
                    entries.append(self._told_by(entry))
                for observation in (o for entry in entries[:last] for o in entry):
                    found[observation.key].append(observation)
            self._known[number] = dict(found)
        return self._known[number]

    def _of(self, number: int, key: str) -> Known:
        return Known(self._bucket, key, self.known(number).get(key, []))

    # Listings

    def listing_ended(self, listing: Listing, epoch: int) -> None:
        self.listings.append(EndedListing(listing, epoch))
        self.a_listing_leaves_no_surviving_version_unknown(listing, epoch)
        if isinstance(listing, Reconcile):
            self.a_lost_removal_is_known_from_the_first_page_that_lacks_the_version(listing, epoch)

    def reconciled(self) -> bool:
        return any(isinstance(ended.listing, Reconcile) for ended in self.listings)

    def a_lost_removal_is_known_from_the_first_page_that_lacks_the_version(
        self, listing: Reconcile, epoch: int
    ) -> None:
        for key, compared in listing.compared.items():
            known = self._of(epoch, key)
            removals = merge(known.observations).removals
            for version in known.known_but_gone(listing):
                self.held["a_lost_removal_is_known_from_the_first_page_that_lacks_the_version"] += 1
                assert removals[version.version_id].time <= compared.at, version

    def a_listing_leaves_no_surviving_version_unknown(self, listing: Listing, epoch: int) -> None:
        for key in self._keys:
            known = self._of(epoch, key)
            facts = merge(known.observations)
            found = {(f.kind, f.version_id, f.etag) for f in (*facts.entries, *facts.nulls)}
            for version in known.survivors(listing):
                self.held["a_listing_leaves_no_surviving_version_unknown"] += 1
                assert (version.kind, version.version_id, version.etag) in found, version

    # Views

    def instants(self) -> list[int]:
        """Every instant at which something may change, those around it, and now."""
        times = {event.event_time for event in self._bucket.events}
        times |= {version.last_modified for version in self._bucket.made}
        times |= {o.page_time for o in self.committed if o.page_time is not None}
        near = {time + by for time in times for by in (-1, 0, 1)} | {self._bucket.now}
        return sorted(time for time in near if time <= self._bucket.now)

    def _instant(self, pick: int) -> int:
        instants = self.instants()
        return instants[pick % len(instants)]

    def _epoch(self, pick: int) -> Epoch:
        """The newest, every other time."""
        return self.epochs[-1] if pick % 2 else self.epochs[pick // 2 % len(self.epochs)]

    def take_view(self, at_pick: int, epoch_pick: int, prefix: str) -> None:
        self.take_view_at(self._instant(at_pick), self._epoch(epoch_pick).number, prefix)

    def take_view_at(self, at: int, number: int, prefix: str = "") -> None:
        epoch = self.epochs[number - 1]
        view = self._engine.view(self._site.bucket, at, prefix=prefix, epoch=epoch.number)
        self._keep(view)
        rows = {version.key: version for version in view.versions()}
        assert list(rows) == sorted(rows, key=str.encode)
        assert self._site.store.epoch_at(self._site.bucket, epoch.time) == epoch
        self.a_listing_and_the_look_ups_of_its_keys_agree(view, rows)
        self.a_view_of_a_prefix_shows_that_of_the_whole(view, rows)
        self.a_level_says_no_more_than_it_can(view, epoch)
        for key in self._keys:
            if key.startswith(prefix):
                self._look(key, at, epoch.number, rows.get(key))
        self.an_audit_tells_what_is_gone(view, rows)

    def _keep(self, view: View) -> None:
        fresh = Taken(str(view), view.to_arrow(), view.digest(), view.completeness)
        self.taken.append(fresh)

    def _look(self, key: str, at: int, epoch: int, row: ObjectVersion | None) -> None:
        """What a view shows of one key, against the truth."""
        known = self._of(epoch, key)
        truth = self._bucket.at(key, at)
        self.nothing_is_invented(known, row, at)
        self.nothing_known_is_passed_over(known, row, at)
        self.where_no_event_is_missing_the_view_is_the_truth(known, row, at, truth)
        self.after_a_quiet_listing_the_view_is_the_truth(known, row, at, truth, epoch)

    def nothing_is_invented(self, known: Known, row: ObjectVersion | None, at: int) -> None:
        if row is not None:
            self.held["nothing_is_invented"] += 1
            assert known.existed(row), row
            assert row.event_time <= at

    def nothing_known_is_passed_over(self, known: Known, row: ObjectVersion | None, at: int) -> None:
        if known.only_versions():
            self.held["nothing_known_is_passed_over"] += bool(known.observations)
            assert known.may_show(row, at), (row, at)

    def where_no_event_is_missing_the_view_is_the_truth(
        self, known: Known, row: ObjectVersion | None, at: int, truth: Version | None
    ) -> None:
        if known.nothing_is_missing(at):
            self.held["where_no_event_is_missing_the_view_is_the_truth"] += bool(known.observations)
            assert shown(row) == shown(truth), (known.key, at)
            if row is not None and truth is not None:
                assert (row.event_time, row.time) == (truth.time, "event")

    def after_a_quiet_listing_the_view_is_the_truth(
        self, known: Known, row: ObjectVersion | None, at: int, truth: Version | None, epoch: int
    ) -> None:
        for ended in self.listings:
            if ended.epoch > epoch or not isinstance(ended.listing, Reconcile):
                continue  # a baseline proves no absence
            if known.listing_tells_all(ended.listing, at):
                self.held["after_a_quiet_listing_the_view_is_the_truth"] += bool(known.observations)
                assert shown(row) == shown(truth), (known.key, at)

    def a_listing_and_the_look_ups_of_its_keys_agree(
        self, view: View, rows: Mapping[str, ObjectVersion]
    ) -> None:
        self.held["a_listing_and_the_look_ups_of_its_keys_agree"] += 1
        epoch = self.epochs[view.epoch - 1]
        for key in self._keys:
            assert self._engine.version(view.ref, epoch, key) == rows.get(key), key

    def a_view_of_a_prefix_shows_that_of_the_whole(self, view: View, rows: Rows) -> None:
        self.held["a_view_of_a_prefix_shows_that_of_the_whole"] += 1
        known = self.known(view.epoch)
        whole = {key: fold(known.get(key, []), view.ref.at) for key in self._keys}
        assert rows == {k: v for k, v in whole.items() if v is not None and k.startswith(view.prefix)}

    def a_level_says_no_more_than_it_can(self, view: View, epoch: Epoch) -> None:
        self.held["a_level_says_no_more_than_it_can"] += 1
        told = view.completeness
        enabled_at = epoch.watermarks.enabled_at
        assert enabled_at is not None
        assert (told.history == "recorded") == (view.ref.at >= enabled_at)
        covered = [
            e.listing for e in self.listings if e.epoch <= epoch.number and isinstance(e.listing, Reconcile)
        ]
        if told.level == "verified":
            listing = max(covered, key=lambda one: one.begun or 0)
            assert view.ref.at < (listing.begun or 0)
            self.a_listing_leaves_no_surviving_version_unknown(listing, epoch.number)
        elif covered:
            assert view.ref.at >= max(one.begun or 0 for one in covered)
        if told.level == "settled":
            self.a_settled_view_lacks_no_event_if_none_was_lost(view.ref.at, epoch)

    def a_settled_view_lacks_no_event_if_none_was_lost(self, at: int, epoch: Epoch) -> None:
        """Workers say that they are caught up in histories in which nothing is lost only."""
        self.held["a_settled_view_lacks_no_event_if_none_was_lost"] += 1
        known = {o for of_key in self.known(epoch.number).values() for o in of_key}
        since = epoch.watermarks.enabled_at or 0
        assert {e for e in self._bucket.events if since <= e.event_time <= at} <= known

    def an_audit_tells_what_is_gone(self, view: View, rows: Rows) -> None:
        """Of what has an id of its own it never says so wrongly; where all events came it is exact."""
        self.held["an_audit_tells_what_is_gone"] += bool(rows)
        gone = {one.key for one in view.audit()}
        assert gone <= rows.keys()
        for key, row in rows.items():
            there = any(shown(v) == shown(row) for v in self._bucket.versions.get(key, []))
            if row.version_id != NULL_VERSION:
                assert not (there and key in gone), row
            if self._of(self.epochs[-1].number, key).nothing_is_missing(self._bucket.now):
                assert (key in gone) == (not there), row

    def every_instant(self, pick: int) -> None:
        """All keys at many instants, from observations that come in another order, some twice."""
        epoch = self._epoch(pick).number
        random = Random(pick)
        for key in self._keys:
            observations = list(self.known(epoch).get(key, []))
            again = observations + random.choices(observations, k=min(3, len(observations)))
            random.shuffle(again)
            for at in random.sample(instants := self.instants(), min(20, len(instants))):
                self.facts_commute(observations, again, at)
                self._look(key, at, epoch, fold(again, at))

    def facts_commute(self, one: list[Observation], other: list[Observation], at: int) -> None:
        self.held["facts_commute"] += 1
        assert fold(one, at) == fold(other, at)

    # Slices

    def take_slice(self, start_pick: int, end_pick: int, epoch_pick: int, prefix: str) -> None:
        start, end = sorted((self._instant(start_pick), self._instant(end_pick)))
        epoch = self._epoch(epoch_pick)
        last, every = (
            self._engine.slice(
                self._site.bucket, start, end, prefix=prefix, epoch=epoch.number, versions=versions
            )
            for versions in ("last", "all")
        )
        self._keep(last)
        self._keep(every)
        self.a_slice_shows_of_the_state_at_its_end_what_was_made_in_it(last, start)
        self.a_slice_of_all_versions_shows_what_became_of_each(last, every, start)

    def a_slice_shows_of_the_state_at_its_end_what_was_made_in_it(self, view: View, start: int) -> None:
        self.held["a_slice_shows_of_the_state_at_its_end_what_was_made_in_it"] += 1
        rows = {version.key: version for version in view.versions()}
        state = {key: fold(self.known(view.epoch).get(key, []), view.ref.at) for key in self._keys}
        assert rows == {
            key: version
            for key, version in state.items()
            if version is not None and version.event_time >= start and key.startswith(view.prefix)
        }
        self.a_listing_and_the_look_ups_of_its_keys_agree(view, rows)

    def a_slice_of_all_versions_shows_what_became_of_each(self, last: View, every: View, start: int) -> None:
        table = every.to_arrow()
        rows = list(zip(versions_of(table), table["became"].to_pylist(), strict=True))
        assert {v.key: v for v, became in rows if became == "current"} == dict(last.items())
        at = every.ref.at
        for key in self._keys:
            known = self._of(every.epoch, key)
            if not key.startswith(every.prefix) or not known.nothing_is_missing(at):
                continue
            if any(known.seems_twice(version) for version in known.made()):
                continue
            self.held["a_slice_of_all_versions_shows_what_became_of_each"] += bool(known.made())
            made = [v for v in known.made() if v.kind == CREATED and start <= v.time <= at]
            truth = Counter((*(shown(v) or ()), v.time, self._became(v, at)) for v in made)
            assert Counter(
                (*(shown(v) or ()), v.event_time, became) for v, became in rows if v.key == key
            ) == truth  # fmt: skip

    def _became(self, version: Version, at: int) -> str:
        end = self._bucket.ended.get(version)
        if end is not None and end.event_time <= at:
            return "removed"
        current = self._bucket.at(version.key, at)
        if current == version:
            return "current"
        return "superseded" if current is not None else "deleted"

    # References and differences

    def resolve_again(self, pick: int) -> None:
        if not self.taken:
            return
        self.a_reference_gives_the_same_for_ever(self.taken[pick % len(self.taken)])

    def a_reference_gives_the_same_for_ever(self, taken: Taken) -> None:
        self.held["a_reference_gives_the_same_for_ever"] += 1
        again = self._engine.open_ref(taken.reference)
        assert again.to_arrow().equals(taken.table, check_metadata=True), taken.reference
        assert again.digest() == taken.digest
        assert again.completeness == taken.completeness
        assert str(again) == taken.reference

    def compare(self, first_pick: int, second_pick: int) -> None:
        """Two views at one instant as known at two epochs, or any two."""
        bucket = self._site.bucket
        at = self._instant(first_pick)
        other_at = at if second_pick % 3 else self._instant(second_pick)
        before = self._engine.view(bucket, at, epoch=self._epoch(first_pick // 7).number)
        after = self._engine.view(bucket, other_at, epoch=self._epoch(second_pick // 3).number)
        self.a_difference_is_that_of_the_two_mappings(before, after)
        if at == other_at:
            self.a_later_epoch_differs_only_where_something_was_learned(before, after)

    def a_difference_is_that_of_the_two_mappings(self, before: View, after: View) -> None:
        self.held["a_difference_is_that_of_the_two_mappings"] += 1
        old, new = dict(before.items()), dict(after.items())
        truth = {
            key: (shown(old.get(key)), shown(new.get(key)))
            for key in old.keys() | new.keys()
            if shown(old.get(key)) != shown(new.get(key))
        }
        diff = before.diff(after)
        fresh = [self._engine.open_ref(str(view)) for view in (before, after)]
        assert list(fresh[0].diff(fresh[1])) == list(diff)  # from the facts between them alone
        assert {c.key: (shown(c.before), shown(c.after)) for c in diff} == truth
        assert [c.key for c in diff] == sorted(truth, key=str.encode)
        assert (before.digest() == after.digest()) == (not truth)

    def a_later_epoch_differs_only_where_something_was_learned(self, before: View, after: View) -> None:
        known, known_later = self.known(before.epoch), self.known(after.epoch)
        for change in before.diff(after):
            self.held["a_later_epoch_differs_only_where_something_was_learned"] += 1
            assert set(known.get(change.key, [])) != set(known_later.get(change.key, [])), change

    # The end

    def all_at_the_end(self) -> None:
        self.new_epochs()
        for epoch in self.epochs:
            assert self._site.store.epoch(self._site.bucket, epoch.number) == epoch
        for taken in self.taken:
            self.a_reference_gives_the_same_for_ever(taken)
        self.every_instant(1)
        self.take_view(len(self.instants()) - 1, 1, "")
