"""Tensor snapshots in use: the next epoch decodes nothing, and what is forgotten is in none of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapengine import View
from snapengine.cli.main import run
from snapengine.devcloud import DevCloud
from snapengine.errors import UsageError
from tests.torch_house import QUIET, NumberedBucket, body, key, need_torch

need_torch()

import torch  # noqa: E402  # only where it is installed
from torch.utils.data import DataLoader  # noqa: E402  # only where it is installed

pytestmark = QUIET
COUNT = 12
Said = Callable[..., Any]


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as cloud:
        yield cloud


@pytest.fixture
def bucket(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NumberedBucket:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    found = NumberedBucket(tmp_path, COUNT)
    monkeypatch.setenv("SNAPENGINE_STORE", found.store)
    monkeypatch.setenv("SNAPENGINE_TENSOR_CACHE", str(found.tensors))
    monkeypatch.setenv("SNAPENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SNAPENGINE_ACTOR", "ana")
    return found


@pytest.fixture
def said(bucket: NumberedBucket, capsys: pytest.CaptureFixture[str]) -> Said:
    """What `snapengine forget BUCKET ... --json` answers."""

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        assert run(["forget", bucket.bucket, *arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return call


class Decoder:
    """Counts what it decodes, also in other processes, in a file."""

    version = "1"

    def __init__(self, log: Path) -> None:
        self.log = log

    def __repr__(self) -> str:
        return "Decoder()"

    def __call__(self, name: str, data: bytes) -> Any:
        with self.log.open("a") as file:
            file.write(f"{name}\n")
        number = int(name.removeprefix("ct/"))
        assert data == body(number)
        return {"number": number, "marked": torch.tensor(list(f"MARK<{name}>".encode()), dtype=torch.uint8)}

    def taken(self) -> Counter[str]:
        """The keys since it was last asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return Counter(lines)


@pytest.fixture
def decode(tmp_path: Path) -> Decoder:
    return Decoder(tmp_path / "decoded")


def alone(samples: list[Any]) -> Any:
    return samples


def epoch(view: View, decode: Decoder, style: str = "iterable", **options: Any) -> list[int]:
    """The numbers of an epoch with snapshots, in order."""
    dataset: Any = view.to_torch(decode, style=style, cache=True)
    loader = DataLoader(dataset, batch_size=3, collate_fn=alone, **options)
    samples = [sample for batch in loader for sample in batch]
    for sample in samples:
        assert bytes(sample["marked"].tolist()).decode() == f"MARK<{key(sample['number'])}>"
    return sorted(sample["number"] for sample in samples)


