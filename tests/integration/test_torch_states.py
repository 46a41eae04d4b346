"""States of loaders: whatever the step at which a training stopped, it goes on with the next sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from snapengine import View
from snapengine.devcloud import DevCloud
from snapengine.errors import UsageError
from tests.torch_house import QUIET, NumberedBucket, need_torch, number_of

need_torch("torchdata")

from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402  # only where it is installed

pytestmark = QUIET
COUNT = 11
EPOCH = 6


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def bucket(cloud: DevCloud, tmp_path_factory: pytest.TempPathFactory) -> NumberedBucket:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        return NumberedBucket(tmp_path_factory.mktemp("states"), COUNT)


@pytest.fixture
def view(cloud: DevCloud, bucket: NumberedBucket, monkeypatch: pytest.MonkeyPatch) -> View:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    return bucket.engine().view(bucket.bucket)


def loader_of(view: View, style: str, epoch: int = EPOCH, **options: Any) -> Any:
    """Over a new dataset of a view that is opened anew, as in another process."""
    again = View(view.source, view.ref, view._epoch)
    if style == "iterable":
        dataset = again.to_torch(number_of, style="iterable", shuffle=True, seed=2)
        dataset.set_epoch(epoch)
        return StatefulDataLoader(dataset, batch_size=2, **options)
    dataset = again.to_torch(number_of)
    sampler = dataset.sampler(shuffle=True, seed=2)
    sampler.set_epoch(epoch)
    return StatefulDataLoader(dataset, batch_size=2, sampler=sampler, **options)


def batches(loader: Any) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def through_json(state: dict[str, Any]) -> Any:
    """As a checkpoint has it; numbers and text alone."""
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_a_loader_goes_on_from_every_step(view: View, style: str) -> None:
    whole = batches(loader_of(view, style))
    assert sorted(number for batch in whole for number in batch) == list(range(COUNT))
    for stop in range(len(whole)):
        loader = loader_of(view, style)
        running = iter(loader)
        before = [next(running).tolist() for _ in range(stop)]
        resumed = loader_of(view, style, epoch=0)
        resumed.load_state_dict(through_json(loader.state_dict()))
        assert before + batches(resumed) == whole, f"stopped after {stop} steps"


@pytest.mark.parametrize("style", ["map", "iterable"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_loader_with_workers_goes_on_whatever_they_had_read_ahead(
    view: View, style: str, every: int
) -> None:
    options: dict[str, Any] = {
        "num_workers": 2,
        "multiprocessing_context": "fork",
        "snapshot_every_n_steps": every,
        "prefetch_factor": 3,
    }
    whole = batches(loader_of(view, style, **options))
    for stop in (1, 4, 5):
        loader = loader_of(view, style, **options)
        running = iter(loader)
        before = [next(running).tolist() for _ in range(stop)]
        state = loader.state_dict()
        del running, loader
        resumed = loader_of(view, style, epoch=0, **options)
        resumed.load_state_dict(state)
        assert before + batches(resumed) == whole, f"stopped after {stop} steps"


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_after_a_resumed_epoch_the_next_one_is_whole(view: View, style: str) -> None:
    loader = loader_of(view, style)
    next(iter(loader))
    resumed = loader_of(view, style)
    resumed.load_state_dict(loader.state_dict())
    assert sum(len(batch) for batch in batches(resumed)) == COUNT - 2
    ordered = resumed.dataset if style == "iterable" else resumed.sampler
    assert ordered.epoch == EPOCH, "as it was when the state was taken"
    ordered.set_epoch(EPOCH + 1)
    assert batches(resumed) == batches(loader_of(view, style, epoch=EPOCH + 1))


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_a_state_of_the_epoch_s_end_is_gone_on_with_by_the_next_epoch(view: View, style: str) -> None:
    loader = loader_of(view, style)
    whole = batches(loader)
    resumed = loader_of(view, style)
    resumed.load_state_dict(loader.state_dict())
    assert batches(resumed) == whole


@pytest.mark.parametrize("style", ["map", "iterable"])
@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_state_of_the_epoch_s_end_the_epoch_that_is_set_comes_as_it_would_have(
    view: View, style: str, workers: int
) -> None:
    """The loader loads its state only when it is iterated: after `set_epoch`."""
    options: dict[str, Any] = {"num_workers": workers}
    if workers:
        options |= {"multiprocessing_context": "fork", "persistent_workers": style == "iterable"}
    loader = loader_of(view, style, **options)
    list(loader)
    state = through_json(loader.state_dict())
    resumed = loader_of(view, style, epoch=0, **options)
    resumed.load_state_dict(state)
    ordered = resumed.dataset if style == "iterable" else resumed.sampler
    for epoch in (EPOCH + 1, EPOCH + 2):
        ordered.set_epoch(epoch)
        assert batches(resumed) == batches(loader_of(view, style, epoch=epoch, **options))


@pytest.mark.parametrize("style", ["map", "iterable"])
def test_a_state_of_another_view_is_refused_and_names_the_view_to_open(
    view: View, bucket: NumberedBucket, style: str
) -> None:
    loader = loader_of(view, style)
    next(iter(loader))
    other = loader_of(bucket.engine().view(bucket.bucket, prefix="ct/0000"), style)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(UsageError, match=rf"is of {view.reference}, .*open_ref"):
        iter(other)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_of_another_library_does_not_go_on_with_another_view_either(
    view: View, bucket: NumberedBucket, workers: int
) -> None:
    options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    loader = StatefulDataLoader(view.to_torch(number_of), shuffle=True, **options)
    running = iter(loader)
    before = [int(next(running)) for _ in range(3)]
    same = StatefulDataLoader(view.to_torch(number_of), shuffle=True, **options)
    same.load_state_dict(loader.state_dict())
    assert sorted(before + [int(number) for number in same]) == list(range(COUNT))
    other = bucket.engine().view(bucket.bucket, prefix="ct/0000").to_torch(number_of)
    resumed = StatefulDataLoader(other, shuffle=True, **options)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(UsageError, match="open_ref"):
        iter(resumed)


def test_a_state_of_another_number_of_ranks_is_refused(view: View) -> None:
    one = view.to_torch(style="iterable", rank=0, world_size=2)
    next(iter(one))
    with pytest.raises(UsageError, match="shard='0/2/0/1' there and '0/3/0/1' here"):
        view.to_torch(style="iterable", rank=0, world_size=3).load_state_dict(one.state_dict())


def test_a_dataset_alone_has_a_state_and_goes_on_from_it(view: View) -> None:
    dataset = view.to_torch(number_of, style="iterable", shuffle=True)
    dataset.set_epoch(3)
    whole = list(dataset)
    running = iter(dataset)
    before = [next(running) for _ in range(4)]
    again = view.to_torch(number_of, style="iterable", shuffle=True)
    again.load_state_dict(dataset.state_dict())
    assert again.state_dict() == dataset.state_dict(), "also before it goes on"
    assert before + list(again) == whole
    assert list(again) == whole, "a state is gone on with once"
