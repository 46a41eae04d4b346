"""The worker's own endpoint: liveness, readiness, metrics. On loopback unless told otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from snapengine.errors import UsageError
from snapengine.workers import logs
from snapengine.workers.metrics import WorkerMetrics


@asynccontextmanager
async def served(
    host: str, port: int | None, metrics: WorkerMetrics, troubles: Callable[[], Awaitable[list[str]]]
) -> AsyncIterator[int | None]:
    """Serve within; gives the port, which for 0 is any that is free; for None nothing is served. Raises
    `UsageError` if it is taken.

    `/healthz` says 200 as long as the event loop turns; `/readyz` 200, or 503 with what is wrong;
    `/metrics` Prometheus's text format.
    """
    if port is None:
        yield None
        return

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def readyz(_: web.Request) -> web.Response:
        reasons = await troubles()
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def text(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", text)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Take another with `--http-port` (0: any "
                "that is free) or `--http-host`, or do without: `--no-http`."
            ) from error
        bound = int(runner.addresses[0][1])
        logs.info("http-listening", host=host, port=bound)
        yield bound
    finally:
        await runner.cleanup()
