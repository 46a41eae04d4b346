"""Ports of the loopback address: which are free, and who listens on one."""

import contextlib
import secrets
import socket
from pathlib import Path

HOST = "127.0.0.1"
# Below the ephemeral ports of Linux (32768 on) and macOS (49152 on): while a server is down between `stop`
# and `start`, no outgoing connection can be given its port.
PORTS = range(15_000, 32_000)


def free(count: int) -> list[int]:
    """Distinct ports of `PORTS` on which nothing listened a moment ago."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in found:
                found.append(port)
    return found


def listens(pid: int, port: int) -> bool:
    """Whether process `pid` itself is listening on `port`; by /proc, so always true away from Linux."""
    proc = Path("/proc")
    if not (proc / "net/tcp").exists():
        return True
    listening = set()
    for table in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # no tcp6 where IPv6 is switched off
            for line in (proc / table).read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    listening.add(f"socket:[{inode}]")
    with contextlib.suppress(FileNotFoundError, PermissionError):  # ended, or another user's
        for descriptor in (proc / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since the directory was read
                if str(descriptor.readlink()) in listening:
                    return True
    return False
