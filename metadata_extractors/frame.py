"""What `view.metadata`, `metadata_table` and `where` do: a view's rows of metadata, by a condition."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from metadata_extractors.closed_duckdb import Ahead
from metadata_extractors.conditions import Condition, Where, condition, names_in
from metadata_extractors.having_columns import (
    READ_NOW,
    further_in,
    having,
    refuse,
    tell_of_nulls,
    unextracted,
)
from metadata_extractors.privacy import Privacy, privacy
from metadata_extractors.querying import Means, Scope, query, shaped
from metadata_extractors.registry import make_extractor
from metadata_extractors.selecting import Asked, Selected, Tally, picked
from snapengine.bulkfold import VIEW_SCHEMA
from snapengine.cautions import IdentifyingLeftOut, MetadataMissing, caution
from snapengine.errors import ArchiveFileMissing, IdentifyingRefused, NotYetComplete, UsageError
from snapengine.metadata_rows import OUTCOME_FIELDS, identifying_names
from snapengine.selections import Chosen

if TYPE_CHECKING:
    import pandas as pd

    from snapengine.views import View

LEAD: Final = ("key", "version_id", "size", "event_time")
"""The first columns of every answer."""

READ_UNASKED: Final = 10_000
"""Objects at most that are read without being asked to."""

_TRIES: Final = 3

Missing = Literal["warn", "read", "error"]

_NO_EXTRACTOR: Final = [*VIEW_SCHEMA, *OUTCOME_FIELDS]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a view's metadata. See `snapengine.views.MetadataOptions`."""

    extractor: str = "dicom"
    where: Where | None = None
    columns: Sequence[str] | None = None
    prefix: str = ""
    missing: Missing | None = None
    deidentify: bool | str | Sequence[str] | None = None
    workers: int = 8
    memory: str = "512MiB"
    whole: bool = False
    """`columns` are all that may be read, rather than asked for one by one."""
    numbers: bool = False

    def __post_init__(self) -> None:
        if self.missing not in {None, "warn", "read", "error"}:
            raise UsageError(f"missing={self.missing!r}: it is 'warn', 'read' or 'error'.")
        if not isinstance(self.prefix, str):
            raise UsageError(f"prefix={self.prefix!r}: it is text; leave it out for the whole view.")
        if self.workers < 1:
            raise UsageError(f"workers must be at least 1, not {self.workers!r}.")


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, their numbers, and what they are an answer to."""

    selected: Selected
    query: str | None
    identifying: tuple[str, ...]
    """Columns of the answer whose values may tell who, where or when."""
    uses_identifying: bool
    """The condition speaks of such columns."""
    deidentified: str | None
    left_out: tuple[str, ...] = ()
    """Identifying columns that may not be read."""

    def attrs(self, view: View, extractor: str) -> dict[str, Any]:
        """What is known of the answer, as plain values."""
        return {
            "reference": view.reference,
            "extractor": extractor,
            "where": self.query,
            **self.selected.counts,
            "read_now": self.selected.read_now,
            "outcomes": dict(self.selected.outcomes),
            "identifying": list(self.identifying),
            "deidentified": self.deidentified,
            "left_out": list(self.left_out),
        }


def metadata_frame(view: View, extractor: str = "dicom", **options: Any) -> pd.DataFrame:
    """See `View.metadata`."""
    try:
        import pandas as pd
    except ImportError:
        raise UsageError("pandas is not installed. Run `pip install 'snapengine[dicom]'`.") from None
    answer = _noted_answer(view, Question(extractor, **options))
    frame: pd.DataFrame = answer.selected.table.to_pandas(types_mapper=pd.ArrowDtype)
    frame.attrs.update(answer.attrs(view, extractor))
    return frame


def metadata_table(view: View, extractor: str = "dicom", **options: Any) -> pa.Table:
    """See `View.metadata_table`."""
    answer = _noted_answer(view, Question(extractor, **options))
    told = {"snapengine": json.dumps(answer.attrs(view, extractor))}
    table = answer.selected.table
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **told})


def _noted_answer(view: View, question: Question) -> Answer:
    answer = answered(view, question)
    counts = answer.selected.counts
    chosen = Chosen(view.reference, answer.query, question.extractor, counts, answer.uses_identifying)
    view.asked_by(chosen, question.prefix)
    return answer


def metadata_where(view: View, extractor: str, where: Where, **options: Any) -> tuple[pa.Table, Chosen]:
    """See `View.where`: the rows of `VIEW_SCHEMA` that the condition chooses, and how they were chosen."""
    if where is None:
        raise UsageError("where needs a condition.")
    names = VIEW_SCHEMA.names
    answer = answered(view, Question(extractor, where, names, **options))
    rows = answer.selected.table.select(names).cast(VIEW_SCHEMA).combine_chunks()
    counts = answer.selected.counts
    return rows, Chosen(view.reference, answer.query, extractor, counts, answer.uses_identifying)


def answered(view: View, question: Question) -> Answer:
    """The answer; objects without a row are read, warned about, or an error, as the question says."""
    if view.ref.versions == "all":
        raise UsageError(
            f"{view} may show a key more than once: metadata is of one version a key. Take a view, or a "
            "slice of the last versions."
        )
    rules = privacy(question.deidentify, view.source.settings)
    try:
        return _answered(view, question, rules)
    except IdentifyingRefused as refused:
        if question.columns is not None:
            raise
        stored = view.row_schema(question.extractor)
        hidden = identifying_names(stored)
        if set(_plan(view, stored, question, rules).condition.columns) & set(hidden):
            raise
        caution(
            f"{len(hidden)} identifying columns of {question.extractor} may not be read, and are left out "
            f"({refused}) Name the columns that you want to have no others.",
            IdentifyingLeftOut,
        )
        plain = [name for name in _names(stored, None) if name not in hidden]
        whole = replace(question, columns=plain, whole=True)
        return replace(_answered(view, whole, rules), left_out=tuple(hidden))


@dataclass(frozen=True, slots=True)
class _Plan:
    known: pa.Schema
    """All columns that may be named."""
    condition: Condition
    names: tuple[str, ...]
    """Of the answer."""
    read: tuple[str, ...]
    """What the answer is made of."""
    stored: bool
    """There is some row of the extractor, so that its columns are known."""
    further: tuple[str, ...]
    """Of the columns that are asked for those that not every version of the extractor has."""


def _answered(view: View, question: Question, rules: Privacy) -> Answer:
    """The answer; begun anew where a file that it began with was swept or written anew meanwhile."""
    for _ in range(_TRIES - 1):
        with suppress(ArchiveFileMissing), _opening(question) as ahead:
            return _answered_once(view, question, rules, ahead)
    with _opening(question) as ahead:
        return _answered_once(view, question, rules, ahead)


def _opening(question: Question) -> Ahead:
    """One DuckDB to check a condition in SQL with, and one to work it out."""
    return Ahead(2 if isinstance(question.where, str) else 0)


def _answered_once(view: View, question: Question, rules: Privacy, ahead: Ahead) -> Answer:
    plan = _plan(view, view.row_schema(question.extractor), question, rules, ahead)
    hidden = set(identifying_names(plan.known))
    used = [plan.known.field(name) for name in plan.condition.columns]
    rules.allow(used)
    read = [*plan.read, *plan.condition.columns]
    joined = view.joined(question.extractor, identifying=bool(hidden & set(read)), columns=read)
    asked = replace(_asked(plan, rules, used), numbers=question.numbers)
    scope = replace(_scope(view, question), versions=having(plan.known, plan.further))
    without: list[pa.RecordBatch] | None = [] if question.missing == "read" else None
    means = Means(question.memory, ahead=ahead)
    tally = query(joined, plan.known, asked, plan.read, scope, means, without=without)
    if without is None and not plan.stored and _reads_unasked(view, question, tally.selected):
        without = []
        tally = query(joined, plan.known, asked, plan.read, scope, means, without=without)
    if (question.columns is None or question.whole) and further_in(plan.known, plan.names):
        tell_of_nulls(tally.selected.table, plan.known, view, question.extractor)
    if without:
        selected = _with_read(view, question, plan, tally, without)
    else:
        selected = tally.selected
        _tell(view, question, plan, selected)
    deidentified = (asked.answer.metadata or {}).get(b"deidentified")
    return Answer(
        selected,
        None if question.where is None else str(plan.condition.where),
        tuple(identifying_names(asked.answer)),
        bool(hidden & set(plan.condition.columns)),
        deidentified.decode() if deidentified else None,
    )


# What is asked


def _plan(
    view: View, stored: pa.Schema, question: Question, rules: Privacy, ahead: Ahead | None = None
) -> _Plan:
    any_row = len(stored) > len(_NO_EXTRACTOR)
    known = stored if any_row else _not_stored(question)
    checked = None
    if any_row:
        named: Sequence[str] = ()
        try:
            checked = condition(question.where, stored, ahead)
        except UsageError:
            named = names_in(question.where)
        more = unextracted(stored, question.extractor, question.columns, named)
        if question.missing != "read":
            refuse(more, view, question.extractor)
        known = pa.schema([*stored, *more])
        checked = None if more else checked
    checked = checked or condition(question.where, known, ahead)
    picked(question.columns, known)
    names = _names(known, question.columns)
    transformed = checked.columns if rules.transform is not None else ()
    read = rules.read([known.field(name) for name in dict.fromkeys([*names, *transformed])], known)
    columns = tuple(dict.fromkeys(["key", *(field.name for field in read)]))
    named = () if question.columns is None or question.whole else question.columns
    further = further_in(known, [*named, *checked.columns])
    return _Plan(known, checked, names, columns, any_row, tuple(further))


def _names(known: pa.Schema, columns: Sequence[str] | None) -> tuple[str, ...]:
    """The answer's columns."""
    if columns is None:
        own = known.names[len(_NO_EXTRACTOR) :]
        versions = ["extractor_version"] if further_in(known, own) else []
        columns = ["outcome", "error", *versions, *own]
    return tuple(dict.fromkeys([*LEAD, *columns]))


