"""Values come back from their text as they were, and what cannot is refused."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.errors import BadInput
from converge.journal.values import LENGTH, check_returns, dumps, loads

ZONES = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone) | st.none()
TEXTS = st.text(st.characters())
HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=ZONES)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)


def listed(value: Any) -> Any:
    """Tuples as the lists that they come back as, unless they are in a set."""
    if isinstance(value, list | tuple):
        return [listed(one) for one in value]
    if isinstance(value, dict):
        return {key: listed(one) for key, one in value.items()}
    return value


VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("$"), inner, max_size=4)
    ),
    max_leaves=12,
)


def kinds(value: Any) -> Any:
    """The types of a value and its parts."""
    if isinstance(value, dict):
        return {key: kinds(one) for key, one in value.items()}
    return [kinds(one) for one in value] if isinstance(value, list) else type(value)


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    text = dumps(value)
    assert text.isascii()
    assert (loads(text), kinds(loads(text))) == (listed(value), kinds(listed(value)))
    # a record that was read is written again as it was
    assert dumps(loads(text)) == text


@given(st.floats())
def test_every_float_comes_back(value: float) -> None:
    found = loads(dumps([value]))[0]
    if math.isnan(value):
        assert math.isnan(found)
    else:
        assert (found, math.copysign(1, found)) == (value, math.copysign(1, value))


@given(st.decimals())
def test_every_decimal_comes_back(value: Decimal) -> None:
    assert repr(loads(dumps(value))) == repr(value)


@pytest.mark.parametrize("microseconds", [1, -1, 999_999, -999_999, 1_000_001, 0])
def test_an_offset_of_less_than_a_second_comes_back(microseconds: int) -> None:
    zone = timezone(timedelta(microseconds=microseconds))
    for value in (datetime(2026, 1, 2, 3, 4, 5, 6, zone), time(3, 4, tzinfo=zone)):
        found = loads(dumps(value))
        assert (found, found.utcoffset()) == (value, value.utcoffset())


def test_a_time_in_a_named_zone_comes_back_as_the_same_moment() -> None:
    value = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    assert loads(dumps(value)).timestamp() == value.timestamp()


class Name(StrEnum):
    A = "a"


class Pair(NamedTuple):
    a: int


@pytest.mark.parametrize(
    "value",
    [object(), Name.A, Pair(1), OrderedDict(), defaultdict(int), 1j, range(3), print, bytearray()],
)
def test_a_type_that_would_come_back_as_another_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=rf"an? {type(value).__name__} at \[0\] cannot be stored"):
        dumps([value])


@pytest.mark.parametrize("key", [1, None, ("a",), Name.A])
def test_a_key_that_is_no_string_is_refused(key: Any) -> None:
    with pytest.raises(BadInput, match=r"the key .* at \['a'\] is an? .*; keys must be strings"):
        dumps({"a": {key: 1}})


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BadInput, match="contains itself"):
        dumps(value)


def test_a_value_that_is_too_long_is_refused() -> None:
    assert len(dumps("x" * (LENGTH - 2))) == LENGTH
    with pytest.raises(BadInput, match=f"at most {LENGTH} can be stored"):
        dumps("x" * LENGTH)


def test_a_number_that_python_does_not_write_is_refused() -> None:
    with pytest.raises(BadInput, match="digits"):
        dumps([10**5000])


class Speaks(Protocol):
    def speak(self) -> str: ...


def named() -> Name:
    raise AssertionError


def pair() -> Pair:
    raise AssertionError


def nested() -> list[dict[str, set[complex]]]:
    raise AssertionError


@pytest.mark.parametrize("function", [named, pair, nested])
def test_what_a_function_declares_is_looked_at(function: Callable[[], Any]) -> None:
    with pytest.raises(BadInput, match=r"it is declared to return .* cannot be stored"):
        check_returns(function)


def protocol() -> Speaks:
    raise AssertionError


def anything() -> Any:
    raise AssertionError


def nothing() -> None:
    raise AssertionError


def many() -> dict[str, list[tuple[date, time] | Decimal | UUID] | None]:
    raise AssertionError


def undeclared():  # type: ignore[no-untyped-def]
    raise AssertionError


@pytest.mark.parametrize(
    "function", [protocol, anything, nothing, many, undeclared, print, dict, {}.get]
)
def test_what_may_be_storable_is_left_to_the_value(function: Callable[..., Any]) -> None:
    check_returns(function)
