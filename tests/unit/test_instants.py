"""Time inputs: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.errors import BadTime, FutureTime, UsageError
from snapengine.instants import GRACE_MS, render, to_datetime, to_millis

NINE = 1_795_165_200_000  # 2026-11-20T09:00:00.000Z
MIDNIGHT = 1_795_132_800_000
NOW = NINE + 86_400_000
LAST_MS = 253_402_300_799_999


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20T09:00:00Z",
        "2026-11-20T09:00:00.000Z",
        "2026-11-20t09:00:00z",
        "2026-11-20 09:00:00Z",
        "  2026-11-20T09:00:00Z\n",
        "2026-11-20T09:00Z",
        "2026-11-20T09:00:00+00:00",
        "2026-11-20T09:00:00-00:00",
        "2026-11-20T10:00:00+01:00",
        "2026-11-20T03:30:00-05:30",
        "2026-11-19T09:01:00-23:59",
        "2026-11-21T08:59:00+23:59",
        "20261120T090000Z",
        "20261120T090000.000Z",
        "20261120T100000+0100",
        "20261120t0900z",
        "20261120T0400-0500",
    ],
)
def test_rfc_3339_text_with_a_zone_is_a_time_in_extended_and_in_basic_form(text: str) -> None:
    assert to_millis(text, now=NOW) == NINE


@pytest.mark.parametrize(
    ("fraction", "millis"),
    [
        ("1", 100),
        ("12", 120),
        ("123", 123),
        ("1239", 123),
        ("12399", 123),
        ("123999", 123),
        ("0009999", 0),
        ("99999999", 999),
        ("999999999", 999),
    ],
)
def test_one_to_nine_digits_of_a_second_are_cut_to_milliseconds(fraction: str, millis: int) -> None:
    assert to_millis(f"2026-11-20T09:00:00.{fraction}Z", now=NOW) == NINE + millis
    assert to_millis(f"20261120T090000.{fraction}Z", now=NOW) == NINE + millis


def test_a_date_is_midnight_utc() -> None:
    assert to_millis("2026-11-20", now=NOW) == MIDNIGHT
    assert to_millis(date(2026, 11, 20), now=NOW) == MIDNIGHT


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("now", 0),
        ("-0s", 0),
        ("-90s", 90_000),
        ("-5m", 300_000),
        ("-24h", 86_400_000),
        ("-7d", 604_800_000),
        ("-2w", 1_209_600_000),
    ],
)
def test_now_and_look_backs_count_from_the_clock(text: str, back: int) -> None:
    assert to_millis(text, now=NOW) == NOW - back


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 20, 9, tzinfo=UTC),
        datetime(2026, 11, 20, 10, tzinfo=timezone(timedelta(hours=1))),
        datetime(2026, 11, 20, 10, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2026, 11, 20, 9, 0, 0, 999, tzinfo=UTC),
        pd.Timestamp("2026-11-20T09:00:00Z"),
        pd.Timestamp("2026-11-20T09:00:00.000999999Z"),
        pd.Timestamp("2026-11-20T10:00:00", tz="Europe/Berlin"),
        pd.Timestamp(np.datetime64("2026-11-20T09:00:00"), tz="UTC"),
        np.int64(NINE),
        NINE,
    ],
)
def test_zoned_timestamps_and_integers_of_milliseconds_are_times(moment: object) -> None:
    result = to_millis(moment, now=NOW)
    assert result == NINE
    assert type(result) is int


def test_the_hour_that_a_clock_shows_twice_is_told_apart() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=0)
    second = datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=1)
    assert to_millis(second, now=NOW) - to_millis(first, now=NOW) == 3_600_000


def test_the_first_and_the_last_instant_are_in_range() -> None:
    assert to_millis(0, now=NOW) == 0
    assert to_millis("1970-01-01", now=NOW) == 0
    assert to_millis("9999-12-31T23:59:59.999Z", now=LAST_MS) == LAST_MS


@pytest.mark.parametrize("text", ["2026-11-20T09:00:00", "20261120T090000", "2026-11-20 09:00"])
def test_a_time_of_day_without_a_zone_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(BadTime, match="has no zone") as error:
        to_millis(text, now=NOW)
    assert f"'{text}Z'" in str(error.value)
    assert to_millis(f"{text}Z", now=NOW) == NINE


class _ZoneWithoutOffset(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    "naive",
    [
        datetime(2026, 11, 20, 9),  # noqa: DTZ001  the naive datetime is the point
        datetime(2026, 11, 20, 9, tzinfo=_ZoneWithoutOffset()),
        pd.Timestamp("2026-11-20T09:00:00"),
    ],
)
def test_a_naive_datetime_is_refused_with_text_that_is_accepted(naive: datetime) -> None:
    with pytest.raises(BadTime, match="has no time zone") as error:
        to_millis(naive, now=NOW)
    suggested = str(error.value).split("'")[1]
    assert to_millis(suggested, now=NOW) == NINE


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        np.True_,
        float(NINE),
        float("nan"),
        np.float32(1),
        Decimal(NINE),
        pd.NaT,
        np.datetime64("NaT"),
        np.datetime64("2026-11-20T09:00:00"),
        np.timedelta64(3, "s"),
        timedelta(days=1),
        None,
        b"now",
        [NINE],
        "",
        "NOW",
        "yesterday",
        "24h",
        "-24",
        "-1.5h",
        "--24h",
        str(NINE),
        "20261120",
        "2026-11",
        "2026-11-20T",
        "2026-11-20T09Z",
        "2026-11-20T09:00:00.Z",
        "2026-11-20T09:00:00,5Z",
        "2026-11-20T09:00:00.1234567890Z",
        "2026-11-20T09:00.5Z",
        "2026-11-20T09:00:00UTC",
        "2026-11-20T09:00:00+01",
        "2026-11-20T09:00:00+24:00",
        "2026-11-20T09:00:00+01:60",
        "2026-11-20T09:00:00+99:99",
        "２０２６-11-20T09:00:00Z",
    ],
)
def test_what_is_not_a_time_is_refused_with_examples(value: object) -> None:
    with pytest.raises(BadTime) as error:
        to_millis(value, now=NOW)
    assert "2026-11-20T09:00:00Z" in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["2026-02-30", "2026-13-01T00:00:00Z", "2026-11-20T24:00:00Z", "2026-11-20T23:59:60Z", "0000-01-01"],
)
def test_text_in_the_form_of_a_time_that_no_clock_shows_is_refused(text: str) -> None:
    with pytest.raises(BadTime, match="is not a time"):
        to_millis(text, now=NOW)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        10**20,
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+00:01",
        "-999999999w",
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        date(1969, 12, 31),
        pd.Timestamp("1677-09-22", tz="UTC"),
    ],
)
def test_what_lies_outside_1970_to_9999_is_refused(value: object) -> None:
    with pytest.raises(BadTime, match="out of range"):
        to_millis(value, now=NOW)


@pytest.mark.parametrize("seconds", [1, NINE // 1000, 99_999_999_999])
def test_an_integer_that_looks_like_seconds_is_refused_with_the_milliseconds(seconds: int) -> None:
    with pytest.raises(BadTime, match="looks like seconds") as error:
        to_millis(seconds, now=LAST_MS)
    assert f"Write {seconds * 1000} " in str(error.value)


def test_the_least_integer_taken_for_milliseconds_lies_in_1973() -> None:
    assert render(to_millis(100_000_000_000, now=NOW)) == "1973-03-03T09:46:40.000Z"


def test_the_future_is_refused_with_one_second_of_grace() -> None:
    assert to_millis(NOW + GRACE_MS, now=NOW) == NOW + 1000
    assert to_millis(render(NOW + 1000)[:-1] + "999Z", now=NOW) == NOW + 1000
    with pytest.raises(FutureTime, match="in the future") as error:
        to_millis(NOW + GRACE_MS + 1, now=NOW)
    assert render(NOW) in str(error.value)
    assert "`now`" in str(error.value)
    with pytest.raises(FutureTime):
        to_millis("9999-12-31", now=NOW)


def test_both_refusals_say_that_the_call_is_wrong() -> None:
    assert issubclass(BadTime, UsageError)
    assert issubclass(FutureTime, UsageError)


def test_times_are_printed_in_utc_with_milliseconds_and_a_z() -> None:
    assert render(NINE) == "2026-11-20T09:00:00.000Z"
    assert render(0) == "1970-01-01T00:00:00.000Z"
    assert render(LAST_MS) == "9999-12-31T23:59:59.999Z"


_instants = st.integers(0, LAST_MS)


@given(_instants)
def test_what_is_printed_is_read_back_the_same(instant: int) -> None:
    text = render(instant)
    assert to_millis(text, now=LAST_MS) == instant
    assert to_millis(text.lower(), now=LAST_MS) == instant
    assert to_millis(text.replace("-", "").replace(":", ""), now=LAST_MS) == instant
    assert to_millis(to_datetime(instant), now=LAST_MS) == instant


@given(_instants, st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_the_zone_that_an_instant_is_written_in_does_not_change_it(instant: int, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    try:
        moment = to_datetime(instant).astimezone(zone)
    except OverflowError:
        return  # the year 10000, there
    assert to_millis(moment, now=LAST_MS) == instant
    assert to_millis(moment.isoformat(), now=LAST_MS) == instant


@given(st.text("0123456789-+:.TtZz nowshd", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    with contextlib.suppress(BadTime, FutureTime):
        assert 0 <= to_millis(text, now=NOW) <= NOW + GRACE_MS
