"""Objects extracted together for a fraction of the time, with the outcomes that each has by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from metadata_extractors.answers import Answers
from metadata_extractors.base import BudgetSpent
from metadata_extractors.packs import Asked, Pack, Told, Untried, batch_of
from metadata_extractors.ranged import RangedReader
from metadata_extractors.sandbox import Sandbox


def extract_pack(
    sandbox: Sandbox,
    name: str,
    readers: Sequence[RangedReader],
    over: Callable[[], bool] = lambda: False,
) -> Pack:
    """What `Sandbox.extract` says of each of these objects (one at least), by one message. Raises as it does,
    but for what a reader raises, which stands in the object's place.

    Whatever fails in company, and all of a pack in which a child comes to its end, is done again by itself,
    with the bytes that were read before. So no outcome is owed to another object of the pack or to its place,
    and each has the limits of `Limits` to itself. Once it is `over` no further object is read or tried alone.
    """
    face, limits = sandbox.faces[name], sandbox.limits
    found: dict[int, Told | Exception] = {}
    asked: dict[int, Asked] = {}
    for place, reader in enumerate(readers):
        reader.begin_again()
        size, most = reader.size, min(limits.header_bytes, reader.max_bytes)
        if face.head_bytes > most:
            continue
        if over():
            found[place] = Untried()
            continue
        try:
            asked[place] = Asked(reader.key, size, most, reader.read(0, face.head_bytes))
        except BudgetSpent:
            continue
        except Exception as error:  # noqa: BLE001  # it is given back
            found[place] = error
    rows: dict[int, pa.RecordBatch] = {}
    if asked:
        answers = {place: Answers(readers[place], limits.header_bytes) for place in asked}
        together = sandbox.together(name, list(asked.values()), list(answers.values()))
        for number, (place, each) in enumerate(answers.items()):
            if each.failure is not None:
                found[place] = each.failure
            elif together is not None and together[0][number].outcome != "failed":
                found[place] = together[0][number]
                rows[place] = together[1].slice(number, 1)
        if together is not None and len(rows) == len(readers):
            return Pack(*together)
    for place, reader in enumerate(readers):
        if place not in found and over():
            found[place] = Untried()
        if place not in found:
            found[place], rows[place] = _alone(sandbox, name, reader, face.schema)
        elif place not in rows:
            rows[place] = _row({}, face.schema)
    places = range(len(readers))
    (whole,) = pa.Table.from_batches([rows[place] for place in places]).combine_chunks().to_batches()
    return Pack([found[place] for place in places], whole)


def _alone(
    sandbox: Sandbox, name: str, reader: RangedReader, schema: pa.Schema
) -> tuple[Told | Exception, pa.RecordBatch]:
    try:
        found = sandbox.extract(name, reader)
    except Exception as error:  # noqa: BLE001  # it is given back
        return error, _row({}, schema)
    return Told(found.outcome, found.problems), _row(dict(found.values), schema)


def _row(values: dict[str, object], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch(batch_of([values], pa.struct(list(schema))).columns, schema=schema)
