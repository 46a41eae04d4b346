"""Structured logs: one JSON object a line on stderr, without the keys of objects.

A key may hold a patient's name. What a line says of a message is its id, its queue and a reason in which
quoted values are masked; the reason in full goes with the message to the dead-letter queue.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from typing import Any, Final, TextIO

from snapengine.errors import MalformedMessage, SnapEngineError
from snapengine.instants import render

_logger = logging.getLogger("snapengine.worker")

_QUOTED: Final = re.compile(r"""(?<![^\W_])(['"])(?:\\.|(?!\1).)*(?:\1|$)""", re.DOTALL)
"""A value by its `repr`; the apostrophe of a word such as `can't` follows a letter. One that is never closed
is taken to the end."""


def configure(stream: TextIO | None = None) -> None:
    """Send this process's logs to `stream` (stderr): ours from INFO up, everybody else's from WARNING up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(logging.INFO)


def info(event: str, **fields: Any) -> None:
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    _logger.warning(event, extra={"fields": fields})


def error(event: str, **fields: Any) -> None:
    _logger.error(event, extra={"fields": fields})


def reason(failure: BaseException) -> dict[str, Any]:
    """The fields that tell why something failed; of an error that is not ours, also where in the code."""
    if isinstance(failure, SnapEngineError):
        text = masked(str(failure)) if isinstance(failure, MalformedMessage) else str(failure)
        return {"code": failure.code, "reason": text}
    return {
        "code": "unexpected",
        "reason": f"{type(failure).__name__}: {masked(str(failure))}",
        "where": [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(failure.__traceback__)
        ],
    }


def masked(text: str) -> str:
    """Text with its quoted values left out."""
    return _QUOTED.sub("'…'", text)


class JSONFormatter(logging.Formatter):
    """`time` (RFC 3339, UTC, milliseconds), `level`, `event`, and what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": render(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _logger.name:
            line["logger"] = record.name
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line |= reason(record.exc_info[1])
        return json.dumps(line, default=str)
