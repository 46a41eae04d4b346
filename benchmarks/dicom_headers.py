"""DICOM headers a second on one core: from S3 beside reads of whole objects, and beside pydicom at its best.

Ours is what the worker's threads do, `Extractors.pack`: ranged GETs of the exact versions, their headers
read by a sandboxed child, values checked and taken back, one row each; the queue and the log are left out.
Peer of the first two targets: GET of the whole object, and every value by pydicom, as fastai's `from_dicoms`
has it but for its summary of the pixels. Peer of the others: pydicom with `specific_tags` over bytes in
memory, of the same objects beside ours from S3, and beside the extractor alone. All of ours, children
included, and all of the peers' runs on one core; SeaweedFS has the others.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa

from benchmarks._dicom_files import File, package_files, scan_files
from benchmarks._dicom_peers import agrees, every_value, named_values
from benchmarks._dicom_stage import BUCKET, Stage, Stored, stage
from benchmarks.harness import Figure, Result, Target, alternate, median_ratio, positive, timed
from metadata_extractors.base import Extraction
from metadata_extractors.dicom import DicomExtractor
from metadata_extractors.dicom_columns import plan_columns
from metadata_extractors.extracting import Extractors, Row
from metadata_extractors.packing import extract_pack
from metadata_extractors.packs import PACK_OBJECTS
from metadata_extractors.ranged import FIRST_BYTES, RangedReader, extract_from
from metadata_extractors.sandbox import Sandbox, spec_of
from snapengine.extraction_tasks import Task
from snapengine.model import ObjectVersion
from snapengine.stores.objects import S3Objects

_COLUMNS = plan_columns(None)
_TAGS = sorted({column.tag for column in _COLUMNS})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--objects", type=positive, default=490, help="of each set, in S3")
    parser.add_argument("--repetitions", type=positive, default=5, help="of each side")
    parser.add_argument("--threads", type=positive, default=4, help="that wait for S3, on either side")


def run(options: argparse.Namespace) -> Result:
    package = package_files()
    with stage() as here:
        return measure(here, package, options.objects, options.repetitions, options.threads)


def measure(here: Stage, package: Sequence[File], objects: int, repetitions: int, threads: int) -> Result:
    scans = scan_files(package)
    source = _Counted(S3Objects(here.client))
    with (
        _pydicom_silent(),
        ThreadPoolExecutor(threads) as pool,
        Extractors(source, lambda: 0, threads) as extractors,
        Sandbox([spec_of("dicom")]) as box,
    ):
        extractor = DicomExtractor()
        expected = {file.data: _local(extractor, file.data) for file in [*package, *scans]}
        correct = all(agrees(found, data, _COLUMNS) for data, found in expected.items())
        of_scans = _FromS3(here, source, extractors, pool, here.fill("scans", scans, objects), expected)
        as_they_are = _FromS3(here, source, extractors, pool, here.fill("files", package, objects), expected)
        scan_seconds = alternate(of_scans.ours, of_scans.peer, repetitions)
        gets = [of_scans.gets_alone() for _ in range(repetitions)]
        file_seconds = alternate(as_they_are.ours, as_they_are.peer, repetitions)
        beside_scans = alternate(of_scans.ours, of_scans.by_pydicom, repetitions)
        beside_files = alternate(as_they_are.ours, as_they_are.by_pydicom, repetitions)
        local = [file.data for file in package]
        alone = alternate(
            _passes(lambda data: _local(extractor, data), local), _passes(_by_pydicom, local), repetitions
        )
        boxed = alternate(
            lambda: timed(lambda: _in_packs(box, local)), _passes(_by_pydicom, local), repetitions
        )

    def rate(seconds: list[float], count: int) -> Figure:
        return Figure.of([count / s for s in seconds], "headers/s")

    per_pass = len(local)
    return Result(
        name="dicom_headers",
        params={
            "objects": objects,
            "files": len(package),
            "files_mib": round(sum(len(file.data) for file in package) / 2**20),
            "scans": len(scans),
            "scan_kib": round(sum(len(file.data) for file in scans) / len(scans) / 1024),
            "columns": len(_COLUMNS),
            "threads": threads,
            "cores": here.cores,
            "repetitions": repetitions,
        },
        figures={
            "scans_from_s3": rate([*scan_seconds[0], *beside_scans[0]], objects),
            "scans_read_whole": rate(scan_seconds[1], objects),
            "scans_gets_alone": rate(gets, objects),
            "scans_by_pydicom": rate(beside_scans[1], objects),
            "files_from_s3": rate([*file_seconds[0], *beside_files[0]], objects),
            "files_read_whole": rate(file_seconds[1], objects),
            "files_by_pydicom": rate(beside_files[1], objects),
            "local_extractor": rate(alone[0], per_pass),
            "local_sandboxed": rate(boxed[0], per_pass),
            "local_pydicom": rate([*alone[1], *boxed[1]], per_pass),
        },
        ratios={
            "s3_rate": median_ratio(scan_seconds[1], scan_seconds[0]),
            "s3_bytes": of_scans.bytes_ratio,
            "s3_rate_to_local": median_ratio(beside_scans[1], beside_scans[0]),
            "local_rate": median_ratio(alone[1], alone[0]),
            "s3_rate_of_files": median_ratio(file_seconds[1], file_seconds[0]),
            "s3_bytes_of_files": as_they_are.bytes_ratio,
            "s3_rate_to_local_of_files": median_ratio(beside_files[1], beside_files[0]),
            "local_rate_sandboxed": median_ratio(boxed[1], boxed[0]),
        },
        targets={
            "s3_rate": Target("at_least", 3.0),
            "s3_bytes": Target("at_most", 0.35),
            "s3_rate_to_local": Target("at_least", 0.8),
            "local_rate": Target("at_least", 0.8),
        },
        correct=correct and of_scans.correct and as_they_are.correct,
    )


@dataclass(slots=True)
class _FromS3:
    """A set of objects, read in both ways."""

    here: Stage
    source: _Counted
    extractors: Extractors
    pool: ThreadPoolExecutor
    objects: Sequence[Stored]
    expected: dict[bytes, Extraction]
    correct: bool = True
    """Every row so far was the one expected, and every object was read by the peer."""
    _read: tuple[int, int] = field(default=(0, 0))
    """Bytes that ours and the peer had of S3 in their last run."""

    @property
    def bytes_ratio(self) -> float:
        return self._read[0] / self._read[1]

    def ours(self) -> float:
        tasks = [_task(stored.version) for stored in self.objects]
        packs = [list(tasks[at : at + PACK_OBJECTS]) for at in range(0, len(tasks), PACK_OBJECTS)]
        found: list[list[Row] | Exception | None] = []
        tables: list[pa.Table] = []
        before = self.source.bytes

        def all_of_them() -> None:
            for pack in self.pool.map(lambda pack: self.extractors.pack(pack, ["dicom"]), packs):
                found.extend(pack)
            tables.append(
                pa.Table.from_batches([row.batch for rows in found if isinstance(rows, list) for row in rows])
            )

        seconds = timed(all_of_them)
        same = tables[0].num_rows == len(found) == len(self.objects) and all(
            _is_row_of(row, stored.version, self.expected[stored.file.data])
            for row, stored in zip(tables[0].to_pylist(), self.objects, strict=True)
        )
        self.correct = self.correct and same
        self._read = (self.source.bytes - before, self._read[1])
        return seconds

    def by_pydicom(self) -> float:
        """The same objects, their bytes at hand."""
        datas = [stored.file.data for stored in self.objects]
        return _passes(_by_pydicom, datas)()

    def gets_alone(self) -> float:
        """The first ranged GET of each object as ours makes it, and nothing done with it: what S3 and its
        client leave no reader below."""

        def one(stored: Stored) -> bytes:
            return self.source.read(BUCKET, stored.version, 0, FIRST_BYTES)

        return timed(lambda: list(self.pool.map(one, self.objects)))

    def peer(self) -> float:
        client = self.here.client
        found: list[tuple[dict[str, object], int]] = []
        frames: list[pd.DataFrame] = []

        def one(stored: Stored) -> tuple[dict[str, object], int]:
            version = stored.version
            reply = client.get_object(Bucket=BUCKET, Key=version.key, VersionId=version.version_id)
            data = reply["Body"].read()
            return every_value(data), len(data)

        def all_of_them() -> None:
            found.extend(self.pool.map(one, self.objects))
            frames.append(pd.DataFrame([row for row, _ in found]))

        seconds = timed(all_of_them)
        self.correct = self.correct and len(frames[0]) == len(self.objects)
        self._read = (self._read[0], sum(read for _, read in found))
        return seconds


class _Counted:
    """S3, and how many bytes came from it."""

    def __init__(self, objects: S3Objects) -> None:
        self._objects = objects
        self._counts: list[int] = []
        self.facts = objects.facts

    def read(self, bucket: str, version: ObjectVersion, start: int, end: int | None) -> bytes:
        data = self._objects.read(bucket, version, start, end)
        self._counts.append(len(data))  # by several threads
        return data

    @property
    def bytes(self) -> int:
        """Since it was made."""
        return sum(self._counts)


def _task(version: ObjectVersion) -> Task:
    return Task(BUCKET, version.key, version.version_id, version.size, version.etag, version.sequencer, 0)


def _is_row_of(row: dict[str, object], version: ObjectVersion, expected: Extraction) -> bool:
    told = (version.key, version.version_id, expected.outcome, "; ".join(expected.problems) or None)
    return told == (row["key"], row["version_id"], row["outcome"], row["error"]) and all(
        row[column.name] == expected.values.get(column.name) for column in _COLUMNS
    )


def _in_packs(box: Sandbox, datas: Sequence[bytes]) -> None:
    for at in range(0, len(datas), PACK_OBJECTS):
        extract_pack(box, "dicom", [_reader(data) for data in datas[at : at + PACK_OBJECTS]])


def _reader(data: bytes) -> RangedReader:
    return RangedReader(lambda start, end: data[start:end], len(data))


def _local(extractor: DicomExtractor, data: bytes) -> Extraction:
    return extract_from(extractor, _reader(data))


def _by_pydicom(data: bytes) -> object:
    return named_values(data, _TAGS)


def _passes(read: Callable[[bytes], object], every: Sequence[bytes]) -> Callable[[], float]:
    def one_pass() -> None:
        for data in every:
            read(data)

    return lambda: timed(one_pass)


@contextmanager
def _pydicom_silent() -> Iterator[None]:
    """It warns of odd files, on either side, and printing that is nobody's work here."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
