"""Which observations are irregular: the vectorised rule and the plain one agree."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snapengine.archive.schemas import ARCHIVED
from snapengine.archiving.irregular import LATE_MS, irregular
from snapengine.model import BASELINE, CREATED, EVENT, SLACK_MS, Observation

T = 1_700_000_000_000
Row = tuple[Observation, int]


def is_irregular(row: Observation, epoch: int, before: Mapping[int, int], listed_until: int) -> bool:
    """The definition, said plainly."""
    if row.origin != EVENT or row.listing is not None or row.page_time is not None:
        return True
    if epoch in before and row.event_time < before[epoch] - LATE_MS:
        return True
    return listed_until > 0 and row.event_time <= listed_until + SLACK_MS


def found(rows: list[Row], before: Mapping[int, int], listed_until: int) -> list[bool]:
    columns = [*zip(*(o for o, _ in rows), strict=True)] if rows else [()] * len(Observation._fields)
    values = [*map(list, columns), [epoch for _, epoch in rows]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, ARCHIVED, strict=True)]
    table = pa.table(arrays, schema=ARCHIVED)
    answer = irregular(table, before, listed_until)
    chunked = irregular(pa.concat_tables([table.slice(0, 1), table.slice(1)]), before, listed_until)
    assert chunked.to_pylist() == answer.to_pylist()
    listed: list[bool] = answer.to_pylist()
    return listed


def event(time: int) -> Observation:
    return Observation(CREATED, "k", "v", time)


NEAR = st.sampled_from([0, 1, LATE_MS, SLACK_MS, LATE_MS + SLACK_MS])
times = st.builds(lambda a, b, c: T + a - b + c, NEAR, NEAR, st.integers(-1, 1))
observations = st.builds(
    lambda time, origin, listing, page: event(time)._replace(origin=origin, listing=listing, page_time=page),
    times,
    st.sampled_from([EVENT, EVENT, BASELINE]),
    st.sampled_from([None, None, "L"]),
    st.sampled_from([None, None, T]),
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(observations, st.integers(1, 5)), max_size=12),
    st.dictionaries(st.integers(1, 5), times),
    st.one_of(st.just(0), times),
)
@example([], {}, 0)
def test_the_rule_over_tables_is_the_plain_one(
    rows: list[Row], before: dict[int, int], listed_until: int
) -> None:
    assert found(rows, before, listed_until) == [is_irregular(o, e, before, listed_until) for o, e in rows]


def test_an_event_that_came_in_time_is_regular_and_one_that_came_late_is_not() -> None:
    rows = [(event(T - LATE_MS), 2), (event(T - LATE_MS - 1), 2), (event(T - LATE_MS - 1), 1)]
    assert found(rows, {2: T}, 0) == [False, True, False]


def test_events_up_to_a_minute_after_the_last_page_are_irregular() -> None:
    rows = [(event(T + SLACK_MS), 1), (event(T + SLACK_MS + 1), 1)]
    assert found(rows, {}, T) == [True, False]
