"""Forgetting where there is a differential: its files lose the rows too, and no view changes otherwise."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from snapengine.archive.manifest import Differential
from snapengine.archiving.checking import check_archive
from snapengine.archiving.checkpoints import differential
from snapengine.archiving.forget import Asked, count
from snapengine.archiving.forget_files import Near
from tests.archive_house import House, sqlite_house
from tests.forget_house import EXTRACTORS, LAST, NOW, Site, extract, joined, mark, populated, run, units
from tests.seed import T0, event

ROLES = {"live", "live_identifying", "pending", "pending_identifying"}
GONE = {"ct/03", "late", "ct/07"}
COMING = [(key, f"next-{key}") for key in sorted(GONE)]
"""Versions of which no event tells yet."""
NEW = [("ct/07", "x-ct/07"), ("ct/08", "x-ct/08")]
LATER = T0 + 9_500_000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """With a differential that has rows of what is shown, new and anew, and of what is yet to come."""
    site = Site(sqlite_house(tmp_path), (tmp_path,))
    house = populated(site)
    house.record(8000, [event(*version, 7900) for version in NEW])
    extract(house, 8100, [*LAST[2:5], *NEW, *COMING], extractor_version="3")
    house.cut(T0 + 9_000_000)
    house.clock.now = T0 + 10_000_000
    house.round(checkpoints=False)
    made = asyncio.run(differential(house.engine(), house.root(), house.bucket))
    assert made is not None
    return site


def counted(house: House) -> Counter[str]:
    """Rows of forgotten objects that its files have, by the files' roles."""
    (one,) = house.manifests().differentials
    reader = house.engine().reader(house.archive)
    return Counter(
        f.role
        for f in one.files
        if f.role in ROLES
        for row in reader.read(f).to_pylist()
        if row["key"] in GONE and row["outcome"] is not None
    )


def test_what_is_forgotten_is_in_no_file_of_a_differential(site: Site) -> None:
    house = site.house
    assert {*counted(house)} == ROLES
    (before,) = house.manifests().differentials
    digests = house.answers(some=True)
    now = house.engine().view(house.bucket, LATER).digest()
    known = {e: joined(house, e, LATER) for e in EXTRACTORS}
    gone = [version for version in {*LAST, *NEW, *COMING} if version[0] in GONE]
    assert any("differential=" in place for place in site.left(*gone))
    asked = Asked(units(*GONE), Near(sorted(GONE)))
    would = asyncio.run(count(house.engine(), house.bucket, asked))
    done = run(house, asked)

    assert done.archive.checkpoint_rows == would.archive.checkpoint_rows
    assert before.name in done.archive.manifests
    assert site.left(*gone) == []
    assert counted(house) == Counter()
    (after,) = house.manifests().differentials
    assert isinstance(after, Differential)
    assert (after.name, after.base, after.forgotten) == (before.name, before.base, done.forgotten.number)
    assert [f for f in after.files if not f.extractor] == [f for f in before.files if not f.extractor]
    assert house.answers(some=True) == digests
    assert house.engine().view(house.bucket, LATER).digest() == now
    for extractor in EXTRACTORS:
        shown = joined(house, extractor, LATER)
        assert shown.keys() == known[extractor].keys()
        for key, row in shown.items():
            if key in GONE:
                assert row["outcome"] is None
                assert row["version_id"] == known[extractor][key]["version_id"]
            else:
                assert row == known[extractor][key]
        assert shown["ct/08"]["Modality"] == f"CT {mark(*NEW[1])}"
    assert not check_archive(house.engine(), house.bucket).damaged


def test_what_comes_after_has_no_row_of_it_either(site: Site) -> None:
    house = site.house
    run(house, Asked(units(*GONE)))
    expected = joined(house, "dicom", NOW)
    house.record(21_000, [event(*version, 20_000) for version in COMING])
    house.cut(T0 + 22_000_000)
    house.round(checkpoints=False)
    made = asyncio.run(differential(house.engine(), house.root(), house.bucket))
    assert made is not None
    house.round(checkpoint_now=True)
    gone = [version for version in {*LAST, *NEW, *COMING} if version[0] in GONE]
    assert site.left(*gone) == []
    assert joined(house, "dicom", NOW) == expected
    shown = joined(house, "dicom", T0 + 21_000_000)
    for key, version in COMING:
        assert (shown[key]["version_id"], shown[key]["outcome"]) == (version, None)
