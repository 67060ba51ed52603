"""Tokens, days, dollars and columns of times in units that suit them."""

from __future__ import annotations

import pytest

from vtrain_sim.report import amounts


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1.0, "1 token"),
        (12_345.0, "12,345 tokens"),
        (2.5e6, "2.5 million tokens"),
        (300e9, "300 billion tokens"),
        (15e12, "15,000 billion tokens"),
    ],
)
def test_tokens_have_a_unit_that_suits_them(number: float, words: str) -> None:
    assert amounts.tokens(number) == words


@pytest.mark.parametrize(
    ("number", "words", "figure"),
    [(20.72, "20.72 days", "20.72"), (0.25, "0.25 days", "0.25"), (1 / 24, "3600.0 s", "0.042"), (0.0, "0.0 us", "0")],
)
def test_short_trainings_are_not_nought_days(number: float, words: str, figure: str) -> None:
    assert amounts.days(number) == words
    assert amounts.day_figures(number) == figure


def test_few_dollars_have_cents() -> None:
    assert [amounts.dollars(n) for n in (1_234_567.0, 3.14159, 1e-6, 0.0)] == [
        "$1,234,567",
        "$3.14",
        "under $0.01",
        "$0",
    ]


def test_a_price_says_whose_it_is() -> None:
    assert amounts.price("dgx-h100", 4.0) == "$4 per GPU-hour (of the preset dgx-h100)"
    assert amounts.price("dgx-h100", 2.5) == "$2.5 per GPU-hour (as given)"
    assert amounts.price("our own", 4.0) == "$4 per GPU-hour (as given)"
    assert amounts.price("our own", 0.0) == ""


def test_a_column_of_times_has_one_unit() -> None:
    assert amounts.in_one_unit([1800.0, 36_000.0, None]) == ["0.5 h", "10.0 h", None]
    assert amounts.in_one_unit([0.5, 60.0]) == ["0.500 s", "60.000 s"]
    assert amounts.in_one_unit([]) == []
