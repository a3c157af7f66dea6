"""What a template wants is kept as text, and is the same as if it had been parsed and written."""

from __future__ import annotations

from typing import Any

import pytest

from converge import Template
from converge.canonical import dump, load
from converge.errors import BadInput, CircularDependency
from converge.graph import Graph
from converge.model import Replacing, ResourceDefinition
from converge.template import Definitions
from converge.template.definitions import dump_definition

NAMES = ["plain", "a],b", "c[", '"d"', "e\\", "é", '],"properties":{']
PROPERTIES: list[dict[str, Any]] = [
    {},
    {"a": '"},"type":"x"}'},
    {"type": "y", "depends_on": ["plain"]},
    {"a": {"b": [{"get_resource": "plain"}]}},
]


def definitions(**keys: Any) -> Definitions:
    """Those of a resource with these keys, and of others that it can require."""
    others: dict[str, Any] = {name: {"type": "none"} for name in NAMES}
    body = {"resources": {**others, "it": {"type": "fake", **keys}}}
    body["parameters"] = {"size": {"type": "number", "default": 5}}
    template = Template.from_dict(body)
    return template.definitions(template.resolve_parameters({}), "s")


@pytest.mark.parametrize("properties", PROPERTIES)
@pytest.mark.parametrize("depends_on", [None, [], *NAMES, *([name] for name in NAMES), NAMES])
def test_what_it_depends_on_is_not_in_its_text(depends_on: Any, properties: Any) -> None:
    found = definitions(depends_on=depends_on, properties=properties)
    assert found.text("it") == dump({"type": "fake", "properties": properties})
    assert found.type("it") == "fake"
    named = [depends_on] if isinstance(depends_on, str) else depends_on or []
    assert {*named} <= {*found.requires("it")} <= {*named, "plain"}


@pytest.mark.parametrize("type_name", ["fake", '"', "\\", 'x","type":"y', "é"])
def test_a_type_is_found_in_its_text(type_name: str) -> None:
    assert definitions(type=type_name).type("it") == type_name


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {}),
        ({"properties": None, "replace": None}, {}),
        ({"replace": "delete_first"}, {"replace": Replacing.DELETE_FIRST}),
        ({"retry": 3}, {"settings": {"retry": {"attempts": 3}}}),
        (
            {"triggers": {"a": {"b": {}}}, "depends_on": ["plain"], "timeout": None},
            {"settings": {"triggers": {"a": {"b": {}}}}, "requires": ("plain",)},
        ),
        ({"properties": {"a": {"get_param": "size"}}}, {"properties": {"a": 5}}),
        (
            {"properties": {}, "timeout": {"get_param": "size"}, "replace": "create_first"},
            {"settings": {"timeout": 5}, "replace": Replacing.CREATE_FIRST},
        ),
    ],
)
def test_what_a_definition_is_made_of(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    found = definitions(**keys)
    definition = ResourceDefinition("fake", **expected)
    assert found["it"] == definition
    assert found.text("it") == dump(dump_definition(definition))
    assert Definitions.of(found) == found


def test_a_host_may_change_its_mapping_afterwards() -> None:
    properties: dict[str, Any] = {"a": [1]}
    body: dict[str, Any] = {"resources": {"it": {"type": "fake", "properties": properties}}}
    template = Template.from_dict(body)
    properties["a"].append(2)
    body["resources"]["other"] = {"type": "fake"}
    assert template.to_dict() == {"resources": {"it": {"type": "fake", "properties": {"a": [1]}}}}


def test_the_text_of_a_template_is_canonical() -> None:
    body = {
        "resources": {name: {"type": "x", "depends_on": []} for name in NAMES},
        "parameters": {"b": {"type": "string"}},
        "heat_template_version": "2021-04-16",
    }
    template = Template.from_dict(body)
    assert template.dump() == dump(body)
    assert Template.from_dict(load(template.dump())).dump() == template.dump()
    assert Template.from_dict({"resources": {}}).dump() == '{"resources":{}}'


def test_a_value_that_contains_itself_is_no_json() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="Circular"):
        dump(value)


def test_a_graph_of_requirements_is_that_of_its_edges() -> None:
    requires = {"d": ("c", "a"), "a": (), "c": ("b",), "b": ("z",), "lone": ()}
    edges = [(one, other) for one, others in requires.items() for other in (None, *others)]
    assert list(Graph.of(requires)) == list(Graph(edges))
    assert Graph.of(requires) == Graph(edges)
    with pytest.raises(CircularDependency):
        Graph.of({"a": ("b",), "b": ("a",)})
    with pytest.raises(CircularDependency):
        Graph.of({"a": ("a",)})
    bad: list[Any] = [{None: ()}, {"a": (None,)}, {"a": ([],)}]
    for requirements in bad:
        with pytest.raises(BadInput):
            Graph.of(requirements)
