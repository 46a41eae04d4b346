"""PURE: which versions that a view shows have been removed since, by the facts of a later epoch alone."""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa
import pyarrow.compute as pc

from snapengine.bulkfold import versions_of
from snapengine.fold import merge, removal_of
from snapengine.model import CREATED, RECONCILE, GoneVersion, Observation
from snapengine.observation_codec import observations_of
from snapengine.ordering import Fact


def gone_versions(shown: pa.Table, later: pa.Table) -> list[GoneVersion]:
    """Of a view's rows those that `later` observations (the log's columns) say are gone, in the rows' order.

    S3 is not asked: a version removed without any event or listing to tell of it is not among them.
    """
    twice = pc.value_counts(later["key"])
    several = twice.field(0).filter(pc.greater(twice.field(1), 1))
    wanted = pc.and_(
        pc.is_in(later["key"], value_set=several),
        pc.is_in(later["key"], value_set=shown["key"].combine_chunks()),
    )
    histories: defaultdict[str, list[Observation]] = defaultdict(list)
    for observation in observations_of(later.filter(wanted)):
        histories[observation.key].append(observation)
    facts = {key: merge(history) for key, history in histories.items()}
    return [
        GoneVersion(version.key, version.version_id, removal.time, why(removal))
        for version in versions_of(shown)
        if version.key in facts and (removal := removal_of(facts[version.key], version))
    ]


def why(removal: Fact) -> str:
    """How a version came to its end, in words."""
    if removal.origin == RECONCILE and removal.event_name is None:
        return "absent from a complete listing"
    if removal.kind == CREATED:
        return f"overwritten ({removal.event_name or 'seen by a listing'})"
    return removal.event_name or "seen by a listing"
