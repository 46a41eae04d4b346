"""Datasets over a view: the right bytes in the right order, whoever reads them, and readable errors."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapengine import View
from snapengine.devcloud import DevCloud
from snapengine.errors import UsageError, VersionGone
from tests.integration.test_reading import AWKWARD, World
from tests.seed import engine_at
from tests.torch_house import QUIET, NumberedBucket, body, key, need_torch, number_of

need_torch()

import torch  # noqa: E402  # only where it is installed
from torch.utils.data import DataLoader  # noqa: E402  # only where it is installed

from readers.torch_dataset import Sample, ViewDataset, ViewIterableDataset  # noqa: E402  # only where it is installed

pytestmark = QUIET
COUNT = 23


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def _in_the_cloud(cloud: DevCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def shared(cloud: DevCloud, tmp_path_factory: pytest.TempPathFactory) -> NumberedBucket:
    """Read by many tests and changed by none."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        return NumberedBucket(tmp_path_factory.mktemp("shared"), COUNT)


@pytest.fixture
def view(shared: NumberedBucket) -> View:
    return shared.engine().view(shared.bucket)


def items(view: View) -> list[Any]:
    """All items of the map-style dataset."""
    dataset = ViewDataset(view)
    return [dataset[number] for number in range(len(dataset))]


def loaded(sent: bytes) -> Any:
    return pickle.loads(sent)  # noqa: S301  # made by the test


def numbers(loader: Any) -> list[int]:
    return [int(number) for batch in loader for number in batch]


# What is read


@pytest.mark.parametrize("status", ["Enabled", "Suspended", None])
def test_keys_that_look_alike_are_each_read_exactly_by_both_styles(
    cloud: DevCloud, tmp_path: Path, status: str | None
) -> None:
    world = World(cloud, engine_at(tmp_path / "log.db"))
    if status:
        world.versioning("Enabled")
        world.versioning(status)
    for name in AWKWARD:
        world.put(name, b"old " + name.encode())
    old, wanted = world.view(), sorted(AWKWARD, key=str.encode)
    expected = [Sample(name, b"old " + name.encode()) for name in wanted]
    assert items(old) == list(ViewIterableDataset(old)) == expected
    for name in AWKWARD:
        world.put(name, b"new " + name.encode())
    newer = [Sample(name, b"new " + name.encode()) for name in wanted]
    assert items(world.view()) == list(ViewIterableDataset(world.view())) == newer
    if status == "Enabled":
        assert items(old) == list(ViewIterableDataset(old)) == expected
        return
    for number in range(len(wanted)):  # the null versions were overwritten
        with pytest.raises(VersionGone):
            ViewDataset(old)[number]
    with pytest.raises(VersionGone):
        next(iter(ViewIterableDataset(old)))


def test_items_are_keys_with_bytes_or_what_decode_makes_of_them(view: View) -> None:
    plain = view.to_torch()
    assert len(plain) == COUNT
    assert plain[3] == Sample(key(3), body(3))
    assert plain[-1] == plain[COUNT - 1] == Sample(key(COUNT - 1), body(COUNT - 1))
    assert plain[torch.tensor(4)].key == key(4)
    assert view.to_torch(number_of)[7] == 7
    batch = next(iter(DataLoader(plain, batch_size=2)))
    assert (batch.key, batch.data) == ((key(0), key(1)), (body(0), body(1)))


def test_a_batch_is_read_in_the_order_asked_for(view: View) -> None:
    dataset: Any = view.to_torch(number_of)
    assert dataset.__getitems__([5, 2, 5, 22, 0]) == [5, 2, 5, 22, 0]
    assert dataset.__getitems__([]) == []


@pytest.mark.parametrize("number", [COUNT, -COUNT - 1, 10**9])
def test_a_number_that_there_is_not_is_an_index_error(view: View, number: int) -> None:
    with pytest.raises(IndexError, match="has 23 objects"):
        view.to_torch()[number]


def test_the_objects_of_a_batch_are_read_at_once(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8, timeout=20)
    real = View.read_version

    def meeting(self: View, *given: Any) -> bytes:
        together.wait()
        return real(self, *given)

    monkeypatch.setattr(View, "read_version", meeting)
    dataset: Any = view.to_torch(number_of)
    assert dataset.__getitems__(list(range(8))) == list(range(8))
    ahead = iter(view.select([key(n) for n in range(8)]).to_torch(number_of, style="iterable"))
    assert list(ahead) == list(range(8))


