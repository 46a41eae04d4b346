"""`snapengine extract-worker`: options, signals, exit."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """snapengine extract-worker
snapengine extract-worker --processes 4 --http-port 0
snapengine extract-worker --once --no-http"""


def extract_worker(
    queue: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Consume this extraction queue. Repeatable. By default those of all buckets.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            metavar="N",
            help="Objects at once, each in a child process; by default as many as there are cores.",
            show_default=False,
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when the queues are empty and all rows are kept.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The writer's name; by default made of host, process and chance."),
    ] = None,
    http_host: Annotated[
        str, typer.Option(metavar="HOST", help="Where health and metrics are served.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Its port; 0 takes a free one and logs it.")
    ] = 9465,
    no_http: Annotated[bool, typer.Option("--no-http", help="Serve no health and no metrics.")] = False,
) -> None:
    """Extract metadata from new object versions, as the worker hands them on.

    It stops when told to (SIGTERM, Ctrl-C). Logs are JSON lines on stderr. Exits with 0 once the rows of what
    it had received are kept and the messages deleted.
    """
    import os

    from snapengine.engine import Engine
    from snapengine.workers.starting import importing_a_worker, run_worker, writer_name

    with importing_a_worker():
        from metadata_extractors.extract_worker import ExtractWorker, Options

    options = Options(
        name=name or writer_name(),
        queue_urls=tuple(queue or ()),
        processes=processes or os.cpu_count() or 1,
        once=once,
        http_host=http_host,
        http_port=None if no_http else http_port,
    )
    run_worker(lambda: ExtractWorker(Engine(), options))
