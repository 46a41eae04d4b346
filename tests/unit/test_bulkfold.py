"""The bulk rule over Arrow tables gives what the reference fold gives."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine import bulkfold as bulkfold_module
from snapengine.bulkfold import bulkfold, bulkfold_all, versions_of
from snapengine.errors import LogDamaged, SchemaTooNew
from snapengine.fold import fold, merge
from snapengine.model import CREATED, MARKER_CREATED, VERSION_DELETED, Kind, ObjectVersion, Observation
from snapengine.observation_codec import SCHEMA, decode, decode_table, encode
from snapengine.testing.strategies import adversarial_observations


@pytest.fixture(autouse=True, scope="module", params=[0, 4, 128])
def _few(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether they are folded as tables or one by one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bulkfold_module, "FEW", request.param)
        yield


histories = st.lists(adversarial_observations(), max_size=6)


def table_of(observations: list[Observation]) -> pa.Table:
    return decode_table(encode(observations))


@given(st.lists(histories, max_size=5), st.data())
def test_bulk_and_reference_agree_on_any_bucket_at_any_instant(
    keys: list[list[Observation]], data: st.DataObject
) -> None:
    observations = [o._replace(key=f"é{i}/") for i, key in enumerate(keys) for o in key]
    times = sorted({o.event_time for o in observations} | {o.page_time or 0 for o in observations})
    at = data.draw(st.sampled_from([*times, *(t - 1 for t in times)])) if times else 0
    mixed = data.draw(st.permutations(observations))
    expected = [fold([o for o in observations if o.key == f"é{i}/"], at) for i in range(len(keys))]
    assert list(versions_of(bulkfold(table_of(mixed), at))) == [v for v in expected if v]


@st.composite
def told_by_events(draw: st.DrawFn) -> list[Observation]:
    """A key of which all is told by events, with sequencers of unequal length and case, some equal."""
    versions = draw(st.lists(st.integers(0, 5), unique=True))
    told: list[Observation] = []
    fates: list[tuple[Kind, ...]] = [(CREATED,), (CREATED,), (MARKER_CREATED,), (CREATED, VERSION_DELETED)]
    for version in versions:
        for kind in draw(st.sampled_from(fates)):
            sequencer = draw(st.sampled_from(["1", "10", "1a", "1A0", "1B", "2", "02"]))
            at = draw(st.integers(1, 6)) * 1000
            told.append(Observation(kind, "k", f"v{version}", at, sequencer, 1, "e"))
    return told


@given(st.lists(told_by_events(), max_size=6), st.integers(0, 7000), st.booleans())
def test_keys_that_events_alone_tell_of_are_folded_together_as_they_are_one_by_one(
    keys: list[list[Observation]], at: int, twice: bool
) -> None:
    observations = [o._replace(key=f"é{i}/") for i, key in enumerate(keys) for o in key]
    observations += observations[:2] if twice else []
    expected = [fold([o for o in observations if o.key == f"é{i}/"], at) for i in range(len(keys))]
    assert list(versions_of(bulkfold(table_of(observations), at))) == [v for v in expected if v]


@given(histories, st.data())
def test_a_slice_of_all_versions_holds_every_created_fact_once(
    observations: list[Observation], data: st.DataObject
) -> None:
    observations = [o._replace(key="k") for o in observations]
    at = max((o.event_time for o in observations), default=0) + data.draw(st.integers(-3000, 3000))
    start = at - data.draw(st.integers(0, 10_000))
    facts = [f for f in merge(observations).entries if f.kind == CREATED and start <= f.time <= at]
    table = bulkfold_all(table_of(observations), start, at)
    assert sorted(table["version_id"].to_pylist()) == sorted(f.version_id for f in facts)
    current = [
        v for v, b in zip(versions_of(table), table["became"].to_pylist(), strict=True) if b == "current"
    ]
    now = fold(observations, at)
    assert current == ([now] if now and now.event_time >= start else [])


def test_what_is_encoded_is_decoded_to_the_letter() -> None:
    rows = [
        Observation("Created", "é\x00", "null", 1, None, None, None, None, "baseline", None, "l", 2, 3),
        Observation("VersionDeleted", "k", "v", 2**41, "0A", 2**62, "e", "GLACIER", "event", "x"),
    ]
    assert decode(encode(rows)) == rows
    assert decode(encode([])) == []


def test_a_payload_that_was_altered_is_damage_and_not_fewer_rows() -> None:
    whole = encode([Observation("Created", "k", "v", 1)])
    for broken in (b"", whole[:100], whole[100:], b"x" * 300):
        with pytest.raises(LogDamaged):
            decode(broken)


def test_a_payload_of_a_newer_format_is_refused() -> None:
    newer = SCHEMA.with_metadata({"snapengine.format": "2"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, newer) as writer:
        writer.write_table(newer.empty_table())
    with pytest.raises(SchemaTooNew, match="format 2"):
        decode(bytes(sink.getvalue()))


def test_an_empty_log_folds_to_nothing() -> None:
    assert bulkfold(SCHEMA.empty_table(), 5).num_rows == 0
    assert list(versions_of(bulkfold(table_of([Observation("Created", "k", "v", 5)]), 5))) == [
        ObjectVersion("k", "v", None, None, 5)
    ]
