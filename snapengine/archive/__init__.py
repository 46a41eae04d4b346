"""The archive: Parquet files of observations and live sets; their names, plans, writing and reading."""
