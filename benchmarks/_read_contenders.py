"""Who reads in `read_throughput`: a view's filesystem and datasets, and plain clients of the same versions.

Each is a function that reads all objects once and gives their bytes in the order of the objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config

from benchmarks._read_bucket import BUCKET, Put
from benchmarks.harness import Unavailable
from snapengine.views import View
from tools.local_servers import ACCESS_KEY, REGION, SECRET_KEY

Bytes = Any
"""What a client gives for an object: bytes, or what has the buffer protocol."""

Reader = Callable[[], Sequence[Bytes]]

FS: Final = "view_fs"
DATASET: Final = "dataset"
BOTO3: Final = "boto3"
S3FS: Final = "s3fs"


def ours(view: View, objects: Sequence[Put]) -> dict[str, Reader]:
    """`view.fs.cat` of all keys; and an iterable dataset in a `DataLoader` without workers: threads read
    ahead, and bytes that nothing decodes need not be handed over by another process."""
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        raise Unavailable("torch is not installed. Run `pip install torch`.") from None
    fs, keys = view.fs, [put.key for put in objects]
    loader: Any = DataLoader(view.to_torch(style="iterable"), batch_size=None)
    return {
        FS: lambda: list(fs.cat(keys).values()),
        DATASET: lambda: [sample.data for sample in loader],
    }


@contextmanager
def plain_clients(
    objects: Sequence[Put], endpoint: str, threads: Sequence[int]
) -> Iterator[dict[str, Reader]]:
    """By their names: obstore with each number of threads, boto3 and s3fs with the last, at which they were
    fastest."""
    with ExitStack() as stack:
        readers: dict[str, Reader] = {}
        for count in threads:
            pool = stack.enter_context(ThreadPoolExecutor(count))
            readers[f"obstore_{count}"] = _obstore(objects, pool, endpoint)
        readers[BOTO3] = _boto3(objects, pool, threads[-1])
        readers[S3FS] = _s3fs(objects, threads[-1])
        yield readers


def _boto3(objects: Sequence[Put], pool: ThreadPoolExecutor, threads: int) -> Reader:
    client: Any = boto3.client("s3", config=Config(max_pool_connections=threads))

    def one(put: Put) -> bytes:
        reply = client.get_object(Bucket=BUCKET, Key=put.key, VersionId=put.version_id)
        data: bytes = reply["Body"].read()
        return data

    return lambda: list(pool.map(one, objects))


def _obstore(objects: Sequence[Put], pool: ThreadPoolExecutor, endpoint: str) -> Reader:
    """Its calls let go of the interpreter; `get_async` was slower."""
    try:
        import obstore
        from obstore.store import S3Store
    except ImportError:
        raise Unavailable("obstore is not installed. Run `pip install obstore`.") from None
    store = S3Store(
        BUCKET,
        endpoint=endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
    )

    def one(put: Put) -> Bytes:
        return obstore.get(store, put.key, options={"version": put.version_id}).bytes()

    return lambda: list(pool.map(one, objects))


def _s3fs(objects: Sequence[Put], at_once: int) -> Reader:
    """`cat` of a list takes the `?` of a version id for a pattern. `cat_ranges` does not, and is told sizes:
    without them it asks for each first."""
    try:
        from s3fs import S3FileSystem
    except ImportError:
        raise Unavailable("s3fs is not installed. Run `pip install s3fs`.") from None
    fs: Any = S3FileSystem(version_aware=True)
    paths = [f"{BUCKET}/{put.key}?versionId={put.version_id}" for put in objects]
    sizes = [put.size for put in objects]

    def read() -> Sequence[Bytes]:
        found: Sequence[Bytes] = fs.cat_ranges(paths, [0] * len(paths), sizes, batch_size=at_once)
        return found

    return read
