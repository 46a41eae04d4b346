"""All that a process says: logs of every level with tracebacks, both standard streams, warnings."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

ON_THE_WIRE: Final = ("botocore", "aiobotocore", "urllib3", "s3transfer", "moto")
"""Loggers that at debug level show requests and replies as they are: heard from INFO on."""


class Heard:
    """What was said so far."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self._caplog = caplog
        self._capfd = capfd
        self._said: list[str] = []

    @property
    def text(self) -> str:
        streams = self._capfd.readouterr()
        fields = [str(record.__dict__) for record in self._caplog.records]
        self._said += [streams.out, streams.err, self._caplog.text, *fields]
        self._caplog.clear()
        return "\n".join(self._said)

    def note(self, *said: object) -> None:
        self._said += map(str, said)

    def failure(self, error: BaseException) -> None:
        """An error with its causes, as a traceback shows them."""
        self._said += traceback.format_exception(error)
        self._said.append(repr(error))
        self._said += [str(vars(one)) for one in (error, error.__cause__) if one is not None]


@contextmanager
def listening(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Heard]:
    """Hears everything within."""
    heard = Heard(caplog, capfd)
    with ExitStack() as levels, warnings.catch_warnings(record=True) as caught:
        for name in ON_THE_WIRE:
            levels.enter_context(caplog.at_level(logging.INFO, name))
        levels.enter_context(caplog.at_level(logging.DEBUG))  # last, as each sets the handler's level too
        warnings.simplefilter("always")
        yield heard
        heard.note(*(warning.message for warning in caught))
        _ = heard.text
