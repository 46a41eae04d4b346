"""Servers, a table, a queue, and the processes at work on them: started, struck, put to sleep, awaited."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from benchmarks._faults_process import Setting, Strike, work
from snapengine.engine import Engine
from snapengine.model import BucketConfig
from snapengine.settings import Settings
from tools.local_servers import Endpoint

VISIBILITY = 2
"""Seconds for which the queue hides a message that was given out: short, so that a process that is put to
sleep for seconds sleeps through what takes minutes elsewhere."""

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["benchmarks._faults_preload"])


class Stuck(Exception):
    """Something did not come about in time, or a process ended as none should."""


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Stuck(f"It took more than {seconds:.0f} s until {what}.")
        time.sleep(0.02)


@contextmanager
def environment_of(*endpoints: Endpoint) -> Iterator[dict[str, str]]:
    """Within, this process reaches these servers and no account; so will those given the same variables."""
    variables = {name: value for each in endpoints for name, value in each.environment().items()}
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("AWS_", "SNAPENGINE_")):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield variables
    finally:
        os.environ.clear()
        os.environ.update(before)


class Running:
    """A process of ours that may be struck."""

    def __init__(self, process: ForkServerProcess, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ended(self, seconds: float = 0.0) -> bool:
        self._process.join(seconds)
        return self._process.exitcode is not None

    @property
    def killed(self) -> bool:
        return self._process.exitcode == -signal.SIGKILL

    def asleep(self) -> bool:
        """Whether it was stopped, by Linux's /proc."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except FileNotFoundError:
            return False

    def send(self, number: int) -> None:
        if not self.ended():
            os.kill(self.pid, number)

    def stop(self) -> None:
        """SIGTERM, and an end in good order; raises `Stuck` for any other."""
        self.send(signal.SIGTERM)
        self.finish(40, -signal.SIGTERM)  # the latter if it had not begun yet

    def finish(self, seconds: float, *also_good: int) -> None:
        """Wait for an end in good order; raises `Stuck` for any other."""
        if not self.ended(seconds):
            self.end()
            raise Stuck(f"Process {self.pid} did not end. {self.last_words()}")
        if self._process.exitcode not in {0, *also_good}:
            raise Stuck(f"A process ended with {self._process.exitcode}. {self.last_words()}")

    def last_words(self) -> str:
        return "The end of its log:\n" + self._log.read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """SIGKILL, whatever it is at."""
        self.send(signal.SIGKILL)
        self._process.join(10)


class Stage:
    """One table, and one queue with a dead-letter queue, which serves all the buckets."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.store = f"dynamodb://faults-{token_hex(4)}"
        self.environment = {**environment, "SNAPENGINE_STORE": self.store}
        self.engine = self.make_engine()
        self.engine.store.create()
        self.started = 0
        """Processes."""
        self.kills = 0
        self._folder = folder
        self._running: list[Running] = []
        self._lock = Lock()
        self._sqs: Any = self.engine.client("sqs")
        self.dead_url = self._queue({})
        arn = self._attributes(self.dead_url, "QueueArn")["QueueArn"]
        # Who kills workers all the time must let messages come again and again.
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1000"})
        self.url = self._queue({"VisibilityTimeout": str(VISIBILITY), "RedrivePolicy": policy})

    def make_engine(self) -> Engine:
        return Engine(Settings(store=self.store))

    def _queue(self, attributes: Mapping[str, str]) -> str:
        reply = self._sqs.create_queue(QueueName=f"faults-{token_hex(4)}", Attributes=attributes)
        return str(reply["QueueUrl"])

    def _attributes(self, url: str, *names: str) -> dict[str, str]:
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))
        return dict(found["Attributes"])

    def enable(self, bucket: str, **more: Any) -> None:
        """As `enable-bucket` leaves it in the registry; of the rest nothing is needed here."""
        config = BucketConfig(bucket, "us-east-1", "000000000000", streams=2, queue_url=self.url, **more)
        self.engine.store.put_config(config)

    # The queue

    def send(self, bodies: Sequence[str]) -> None:
        """Until each is accepted: what S3 was not told is there, it sends again."""
        for start in range(0, len(bodies), 10):
            left = {str(i): body for i, body in enumerate(bodies[start : start + 10])}
            deadline = time.monotonic() + 60
            while left:
                entries = [{"Id": name, "MessageBody": body} for name, body in left.items()]
                try:
                    reply = self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries)
                except (ClientError, BotoCoreError) as error:
                    if time.monotonic() > deadline:
                        raise Stuck("The queue takes no messages.") from error
                    time.sleep(0.2)
                else:
                    for entry in reply.get("Successful", ()):
                        del left[entry["Id"]]

    def in_queue(self) -> int:
        """Messages there, hidden or not."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(map(int, self._attributes(self.url, *names).values()))

    def visible(self) -> int:
        return int(self._attributes(self.url, "ApproximateNumberOfMessages")["ApproximateNumberOfMessages"])

    def dead(self) -> set[str]:
        """The bodies in the dead-letter queue; they are taken out."""
        bodies: set[str] = set()
        while True:
            reply = self._sqs.receive_message(QueueUrl=self.dead_url, MaxNumberOfMessages=10)
            if not (messages := reply.get("Messages", [])):
                return bodies
            for each in messages:
                bodies.add(each["Body"])
                self._sqs.delete_message(QueueUrl=self.dead_url, ReceiptHandle=each["ReceiptHandle"])

    # Processes

    def start(self, target: Callable[..., None], strike: Strike | None, *arguments: Any) -> Running:
        """Run `target` of `benchmarks._faults_process` in a process of its own."""
        with self._lock:
            self.started += 1
            log = self._folder / f"process-{self.started}.log"
            log.touch()
            setting = Setting(self.environment, log)
            process = _forks.Process(target=target, args=(setting, strike, *arguments), daemon=True)
            process.start()
            running = Running(process, log)
            self._running.append(running)
        return running

    def worker(self, strike: Strike | None = None, *, once: bool = False) -> Running:
        return self.start(work, strike, f"worker-{token_hex(4)}", once)

    def recover(self) -> None:
        """What anyone would do: run a worker until the queue is empty, and another for what is left over."""
        survivor = self.worker()

        def empty() -> bool:
            if survivor.ended():
                raise Stuck(f"The worker ended. {survivor.last_words()}")
            return self.in_queue() == 0

        wait_until(empty, "the queue was empty", 180)
        survivor.stop()
        self.worker(once=True).finish(60)

    def close(self) -> None:
        for each in self._running:
            each.end()
