"""What de-identification leaves of the columns, and so what a condition may ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from metadata_extractors.deidentify import (
    KEY_VARIABLE,
    LOOKED_THROUGH,
    column_action,
    deidentify,
    is_nulled,
    key_from,
    needs_patient,
    option_that_keeps,
)
from metadata_extractors.profile import OPTIONS
from snapengine.errors import UsageError
from snapengine.settings import Settings

_OFF = frozenset({"", "off", "false", "no", "0"})
_ON = frozenset({"on", "true", "yes", "1", "basic"})


@dataclass(frozen=True, slots=True)
class Privacy:
    """How metadata is de-identified: by the basic profile with `options`; not at all where that is None."""

    options: frozenset[str] | None
    key: bytes | None = field(default=None, repr=False)

    def allow(self, used: Iterable[pa.Field]) -> None:
        """Raise `UsageError` for a condition over a column of which nothing is left: what it selects would
        tell what the answer does not."""
        for column in used:
            if self.options is not None and is_nulled(column, self.options):
                option = option_that_keeps(column.name)
                remedy = f"deidentify=[{option!r}] keeps it." if option else "Ask without it, or identified."
                raise UsageError(
                    f"The condition uses {column.name}, of which de-identification leaves nothing. {remedy}"
                )

    def alters(self, fields: Iterable[pa.Field]) -> bool:
        """Whether the answer has other values in one of these columns."""
        options = self.options
        return options is not None and any(
            field.name in LOOKED_THROUGH or column_action(field, options) != "K" for field in fields
        )

    def read(self, fields: Sequence[pa.Field], known: pa.Schema) -> list[pa.Field]:
        """What must be read for these columns of an answer."""
        options = self.options
        if options is None:
            return list(fields)
        found = [field for field in fields if not is_nulled(field, options)]
        if any(needs_patient(field, options) for field in found) and "PatientID" in known.names:
            found.append(known.field("PatientID"))
        return found

    @property
    def transform(self) -> Callable[[pa.Table], pa.Table] | None:
        """What is done with rows."""
        options = self.options
        if options is None:
            return None
        return lambda table: deidentify(table, self.key, options)


def privacy(asked: bool | str | Sequence[str] | None, settings: Settings) -> Privacy:
    """What `deidentify=` says: a yes or no, options (a list, or text with commas), or None for the setting.

    Raises `UsageError` for an unknown option.
    """
    told = settings.deidentify if asked is None else asked
    if told is False or (isinstance(told, str) and told.strip().lower() in _OFF):
        return Privacy(None)
    words = told.split(",") if isinstance(told, str) else [] if told is True else told
    options = frozenset(word.strip() for word in words)
    if isinstance(told, str) and told.strip().lower() in _ON:
        options = frozenset()
    if unknown := sorted(options - set(OPTIONS)):
        raise UsageError(
            f"deidentify: there is no option {unknown[0]!r}; there are: {', '.join(OPTIONS)}; or `on`, `off`."
        )
    secret = settings.deidentify_key
    return Privacy(options, key_from(secret.get_secret_value(), KEY_VARIABLE) if secret else None)