def test_slices_and_narrowed_views_are_datasets_too(shared: NumberedBucket) -> None:
    engine = shared.engine()
    some = engine.view(shared.bucket).select([key(2), key(9)])
    assert list(some.to_torch(number_of, style="iterable")) == [2, 9]
    part = engine.slice(shared.bucket, "2023-11-14T22:13:22Z", "2023-11-14T22:13:25Z")
    assert list(part.to_torch(number_of, style="iterable")) == [1, 2, 3]
    every = engine.slice(shared.bucket, "2023-11-14T22:13:22Z", "2023-11-14T22:13:25Z", versions="all")
    for style in ("map", "iterable"):
        with pytest.raises(UsageError, match="several objects of one key"):
            every.to_torch(style=style)


def test_an_empty_view_is_an_empty_dataset(shared: NumberedBucket) -> None:
    empty = shared.engine().view(shared.bucket, prefix="none/")
    assert len(empty.to_torch()) == len(empty.to_torch(style="iterable")) == 0
    assert list(empty.to_torch(style="iterable", shuffle=True)) == []
    assert list(DataLoader(empty.to_torch())) == []


# Shards


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_share_the_objects_also_after_their_parent_has_read(view: View, context: str) -> None:
    for style in ("map", "iterable"):
        dataset: Any = view.to_torch(number_of, style=style)
        read_here = dataset[0] if style == "map" else next(iter(dataset))
        assert read_here == 0, "so there are connections that a fork would share"
        loader = DataLoader(dataset, batch_size=2, num_workers=3, multiprocessing_context=context)
        assert sorted(numbers(loader)) == list(range(COUNT))
        assert list(dataset) == list(range(COUNT)), "and here it reads on"


def test_ranks_share_the_objects_with_their_workers(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        dataset: Any = view.to_torch(number_of, style="iterable", shuffle=True, seed=3)
        some = numbers(DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="spawn"))
        assert len(some) == len(dataset)
        found += some
    assert sorted(found) == list(range(COUNT))


