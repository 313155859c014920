"""Written numbers are read as a person reads them."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.numerals import last_number, number, numbers

NARROW, THIN, FIXED = "\u202f", "\u2009", "\u00a0"


@pytest.mark.parametrize(
    "text, value",
    [
        ("so it is 1,234.50 .", Fraction(2469, 2)),
        ("5-3 is 2", 2),
        ("5-3", 3),
        ("( 7 )-3", 3),
        ("covid-19", 19),
        ("from 5 to -3", -3),
        ("from 5 to \u22123", -3),
        ("3\u20135 cups", 5),
        ("a half is .5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("He has -$5", -5),
        ("$-5", -5),
        ("$7.", 7),
        ("costs \u20ac1'250", 1250),
        ("1e5", 100_000),
        ("2.5E-1 .", Fraction(1, 4)),
        ("1'000", 1000),
        ("1\u2019000'000", 0),
        ("1'000'000", 1_000_000),
        (f"1{NARROW}000", 1000),
        (f"12{THIN}000{THIN}000 people", 12_000_000),
        (f"1{FIXED}000", 1000),
        ("1 000", 0),
        ("none", None),
        ("\u0663", None),
        ("7 \u0663", 7),
        ("1,2,3,", 3),
        ("12,34", 34),
        ("1234,567", 567),
        ("1,2345", 2345),
        ("step 3: x1 = 4.", 4),
        ("No. 5. Then.", 5),
    ],
)
def test_last_numbers(text, value):
    assert last_number(text) == value


def test_enumerated_numbers_are_several():
    assert numbers("1,2,3") == [1, 2, 3]
    assert numbers("1,234,567 and 1,234,56") == [1_234_567, 1234, 56]


@pytest.mark.parametrize(
    "text, value", [("-2.50", Fraction(-5, 2)), ("1,203", 1203), ("7 cups", None), ("", None)]
)
def test_a_whole_text_is_one_number_or_none(text, value):
    assert number(text) == value


def test_a_megabyte_of_digits_is_read_in_bounded_numbers():
    found = last_number("1" * 1_000_000)
    assert found is not None and len(str(found)) <= 41
    assert last_number("1," * 300_000 + "5") == 5
    assert last_number("1e" + "9" * 100_000) is not None


@settings(deadline=None)
@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["", ",", "'", NARROW]),
    st.sampled_from(["", ".5", ".25"]),
)
def test_every_number_is_read_in_every_writing(value, mark, part):
    written = f"{abs(value):,}".replace(",", mark) + part
    exact = abs(value) + Fraction(part or "0")
    negative = value < 0
    assert last_number(f"it is {'-' if negative else ''}{written} .") == (
        -exact if negative else exact
    )
