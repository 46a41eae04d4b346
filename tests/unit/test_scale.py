"""docs/scale.md: its figures are what the code computes from the measurements that stand in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._scale_document import page, recorded
from benchmarks._scale_model import (
    PRICES,
    Scenario,
    inventory,
    listing,
    metadata,
    ours,
    standing,
    total,
)

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "scale.md"
TEXT = PAGE.read_text(encoding="utf-8")
MEASURED = recorded(TEXT)
USUAL = Scenario()


def test_the_page_says_what_follows_from_its_own_measurements() -> None:
    assert page(MEASURED, USUAL) == TEXT


def test_another_measurement_makes_another_page_from_which_it_can_be_read_back() -> None:
    other = replace(MEASURED, event_bytes=79.0, view_rate=1e6)
    text = page(other, USUAL)
    assert text != TEXT
    assert recorded(text) == other


def test_a_page_that_lacks_a_measurement_is_refused() -> None:
    with pytest.raises(ValueError, match="view_rate"):
        recorded(TEXT.replace("`view_rate`", "`views`"))


def test_each_price_says_where_it_was_read() -> None:
    assert all(price.source and price.dollars > 0 for price in PRICES.values())


def test_writing_each_change_down_by_key_costs_a_unit_of_writing_each() -> None:
    bill = {line.what: line.dollars for line in ours(MEASURED, USUAL, None)}
    assert bill["by-key items"] == pytest.approx(10e6 * 30 * 0.625 / 1e6)
    longer = replace(MEASURED, by_key_bytes=1025)
    assert {line.what: line.dollars for line in ours(longer, USUAL, None)}["by-key items"] == pytest.approx(
        375
    )


def test_letting_items_go_writes_them_again_and_saves_storage() -> None:
    kept = {line.what: line.dollars for line in ours(MEASURED, USUAL, None)}
    gone = {line.what: line.dollars for line in ours(MEASURED, USUAL, 30)}
    assert gone["letting go: items written again"] == pytest.approx(187.5)
    assert gone["the table's storage"] == pytest.approx(kept["the table's storage"] / USUAL.months)


def test_a_listing_costs_a_request_for_a_thousand_versions() -> None:
    assert listing(USUAL)[0].dollars == pytest.approx(30 * 2e9 / 1000 * 0.005 / 1000)
    assert inventory(MEASURED, USUAL)[0].dollars == pytest.approx(150)


def test_live_inventory_is_free_up_to_a_billion() -> None:
    names = [line.what for line in metadata(replace(USUAL, versions=1.0))]
    assert "live inventory" not in names
    assert "live inventory" in [line.what for line in metadata(USUAL)]


def test_ten_times_the_changes_cost_less_than_ten_times_as_much_a_change() -> None:
    busy = replace(USUAL, changes=10 * USUAL.changes)
    assert busy.entry_rows > USUAL.entry_rows
    assert standing(busy) < standing(USUAL)  # checkpoints come more often
    assert total(ours(MEASURED, busy, None)) < 10 * total(ours(MEASURED, USUAL, None))
