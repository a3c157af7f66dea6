"""Properties against the schemas of types, and what converge cannot bring about."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from converge.errors import BadInput, TemplateError
from converge.resources.resource_type import Property, ResourceType
from converge.template import Template, check_properties
from tests.unit.templates import TYPES, Anything, Server, in_resources


@pytest.mark.parametrize(
    ("properties", "line", "message"),
    [
        ("image: 5", 4, "property 'image' of type 'server' must be a string, not a number"),
        ("image: a\nsise: 5", 5, "type 'server' has no property 'sise'; did you mean 'size'?"),
        ("size: 5", 2, "resource 'a': type 'server' needs the property 'image'"),
        ("image: null", 4, "must be a string, not null"),
        ("image: a\nsize: 1.5", 5, "must be a whole number, not a number"),
        ("image: a\nsize: true", 5, "must be a whole number, not true or false"),
        ("image: a\nload: high", 5, "must be a number, not a string"),
        ("image: a\npublic: 1", 5, "must be true or false, not a number"),
        ("image: a\ndisks: {}", 5, "must be a list, not a mapping"),
        ("image: a\nlabels: []", 5, "must be a mapping, not a list"),
        ("image: a\nsize: {get_resource: b}", 5, "must be a whole number, not a string"),
        ("image: a\npublic: {list_join: [x, []]}", 5, "must be true or false, not a string"),
        ("image: {get_param: number}", 4, "must be a string, not a number or a number"),
        ("image: {get_param: [list]}", 4, "must be a string, not a list"),
        (
            "image: {get_file: x}",
            4,
            "get_file takes the path of a file as a plain string",
        ),
        ("image: a\nlabels:\n  x:\n  - repeat: {}", 7, "repeat takes a mapping with the keys"),
        (
            "image: a\nfilter: {if: [x, y, z]}",
            5,
            "there is no condition 'x'; the template has none",
        ),
        ("image: a\nfilter: {'Fn::Join': []}", 5, "the function Fn::Join; write list_join"),
        ("image: a\nfilter: {Ref: x}", 5, "the function Ref"),
        ("image: a\nfilter: {'converge::literal': x}", 5, "the function converge::literal"),
        ("image: {get_param: 'OS::stack_id'}", 4, "it has OS::stack_name"),
        ("image: {str_replace: {template: x}}", 4, "str_replace takes a mapping with the keys"),
        ("image: {get_attr: b}", 4, "get_attr takes a list"),
        ("image: {get_resource: {get_param: text}}", 4, "must be a plain string"),
        ("image: a\nfilter: {get_resource: b, x: y}", 5, "must be the only key"),
        ("image: a\nlabels: {80: x}", 5, "key '80' is a number in YAML"),
        ("get_resource: b", 4, "must be a mapping of names, not the function get_resource"),
        ("if: [a, b, c]", 4, "must be a mapping of names, not the function if"),
    ],
)
def test_properties_are_validated(properties: str, line: int, message: str) -> None:
    lines = "\n".join(f"    {each}" for each in properties.splitlines())
    text = in_resources(f"a:\n  properties:\n{lines}\n  type: server\nb: {{type: any}}")
    text += "\nparameters: {number: {type: number}, list: {type: comma_delimited_list}"
    text += ", text: {type: string}}"
    with pytest.raises(TemplateError) as caught:
        Template.parse(text, "t.yaml").validate(TYPES)
    assert message in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize(
    "properties",
    [
        "{image: a, size: 1, load: 1, public: no, disks: [], labels: {}, filter: [x]}",
        "{image: {get_resource: b}, size: {get_attr: [b, x]}, load: 1.5}",
        "{image: {get_param: text}, size: {get_param: number}, load: {get_param: [map, x]}}",
        "{image: {get_param: 'OS::stack_name'}, labels: {get_param: map}, size: null}",
        "{image: {list_join: [',', [a]]}, filter: {get_param: map}}",
    ],
)
def test_good_properties(properties: str) -> None:
    text = in_resources(f"a: {{type: server, properties: {properties}}}\nb: {{type: any}}")
    text += "\nparameters: {number: {type: number}, text: {type: string}, map: {type: json}}"
    Template.parse(text).validate(TYPES)


def test_a_property_may_be_called_like_a_function() -> None:
    class Query(ResourceType):
        schema: ClassVar = {"filter": Property()}

    Template.parse(in_resources("a: {type: q, properties: {filter: x}}")).validate({"q": Query()})
    with pytest.raises(TemplateError, match="not the function filter"):
        Template.parse(in_resources("a: {type: any, properties: {filter: x}}")).validate(TYPES)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            in_resources("a:\n  type: sever"),
            3,
            "'a' has the unknown type 'sever'; did you mean 'ser",
        ),
        (in_resources("a: {type: x}"), 2, "unknown type 'x'; known: any, none, server"),
        (in_resources("a: {type: none, properties: {x: 1}}"), 2, "no property 'x'; it has none"),
    ],
)
def test_what_no_type_brings_about(text: str, line: int, message: str) -> None:
    template = Template.parse(text, "t.yaml")
    with pytest.raises(TemplateError) as caught:
        template.validate(TYPES)
    assert message in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        *(
            (
                in_resources(f"a:\n  type: any\n  {key}: {{}}"),
                4,
                f"resource 'a' has the key '{key}', which converge does not support; remove it"
                " (known: type, properties, depends_on, replace, condition, for_each, triggers, "
                "protect, deletion_policy, external_id, retry, timeout, deadline, queue, runs)",
            )
            for key in (
                "metadata",
                "update_policy",
            )
        ),
        (
            in_resources("a:\n  type: any\n  update_polcy: x"),
            4,
            "unknown key 'update_polcy' in resource 'a'; did you mean 'update_policy'? "
            "converge does not support that",
        ),
        (
            in_resources("a:\n  type: any\n  zzz: 1"),
            4,
            "unknown key 'zzz' in resource 'a'; known: condition, deadline, deletion_policy, "
            "depends_on, external_id, for_each, properties, protect, queue, replace, retry, "
            "runs, timeout, triggers, type",
        ),
        (
            "resources: {}\nparameters:\n  p:\n    type: string\n    immutable: true",
            5,
            "parameter 'p' has the key 'immutable', which converge does not support",
        ),
        ("resources: {}\nparameter_groups: {}", 2, "must be a list, not a mapping"),
        ("resources: {}\nparameter_groups:\n- lable: x", 3, "did you mean 'label'?"),
        ("resources: {}\nparameter_groups:\n- parameters: [p]", 3, "'p', which is not a parameter"),
        (in_resources("a: {type: any}\nb: {type: any, depends_on: {if: [a]}}"), 3, "must be names"),
        ("resources: {}\nconditions:\n  c: 5", 3, "a condition is true, false, the name of one"),
        (
            "resources: {}\noutputs:\n  a: {value: 1, condition: c}",
            3,
            "there is no condition 'c'; the template has none",
        ),
        ("resources: {}\noutputs:\n  a:\n    value: [{yaql: x}]", 4, "the function yaql"),
        ("resources: {}\noutputs: {a: {value: {80: 81}}}", 2, "key '80' is a number"),
        (
            "resources: {}\nparameters:\n  p:\n    type: string\n    constraints:\n"
            "    - custom_constraint: nova.flavor",
            6,
            "a constraint of parameter 'p' has the key 'custom_constraint', which converge does",
        ),
        (
            "resources: {}\nparameters: {p: {type: number, constraints: [{modulo: {step: 2}}]}}",
            2,
            "the modulo of parameter 'p' must have step and offset, which are whole numbers",
        ),
    ],
)
def test_what_converge_would_not_heed(text: str, line: int, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text, "t.yaml")
    assert message in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"image": "a", "size": "1"}, "property 'size' of type 'server' must be a whole number"),
        ({"size": 1}, "type 'server' needs the property 'image'"),
        ({"image": None}, "property 'image' of type 'server' must be a string, not null"),
        ({"image": "a", "colour": 1}, "type 'server' has no property 'colour'"),
    ],
)
def test_check_properties(properties: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_properties("server", Server(), properties)
    assert message in str(caught.value)


def test_check_good_properties() -> None:
    check_properties("server", Server(), {"image": "a", "load": 1, "size": None, "filter": None})
    check_properties("any", Anything(), {"whatever": [1]})
