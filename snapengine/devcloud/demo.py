"""`make demo`: real DICOM files land in a bucket, change and vanish; and the bucket as it was before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from snapengine import Engine, View
from snapengine.cautions import MetadataMissing
from snapengine.devcloud.cloud import DevCloud
from snapengine.errors import NotYetComplete, SnapEngineError, UsageError
from snapengine.instants import render
from snapengine.notebook import human_bytes
from snapengine.observation_codec import observations_of
from snapengine.resolver import covered

BUCKET = "scans"
EARLIER = {"archive/liver_1frame.dcm": "liver_1frame.dcm", "archive/liver_expb.dcm": "liver_expb_1frame.dcm"}
"""Keys that are in the bucket before anybody thinks of views, and the files of pydicom they are made of."""

LANDING = {
    "ct/CT_small.dcm": "CT_small.dcm",
    "ct/head.dcm": "J2K_pixelrep_mismatch.dcm",
    "ecg/waveform.dcm": "waveform_ecg.dcm",
    "mr/MR_small.dcm": "MR_small.dcm",
    "mr/abdomen.dcm": "examples_overlay.dcm",
    "ot/rgb_odd.dcm": "SC_rgb_small_odd.dcm",
    "ot/rgb_rle.dcm": "SC_rgb_rle.dcm",
    "rt/dose.dcm": "rtdose_1frame.dcm",
    "rt/plan.dcm": "rtplan.dcm",
}
COLUMNS = ["Modality", "PatientSex", "PatientAge", "PatientAgeYears"]
QUESTION = "Modality IN ('CT', 'MR') AND PatientSex = 'M' AND PatientAgeYears > 50"
WITHIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo ended with, for whoever wants to check it."""

    before: dict[str, str]
    """Key to version id, as of the earlier instant."""
    after: dict[str, str]
    same_digest_when_asked_again: bool
    ingested: list[str]
    """Keys of the slice."""
    changes: list[tuple[str, str]]
    answer_before: list[str]
    """Keys that answer the question as of the earlier instant, and as of now."""
    answer_after: list[str]


def run_demo(console: Console | None = None) -> Outcome:
    """Run the whole story on an embedded cloud, with a real worker process; leaves nothing behind."""
    tell = Story(console or Console(highlight=False))
    with (
        TemporaryDirectory(prefix="snapengine-demo-") as folder,
        DevCloud() as cloud,
        _environment(cloud.environment()),
    ):
        return _play(tell, Path(folder), Engine())


def _play(tell: Story, folder: Path, engine: Engine) -> Outcome:
    tell.title(
        "A bucket, as it was", "S3, SQS and DynamoDB run in this process; nothing leaves this machine."
    )
    s3 = engine.s3
    s3.create_bucket(Bucket=BUCKET)
    for key, file in EARLIER.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=_dicom_file(file))
    tell.chapter(
        1, "A bucket with a past", f"s3://{BUCKET} holds {len(EARLIER)} scans. Nobody kept versions."
    )
    tell.command("init")
    tell.command("enable-bucket", BUCKET, "--extract", "dicom", "--yes", "--no-wait")

    with (
        _running("worker", folder, "--bucket", BUCKET) as worker,
        _running("extract-worker", folder) as extracting,
    ):
        tell.chapter(
            2,
            "Scans land",
            "by plain S3 calls; a worker hears of them from the queue, another reads their headers.",
        )
        tell.command("extract", BUCKET)
        _upload(tell, s3, LANDING)
        facts = len(EARLIER) + len(LANDING)
        _settled(engine, worker, facts)
        first = _extracted(engine, extracting)
        tell.say(f"Noted: [bold]{render(first.ref.at)}[/], {len(first)} objects. A training run starts here.")
        digest = first.digest()
        tell.say(f"Its digest: {digest}")

        tell.chapter(3, "Then the bucket changes", "as buckets do, while nobody looks.")
        facts += _change(tell, s3)
        _settled(engine, worker, facts)
        last = _extracted(engine, extracting)

    return _show(tell, engine, first, last, digest)


