"""`snapengine forget`, as people meet it: what it asks, what it says, and what it leaves in the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from snapengine.cautions import MetadataMissing
from snapengine.cli.main import run
from snapengine.cli.output import Output
from tests.archive_house import House, play, sqlite_house
from tests.forget_house import Site, extract, mark
from tests.seed import T0

NOW = T0 + 2_000_000
ROWS = [("ct/03", "f-ct/03"), ("ct/04", "f-ct/04"), ("ct/04", "e-ct/04"), ("late", "f-late")]
Said = Callable[..., str]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    found = sqlite_house(tmp_path)
    play(found)
    extract(found, 3700, ROWS)
    found.round(checkpoint_now=True)
    extract(found, 3800, ROWS[:2], extractor_version="2")
    monkeypatch.setenv("SNAPENGINE_STORE", found.store)
    monkeypatch.setenv("SNAPENGINE_ARCHIVE", found.archive)
    monkeypatch.setenv("SNAPENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SNAPENGINE_ACTOR", "ana")
    return found


@pytest.fixture
def site(house: House, tmp_path: Path) -> Site:
    return Site(house, (tmp_path,))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command; what it wrote. It succeeds unless another exit code is expected."""

    def call(*arguments: str, exits: int = 0) -> str:
        capsys.readouterr()
        assert run(arguments) == exits, capsys.readouterr().err
        told = capsys.readouterr()
        return told.out + told.err

    return call


def audited(house: House) -> list[tuple[str, str, str]]:
    return [(line.action, line.outcome, line.detail) for line in house.engine().store.audit_log()]


def test_a_dry_run_counts_and_changes_nothing(house: House, site: Site, said: Said) -> None:
    manifests = house.engine().store.manifests(house.bucket)
    told = json.loads(said("forget", "scans", "--key", "ct/03", "--dry-run", "--json"))
    assert told["dry_run"]
    assert told["log"]["rows"] == 4
    assert told["archive"]["segment_rows"] == 2
    assert told["remains"] == []
    assert house.engine().store.manifests(house.bucket) == manifests
    assert site.left(("ct/03", "f-ct/03"))
    assert audited(house) == []


def test_a_key_that_was_never_known_is_told_of_and_the_others_are_forgotten(site: Site, said: Said) -> None:
    told = said("forget", "scans", "--key", "ct/3", "--key", "ct/03", "--dry-run", exits=1)
    assert "Nothing was ever known of 'ct/3' in bucket scans" in told
    assert "not kept" not in told
    told = said("forget", "scans", "--key", "ct/3", "--key", "ct/03", "--yes", "--json", exits=1)
    (warning,) = [json.loads(line)["warning"] for line in told.splitlines() if line.startswith('{"warning"')]
    assert "'ct/3'" in warning
    assert "'ct/03'" not in warning
    assert site.left(("ct/03", "f-ct/03")) == []
    assert "ever known" not in said("forget", "scans", "--key", "ct/03", "--yes")


def test_of_many_keys_those_that_were_never_known_are_told_of(
    house: House, said: Said, tmp_path: Path
) -> None:
    assert house.engine().view("scans").get("late")
    keys = [f"none/{number:03}" for number in range(100)]
    (tmp_path / "keys").write_text("\n".join(["ct/03", "late", *keys]))
    told = said("forget", "scans", "--keys-from", str(tmp_path / "keys"), "--dry-run", exits=1)
    assert "'none/000', 'none/001', 'none/002' and 97 more" in " ".join(told.split())


def test_the_receipt_is_printed_and_kept_and_names_nobody_unless_asked_to(
    house: House, site: Site, said: Said
) -> None:
    told = json.loads(said("forget", "scans", "--key", "ct/03", "--yes", "--json"))
    assert site.left(("ct/03", "f-ct/03")) == []
    assert (told["bucket"], told["by"], told["asked"]) == (
        "scans",
        "ana",
        {"keys": 1, "prefixes": 0, "where": None, "conditions": False},
    )
    assert told["log"]["rows"] == 4
    assert told["log"]["identifying_parts"] == 2
    assert told["archive"]["segment_rows"] == 2
    assert told["archive"]["files_deleted"] >= 6
    assert any("bucket scans" in place for place in told["remains"])
    started, ended = audited(house)
    assert started[:2] == ("forget", "started")
    assert ended[1] == "ok"
    assert json.loads(ended[2]) == told
    assert "ct/03" not in json.dumps(told)
    named = json.loads(said("forget", "scans", "--key", "ct/04", "--yes", "--json", "--name-keys"))
    assert named["objects"]["names"] == ["ct/04"]


