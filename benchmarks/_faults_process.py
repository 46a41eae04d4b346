"""The processes that are struck: a worker, a baseline, a reconcile, each as it is, with a hand at its side.

What a process does to the world it does by requests. So a strike falls just before the n-th request of a step
is sent, while it is under way, or just after its reply has come; the code that runs knows nothing of it. The
processes are forked from one that has imported everything already: a start costs some 0.3 s, not 2.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import aiobotocore.httpsession
import botocore.httpsession

from ingest_worker.worker import Options, Worker
from snapengine.buckets.baseline import run_baseline
from snapengine.buckets.reconcile import run_reconcile
from snapengine.engine import Engine
from snapengine.workers import logs
from snapengine.workers.signals import run_until_told

When = Literal["before", "during", "after"]

_STEPS = {
    "AmazonSQS.ReceiveMessage": "receive",
    "AmazonSQS.DeleteMessageBatch": "delete",
    "AmazonSQS.ChangeMessageVisibilityBatch": "extend",
    "AmazonSQS.SendMessage": "set aside",
    "AmazonSQS.GetQueueAttributes": "look at the queue",
    "DynamoDB_20120810.BatchWriteItem": "by key",
    "DynamoDB_20120810.Query": "read",
    "DynamoDB_20120810.GetItem": "read",
}
_PUTS = {
    "LOG": "commit",
    "DONE": "done",
    "EPOCH": "epoch",
    "BUCKET#CONFIG": "register",
    "BUCKET#LEASE": "lease",
    "BUCKET#PROGRESS": "progress",
    "BUCKET#VERIFIED": "watermark",
    "BUCKET#CAUGHT_UP": "watermark",
}


@dataclass(frozen=True, slots=True)
class Strike:
    """Where a signal falls."""

    step: str
    """As `step_of` names it, or `any`."""
    when: When = "before"
    nth: int = 1
    """Of the requests of that step, from 1."""
    signal: int = signal.SIGKILL
    slow: tuple[str, float] | None = None
    """A step, and the seconds by which each of its requests is held back."""


def step_of(method: str, url: str, headers: Mapping[str, Any], body: Any) -> str:
    """What a request does, in one word or two."""
    target = next((value for name, value in headers.items() if name.lower() == "x-amz-target"), None)
    if target is None:
        return "page" if method == "GET" and "versions" in parse_qs(urlsplit(url).query, True) else "s3"
    target = target.decode() if isinstance(target, bytes) else str(target)
    if target.endswith((".PutItem", ".DeleteItem")):
        request = json.loads(body)
        key = request.get("Item") or request["Key"]
        kind, name = (key[part]["S"].partition("#")[0] for part in ("PK", "SK"))
        step = _PUTS.get(f"{kind}#{name}" if kind == "BUCKET" else kind, "other")
        return step if target.endswith("PutItem") else f"end of {step}"
    return _STEPS.get(target, "other")


class _Hand:
    """Counts the requests of this process, and strikes."""

    def __init__(self, strike: Strike) -> None:
        self._strike = strike
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def is_due(self, step: str) -> bool:
        """Whether this request is the one."""
        with self._lock:
            self._seen[step] += 1
            self._seen["any"] += 1
            return self._strike.step in {step, "any"} and self._seen[self._strike.step] == self._strike.nth

    def before(self) -> None:
        if self._strike.when == "before":
            self._fall()
        elif self._strike.when == "during":
            delay = random.Random(os.getpid()).uniform(0, 0.006)  # what a request takes, about
            threading.Timer(delay, self._fall).start()

    def after(self) -> None:
        if self._strike.when == "after":
            self._fall()

    def _fall(self) -> None:
        os.kill(os.getpid(), self._strike.signal)

    def delay(self, step: str) -> float:
        slow = self._strike.slow
        return slow[1] if slow and slow[0] == step else 0.0


def arm(strike: Strike) -> None:
    """Strike this process when it comes to that: all its requests to AWS go through one of two methods."""
    hand = _Hand(strike)
    send_async = aiobotocore.httpsession.AIOHTTPSession.send
    send_sync = botocore.httpsession.URLLib3Session.send

    @wraps(send_async)
    async def struck_async(self: Any, request: Any) -> Any:
        step = step_of(request.method, request.url, request.headers, request.body)
        due = hand.is_due(step)
        await asyncio.sleep(hand.delay(step))
        if due:
            hand.before()
        reply: Any = await send_async(self, request)
        if due:
            await reply.content  # the reply is whole
            hand.after()
        return reply

    @wraps(send_sync)
    def struck_sync(self: Any, request: Any) -> Any:
        step = step_of(request.method, request.url, request.headers, request.body)
        due = hand.is_due(step)
        time.sleep(hand.delay(step))
        if due:
            hand.before()
        reply = send_sync(self, request)
        if due:
            hand.after()
        return reply

    aiobotocore.httpsession.AIOHTTPSession.send = struck_async  # type: ignore[method-assign]  # on purpose
    botocore.httpsession.URLLib3Session.send = struck_sync  # type: ignore[method-assign]  # likewise


# What a process runs


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a process finds its servers, and where it logs."""

    environment: Mapping[str, str]
    log: Path

    def enter(self, strike: Strike | None) -> None:
        os.environ.update(self.environment)
        sink = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
        if strike:
            arm(strike)


def work(setting: Setting, strike: Strike | None, name: str, once: bool) -> None:
    """`snapengine worker`. It looks for queues anew every second: a server that comes back may have answered
    at first that there is none (docs/services.md)."""
    setting.enter(strike)
    logs.configure()
    asyncio.run(run_until_told(Worker(Engine(), Options(name=name, polls=2, once=once), refresh=1.0)))


def baseline(setting: Setting, strike: Strike | None, bucket: str, page_size: int) -> None:
    setting.enter(strike)
    asyncio.run(run_baseline(Engine(), bucket, wait=False, page_size=page_size))


def reconcile(setting: Setting, strike: Strike | None, bucket: str, page_size: int) -> None:
    setting.enter(strike)
    asyncio.run(run_reconcile(Engine(), bucket, page_size=page_size))