def _not_stored(question: Question) -> pa.Schema:
    """The columns that the extractor would give, where nothing says what it gave. Raises `UsageError`."""
    fields = {field.name: field for field in make_extractor(question.extractor).schema}
    known = {field.name for field in _NO_EXTRACTOR}
    if isinstance(question.columns, str):
        picked(question.columns, pa.schema([]))
    for name in question.columns or ():
        if name not in known | set(fields):
            fields |= {field.name: field for field in make_extractor(question.extractor, [name]).schema}
    for name in names_in(question.where):
        if name not in known | set(fields) and re.fullmatch(r"\w+", name):
            try:
                more = make_extractor(question.extractor, [name]).schema
            except UsageError:
                continue  # no name of a column: the condition's own check says so
            fields |= {field.name: field for field in more if field.name == name}
    return pa.schema([*_NO_EXTRACTOR, *(field.with_nullable(True) for field in fields.values())])


def _asked(plan: _Plan, rules: Privacy, used: Sequence[pa.Field]) -> Asked:
    shape = pa.schema([plan.known.field(name) for name in dict.fromkeys([*plan.names, *plan.read])])
    if rules.transform is None:
        return Asked(plan.condition, pa.schema([shape.field(name) for name in plan.names]))
    first = rules.alters(used)
    after = rules.transform(shape.empty_table()).schema
    fields = [after.field(name) for name in plan.names]
    answer = pa.schema(fields, metadata=after.metadata)

    def transform(rows: pa.Table) -> pa.Table:
        whole = [*shape.names, *(name for name in rows.schema.names if name not in shape.names)]
        columns = [
            rows[name] if name in rows.schema.names else pa.nulls(rows.num_rows, shape.field(name).type)
            for name in whole
        ]
        given = [plan.known.field(name).with_nullable(True) for name in whole]
        assert rules.transform is not None  # noqa: S101  # as above
        return rules.transform(pa.table(columns, schema=pa.schema(given)))

    return Asked(plan.condition, answer, transform, transformed_first=first)