def _show(tell: Story, engine: Engine, first: View, last: View, digest: str) -> Outcome:
    then, now = render(first.ref.at), render(last.ref.at)
    tell.chapter(4, "Now, and then", "The same bucket at two instants.")
    tell.command("ls", BUCKET)
    tell.command("ls", BUCKET, "--at", then)
    tell.chapter(5, "What came in, and what changed")
    ingested = engine.slice(BUCKET, first.ref.at + 1, last.ref.at + 1)
    tell.command("slice", BUCKET, "--start", render(first.ref.at + 1), "--end", render(last.ref.at + 1))
    tell.command("diff", BUCKET, "--from", then, "--to", now)

    tell.chapter(6, "The run's data, again", "by a reference that gives the same answer for ever.")
    again = engine.open_ref(first.reference).digest()
    tell.code(f'view = snapengine.open_ref("{first.reference}")', f"view.digest() → {again}")
    tell.say("The same digest as before." if again == digest else "[red]Not the digest of before![/]")

    tell.chapter(7, "CT and MR scans of all male patients over 50", "as of then, and as of now.")
    tell.say(
        "[dim]Headers were read when the scans landed; no later correction or deletion changes an answer.[/]"
    )
    answers = [_asked(tell, view) for view in (first, last)]
    tell.say(
        "\nThe cloud, its table and the worker are gone again. "
        "[bold]snapengine dev[/] starts a cloud to play with."
    )
    return Outcome(
        before={key: version.version_id for key, version in first.items()},
        after={key: version.version_id for key, version in last.items()},
        same_digest_when_asked_again=again == digest,
        ingested=list(ingested),
        changes=[(change.kind, change.key) for change in first.diff(last)],
        answer_before=answers[0],
        answer_after=answers[1],
    )


def _upload(tell: Story, s3: Any, files: dict[str, str]) -> None:
    for key, file in files.items():
        body = _dicom_file(file)
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        tell.event("+", "green", key, f"{human_bytes(len(body))}, pydicom's {file}")


def _change(tell: Story, s3: Any) -> int:
    """An overwrite, a delete, a delete that is undone, an old object removed for good, and a new one.

    Returns how many facts that makes.
    """
    s3.put_object(Bucket=BUCKET, Key="ct/CT_small.dcm", Body=_corrected("CT_small.dcm"))
    tell.event("~", "yellow", "ct/CT_small.dcm", "overwritten: sex and age were corrected")
    s3.delete_object(Bucket=BUCKET, Key="mr/abdomen.dcm")
    tell.event("-", "red", "mr/abdomen.dcm", "deleted")
    marker = s3.delete_object(Bucket=BUCKET, Key="ecg/waveform.dcm")["VersionId"]
    tell.event("-", "red", "ecg/waveform.dcm", "deleted")
    s3.delete_object(Bucket=BUCKET, Key="ecg/waveform.dcm", VersionId=marker)
    tell.event("+", "green", "ecg/waveform.dcm", "undeleted: its delete marker was removed")
    s3.delete_object(Bucket=BUCKET, Key="archive/liver_expb.dcm", VersionId="null")
    tell.event("-", "red", "archive/liver_expb.dcm", "removed for good")
    s3.put_object(Bucket=BUCKET, Key="mr/new.dcm", Body=_dicom_file("MR_small_RLE.dcm"))
    tell.event("+", "green", "mr/new.dcm", "new")
    return 6


def _settled(engine: Engine, worker: subprocess.Popen[bytes], facts: int) -> View:
    """The view of this instant, once the log holds as many facts as there have been."""
    at = engine.clock()
    end = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < end:
        if worker.poll() is not None:
            raise SnapEngineError(f"The worker ended by itself, with exit code {worker.returncode}.")
        view = engine.view(BUCKET, at)
        epoch = engine.store.epoch(BUCKET, view.epoch)
        if epoch and len(set(observations_of(covered(engine, view.ref, epoch)))) >= facts:
            return view
        time.sleep(0.1)
    raise NotYetComplete(f"The worker did not catch up within {WITHIN_SECONDS:.0f} s.")


