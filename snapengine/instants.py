"""PURE: time inputs to UTC milliseconds, and back. Naive times are refused; so is the future."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from operator import index
from typing import Any

from snapengine.errors import BadTime, FutureTime

TimeInput = Any
"""An aware `datetime` or zoned `pandas.Timestamp`, an `int` (epoch milliseconds), a `date` (midnight UTC),
or text: RFC 3339 with a zone, a date, `now`, or a look-back such as `-90s`, `-24h`, `-7d`."""

GRACE_MS = 1000
"""How far in the future an instant may lie: clocks differ."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_LOOK_BACK = re.compile(r"-([0-9]{1,9})([smhdw])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RFC3339 = re.compile(
    r"([0-9]{4})-?([0-9]{2})-?([0-9]{2})[Tt ]([0-9]{2}):?([0-9]{2})(?::?([0-9]{2})(?:\.([0-9]{1,9}))?)?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])?"
)
_LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant of RFC 3339
_SECONDS_BELOW = 100_000_000_000  # as milliseconds 1973; as seconds the year 5138: surely meant as seconds


def to_millis(value: TimeInput, *, now: int) -> int:
    """UTC milliseconds of a time input, finer fractions cut off. `now` is the clock, in milliseconds.

    Raises `BadTime` for what is not a time or has no zone, `FutureTime` for more than a second after now.
    """
    millis = _parse(value, now)
    if not 0 <= millis <= _LAST_MS:
        raise BadTime(f"The time {value!r} is out of range: it must lie between 1970 and 9999.")
    if millis > now + GRACE_MS:
        raise FutureTime(
            f"{render(millis)} is in the future (now is {render(now)}); "
            "a view can only be had of a time that has been. Use `now` for the newest."
        )
    return millis


def _parse(value: TimeInput, now: int) -> int:
    if isinstance(value, str):
        return _parse_text(value.strip(), now)
    if isinstance(value, bool | float) or type(value).__name__ == "NaTType":
        raise BadTime(_not_a_time(value))  # a bool passes for an int, pandas' NaT for a datetime
    if isinstance(value, datetime):
        if value.tzinfo is None or value.utcoffset() is None:
            raise BadTime(
                f"{value.isoformat()} has no time zone. Give one, for example "
                f"`datetime(..., tzinfo=timezone.utc)` or the text '{value.isoformat()}Z'."
            )
        return (value - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, date):
        return (datetime(value.year, value.month, value.day, tzinfo=UTC) - _EPOCH) // timedelta(
            milliseconds=1
        )
    try:
        millis = index(value)
    except TypeError:
        raise BadTime(_not_a_time(value)) from None
    if 0 < millis < _SECONDS_BELOW:
        raise BadTime(
            f"{millis} looks like seconds; integers are epoch milliseconds. Write {millis * 1000} "
            f"if {render(millis * 1000)} is meant."
        )
    return millis


def _not_a_time(value: object) -> str:
    return (
        f"{value!r} is not a time with a zone. Give an aware datetime, epoch milliseconds as an int, "
        "or text such as '2026-11-20T09:00:00Z', '2026-11-20', 'now' or '-24h'."
    )


def _parse_text(text: str, now: int) -> int:
    if text == "now":
        return now
    if look_back := _LOOK_BACK.fullmatch(text):
        return now - int(look_back[1]) * _UNIT_MS[look_back[2]]
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    if text.startswith("run:/"):
        raise BadTime(f"{text!r} stands for what a run saw, where a view is opened, and for no other time.")
    match = _RFC3339.fullmatch(text)
    if not match:
        raise BadTime(_not_a_time(text))
    if match[8] is None:
        raise BadTime(f"The time {text!r} has no zone. Write '{text}Z' for UTC, or '{text}+01:00'.")
    return _from_fields(text, match)


def _from_fields(text: str, match: re.Match[str]) -> int:
    zone = match[8].upper().replace(":", "")
    offset = 0 if zone == "Z" else int(zone[1:3]) * 60 + int(zone[3:5])
    if zone[0] == "-":
        offset = -offset
    try:
        year, month, day, hour, minute, second = (int(match[i] or 0) for i in range(1, 7))
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise BadTime(f"{text!r} is not a time: {error}.") from None
    millis = (moment - _EPOCH) // timedelta(milliseconds=1) - offset * 60_000
    return millis + int((match[7] or "0").ljust(3, "0")[:3])


def render(millis: int) -> str:
    """RFC 3339, UTC, milliseconds, `Z`: `2026-11-20T09:00:00.000Z`."""
    moment = _EPOCH + timedelta(milliseconds=millis)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_datetime(millis: int) -> datetime:
    """An aware UTC datetime."""
    return _EPOCH + timedelta(milliseconds=millis)
