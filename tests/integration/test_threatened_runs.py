"""`status` says which noted runs need versions that a lifecycle rule may remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from snapengine.buckets import threatened
from snapengine.buckets.status import bucket_status
from snapengine.buckets.threatened import ThreatenedRuns
from snapengine.cli.main import run as command
from snapengine.devcloud import DevCloud
from snapengine.model import RunNote
from snapengine.pinning import pin, unpin
from tests.integration.bucket_site import Site, open_site


@pytest.fixture(scope="module")
def cloud() -> Iterator[DevCloud]:
    with DevCloud() as running:
        yield running


@pytest.fixture
async def site(cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = open_site(cloud, tmp_path, monkeypatch)
    await found.enable()
    return found


def expire(site: Site, *, prefix: str = "", **changed: Any) -> None:
    rule = {
        "ID": "tidy",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    } | changed
    site.s3.put_bucket_lifecycle_configuration(Bucket=site.bucket, LifecycleConfiguration={"Rules": [rule]})


def note(site: Site, run_id: str, prefix: str = "", *, began: int = 1_000) -> str:
    reference = f"snap://{site.bucket}@2026-11-20T09:00:00.000Z~1/{prefix}"
    assert site.engine.store.put_note(RunNote(run_id, site.bucket, "scans", reference, began, began))
    return reference


def told(site: Site) -> tuple[ThreatenedRuns | None, list[str]]:
    site.writes.clear()
    found = bucket_status(site.engine, site.bucket)
    assert site.writes == [], "looking changes nothing"
    assert found.errors == ()
    return found.threatened_runs, [text for text in found.warnings if "noted" in text]


def test_the_newest_runs_are_named_with_what_to_do(site: Site) -> None:
    for number, run_id in enumerate(("d", "a", "c", "b")):
        note(site, run_id, began=number)
    note(site, "b", "ct/", began=3)
    expire(site)
    found, (text,) = told(site)
    assert found == ThreatenedRuns(("tidy",), 4, ("b", "c", "a"), 5, more=False)
    assert f"4 runs noted views of bucket {site.bucket}" in text
    assert "the newest run:/b, run:/c, run:/a." in text
    assert "snapengine pin run:/ID" in text


@pytest.mark.parametrize(("rule", "counted"), [("ct/", {"all", "ct", "ct-1"}), ("mr/", {"all", "mr"})])
def test_only_views_whose_prefix_a_rule_overlaps_count(site: Site, rule: str, counted: set[str]) -> None:
    for run_id, prefix in {"all": "", "ct": "ct/", "ct-1": "ct/1/", "mr": "mr/x/"}.items():
        note(site, run_id, prefix)
    expire(site, prefix=rule)
    found, _ = told(site)
    assert found
    assert (found.runs, set(found.newest)) == (len(counted), counted)


def test_a_rule_with_several_conditions_counts_by_its_prefix(site: Site) -> None:
    note(site, "ct", "ct/")
    note(site, "mr", "mr/")
    expire(site, Filter={"And": {"Prefix": "ct/", "Tags": [{"Key": "keep", "Value": "no"}]}})
    found, (text,) = told(site)
    assert found
    assert found.newest == ("ct",)
    assert "1 run noted views" in text
    assert "may reach" in text


@pytest.mark.parametrize(
    "rule", [{"Status": "Disabled"}, {"NoncurrentVersionExpiration": None, "Expiration": {"Days": 1}}]
)
def test_a_rule_that_destroys_no_versions_threatens_no_run(site: Site, rule: dict[str, Any]) -> None:
    note(site, "r")
    whole = {"NoncurrentVersionExpiration": {"NoncurrentDays": 30}} | rule
    kept = {
        "ID": "tidy",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        **{name: value for name, value in whole.items() if value is not None},
    }
    site.s3.put_bucket_lifecycle_configuration(Bucket=site.bucket, LifecycleConfiguration={"Rules": [kept]})
    assert told(site) == (None, [])


def test_without_threatened_runs_nothing_is_said_of_them(site: Site) -> None:
    note(site, "mr", "mr/")
    expire(site, prefix="ct/")
    assert told(site) == (ThreatenedRuns(("tidy",), 0, (), 1, more=False), [])


def test_it_reads_a_bounded_number_of_notes_and_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threatened, "NOTES", 3)
    for run_id in ("a", "b", "c"):
        note(site, run_id)
    expire(site)
    found, (text,) = told(site)
    assert found == ThreatenedRuns(("tidy",), 3, ("a", "b", "c"), 3, more=False)
    assert "At least" not in text
    note(site, "d", began=9_000)
    found, (text,) = told(site)
    assert found == ThreatenedRuns(("tidy",), 3, ("a", "b", "c"), 3, more=True)
    assert text.startswith("At least 3 runs")
    assert "Only 3 notes were read; there are more, and newer runs may be among them." in text
    expire(site, prefix="ct/")
    for run_id in ("a", "b", "c", "d"):
        note(site, f"0{run_id}", "mr/")
    found, (text,) = told(site)
    assert found
    assert (found.runs, found.more) == (0, True)
    assert "Only 3 notes were read" in text


async def test_where_notes_may_not_be_read_that_is_a_remark(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(cloud, tmp_path, monkeypatch, store="dynamodb://snapengine-threatened")
    await site.enable()
    note(site, "r")
    expire(site)
    found, _ = told(site)
    assert found
    assert found.newest == ("r",)

    def deny(params: Any, **_: Any) -> None:
        if params["ExpressionAttributeValues"][":pk"]["S"].startswith("RUNS#"):
            said: Any = {
                "Code": "AccessDeniedException",
                "Message": "not authorized to perform: dynamodb:Query",
            }
            raise ClientError({"Error": said}, "Query")

    client: Any = vars(site.engine.store)["_client"]
    client.meta.events.register("provide-client-params.dynamodb.Query", deny)
    found, (text,) = told(site)
    assert found == ThreatenedRuns(("tidy",), None, (), 0, more=False)
    assert "is not known: " in text
    assert "dynamodb:Query" in text


async def test_a_pinned_view_is_not_counted_until_it_is_unpinned(
    cloud: DevCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(cloud, tmp_path, monkeypatch)
    site.bucket += ".locked"
    site.s3.create_bucket(Bucket=site.bucket, ObjectLockEnabledForBucket=True)
    site.s3.put_object(Bucket=site.bucket, Key="k", Body=b"1")
    await site.enable()
    view = site.engine.view(site.bucket)
    for run_id in ("a", "b"):
        reference = RunNote(run_id, site.bucket, "scans", view.reference, 1, 1)
        assert site.engine.store.put_note(reference)
    expire(site)
    before, _ = told(site)
    assert before
    assert before.runs == 2
    pin(site.engine, view, creator="me")
    after, words = told(site)
    assert after
    assert (after.runs, words) == (0, [])
    unpin(site.engine, view)
    assert told(site)[0] == before


def test_the_command_says_it_in_words_and_as_json(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    note(site, "0123")
    expire(site)
    assert command(["status", site.bucket]) == 0
    assert "Warning: 1 run noted views" in " ".join(capsys.readouterr().err.split())
    assert command(["status", site.bucket, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["threatened_runs"] == {
        "rules": ["tidy"],
        "runs": 1,
        "newest": ["0123"],
        "notes_read": 1,
        "more": False,
    }