def _extracted(engine: Engine, worker: subprocess.Popen[bytes]) -> View:
    """The view of this instant, once all its objects have a row of metadata."""
    at = engine.clock()
    end = time.monotonic() + WITHIN_SECONDS
    while time.monotonic() < end:
        if worker.poll() is not None:
            raise SnapEngineError(f"The extract worker ended by itself, with exit code {worker.returncode}.")
        view = engine.view(BUCKET, at)
        with warnings.catch_warnings(action="ignore", category=MetadataMissing):
            frame = view.metadata(columns=[])
        if not frame.attrs["without_row"]:
            return view
        time.sleep(0.2)
    raise NotYetComplete(f"The extract worker did not catch up within {WITHIN_SECONDS:.0f} s.")


@contextmanager
def _running(name: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; ended with SIGTERM, which lets it finish what is in flight."""
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "snapengine", name, *options, "--no-http"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        except SnapEngineError as error:
            raise SnapEngineError(
                f"{error} Its log ends: {log.read_text(errors='replace')[-800:]}"
            ) from error
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _dicom_file(name: str) -> bytes:
    """A file that the pydicom package carries."""
    try:
        import pydicom.data
    except ImportError:
        raise UsageError("pydicom is not installed. Run `pip install 'snapengine[dicom]'`.") from None
    return (Path(pydicom.data.__file__).parent / "test_files" / name).read_bytes()


def _corrected(name: str) -> bytes:
    """The file with sex and age put right, as a hospital corrects them."""
    import pydicom

    dataset = pydicom.dcmread(BytesIO(_dicom_file(name)))
    dataset.PatientSex = "M"
    dataset.PatientAge = "063Y"
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _asked(tell: Story, view: View) -> list[str]:
    at = render(view.ref.at)
    tell.code(f'snapengine.metadata("{BUCKET}", at="{at}", where="{QUESTION}")')
    frame = view.metadata(where=QUESTION, columns=COLUMNS)
    tell.frame(frame)
    return [str(key) for key in frame["key"]]


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Story:
    """How the demo tells what it does."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str, below: str) -> None:
        self._console.print(f"\n[bold]{text}[/]\n[dim]{below}[/]")

    def chapter(self, number: int, text: str, below: str = "") -> None:
        self._console.print()
        self._console.rule(f"[bold]{number}. {text}[/]", align="left", style="dim")
        if below:
            self._console.print(f"[dim]{below}[/]")

    def say(self, text: str) -> None:
        self._console.print(text)

    def event(self, sign: str, colour: str, key: str, what: str) -> None:
        self._console.print(f"  [{colour}]{sign}[/] {key:<26} [dim]{what}[/]")

    def code(self, *lines: str) -> None:
        for line in lines:
            self._console.print(f"  [cyan]{line}[/]", soft_wrap=True)

    def command(self, *arguments: str) -> None:
        """Run a real command as a user would, and show what it prints."""
        self._console.print(f"\n[bold green]$[/] [bold]snapengine {' '.join(arguments)}[/]", soft_wrap=True)
        colours = {"FORCE_COLOR": "1"} if self._console.is_terminal else {"NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "snapengine", *arguments],
            env={**os.environ, **colours, "COLUMNS": str(self._console.width)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        self._console.out(done.stdout.rstrip(), highlight=False)
        if done.returncode:
            raise SnapEngineError(f"`snapengine {' '.join(arguments)}` failed; see what it says above.")

    def frame(self, frame: Any) -> None:
        from pandas import isna

        table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
        shown = ["key", *COLUMNS]
        for name in shown:
            table.add_column(name, no_wrap=True, min_width=24 if name == "key" else None)
        for row in frame[shown].itertuples(index=False):
            table.add_row(*("" if isna(value) else str(value) for value in row))
        self._console.print(table)
