"""moto's SQS, made safe for several threads: as it stands, a message that arrives during a delete is lost."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any
from uuid import uuid4

import moto.sqs.urls
from moto.sqs.models import Message, Queue, SQSBackend

from snapengine.devcloud import context

# How soon a waiting receive sees a message whose visibility timeout or delay has run out, in seconds.
_LOOK_AGAIN = 0.1


class DevSQSBackend(SQSBackend):
    """One account's queues in a Region. Each queue's lock, which moto takes to add, now guards the rest."""

    @property
    def _url_module(self) -> ModuleType:
        return moto.sqs.urls  # moto looks beside the module of the class

    def receive_message(
        self,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Message]:
        end = time.monotonic() + int(wait_seconds_timeout or 0)
        queue = self.get_queue(queue_name)
        with queue._messages_lock:
            while True:
                # A message handed to nobody would stay invisible for as long as its timeout.
                if context.current().client_has_left():
                    return []
                found = super().receive_message(
                    queue_name, count, 0, visibility_timeout, message_attribute_names
                )
                remaining = end - time.monotonic()
                if found or remaining <= 0:
                    return found
                queue._messages_lock.wait(min(remaining, _LOOK_AGAIN))

    def deliver(self, queue_name: str, body: str) -> None:
        """Send as S3 does, without moto's counting of the queue at each call: a backlog would slow writes."""
        queue: Any = self.get_queue(queue_name)
        self._validate_message(queue, body, delay_seconds=0)
        message = Message(str(uuid4()), body)
        message.mark_sent(delay_seconds=queue.delay_seconds)
        queue.add_message(message)

    def is_message_valid_based_on_retention_period(self, queue_name: str, message: Message) -> bool:
        # As moto's, less the counting of the whole queue for every message received.
        kept: Any = self.get_queue(queue_name)
        sent: Any = message.sent_timestamp
        return bool(kept.message_retention_period + sent / 1000 > time.time())

    def delete_message(self, queue_name: str, receipt_handle: str) -> None:
        with self._locked(queue_name):
            super().delete_message(queue_name, receipt_handle)

    def change_message_visibility(
        self, queue_name: str, receipt_handle: str, visibility_timeout: int
    ) -> None:
        with self._locked(queue_name):
            super().change_message_visibility(queue_name, receipt_handle, visibility_timeout)

    def purge_queue(self, queue_name: str) -> None:
        with self._locked(queue_name):
            super().purge_queue(queue_name)

    def _locked(self, queue_name: str) -> Any:
        queue: Queue = self.get_queue(queue_name)
        return queue._messages_lock


def receivable(queue: Any) -> list[Message]:
    """The messages neither in flight nor delayed, by one reading of the clock; moto takes two for each."""
    now = time.time() * 1000
    return [each for each in queue._messages if now > each.visible_at and now >= each.delayed_until]
