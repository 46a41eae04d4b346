"""Rows of metadata in random histories: what a view has beside it never depends on what was archived when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from snapengine import changed_objects, ranges, resolver, row_folding, row_spool
from snapengine.archive import reading, writing
from snapengine.archiving import (
    checkpoints,
    compaction,
    live_rows,
    making,
    row_making,
    row_merging,
    row_writing,
)
from tests.stateful.backends import sqlite
from tests.stateful.extracted import ExtractedHistory
from tests.stateful.test_history import LONG, Report, play, say

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 900)]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Row groups, files and ranges of a few rows, so that a few keys are many of each."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (ranges, "ROWS_AT_ONCE", 4),
            (ranges, "GROUP_ROWS", 2),
            (resolver, "_HISTORIES_AT_ONCE", 1),
            (row_folding, "RANGE_ROWS", 2),
            (changed_objects, "RANGE_ROWS", 2),
            (row_making, "RANGE_ROWS", 2),
            (row_merging, "RANGE_ROWS", 2),
            (row_merging, "ROW_GROUP_ROWS", 2),
            (row_writing, "ROW_FILE_ROWS", 3),
            (row_spool, "MOST_BYTES", 300),
            (live_rows, "ROW_FILE_ROWS", 2),
            (live_rows, "LIVE_GROUP_ROWS", 1),
            (writing, "ROW_GROUP_ROWS", 2),
            (making, "OBSERVATION_ROWS", 5),
            (making, "RANGE_ROWS", 4),
            (checkpoints, "OBSERVATION_ROWS", 3),
            (checkpoints, "OBJECT_ROWS", 2),
            (compaction, "OBSERVATION_ROWS", 5),
            (reading, "SMALL", 0),
            (reading, "TINY", 0),
        ):
            assert isinstance(getattr(module, name), int)
            patch.setattr(module, name, value)
        yield


@pytest.mark.usefixtures("small_files")
def test_rows_beside_views_of_an_archived_history(record_property: Report) -> None:
    with sqlite() as backend:
        tally, held = play(backend, 2000 if LONG else 60, kind=ExtractedHistory)
    say(record_property, tally, held)
    for promise in (
        "whose_rows_there_are_is_known",
        "rows_beside_a_view_are_those_of_its_versions",
        "a_view_has_the_same_rows_for_ever",
        "joined from files",
        "joined from a differential",
        "joined with rows",
        "kept from files",
        "let go",
    ):
        assert held[promise] >= 20, held
