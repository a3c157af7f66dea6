from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from converge.errors import BadInput
from converge.model import Physical
from converge.resources import GROUP, Command, File, Nothing, Signal, Stack, Value, load_types
from converge.resources.resource_type import Context


@pytest.fixture
def context() -> Context:
    return Context("shop", "thing", token="token-1")


@pytest.mark.parametrize("value", ["text", 0, None, False, {"a": [1]}])
def test_a_value_comes_out_as_it_went_in(context: Context, value: Any) -> None:
    assert Value().create(context, {"value": value}) == Physical("token-1", {"value": value})


def test_a_value_changes_in_place(context: Context) -> None:
    changed = Value().update(context, "id", {"value": 2}, {"value": 1})
    assert changed == Physical("id", {"value": 2})
    Value().delete(context, "id")


def test_a_value_is_required() -> None:
    assert Value.schema is not None
    assert Value.schema["value"].required


def test_none_accepts_and_does_nothing(context: Context) -> None:
    nothing = Nothing()
    assert nothing.schema is None
    nothing.create(context, {"anything": 1})
    nothing.update(context, "id", {"anything": 2}, {"anything": 1})
    nothing.delete(context, "id")
    assert context.physical_id is None


def test_the_built_in_types_are_found() -> None:
    types = load_types()
    simple = {"none": Nothing, "signal": Signal, "stack": Stack, "value": Value}
    built_in = {"command": Command, "file": File, **simple}
    assert {name: type(types[name]) for name in built_in} == built_in
    assert load_types([]).keys() == built_in.keys()


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


def test_other_packages_add_types() -> None:
    types = load_types([point("noop", "converge.resources.none:Nothing")])
    assert type(types["noop"]) is Nothing


def test_the_same_entry_point_twice_is_no_conflict() -> None:
    same = point("none", "converge.resources.none:Nothing")
    assert type(load_types([same, same])["none"]) is Nothing


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("none", "json:JSONDecoder", "two resource types are called 'none'"),
        ("broken", "converge.resources.missing:Thing", "'broken' .* cannot be loaded: ModuleNot"),
        ("odd", "json:JSONDecoder", "'odd' .* is not a converge.ResourceType"),
    ],
)
def test_bad_entry_points_are_named(name: str, value: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_types([point(name, value)])
