"""SeaweedFS for `view_vs_listing`: it tells how many S3 requests it answered, and its folder is kept.

What makes it quick is what `tools.local_servers` runs it with already: one process, its LevelDB filer store,
small volumes. Bodies in the filer store (`-filer.saveToFilerLimit`) made neither writes nor listings quicker.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Unavailable
from tools import ports
from tools.local_servers import HOST, Endpoint, SeaweedFs


class CountingSeaweedFs(SeaweedFs):
    """With the Prometheus metrics of `weed`, from which every client's requests are counted alike."""

    def _command(self) -> list[str]:
        (self.metrics_port,) = ports.free(1)
        return [*super()._command(), f"-metricsIp={HOST}", f"-metricsPort={self.metrics_port}"]

    def requests(self) -> int:
        """S3 requests answered since it was started, of every kind and with every status."""
        connection = http.client.HTTPConnection(HOST, self.metrics_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        counts = re.findall(r"^SeaweedFS_s3_request_total\{[^}]*\} (\S+)$", text, re.MULTILINE)
        return round(sum(map(float, counts)))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within, no other run uses the folder. Raises `Unavailable` where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"Another run uses {folder}. Wait for it, or give another --folder.") from None
        yield


@contextmanager
def reaching(endpoint: Endpoint) -> Iterator[None]:
    """Within, AWS clients of this process reach this server and no account."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    os.environ.update(endpoint.environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
