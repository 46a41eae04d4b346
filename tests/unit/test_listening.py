"""What listens for leaks hears everything: a test that is deaf would find none."""

from __future__ import annotations

import logging
import os
import warnings

import pytest

from tests.listening import listening


def test_logs_of_every_level_streams_warnings_and_causes_are_heard(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening(caplog, capfd) as heard:
        logging.getLogger("some.library").debug("by %s", "debug")
        logging.getLogger("snapengine.worker").info("event", extra={"fields": {"told": "by field"}})
        print("by print")  # that is what is heard
        os.write(2, b"by descriptor")
        warnings.warn("by warning", stacklevel=1)
        error = KeyError("by error")
        error.__cause__ = ValueError("by cause")
        heard.failure(error)
        logging.getLogger("botocore.parsers").debug("by wire")
    told = heard.text
    ways = ["debug", "field", "print", "descriptor", "warning", "cause", "error"]
    assert [way for way in ways if f"by {way}" not in told] == []
    assert "by wire" not in told