def holding(folder: Path, number: int) -> list[Path]:
    """Files that have anything of an object, by its sample or its name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in paths if key(number).encode() in path.read_bytes()]


WHOLE = list(range(COUNT))


@pytest.mark.parametrize("style", ["map", "iterable"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_and_the_next_run_decode_nothing_and_read_nothing(
    bucket: NumberedBucket, decode: Decoder, monkeypatch: pytest.MonkeyPatch, style: str, workers: int
) -> None:
    options = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    view = bucket.engine().view(bucket.bucket)
    assert epoch(view, decode, style, **options) == WHOLE
    assert decode.taken() == Counter(map(key, WHOLE))
    monkeypatch.setattr("snapengine.stores.objects.S3Objects.read", refuse)
    assert epoch(view, decode, style, **options) == WHOLE
    again = bucket.engine().open_ref(view.reference)
    assert epoch(again, decode, style, **options) == WHOLE
    assert decode.taken() == Counter()


def refuse(_: Any, __: str, version: Any, start: int = 0, end: int | None = None) -> bytes:
    assert end == 0, "an object was read"
    return b""


def test_another_version_of_the_transform_decodes_again(bucket: NumberedBucket, decode: Decoder) -> None:
    view = bucket.engine().view(bucket.bucket)
    epoch(view, decode)
    decode.taken()
    decode.version = "2"
    assert epoch(view, decode) == WHOLE
    assert decode.taken() == Counter(map(key, WHOLE))


def test_a_damaged_sample_alone_is_read_and_decoded_again(bucket: NumberedBucket, decode: Decoder) -> None:
    view = bucket.engine().view(bucket.bucket)
    epoch(view, decode)
    decode.taken()
    (torn,) = holding(bucket.tensors, 5)
    torn.write_bytes(torn.read_bytes()[:-9])
    assert epoch(view, decode) == WHOLE
    assert decode.taken() == Counter([key(5)])
    assert epoch(view, decode) == WHOLE
    assert decode.taken() == Counter()


def test_without_cache_nothing_is_kept(bucket: NumberedBucket, decode: Decoder) -> None:
    list(bucket.engine().view(bucket.bucket).to_torch(decode, style="iterable"))
    assert not bucket.tensors.exists()


def test_a_transform_without_a_version_is_refused_before_anything_is_read(bucket: NumberedBucket) -> None:
    with pytest.raises(UsageError, match="declares no version"):
        bucket.engine().view(bucket.bucket).to_torch(lambda _, data: len(data), cache=True)
    assert not bucket.tensors.exists()


def test_forgetting_takes_samples_out_and_they_do_not_come_back(
    bucket: NumberedBucket, decode: Decoder, said: Said
) -> None:
    view = bucket.engine().view(bucket.bucket)
    dataset: Any = view.to_torch(decode, cache=True)
    assert [dataset[number]["number"] for number in WHOLE] == WHOLE
    decode.taken()
    dry = said("--key", key(3), "--dry-run")
    assert dry["this_machine"]["tensor_samples"] == 1
    assert len(holding(bucket.tensors, 3)) == 1

    told = said("--key", key(3), "--prefix", "ct/0001", "--yes")
    assert told["this_machine"]["tensor_samples"] == 3
    assert [holding(bucket.tensors, number) for number in (3, 10, 11)] == [[], [], []]
    assert any(f"snapengine forget {bucket.bucket} --here" in place for place in told["remains"])

    assert [dataset[number]["number"] for number in WHOLE] == WHOLE, "who has it open reads the objects"
    assert decode.taken() == Counter([key(3), key(10), key(11)])
    assert epoch(view, decode) == WHOLE, "and so does the next run"
    assert decode.taken() == Counter([key(3), key(10), key(11)])
    assert [holding(bucket.tensors, number) for number in (3, 10, 11)] == [[], [], []]

    said("--key", key(3), "--allow-again")
    epoch(view, decode)
    decode.taken()
    assert epoch(view, decode) == WHOLE
    assert decode.taken() == Counter([key(10), key(11)])


def test_another_machine_is_cleared_by_here_or_when_a_dataset_is_made_there(
    bucket: NumberedBucket, decode: Decoder, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [tmp_path / name for name in ("one", "two", "three")]
    views = [bucket.engine(tensor_cache=str(machine)).view(bucket.bucket) for machine in machines]
    for view in views:
        epoch(view, decode)
    monkeypatch.setenv("SNAPENGINE_TENSOR_CACHE", str(machines[0]))
    assert said("--key", key(7), "--yes")["this_machine"]["tensor_samples"] == 1
    assert [len(holding(machine, 7)) for machine in machines] == [0, 1, 1]

    monkeypatch.setenv("SNAPENGINE_TENSOR_CACHE", str(machines[1]))
    told = said("--here")
    assert told["this_machine"]["tensor_samples"] == 1
    assert told["number"] == 1
    assert [len(holding(machine, 7)) for machine in machines] == [0, 0, 1]

    views[2].to_torch(decode, cache=True)
    assert [len(holding(machine, 7)) for machine in machines] == [0, 0, 0]


def test_here_is_given_alone(bucket: NumberedBucket, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--key", "k"], ["--finish"], ["--dry-run"]):
        assert run(["forget", bucket.bucket, "--here", *more]) == 2
    capsys.readouterr()
    assert run(["forget", bucket.bucket, "--here"]) == 0
    assert "tensor samples" in capsys.readouterr().out


def test_a_folder_that_cannot_be_gone_through_is_told_and_holds_nothing_up(
    bucket: NumberedBucket, decode: Decoder, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch(bucket.engine().view(bucket.bucket), decode)

    def denied(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("snapengine.archiving.forget_places.forget_here", denied)
    told = said("--key", key(1), "--yes")
    assert any(str(bucket.tensors) in place and "Permission denied" in place for place in told["remains"])