def _scope(view: View, question: Question) -> Scope:
    prefixes = tuple(dict.fromkeys(prefix for prefix in (view.prefix, question.prefix) if prefix))
    keys = view.to_arrow()["key"].combine_chunks() if view.ref.selection else None
    return Scope(prefixes, view.ref.start, keys)


# Objects without a row


def _reads_unasked(view: View, question: Question, selected: Selected) -> bool:
    """Where nothing extracts the objects, or ever did, a few are read without being asked to."""
    if question.missing is not None or not selected.without_row:
        return False
    if view.source.extracting(view.bucket, question.extractor):
        return False
    if selected.without_row > READ_UNASKED:
        raise UsageError(
            f"None of the {selected.without_row:,} objects of {view} has a row of {question.extractor} "
            f"metadata. Extract it with `{_how(view, question)}`, or have all of them read now: {READ_NOW}."
        )
    return True


def _with_read(
    view: View, question: Question, plan: _Plan, tally: Tally, without: Sequence[pa.RecordBatch]
) -> Selected:
    from metadata_extractors.reading import read_now  # most questions need nothing of it

    rows = pa.Table.from_batches(without).select(VIEW_SCHEMA.names).cast(VIEW_SCHEMA)
    wanted = {*plan.read, *plan.condition.columns} - {field.name for field in _NO_EXTRACTOR}
    columns = [name for name in plan.known.names if name in wanted] or None
    objects = rows.sort_by("key").combine_chunks()
    source = view.source
    read = read_now(source, view.bucket, question.extractor, columns, objects, question.workers, source.clock)
    already = tally.selected.without_row - objects.num_rows
    shape = pa.schema([field.with_nullable(True) for field in plan.known])
    tally.judge(shaped(batch, shape) for batch in read.to_batches())
    return replace(tally.selected, without_row=already, read_now=objects.num_rows)


def _tell(view: View, question: Question, plan: _Plan, selected: Selected) -> None:
    count = selected.without_row
    if not count:
        return
    among = f"{sum(selected.counts.values()):,} objects" if question.numbers else "the objects"
    what = f"{question.extractor} metadata" + (f" with {', '.join(plan.further)}" if plan.further else "")
    text = (
        f"{count:,} of {among} of {view} have no row of {what}, so nothing "
        f"says whether they are meant. `{_how(view, question)}` extracts them, "
        f"unless they are forgotten; {READ_NOW} reads them now."
    )
    if question.missing == "error":
        raise NotYetComplete(text)
    caution(text, MetadataMissing)


def _how(view: View, question: Question) -> str:
    return f"snapengine extract {view.bucket} --extractor {question.extractor}"
