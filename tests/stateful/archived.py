"""A history with an archiver at it, at any moment: archiving, checkpoints, compaction, and letting go."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from tests.stateful.history import Deed, History, burst, deeds, many, step

AFTER_CHECKPOINT = (None, None, 0, 1, 61_000, 61_000, 400_000)
"""How long nothing happens once a checkpoint is made; None: there is none made."""


class ArchivedHistory(History):
    """The same, and an archiver that is at it."""

    @precondition(lambda self: self.listing is None and not self.baseline_taken)
    @step(page_size=st.sampled_from([1, 2, 100]), behind=st.sampled_from([0, 1, 1000]))
    def a_baseline_begins_that_goes_to_parquet(self, page_size: int, behind: int) -> None:
        self._begin_listing(page_size, behind, in_files=True)

    @precondition(lambda self: self.checks.epochs)
    @step(max_rows=st.sampled_from([1, 4, 1000]), wait=st.sampled_from(AFTER_CHECKPOINT), pick=many)
    def the_log_is_archived(self, max_rows: int, wait: int | None, pick: int) -> None:
        """And perhaps a checkpoint made at once, with a while before anything else happens."""
        self.archiver.archive(max_rows)
        if wait is not None:
            self._make_checkpoint(pick)
            self.bucket.now += wait
        self.checks.resolve_again(pick)

    @precondition(lambda self: self._archived)
    @step(pick=many, wait=st.sampled_from([0, 61_000]))
    def a_checkpoint_is_made(self, pick: int, wait: int) -> None:
        self._make_checkpoint(pick)
        self.bucket.now += wait
        self.checks.resolve_again(pick)

    def _make_checkpoint(self, pick: int) -> None:
        """At any instant, or at one of the last."""
        self.checks.held["checkpoints"] += self.archiver.checkpoint(self._instants(pick), pick // 3)

    def _make_differential(self, pick: int) -> None:
        self.checks.held["differentials"] += self.archiver.differential(self._instants(pick), pick // 3)

    def _instants(self, pick: int) -> list[int]:
        return self.checks.instants()[-8:] if pick % 3 else self.checks.instants()

    @precondition(lambda self: self.archiver.checkpoints)
    @step(some=st.lists(burst | deeds, max_size=3), pick=many, wait=st.sampled_from([0, 61_000]))
    def a_differential_is_made(self, some: list[list[Deed]], pick: int, wait: int) -> None:
        """Of what happened since a checkpoint, or since another differential."""
        for each in some:
            self._do_all(each, "take and cut")
        self.archiver.archive(1000)
        self._make_differential(pick)
        self.bucket.now += wait
        self.checks.resolve_again(pick)
        for at in {self.bucket.now, *self.checks.instants()[-1 - pick % 7 :: -3][:2]}:
            self.checks.take_view_at(at, len(self.checks.epochs))

    @precondition(lambda self: self.archiver.checkpoints)
    @step(some=st.lists(burst | deeds, min_size=1, max_size=3), cut=st.booleans(), pick=many)
    def much_happens_after_a_checkpoint(self, some: list[list[Deed]], cut: bool, pick: int) -> None:
        """It is read from there, at several instants."""
        for each in some:
            self._do_all(each, "take and cut")
        if cut:
            self.archiver.archive(1000)
        number = len(self.checks.epochs)
        for at in {self.bucket.now, *self.checks.instants()[-1 - pick % 7 :: -3][:4]}:
            self.checks.take_view_at(at, number)

    @precondition(lambda self: self.archiver.checkpoints)
    @step(pick=many)
    def a_checkpoint_is_dropped(self, pick: int) -> None:
        if pick % 4:
            self.checks.held["dropped checkpoints"] += self.archiver.drop_checkpoint(pick)

    @precondition(lambda self: self._archived > 1)
    @step(first=st.integers(0, 6), segments=st.integers(2, 6), pick=many)
    def segments_are_put_together(self, first: int, segments: int, pick: int) -> None:
        self.checks.held["compactions"] += self.archiver.compact(first, segments)
        self.checks.resolve_again(pick)

    @precondition(lambda self: self._archived > 1)
    @step(pick=many)
    def what_was_retired_is_swept(self, pick: int) -> None:
        self.archiver.sweep()
        self.checks.resolve_again(pick)

    @precondition(lambda self: self._archived)
    @step(days=st.integers(0, 2), pick=many)
    def days_pass_and_the_table_lets_go(self, days: int, pick: int) -> None:
        self._let_go(days, pick)

    def _let_go(self, days: int, pick: int) -> None:
        self.bucket.now += days * 86_400_000
        self.checks.held["let go"] += self.archiver.let_go()
        self.checks.resolve_again(pick)

    @property
    def _archived(self) -> int:
        return len(self.engine.archive(self.site.bucket).segments)


class LettingGoHistory(ArchivedHistory):
    """For few histories, in which it is to be no matter of luck that segments are put together, and that
    something leaves the table."""

    @precondition(lambda self: self._archived)
    @step(pick=many)
    def all_is_archived_and_days_later_let_go(self, pick: int) -> None:
        self.archiver.archive(1)
        self.checks.held["compactions"] += self.archiver.compact(max(self._archived - 2, 0), 2)
        self._let_go(2, pick)
