"""What differs between what was made and what is there."""

from __future__ import annotations

from typing import Any

import pytest

from converge.hiding import Secrets
from converge.protocol.drift import compare, describe, gone, masked


@pytest.mark.parametrize(
    ("made", "real", "found"),
    [
        ({}, {}, {}),
        ({"size": 1}, {"size": 1}, {}),
        # what a type cannot tell counts as it is
        ({"size": 1, "name": "a"}, {"size": 1}, {}),
        ({"size": 1}, {"size": 2}, {"properties": {"size": 2}}),
        # JSON has one kind of number, a property has not
        ({"size": 1}, {"size": 1.0}, {"properties": {"size": 1.0}}),
        ({"on": 1}, {"on": True}, {"properties": {"on": True}}),
        ({"tags": {"a": [1]}}, {"tags": {"a": [1]}}, {}),
        ({"tags": {"a": [1]}}, {"tags": {"a": [2]}}, {"properties": {"tags": {"a": [2]}}}),
        # not to have it is to have none
        ({}, {"size": None}, {}),
        ({"size": None}, {"size": None}, {}),
        ({"size": 1}, {"size": None}, {"properties": {"size": None}}),
        ({}, {"size": 1}, {"properties": {"size": 1}}),
    ],
)
def test_what_differs(made: Any, real: Any, found: Any) -> None:
    assert compare(made, real) == found


def test_a_secret_is_compared_and_not_kept() -> None:
    made = {"password": "one", "url": "//me:<secret env:PASS>@db", "size": 1}
    same = {"password": "one", "url": "//me:hush@db", "size": 1}
    elsewhere = {"env:PASS": "hush"}
    assert compare(made, same, ["password"], elsewhere) == {}
    other = {"password": "two", "url": "//me:other@db", "size": 2}
    found = compare(made, other, ["password"], elsewhere)
    assert found == {"properties": {"size": 2}, "secret": ["password", "url"]}


def test_what_was_made_of_a_secret_is_one() -> None:
    made = {"text": "the word is sesame", "note": "", "size": 1}
    found = compare(made, {"text": "the word is other", "note": "sesame!", "size": 2})
    kept = masked(found, made, Secrets(["sesame"]))
    assert kept == {"properties": {"note": "***!", "size": 2}, "secret": ["text"]}
    assert masked(gone("no sesame"), made, Secrets(["sesame"])) == gone("no ***")


def test_it_is_said_in_words() -> None:
    assert describe(gone("")) == "it is gone"
    assert describe(gone("no such server")) == "it is gone: no such server"
    found = {"properties": {"size": 2}, "secret": ["password"]}
    assert describe(found) == "it differs from what it was made to be: password, size"
    many = {"properties": {f"p{n:02}": n for n in range(12)}}
    assert describe(many).endswith("p08, p09 and 2 more")