def test_a_condition_is_carried_out_and_nowhere_kept(house: House, site: Site, said: Said) -> None:
    where = f"PatientName = '{mark('ct/04', 'e-ct/04')}' OR PatientName = '{mark('late', 'f-late')}'"
    text = said("forget", "scans", "--where", where, "--yes")
    assert site.left(("ct/04", "e-ct/04"), ("late", "f-late")) == []
    assert site.left(("ct/04", "f-ct/04"))
    assert "MARK" not in text
    assert "Digests: None changes" in text
    nothing = json.loads(said("forget", "scans", "--where", where, "--yes", "--json"))
    assert nothing["objects"]["units"] == 0


def test_names_and_references_give_what_they_gave(house: House, said: Said) -> None:
    said("snapshot", "create", "scans", "before", "--at", "2023-11-14T22:50:00Z")
    view = house.engine().view("scans", NOW)
    with pytest.warns(MetadataMissing):
        chosen = view.where("Modality LIKE 'CT%'", "dicom", missing="warn")
    assert sorted(chosen) == ["ct/03", "ct/04", "late"]
    digests = [view.digest(), chosen.digest()]
    said("forget", "scans", "--prefix", "ct/", "--yes")
    said("verify", "scans", "--snapshot", "before")
    assert [house.engine().open_ref(one.reference).digest() for one in (view, chosen)] == digests
    with pytest.warns(MetadataMissing):
        again = house.engine().open_ref(chosen.reference).metadata_table("dicom", missing="warn")
    assert again["key"].to_pylist() == ["late"]
    assert json.loads(again.schema.metadata[b"snapengine"])["without_row"] == 2


def test_it_asks_for_the_buckets_name(
    house: House, site: Site, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--yes" in said("forget", "scans", "--key", "ct/03", exits=2)
    monkeypatch.setattr(Output, "interactive", property(lambda _: True))
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "scan")
    assert "Nothing was changed" in said("forget", "scans", "--key", "ct/03", exits=1)
    assert site.left(("ct/03", "f-ct/03"))
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: "scans")
    said("forget", "scans", "--key", "ct/03")
    assert site.left(("ct/03", "f-ct/03")) == []


def test_keys_come_from_a_file_and_are_allowed_again(
    house: House, site: Site, said: Said, tmp_path: Path
) -> None:
    (tmp_path / "keys.txt").write_text("ct/03\nlate\n", "utf-8")
    said("forget", "scans", "--keys-from", str(tmp_path / "keys.txt"), "--prefix", "ct/", "--yes")
    assert site.left(*ROWS) == []
    told: dict[str, Any] = json.loads(
        said("forget", "scans", "--key", "late", "--key", "ct/03", "--allow-again", "--json").splitlines()[0]
    )
    assert told["still"] == {"ct/03": "ct/"}
    extract(house, 9000, ROWS)
    assert site.left(("late", "f-late"))
    assert site.left(*ROWS[:3]) == []
    assert json.loads(said("forget", "scans", "--finish", "--json"))["asked"] == {"finish": True}
    said("forget", "scans", "--where", f"PatientName = '{mark('late', 'f-late')}'", "--yes")
    assert site.left(("late", "f-late")) == []
    said("forget", "scans", "--key", "late", "--allow-again")
    extract(house, 9001, [ROWS[3]])
    assert site.left(("late", "f-late"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--finish", "--key", "a"],
        ["--key", ""],
        ["--key", "a", "--dry-run", "--allow-again"],
        ["--where", "true", "--allow-again"],
        ["--keys-from", "no such file"],
        ["--where", "PatientName = 'x'; DROP TABLE y"],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_happens(
    house: House, said: Said, arguments: list[str]
) -> None:
    said("forget", "scans", "--yes", *arguments, exits=2)
    assert audited(house) == []


def test_a_bucket_that_is_not_known_is_refused(house: House, said: Said) -> None:
    assert "bucket-not-enabled" in said("forget", "other", "--key", "a", "--yes", exits=1)