def test_a_dataset_that_goes_to_another_rank_takes_that_rank_s_share(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    sent = pickle.dumps(view.to_torch(number_of, style="iterable"))
    monkeypatch.setenv("RANK", "1")
    assert list(loaded(sent)) == list(range(1, COUNT, 2))


PASSED_ON = """
import pickle, sys
from pathlib import Path
from torch.utils.data import DataLoader
dataset = pickle.loads(Path(sys.argv[1]).read_bytes())
loader = DataLoader(dataset, num_workers=2, multiprocessing_context="fork")
print(sorted(int(number) for batch in loader for number in batch))
"""


def test_its_forked_workers_take_that_rank_s_share_and_not_the_one_it_came_from(
    view: View, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "dataset").write_bytes(pickle.dumps(view.to_torch(number_of, style="iterable")))
    monkeypatch.setenv("RANK", "1")
    command = [sys.executable, "-c", PASSED_ON, str(tmp_path / "dataset")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(list(range(1, COUNT, 2)))


def test_a_sampler_finds_the_rank_when_it_is_used_and_not_before(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset: Any = view.to_torch(number_of)
    sampler = dataset.sampler()
    assert len(sampler) == COUNT
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert list(sampler) == list(range(1, COUNT, 2))


def test_a_rank_that_is_only_half_told_is_refused(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="both `rank` and `world_size`"):
        view.to_torch(style="iterable", rank=1)
    with pytest.raises(UsageError, match="count from 0"):
        view.to_torch(style="iterable", rank=2, world_size=2)
    dataset = view.to_torch(style="iterable")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UsageError, match="RANK=1 and WORLD_SIZE=None"):
        iter(dataset)


def test_the_sampler_gives_each_rank_its_share_and_another_order_each_epoch(view: View) -> None:
    dataset: Any = view.to_torch(number_of)
    samplers = [dataset.sampler(shuffle=True, seed=1, rank=rank, world_size=2) for rank in range(2)]
    epochs = []
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [numbers(DataLoader(dataset, batch_size=4, sampler=sampler)) for sampler in samplers]
        assert [len(part) for part in parts] == [len(sampler) for sampler in samplers] == [12, 11]
        assert sorted(parts[0] + parts[1]) == list(range(COUNT))
        epochs.append(parts)
    assert epochs[0] != epochs[1]
    even = [dataset.sampler(even=True, rank=rank, world_size=2) for rank in range(2)]
    assert [len(sampler) for sampler in even] == [11, 11]


def test_another_epoch_reaches_workers_that_persist(view: View) -> None:
    dataset: Any = view.to_torch(number_of, style="iterable", shuffle=True)
    loader = DataLoader(
        dataset, batch_size=2, num_workers=2, persistent_workers=True, multiprocessing_context="spawn"
    )
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(numbers(loader))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(COUNT))


# Views of too many objects to carry


@pytest.fixture
def great(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Five rows are too many to carry; where their files are."""
    for name in ("snapengine.view_rows.FEW_ROWS", "snapengine.views.FEW_ROWS", "readers.torch_rows.FEW_ROWS"):
        monkeypatch.setattr(name, 5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_rows_of_a_great_view_are_in_a_file_that_workers_map_and_nobody_resolves_again(
    shared: NumberedBucket, great: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    view = shared.engine().view(shared.bucket)
    digest = view.digest()
    dataset: Any = view.to_torch(number_of, style=style)
    (folder,) = great.glob("snapengine-*")
    monkeypatch.setattr(View, "to_batches", None)  # forked workers may not read the view again either
    monkeypatch.setattr(View, "rows_if_few", None)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert sorted(numbers(loader)) == list(range(COUNT))
    assert dataset._objects.rows.digest() == digest
    again = loaded(pickle.dumps(dataset))
    assert sorted(numbers(DataLoader(again, batch_size=3))) == list(range(COUNT))
    del again
    assert folder.exists()
    del dataset, loader
    assert not folder.exists(), "it went with the dataset that had made it"


def test_where_the_file_of_a_great_view_is_not_to_be_had_the_reference_gives_the_same_rows(
    shared: NumberedBucket, great: Path
) -> None:
    dataset: Any = shared.engine().view(shared.bucket).to_torch(number_of)
    sent = pickle.dumps(dataset)
    del dataset
    assert list(great.iterdir()) == []
    again = loaded(sent)
    assert [again[number] for number in range(COUNT)] == list(range(COUNT))


# Errors


def gone(folder: Path) -> tuple[NumberedBucket, View]:
    """A view of which one version was removed since."""
    bucket = NumberedBucket(folder, 4)
    view = bucket.engine().view(bucket.bucket)
    version = view[key(2)].version_id
    bucket.s3.delete_object(Bucket=bucket.bucket, Key=key(2), VersionId=version)
    return bucket, view


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_a_version_that_is_gone_says_so_from_within_a_worker(tmp_path: Path, style: str) -> None:
    bucket, view = gone(tmp_path)
    dataset: Any = view.to_torch(number_of, style=style)
    loader = iter(DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="spawn"))
    assert next(loader).tolist() == [0, 1]
    with pytest.raises(VersionGone, match=rf"in DataLoader worker process 0(.|\n)*{bucket.bucket}/ct/00002"):
        next(loader)


def fails(name: str, data: bytes) -> int:
    if name == key(1):
        raise ValueError("not a picture")
    return 0


def test_an_error_of_decode_names_the_object(view: View) -> None:
    dataset: Any = view.to_torch(fails)
    with pytest.raises(ValueError, match="not a picture") as here:
        dataset[1]
    (note,) = here.value.__notes__
    assert key(1) in note
    assert view.reference in note
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(ValueError, match=r"not a picture(.|\n)*while decoding 'ct/00001', version"):
        next(iter(loader))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"style": "list"}, "'map' or 'iterable'"),
        ({"shuffle": True}, "sampler=dataset.sampler"),
        ({"size": 3}, "no option size"),
        ({"style": "iterable", "workers": 3}, "no option workers"),
        ({"style": "iterable", "seed": 1.5}, "whole number"),
        ({"decode": "utf-8"}, "a function of key and bytes"),
        ({"cache": "folder"}, "True or False"),
        ({"cache": True}, "no `decode`"),
    ],
)
def test_options_that_cannot_be_are_refused(view: View, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        view.to_torch(**options)


@pytest.mark.parametrize("epoch", [-1, 0.5, True, "one", None, float("nan"), float("inf")])
def test_what_is_no_epoch_is_refused(view: View, epoch: Any) -> None:
    for one in (view.to_torch(style="iterable"), view.to_torch().sampler()):
        with pytest.raises(UsageError, match="numbers from 0"):
            one.set_epoch(epoch)
