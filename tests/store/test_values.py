"""What can be stored: names, reasons and values come back as they were, on every database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import converge
from converge.sql.types import REASON_LENGTH
from converge.testing import StepEngine
from tests.templates import template

NAMES = [
    "two words",
    'it\'s "quoted" `thrice` %s %(x)s :p {0}',
    "back\\slash",
    "é",
    "e\N{COMBINING ACUTE ACCENT}",
    "日本語",
    "👩‍🚀",
    "Straße",
    "STRASSE",
    "\N{RIGHT-TO-LEFT MARK}עברית",
    "x" * 255,
    "🚀" * 255,
    "'; DROP TABLE converge_stack; --",
    "a\N{NO-BREAK SPACE}b",
    "NULL",
    "\\N",
]


class Echo(converge.ResourceType):
    """Has the physical id and the attributes that it is told, or fails."""

    def __init__(
        self, physical_id: str = "id", attributes: Any = None, error: str | None = None
    ) -> None:
        self.physical_id = physical_id
        self.attributes = attributes
        self.error = error

    def create(self, context: converge.Context, properties: Mapping[str, Any]) -> Any:
        if self.error is not None:
            raise RuntimeError(self.error)
        attributes = dict(properties) if self.attributes is None else self.attributes
        return converge.Physical(self.physical_id, attributes=attributes)

    def delete(self, context: converge.Context, physical_id: str) -> None:
        pass


PLACE = f" (test_values.py:{Echo.create.__code__.co_firstlineno + 2} in create)"

TYPES: dict[str, converge.ResourceType] = {"echo": Echo(), "other": Echo("other")}


def echoes(resources: Mapping[str, Any]) -> converge.Template:
    """The properties of each."""
    return template({name: {"properties": of} for name, of in resources.items()}, type="echo")


def run(store: converge.Store, **echo: Any) -> dict[str, Any]:
    """Create a stack of one resource, and what became of it."""
    store.create_stack("s", echoes({"A": {}}))
    StepEngine(store, {"echo": Echo(**echo)}).run()
    return store.show("s")


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    return fresh_store()


# -- names


def test_names_come_back_and_are_told_apart(store: converge.Store) -> None:
    for name in NAMES:
        store.create_stack(name, echoes({name: {}}))
    StepEngine(store, TYPES).run()
    assert sorted(one["name"] for one in store.stacks()) == sorted(NAMES)
    for name in NAMES:
        shown = store.show(name)
        assert (shown["name"], shown["status"]) == (name, "COMPLETE")
        assert list(shown["resources"]) == [name]
        assert {one["resource"] for one in store.events(name)} == {None, name}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "A"),
        ("é", "e"),
        ("é", "e\N{COMBINING ACUTE ACCENT}"),
        ("ß", "ss"),
        ("ﬁ", "fi"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}", "a"),
        ("🚀", "🛸"),
        ("a", "a\N{ZERO WIDTH SPACE}"),
    ],
)
def test_like_names_are_different_names(store: converge.Store, one: str, other: str) -> None:
    of_one = {"type": "echo", "properties": {"x": {"get_resource": other}}}
    body = {"resources": {one: of_one, other: {"type": "other"}}}
    store.create_stack(one, converge.Template.parse(json.dumps(body)))
    with pytest.raises(converge.NotFound):
        store.stack(other)
    store.create_stack(other, echoes({}))
    with pytest.raises(converge.Conflict):
        store.create_stack(one, echoes({}))
    StepEngine(store, TYPES).run()
    resources = store.show(one)["resources"]
    assert resources[one]["attributes"] == {"x": "other"}
    assert resources[one]["requires"] == [other]
    assert len(store.stacks()) == 2


@pytest.mark.parametrize("name", ["a ", " a", "a\n", "a\0", "", "x" * 256, "a\ud800"])
def test_names_that_some_database_would_change_are_refused(
    store: converge.Store, name: str
) -> None:
    with pytest.raises(converge.BadInput):
        store.create_stack(name, echoes({}))
    assert store.stacks() == []
    with pytest.raises(converge.NotFound):
        store.stack("a")


@pytest.mark.parametrize("name", ["a ", "a\0b", "a\ud800", "x" * 300, "no such", "🚀"])
def test_a_stack_that_does_not_exist(store: converge.Store, name: str) -> None:
    """Any string can be asked for, and is not there."""
    store.create_stack("a", echoes({}))
    for ask in (store.stack, store.show, store.events, store.why, store.delete_stack):
        with pytest.raises(converge.NotFound, match="no stack"):
            ask(name)


# -- reasons

LONG = "".join(f"{number:06}" for number in range(2000))
REASONS = {
    "plain": ("it broke", "it broke"),
    "nul": ("a\0b", "a\\0b"),
    "surrogate": ("a\ud800b", "a?b"),
    "emoji": ("🚀 " * 100, ("🚀 " * 100).strip()),
    "lines": ("one\ntwo\r\nthree", "one\ntwo\r\nthree"),
    "quotes": ('it\'s "so" %s %(x)s :y \\', 'it\'s "so" %s %(x)s :y \\'),
}


@pytest.mark.parametrize("which", REASONS)
def test_reasons_are_stored_whatever_they_are(store: converge.Store, which: str) -> None:
    error, words = REASONS[which]
    reason = f"RuntimeError: {words}{PLACE}"
    shown = run(store, error=error)
    assert shown["status"] == "FAILED"
    assert shown["resources"]["A"]["reason"] == reason
    assert shown["reason"] == f"resource 'A': {reason}"


@pytest.mark.parametrize("text", [LONG, "🚀" * 10_000, "\0" * 10_000, "\ud800" * 10_000])
@pytest.mark.parametrize("name", ["A", "🚀" * 255])
def test_long_reasons_are_cut_to_fit(store: converge.Store, text: str, name: str) -> None:
    store.create_stack("s", echoes({name: {}}), on_failure="rollback")
    StepEngine(store, {"echo": Echo(error=text)}).run()
    shown = store.show("s")
    assert (shown["action"], shown["status"]) == ("ROLLBACK", "COMPLETE")
    assert len(shown["reason"]) <= REASON_LENGTH
    reasons = [one["reason"] for one in store.events("s") if one["status"] == "FAILED"]
    assert len(reasons) == 2
    for reason in reasons:
        assert REASON_LENGTH - 10 <= len(reason) <= REASON_LENGTH
        assert " [...] " in reason
        # the end of an error is often what says most
        assert reason.endswith(text.replace("\0", "\\0").replace("\ud800", "?")[-10:] + PLACE)


# -- values

VALUES = {
    "nul": "a\0b",
    "surrogate": "a\ud800b",
    "emoji": "🚀👩‍🚀",
    "long": "x" * 100_000,
    "big": 10**30,
    "negative": -(2**63) - 1,
    "exact": 2**53 + 1,
    "float": 0.1 + 0.2,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "whole float": 1.0,
    "zero": -0.0,
    "true": True,
    "null": None,
    "empty": {"list": [], "object": {}, "string": ""},
    "nested": {"a": [{"b": [[["c", None, {"d": False}]]]}]},
    "keys": {"": 1, "1": 2, "é": 3, "'": 4, "a\0": 5},
    "space": " leading and trailing ",
}
BY_REFERENCE = {key: {"get_attr": ["A", key]} for key in VALUES}


def check_values(found: Mapping[str, Any]) -> None:
    assert found == VALUES
    assert {key: type(value) for key, value in found.items()} == {
        key: type(value) for key, value in VALUES.items()
    }
    assert math.copysign(1, found["zero"]) == -1


@pytest.fixture
def stored(store: converge.Store) -> converge.Store:
    """A has all the values as attributes, and B, by reference, as properties."""
    store.create_stack("s", echoes({"A": {}, "B": BY_REFERENCE}))
    StepEngine(store, {"echo": Echo(attributes=VALUES)}).run()
    return store


def test_values_come_back_exactly(stored: converge.Store) -> None:
    shown = stored.show("s")
    assert (shown["status"], shown["reason"]) == ("COMPLETE", None)
    check_values(shown["resources"]["A"]["attributes"])
    check_values(shown["resources"]["B"]["properties"])


def test_values_that_came_back_are_unchanged_to_an_update(stored: converge.Store) -> None:
    stored.update_stack("s", echoes({"A": {}, "B": BY_REFERENCE, "C": {}}))
    StepEngine(stored, TYPES).run()
    done = {one["resource"] for one in stored.events("s") if one["traversal"] != 1}
    assert stored.stack("s").status == "COMPLETE"
    assert [one["status"] for one in stored.events("s") if one["resource"] == "B"] == ["COMPLETE"]
    assert "C" in done


def test_values_of_a_template_and_of_parameters(store: converge.Store) -> None:
    # a template has no such characters, nor numbers of more than 64 bits
    refused = ("nul", "surrogate", "keys", "big", "negative")
    plain = {key: value for key, value in VALUES.items() if key not in refused}
    body = {
        "parameters": {"given": {"type": "json"}},
        "resources": {
            "A": {"type": "echo", "properties": {**plain, "given": {"get_param": "given"}}}
        },
    }
    store.create_stack("s", converge.Template.parse(json.dumps(body)), parameters={"given": plain})
    StepEngine(store, TYPES).run()
    assert store.show("s")["resources"]["A"]["properties"] == {**plain, "given": plain}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"bytes"])
def test_attributes_that_are_no_json_fail_the_resource(store: converge.Store, value: Any) -> None:
    shown = run(store, attributes={"odd": value})
    assert shown["status"] == "FAILED"
    assert "cannot be stored as JSON" in shown["reason"]


def test_attributes_that_hold_themselves_fail_the_resource(store: converge.Store) -> None:
    attributes: dict[str, Any] = {}
    attributes["self"] = attributes
    assert "cannot be stored as JSON" in run(store, attributes=attributes)["reason"]


@pytest.mark.parametrize("attributes", [[1], "text", 7])
def test_attributes_that_are_no_mapping_fail_the_resource(
    store: converge.Store, attributes: Any
) -> None:
    assert "attributes must be a mapping" in run(store, attributes=attributes)["reason"]


def test_a_megabyte_fits(store: converge.Store) -> None:
    """More than a TEXT of MariaDB holds."""
    shown = run(store, attributes={"text": "x" * 1_000_000})
    assert len(shown["resources"]["A"]["attributes"]["text"]) == 1_000_000


@pytest.mark.parametrize("physical_id", ["x" * 1024, "🚀" * 1024, "A", " a ", "it's"])
def test_physical_ids(store: converge.Store, physical_id: str) -> None:
    shown = run(store, physical_id=physical_id)
    assert shown["resources"]["A"]["physical_id"] == physical_id


@pytest.mark.parametrize("physical_id", ["", "x" * 1025, "a\0", "a\ud800"])
def test_physical_ids_that_do_not_fit_fail_the_resource(
    store: converge.Store, physical_id: str
) -> None:
    shown = run(store, physical_id=physical_id)
    assert shown["status"] == "FAILED"
    assert "physical id must" in shown["reason"]
