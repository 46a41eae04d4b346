"""Rounds of archiving as a Lambda function on a schedule (EventBridge Scheduler, every five minutes, say).

What an invocation that runs out of time leaves is gone on with by the next: nothing is ever half committed.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ingest_worker.archiving import fields_of
from ingest_worker.lambda_handler import Context
from snapengine.archiving.run import archive_bucket, enabled_buckets
from snapengine.archiving.tools import ArchiveTools
from snapengine.engine import Engine
from snapengine.errors import Busy, TryAgain, UsageError
from snapengine.workers import logs
from snapengine.workers.failures import plain

RESERVE: Final = 10.0
"""Seconds before the function's timeout at which the round under way is given up."""
EVERY: Final = 300.0
"""Seconds between invocations, more or less."""


def handler(event: Any, context: Context) -> dict[str, Any]:
    """Lambda's entry point: `ingest_worker.archive_handler.handler`.

    The event may name buckets, `{"buckets": ["scans"]}`; without, all that are enabled are archived. Returns
    for each bucket what was done. Raises `TryAgain` if one was not archived, after the others' turns, so that
    the function's errors can be alerted on; `UsageError` for `buckets` that are none.
    """
    global _environment  # noqa: PLW0603  # an execution environment is a process; this is what it keeps
    names = _names(event)
    if _environment is None:
        logs.configure()
        _environment = Environment(Engine())
    return _environment.handle(names, context)


class Environment:
    """What an execution environment keeps: one loop and one engine, with its clients."""

    def __init__(self, tools: ArchiveTools) -> None:
        self._tools = tools
        self._loop = asyncio.new_event_loop()

    def handle(self, names: list[str] | None, context: Context) -> dict[str, Any]:
        return self._loop.run_until_complete(self._handle(names, context))

    async def _handle(self, names: list[str] | None, context: Context) -> dict[str, Any]:
        seconds = max(0.0, context.get_remaining_time_in_millis() / 1000 - RESERVE)
        done: dict[str, Any] = {}
        failed: dict[str, str] = {}
        try:
            async with asyncio.timeout(seconds):
                if names is None:
                    names = await asyncio.to_thread(enabled_buckets, self._tools)
                for name in names:
                    await self._archive(name, done, failed)
        except TimeoutError:
            logs.error("out-of-time", reason="Give the function more time; the next invocation goes on.")
            failed["*"] = "out of time: the next invocation goes on"
        if failed:
            raise TryAgain("; ".join(f"{name}: {why}" for name, why in failed.items()))
        return done

    async def _archive(self, bucket: str, done: dict[str, Any], failed: dict[str, str]) -> None:
        try:
            report = await archive_bucket(self._tools, bucket, every=EVERY)
        except Busy as elsewhere:
            done[bucket] = {"busy": str(elsewhere)}
        except Exception as raised:  # noqa: BLE001  # one bucket's failure is not the next one's
            error = plain(raised)
            logs.warning("archive-failed", bucket=bucket, **logs.reason(error))
            failed[bucket] = str(error)
        else:
            done[bucket] = fields_of(report)
            logs.info("archived", **done[bucket])


_environment: Environment | None = None


def _names(event: Any) -> list[str] | None:
    names = event.get("buckets") if isinstance(event, dict) else None
    if names is None:
        return None
    if isinstance(names, list) and names and all(isinstance(name, str) and name for name in names):
        return names
    raise UsageError('The event names no buckets: give {"buckets": ["BUCKET", …]}, or nothing for all.')
