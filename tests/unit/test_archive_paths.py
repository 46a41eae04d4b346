"""Whose a path of the archive is: what is not plainly ours is never touched."""

from __future__ import annotations

import pytest

from snapengine.archive.manifest import Checkpoint, Differential, Segment
from snapengine.archiving import paths


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("scans/observations/epochs=1_20/regular-ab12-00000.parquet", "segment"),
        ("scans/epochs/epochs=1_20/epochs-ab12-00000.parquet", "segment"),
        ("scans/observations/epochs=1_20/.regular-ab12-00000.parquet.9f.partial", "segment"),
        ("scans/objects/checkpoint=1700000000000_20/part-ab12-00000.parquet", "checkpoint"),
        ("scans/histories/checkpoint=-5_20/side-ab12-00000.parquet", "checkpoint"),
        ("scans/objects/differential=1700000000000_20/part-ab12-00000.parquet", "checkpoint"),
        ("scans/objects/differential=1700000000000_20/gone-ab12-00000.parquet", "checkpoint"),
        ("scans/histories/differential=-5_20/side-ab12-00000.parquet", "checkpoint"),
        ("scans/metadata/extractor=dicom/differential=5_20/live-ab12-00000.parquet", "checkpoint"),
        ("scans/identifying/extractor=dicom/differential=5_20/pending-ab12-00000.parquet", "checkpoint"),
        ("scans/manifests/differential-000001700000000_000000000020-ab12.json", "manifest"),
        ("scans/observations/differential=5_20/part-ab12-00000.parquet", None),
        ("scans/listed/ab12/part-00000.parquet", "listing"),
        ("scans/manifests/segment-000000000001_000000000020-ab12.json", "manifest"),
        ("scans/registry.json", None),
        ("scans/notes.txt", None),
        ("scans/observations/mine.parquet", None),
        ("scans/observations/epochs=1_20/deeper/regular.parquet", None),
        ("scans-2/observations/epochs=1_20/regular-ab12-00000.parquet", None),
        ("other/epochs/epochs=1_20/epochs-ab12-00000.parquet", None),
        ("scans", None),
    ],
)
def test_a_path_tells_what_it_is_part_of(path: str, kind: str | None) -> None:
    assert paths.owner("scans", path) == kind


def test_a_manifest_s_copies_are_no_other_manifest_s() -> None:
    names = [Segment(1, last, (), {}, 0, 0, 0).name for last in (2, 20, 200)]
    names += [kind(5, last, (), 0).name for kind in (Checkpoint, Differential) for last in (2, 20)]
    starts = [paths.copies("scans", name) for name in names]
    assert starts[0] == "scans/manifests/segment-000000000001_000000000002-"
    for start in starts:
        assert [other for other in starts if f"{other}ab12.json".startswith(start)] == [start]


def test_the_files_of_a_differential_are_beside_those_of_a_checkpoint_of_the_same_instant_and_epoch() -> None:
    whole, changed = (paths.Point("scans", 7, 20, differential) for differential in (False, True))
    for folder in (paths.objects, paths.histories):
        assert folder(whole).replace("/checkpoint=7_20", "/differential=7_20") == folder(changed)
    for identifying in (False, True):
        folders = [paths.live(point, "dicom", identifying=identifying) for point in (whole, changed)]
        assert folders[0].replace("/checkpoint=7_20", "/differential=7_20") == folders[1] != folders[0]
