"""The demo tells the truth: its end is the one that its story promises, and nothing is left behind."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from snapengine.devcloud.demo import BUCKET, EARLIER, LANDING, run_demo


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_shows_the_bucket_as_it_was_before_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = dict(os.environ)
    processes = set(psutil.Process().children(recursive=True))
    output = io.StringIO()
    outcome = run_demo(Console(file=output, width=120))

    then, now = set(outcome.before), set(outcome.after)
    assert then == set(EARLIER) | set(LANDING)
    assert now == (then | {"mr/new.dcm"}) - {"mr/abdomen.dcm", "archive/liver_expb.dcm"}
    assert outcome.before["ct/CT_small.dcm"] != outcome.after["ct/CT_small.dcm"]
    assert outcome.before["ecg/waveform.dcm"] == outcome.after["ecg/waveform.dcm"]
    assert outcome.same_digest_when_asked_again
    assert outcome.ingested == ["ct/CT_small.dcm", "mr/new.dcm"]
    assert outcome.changes == [
        ("removed", "archive/liver_expb.dcm"),
        ("changed", "ct/CT_small.dcm"),
        ("removed", "mr/abdomen.dcm"),
        ("added", "mr/new.dcm"),
    ]
    assert outcome.answer_before == ["mr/abdomen.dcm"]
    assert outcome.answer_after == ["ct/CT_small.dcm"]

    told = output.getvalue()
    assert f"snapengine ls {BUCKET} --at" in told
    assert "Traceback" not in told
    assert dict(os.environ) == environment
    assert list(tmp_path.iterdir()) == []
    assert set(psutil.Process().children(recursive=True)) - processes == set()
