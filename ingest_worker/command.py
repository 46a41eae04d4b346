"""`snapengine worker`: options, signals, exit."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = """snapengine worker
snapengine worker --bucket scans --http-port 0
snapengine worker --once --no-http
snapengine worker --archive 5m"""


def worker(
    bucket: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUCKET", help="Consume this bucket's queue. Repeatable. By default all buckets'."
        ),
    ] = None,
    queue_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Consume this queue, whatever buckets it serves. Repeatable."),
    ] = None,
    polls: Annotated[
        int, typer.Option(min=1, max=32, metavar="N", help="Long polls at once, for each queue.")
    ] = 4,
    once: Annotated[
        bool, typer.Option("--once", help="End when the queues are empty and all is committed.")
    ] = False,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Archive its buckets too, so long after each start (5m, 1h): see `snapengine archive`.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The writer's name; by default made of host, process and chance."),
    ] = None,
    http_host: Annotated[
        str, typer.Option(metavar="HOST", help="Where health and metrics are served.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Its port; 0 takes a free one and logs it.")
    ] = 9464,
    no_http: Annotated[bool, typer.Option("--no-http", help="Serve no health and no metrics.")] = False,
) -> None:
    """Read S3's events from the queues into the log.

    It stops when told to (SIGTERM, Ctrl-C). Logs are JSON lines on stderr. Exits with 0 once what it had
    received is committed and deleted.
    """
    from snapengine.cli.reconcile import interval_of
    from snapengine.engine import Engine
    from snapengine.errors import UsageError
    from snapengine.workers.starting import importing_a_worker, run_worker, writer_name

    archive_every = interval_of(archive, "--archive") if archive is not None else None
    if archive_every is not None and once:
        raise UsageError(
            "--archive is for a worker that goes on: without --once, or run `snapengine archive`."
        )
    with importing_a_worker():
        from ingest_worker.worker import Options, Worker

    options = Options(
        name=name or writer_name(),
        buckets=tuple(bucket or ()),
        queue_urls=tuple(queue_url or ()),
        polls=polls,
        once=once,
        archive_every=archive_every,
        http_host=http_host,
        http_port=None if no_http else http_port,
    )
    run_worker(lambda: Worker(Engine(), options))
