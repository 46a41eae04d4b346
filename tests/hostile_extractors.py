"""Extractors that do what hostile bytes make libraries do: crash, hang, eat memory, reach for files."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from metadata_extractors.base import Extraction, Reader, column

SECRET = "Doe^Jane"


class Hostile:
    """Does what the object's text says; its column is `Text`."""

    name = "hostile"
    version = "1"
    schema = pa.schema([column("Text", pa.string(), "a test", identifying=True)])

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self.kept: list[bytearray] = []
        self.row: dict[str, object] = {}

    def matches(self, key: str, size: int | None, head: bytes) -> bool:
        return not head.startswith(b"other")

    def extract(self, reader: Reader) -> Extraction:
        deed = reader.read(0, 100).partition(b"\0")[0].decode()
        found: Extraction = getattr(self, f"do_{deed}")(reader)
        return found

    def do_well(self, _reader: Reader) -> Extraction:
        return Extraction("ok", {"Text": SECRET}, ("a remark",))

    def do_segfault(self, _reader: Reader) -> Extraction:
        faulthandler.disable()
        faulthandler._sigsegv()  # type: ignore[attr-defined]  # made for tests
        return Extraction("ok")

    def do_abort(self, _reader: Reader) -> Extraction:
        os.abort()

    def do_exit(self, _reader: Reader) -> Extraction:
        sys.exit(SECRET)

    def do_leave(self, _reader: Reader) -> Extraction:
        os._exit(3)

    def do_spin(self, _reader: Reader) -> Extraction:
        while True:
            pass

    def do_sleep(self, _reader: Reader) -> Extraction:
        time.sleep(600)
        return Extraction("ok")

    def do_hold_out(self, _reader: Reader) -> Extraction:
        """Without its own clock: the parent must end it."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(600)
        return Extraction("ok")

    def do_eat(self, _reader: Reader) -> Extraction:
        self.kept.append(bytearray(8 * 2**30))
        return Extraction("ok")

    def do_nibble(self, _reader: Reader) -> Extraction:
        """Takes a fifth of a GiB each time, and gives nothing back."""
        self.kept.append(bytearray(200 * 2**20))
        return Extraction("ok", {"Text": "nibbled"})

    def do_reuse(self, reader: Reader) -> Extraction:
        """Gives the same dictionary each time."""
        self.row["Text"] = reader.key
        return Extraction("ok", self.row)

    def do_doze(self, _reader: Reader) -> Extraction:
        time.sleep(0.5)
        return Extraction("ok", {"Text": "dozed"})

    def do_long(self, reader: Reader) -> Extraction:
        """Has a header that goes on."""
        return Extraction("ok", {"Text": str(len(reader.read(0, 200_000)))})

    def do_partly(self, _reader: Reader) -> Extraction:
        return Extraction("partial", {"Text": "a part"}, ("cut  short",))

    def do_raise(self, _reader: Reader) -> Extraction:
        raise ValueError(SECRET)

    def do_lie(self, _reader: Reader) -> Extraction:
        return Extraction("ok", {"Text": 7})

    def do_invent(self, _reader: Reader) -> Extraction:
        return Extraction("splendid")  # type: ignore[arg-type]  # that is the point

    def do_flood(self, _reader: Reader) -> Extraction:
        return Extraction("ok", {"Text": "x" * (20 * 2**20)})

    def do_print(self, _reader: Reader) -> Extraction:
        os.write(1, SECRET.encode())
        os.write(2, SECRET.encode())
        return Extraction("ok", {"Text": "printed"})

    def do_read_all(self, reader: Reader) -> Extraction:
        return Extraction("ok", {"Text": str(len(reader.read(0, 10**9)))})

    def do_swallow(self, reader: Reader) -> Extraction:
        """Makes a value of what it never got."""
        try:
            reader.read(70_000, 80_000)
        except Exception:  # noqa: BLE001  # as libraries do
            return Extraction("ok", {"Text": "made up"})
        return Extraction("ok", {"Text": "read"})

    def do_read_file(self, _reader: Reader) -> Extraction:
        return Extraction("ok", {"Text": Path("/etc/passwd").read_text()})

    def do_write_file(self, _reader: Reader) -> Extraction:
        Path("left-behind").write_text(SECRET)
        return Extraction("ok")

    def do_connect(self, _reader: Reader) -> Extraction:
        socket.create_connection(("127.0.0.1", 9)).close()
        return Extraction("ok")

    def do_run(self, _reader: Reader) -> Extraction:
        subprocess.run(["true"], check=True)
        return Extraction("ok")

    def do_environ(self, _reader: Reader) -> Extraction:
        return Extraction("ok", {"Text": " ".join(sorted(os.environ))})
