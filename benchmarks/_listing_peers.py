"""The peers of `view_vs_listing`: three that list every version the bucket has, each as its users run it.

Each is asked cold: boto3 with a new client, the others as processes of their own. What a peer says is read
after the clock has stopped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3

from benchmarks._listing_filling import BUCKET
from benchmarks._listing_history import Answer, Row
from benchmarks.harness import undisturbed
from snapengine.instants import render, to_datetime
from tools.local_servers import Endpoint

PIT_RESTORE = "s3-pit-restore==0.9"
PATIENCE = 3600.0
"""Seconds that a peer may take."""


class Missing(Exception):
    """A peer cannot run here, or failed. The message says what to install, or the peer's last words."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a peer said, and how long it took."""

    seconds: float
    answer: Answer


@dataclass(frozen=True, slots=True)
class Peer:
    """`ask` takes the instant in UTC milliseconds; `prepare` raises `Missing`."""

    name: str
    prepare: Callable[[Path], None]
    """Takes the folder for what has to be installed."""
    ask: Callable[[Endpoint, Path, int], Answered]


def _nothing(_: Path) -> None: ...


# boto3: the loop that anyone writes


def _ask_boto3(_endpoint: Endpoint, _cache: Path, at: int) -> Answered:
    instant = to_datetime(at)
    with undisturbed():
        started = time.perf_counter()
        newest = _fold(boto3.session.Session().client("s3"), instant)
        seconds = time.perf_counter() - started
    shown = {key: entry for key, entry in newest.items() if "ETag" in entry}
    rows = {k: Row(e["VersionId"], e["Size"], e["ETag"].strip('"')) for k, e in shown.items()}
    return Answered(seconds, rows)


def _fold(client: Any, instant: datetime) -> dict[str, Any]:
    """By key, the newest version or marker not after the instant."""
    newest: dict[str, Any] = {}
    for page in client.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for entry in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
            if entry["LastModified"] <= instant:
                best = newest.get(entry["Key"])
                if best is None or entry["LastModified"] > best["LastModified"]:
                    newest[entry["Key"]] = entry
    return newest


# rclone


def _find_rclone(_: Path) -> None:
    if shutil.which("rclone") is None:
        raise Missing("no `rclone` on PATH (Debian: apt-get install rclone)")


def _ask_rclone(endpoint: Endpoint, _cache: Path, at: int) -> Answered:
    remote = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": endpoint.endpoint_url,
        "FORCE_PATH_STYLE": "true",
        "ENV_AUTH": "true",
    }
    variables = {f"RCLONE_CONFIG_S_{name}": value for name, value in remote.items()}
    command = ["rclone", "--config", "", "lsf", "-R", "--files-only", "--fast-list", "--use-server-modtime"]
    # The MD5 is the ETag, which the listing has; times would take a request an object.
    command += ["--format", "psh", "--hash", "MD5", "--s3-version-at", render(at), f"s:{BUCKET}"]
    seconds, said = _run(command, endpoint, variables)
    rows: Answer = {}
    for line in said.splitlines():
        key, size, etag = line.rsplit(";", 2)
        rows[key] = Row(None, int(size), etag)
    return Answered(seconds, rows)


# s3-pit-restore


def _install_pit_restore(cache: Path) -> None:
    """In a virtual environment of its own, once."""
    environment = cache / PIT_RESTORE
    if (environment / "bin" / "s3-pit-restore").exists():
        return
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", PIT_RESTORE]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(environment)], pip):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (subprocess.SubprocessError, OSError) as problem:
        said = str(getattr(problem, "stderr", "") or problem).strip().splitlines()[-1:]
        raise Missing(f"{PIT_RESTORE} could not be installed ({' '.join(said)})") from problem


def _ask_pit_restore(endpoint: Endpoint, cache: Path, at: int) -> Answered:
    with tempfile.TemporaryDirectory(prefix="snapengine-pit-restore-") as folder:
        program = str(cache / PIT_RESTORE / "bin" / "s3-pit-restore")
        # In a dry run, too, it makes the folders of what it would restore.
        command = [program, "-b", BUCKET, "-d", folder, "--dry-run", "--verbose", "-t", render(at)]
        seconds, said = _run(command, endpoint, {})
    rows: Answer = {}
    for line in said.splitlines():
        _, _, rest = line.partition('" ')
        version_id, size, _storage_class, key = rest.removesuffix(" ").split(" ", 3)
        rows[key] = Row(version_id, int(size), None)
    return Answered(seconds, rows)


def _run(command: list[str], endpoint: Endpoint, variables: dict[str, str]) -> tuple[float, str]:
    """Seconds and standard output. Raises `Missing` with the end of standard error where it fails."""
    # A certificate bundle in the environment makes Debian's rclone refuse plain HTTP.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
    with tempfile.TemporaryFile() as output, undisturbed():
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                env=kept | endpoint.environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                check=False,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise Missing(f"{command[0]} did not end within {PATIENCE:.0f} s") from None
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise Missing(f"{command[0]} ended with {done.returncode}: {done.stderr.decode()[-500:].strip()}")
        output.seek(0)
        return seconds, output.read().decode()


PEERS = (
    Peer("boto3", _nothing, _ask_boto3),
    Peer("rclone", _find_rclone, _ask_rclone),
    Peer("s3_pit_restore", _install_pit_restore, _ask_pit_restore),
)
"""UTC is the zone of every instant that they are given."""
