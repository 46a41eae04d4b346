"""The cache of archive bytes: whatever happens to its files, a wrong answer is never among the outcomes."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from snapengine.archive.cache import Cache

NAME = "0a" * 32 + "-0-65536"
MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "archive"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_what_was_put_is_there_for_every_cache_of_the_folder(folder: Path) -> None:
    Cache(folder, MIB).put(NAME, b"data")
    assert Cache(folder, MIB).get(NAME) == b"data"
    assert Cache(folder, MIB).get("0a-other") is None
    Cache(folder, MIB).put(NAME, memoryview(b"other")[1:])
    assert Cache(folder, MIB).get(NAME) == b"ther"


def test_an_empty_piece_is_kept_too(folder: Path) -> None:
    Cache(folder, MIB).put(NAME, b"")
    assert Cache(folder, MIB).get(NAME) == b""


def test_only_the_owner_may_enter(folder: Path) -> None:
    Cache(folder, MIB).put(NAME, b"data")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_any_altered_byte_makes_it_a_miss_and_the_file_goes(folder: Path) -> None:
    cache = Cache(folder, MIB)
    cache.put(NAME, b"some data")
    (path,) = files(folder)
    good = path.read_bytes()
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 4]) + good[index + 1 :])
        assert cache.get(NAME) is None
        assert not path.exists()
    for bad in (b"", good[:5], good[:-1], good + b"x"):
        path.write_bytes(bad)
        assert cache.get(NAME) is None
    path.write_bytes(good)
    assert cache.get(NAME) == b"some data"


def test_a_file_under_another_ones_name_is_a_miss(folder: Path) -> None:
    cache = Cache(folder, MIB)
    cache.put(NAME, b"data")
    (path,) = files(folder)
    path.rename(path.with_name("0a-other"))
    assert cache.get("0a-other") is None


def test_a_dropped_piece_is_gone(folder: Path) -> None:
    cache = Cache(folder, MIB)
    cache.put(NAME, b"data")
    cache.drop(NAME)
    cache.drop(NAME)
    assert cache.get(NAME) is None


def test_it_stays_below_its_limit_and_keeps_what_was_read_last(folder: Path) -> None:
    cache = Cache(folder, MIB)
    for number in range(10):
        cache.put(f"aa-first-{number}", b"x" * 50_000)
    old = time.time() - 1000
    for number, path in enumerate(sorted(files(folder))):
        os.utime(path, (old + number, old + number))
    assert cache.get("aa-first-0")
    for number in range(12):
        cache.put(f"bb-second-{number}", b"x" * 50_000)
        assert total(folder) <= MIB
    assert cache.get("aa-first-0")
    assert cache.get("aa-first-1") is None
    assert all(cache.get(f"bb-second-{number}") for number in range(12))


def test_what_others_put_and_what_crashes_leave_counts_too(folder: Path) -> None:
    Cache(folder, MIB).put("aa-first", b"x" * 100_000)
    (folder / "aa" / ".0a0b.partial").write_bytes(b"x" * 900_000)
    os.utime(folder / "aa" / ".0a0b.partial", (1, 1))
    Cache(folder, MIB).put("bb-second", b"x" * 100_000)
    assert sorted(path.name for path in files(folder)) == ["aa-first", "bb-second"]


def test_what_would_fill_it_alone_is_not_kept(folder: Path) -> None:
    cache = Cache(folder, MIB)
    cache.put(NAME, b"x" * MIB)
    assert cache.get(NAME) is None


def test_while_another_process_evicts_nobody_waits(folder: Path) -> None:
    Cache(folder, 4000).put("aa-first", b"x" * 900)
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        for number in range(6):
            Cache(folder, 4000).put(f"bb-second-{number}", b"x" * 900)
        assert len(files(folder)) == 7
        other.communicate()
    Cache(folder, 4000).put("cc-third", b"x" * 900)
    assert total(folder) <= 4000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_costs_one_warning_and_no_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    cache = Cache(folder, MIB)
    cache.put(NAME, b"data")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            cache.put(f"bb-second-{number}", b"data")
    (record,) = caplog.records
    assert str(folder) in record.getMessage()
    assert os.strerror(code) in record.getMessage()
    assert "SNAPENGINE_CACHE" in record.getMessage()
    assert cache.get(NAME) == b"data"
    assert len(files(folder)) == 1


def test_a_folder_that_cannot_be_made_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache", MIB)
    with caplog.at_level(logging.WARNING):
        cache.put(NAME, b"data")
        cache.put(NAME, b"data")
    assert len(caplog.records) == 1
    assert cache.get(NAME) is None


def test_a_folder_that_is_removed_meanwhile_is_made_again(folder: Path) -> None:
    cache = Cache(folder, MIB)
    cache.put(NAME, b"data")
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert cache.get(NAME) is None
    cache.put(NAME, b"data")
    assert cache.get(NAME) == b"data"


@pytest.mark.parametrize("name", ["", "a", "../../etc/passwd", "aa/bb", ".lock", "a" * 300, "aa b\0"])
def test_a_name_that_could_leave_the_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        Cache(folder, MIB).put(name, b"data")
