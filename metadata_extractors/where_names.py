"""PURE: what may stand in a condition, by the names of DuckDB's parser, and why the rest may not.

Listed is what works on the values of one row alone, in memory that grows with them, and the same on any day.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> list[str]:
    return text.split()


ALLOWED_CLASSES: Final = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "TYPE",
    }
)

ALLOWED_OPERATORS: Final = frozenset(
    {
        "ARRAY_EXTRACT",
        "ARRAY_SLICE",
        "COMPARE_IN",
        "COMPARE_NOT_IN",
        "OPERATOR_COALESCE",
        "OPERATOR_IS_NOT_NULL",
        "OPERATOR_IS_NULL",
        "OPERATOR_NOT",
        "OPERATOR_NULLIF",
        "OPERATOR_TRY",
        "STRUCT_EXTRACT",
    }
)

ALLOWED_TYPES: Final = frozenset(
    _words(
        """
        bigint bool boolean date decimal double float hugeint int int1 int2 int4 int8 integer
        interval list numeric real smallint string text time timestamp timestamp_ms timestamp_s
        timestamptz tinyint ubigint uinteger usmallint utinyint uuid varchar
        """
    )
) | {"timestamp with time zone"}

ALLOWED_FUNCTIONS: Final = frozenset(
    _words(
        """
        + - * / // % ** ^ || ~~ !~~ ~~* !~~* ~~~ ->> like_escape not_like_escape ilike_escape
        not_ilike_escape regexp_matches regexp_full_match regexp_extract regexp_replace contains
        prefix starts_with suffix ends_with instr position strpos lower lcase upper ucase trim ltrim
        rtrim length len char_length character_length strlen substring substr left right replace
        reverse concat split_part string_split strip_accents nfc_normalize abs ceil ceiling exp
        floor greatest isfinite isinf isnan least ln log log10 log2 mod pow power round sign sqrt
        trunc if ifnull nullif date_part datepart date_trunc datetrunc date_diff datediff date_sub
        datesub date_add make_date make_timestamp year quarter month week day dayofweek isodow
        dayofyear hour minute second microsecond millisecond epoch epoch_ms last_day monthname
        dayname strftime strptime try_strptime timezone to_years to_quarters to_months to_weeks
        to_days to_hours to_minutes to_seconds to_milliseconds to_microseconds list_value
        list_contains array_contains list_has array_has list_has_any array_has_any list_has_all
        array_has_all list_position list_indexof list_extract list_element array_extract
        array_length array_slice list_slice struct_extract json_array_length json_exists
        json_extract json_extract_string json_type json_valid
        """
    )
)

WHY_CLASSES: Final = {
    "COLLATE": "a collation may not stand in it; compare lower(...) of both sides",
    "LAMBDA": "lambdas, and `->`, may not stand in it; `->>` or json_extract(...) reads JSON",
    "PARAMETER": "there is nothing to fill a parameter with; write the value itself",
    "POSITIONAL_REFERENCE": "write a column's name, not its number",
    "STAR": "`*` and COLUMNS(...) are many columns; name one",
    "SUBQUERY": "it holds a query (SELECT, FROM, EXISTS, ANY); write the values as IN (...)",
    "WINDOW": "window functions are of many rows, not of one",
}

_CHANGES = "its result changes from call to call or from day to day; write the value itself"
_MANY_ROWS = "aggregates are of many rows, not of one"
_LAMBDA = "it takes a lambda, and none may stand in it"
_OUTSIDE = "it reads files, settings or the system, and only columns are read"

WHY_FUNCTIONS: Final = (
    (r"random|setseed|uuid|uuidv\d|gen_random_uuid|nextval|currval|txid_current|hash", _CHANGES),
    (r"now|today|transaction_timestamp|get_current_.*|current_(date|time|timestamp)", _CHANGES),
    (r"local(time|timestamp)|age", _CHANGES),
    (r"read_.*|.*_scan|glob|parquet_.*|sniff_csv|query|query_table|getenv|getvariable", _OUTSIDE),
    (r"current_.*|duckdb_.*|pragma_.*|pg_.*|version|in_search_path|.*secret.*|load_.*|install_.*", _OUTSIDE),
    (r"(count|sum|avg|min|max|median|mode|first|last|any_value|stddev|var|arg)_?.*", _MANY_ROWS),
    (r"(quantile|approx|bool|bit)_.*|list|array_agg|string_agg|group_concat|histogram", _MANY_ROWS),
    (r"row|struct_pack|map", "a value with fields may not stand in it; compare one column with one value"),
    (r"(list|array)_(transform|apply|filter|reduce)|apply|filter|reduce", _LAMBDA),
    (r"unnest|generate_series|range|generate_subscripts", "it makes rows"),
    (r"repeat|lpad|rpad|error|sleep.*|factorial|!__postfix", "it may take any memory or time, or fail"),
)  # fmt: skip
"""Patterns of names in lower case, and why; the first that fits counts."""

CHANGING: Final = frozenset(
    _words(
        """
        current_catalog current_date current_role current_schema current_time current_timestamp
        current_user localtime localtimestamp session_user today user
        """
    )
)
"""What SQL reads as a function, though it looks like a column."""
