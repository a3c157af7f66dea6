from __future__ import annotations

from typing import Any

import pytest

from converge.errors import BadInput, UnresolvedReference
from converge.model import Physical
from converge.template.evaluate import Scope, resolve, resolve_properties
from converge.template.functions import function_of, references
from converge.template.misuses import misuses
from converge.template.values import LITERAL, SIZE_LIMIT, Spot

WORLD = {
    "server": Physical(
        "id-1",
        {"address": "10.0.0.1", "ports": [80, 443], "net": {"lan": {"ip": "1.2.3.4"}, "80": "x"}},
    ),
    "disk": Physical("id-2"),
    "wide": Physical("id-3", {f"attribute_{number}": number for number in range(100)}),
    "sly": Physical("id-4", {"data": {"get_resource": "server"}}),
}


def evaluate(value: Any) -> Any:
    return resolve(value, WORLD.__getitem__)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ([1, {"a": None}], [1, {"a": None}]),
        ({"get_resource": "server"}, "id-1"),
        ({"get_attr": ["server", "address"]}, "10.0.0.1"),
        ({"get_attr": ["server", "ports", 1]}, 443),
        ({"get_attr": ["server", "ports", "0"]}, 80),
        ({"get_attr": ["server", "net", "lan", "ip"]}, "1.2.3.4"),
        ({"get_attr": ["server", "net", 80]}, "x"),
        ({"get_attr": ["disk"]}, {}),
        (
            {
                "get_attr": [
                    "server",
                    {"str_replace": {"template": "X", "params": {"X": "ports"}}},
                    0,
                ]
            },
            80,
        ),
        ({"a": [{"get_resource": "disk"}]}, {"a": ["id-2"]}),
        # what comes from the world is data
        ({"get_attr": ["sly", "data"]}, {"get_resource": "server"}),
        ({LITERAL: {"get_resource": "server"}}, {"get_resource": "server"}),
        ({"str_replace": {"template": "a b", "params": {}}}, "a b"),
        (
            {"str_replace": {"template": "$ab $a", "params": {"$a": "1", "$ab": "2"}}},
            "2 1",
        ),
        # once over the template: what was put in is not looked at
        ({"str_replace": {"template": "a b", "params": {"a": "b", "b": "a"}}}, "b a"),
        ({"str_replace": {"template": ".", "params": {".": "\\1"}}}, "\\1"),
        (
            {
                "str_replace": {
                    "template": "i s n t l",
                    "params": {"i": {"get_resource": "server"}, "n": None, "t": True, "l": [1]},
                }
            },
            "id-1 s  True [1]",
        ),
        ({"list_join": [", ", ["a", 1], [{"get_resource": "disk"}]]}, "a, 1, id-2"),
        ({"list_join": ["-", {"get_attr": ["server", "ports"]}]}, "80-443"),
        ({"list_join": ["", []]}, ""),
        (
            {
                "str_replace": {
                    "template": {"list_join": ["", ["<", "x", ">"]]},
                    "params": {"x": {"list_join": ["+", ["é", None, {"k": "é"}]]}},
                }
            },
            '<é++{"k": "\\u00e9"}>',
        ),
    ],
)
def test_resolve(value: Any, expected: Any) -> None:
    assert evaluate(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"get_resource": "cloud"}, "resource 'cloud' has not been created"),
        (
            {"get_attr": ["server", "adress"]},
            "resource 'server' has no attribute 'adress'; it has address, net, ports",
        ),
        ({"get_attr": ["disk", "size"]}, "resource 'disk' has no attribute 'size'; it has none"),
        (
            {"get_attr": ["wide", "attribut_5"]},
            "resource 'wide' has no attribute 'attribut_5'; did you mean 'attribute_5'?",
        ),
        (
            {"get_attr": ["server", "net", "lan", "mac"]},
            "'lan' in attribute 'net' of resource 'server' has no key 'mac'; it has ip",
        ),
        (
            {"get_attr": ["server", "ports", 2]},
            "attribute 'ports' of resource 'server' has 2 items, numbered from 0; "
            "there is no item 2",
        ),
        (
            {"get_attr": ["server", "ports", "first"]},
            "attribute 'ports' of resource 'server' is a list; "
            "its keys are whole numbers from 0, not 'first'",
        ),
        (
            {"get_attr": ["server", "address", "x"]},
            "attribute 'address' of resource 'server' is a string; it has no key 'x'",
        ),
    ],
)
def test_what_is_not_there(value: Any, message: str) -> None:
    with pytest.raises(UnresolvedReference) as caught:
        evaluate({"deep": [value]})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"get_param": "size"}, "parameter 'size' has no value yet"),
        ({"get_param": ["size", 1]}, "parameter 'size' has no value yet"),
        ({"get_file": "x"}, "get_file takes the path of a file"),
        ({"if": ["a", 1, 2]}, "if is evaluated before a start only"),
        ({"Fn::Join": ["", []]}, "converge does not evaluate the function Fn::Join"),
        ({"str_replace": "x"}, "str_replace takes a mapping with the keys"),
        ({"str_replace": {"template": "x"}}, "str_replace takes a mapping with the keys"),
        ({"str_replace": {"template": 1, "params": {}}}, "must be a string, not a number"),
        ({"str_replace": {"template": "", "params": []}}, "must be a mapping, not a list"),
        ({"str_replace": {"template": "", "params": {"": "a"}}}, "is empty"),
        (
            {"str_replace": {"template": {"get_attr": ["server", "ports"]}, "params": {}}},
            "must be a string, not a list",
        ),
        (
            {"str_replace": {"template": "x", "params": {"get_attr": ["server", "ports"]}}},
            "params of str_replace must be a mapping",
        ),
        ({"list_join": "x"}, "list_join takes a list"),
        ({"list_join": [","]}, "list_join takes a list"),
        ({"list_join": [1, []]}, "delimiter of list_join must be a string"),
        ({"list_join": [",", "abc"]}, "list_join joins lists, not a string"),
        ({"list_join": [",", {"get_resource": "disk"}]}, "list_join joins lists, not a string"),
        ({"list_join": [{"get_attr": ["disk"]}, []]}, "delimiter of list_join must be a string"),
        ({"get_resource": {"get_resource": "disk"}}, "must be a plain string"),
        ({"get_resource": ["disk", "x"]}, "takes the name of a resource"),
        ({"get_resource": 5}, "takes the name of a resource"),
        ({"get_attr": "disk"}, "get_attr takes a list"),
        ({"get_attr": ["server", "ports", True]}, "must be strings or whole numbers"),
    ],
)
def test_never_half_evaluated(value: Any, part: str) -> None:
    with pytest.raises(BadInput) as caught:
        evaluate([value])
    assert part in str(caught.value)


def test_functions_cannot_multiply_a_text_without_end() -> None:
    value: Any = "x" * 10
    for _ in range(20):
        value = {"str_replace": {"template": "x" * 10, "params": {"x": value}}}
    with pytest.raises(BadInput, match="the result of str_replace is longer"):
        evaluate(value)
    value = ["x" * 10]
    for _ in range(20):
        value = [{"list_join": ["", value * 10]}]
    small = {"list_join": [",", ["x" * 1000] * 10]}
    large = {"list_join": ["y" * (SIZE_LIMIT // 5), [small] * 10]}
    with pytest.raises(BadInput, match="the result of list_join is longer"):
        evaluate(large)


def test_a_property_may_be_called_like_a_function() -> None:
    found = resolve_properties({"filter": {"get_resource": "disk"}}, WORLD.__getitem__)
    assert found == {"filter": "id-2"}


def test_evaluating_copies() -> None:
    value = {"a": [1]}
    found = evaluate(value)
    found["a"].append(2)
    assert value == {"a": [1]}


PARAMETERS: dict[str, Any] = {
    "size": 3,
    "map": {"a": {"b": [1, 2]}},
    "key": "a",
    "sly": {"x": [{"get_resource": "server"}]},
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"get_param": "size"}, 3),
        ({"get_param": ["size"]}, 3),
        ({"get_param": ["map", "a", "b", 1]}, 2),
        ({"get_param": ["map", {"get_param": "key"}, "b"]}, [1, 2]),
        ([{"x": {"get_param": "key"}}, 1], [{"x": "a"}, 1]),
        (
            {"get_attr": ["server", {"get_param": "key"}]},
            {"get_attr": ["server", "a"]},
        ),
        ({"get_file": {"get_param": "key"}}, {"get_file": "a"}),
        ({"get_param": "size", "more": 1}, {"get_param": "size", "more": 1}),
        ({"get_param": "sly"}, {LITERAL: {"x": [{"get_resource": "server"}]}}),
    ],
)
def test_substitute(value: Any, expected: Any) -> None:
    assert Scope(PARAMETERS.__getitem__).substitute(value) == expected


def test_a_parameter_that_looks_like_a_function_is_data() -> None:
    value = {"a": {"get_param": "sly"}, "b": {"get_resource": "disk"}}
    found = evaluate(Scope(PARAMETERS.__getitem__).substitute(value))
    assert found == {"a": {"x": [{"get_resource": "server"}]}, "b": "id-2"}


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"get_param": ["map", "c"]}, "parameter 'map' has no key 'c'; it has a"),
        ({"get_param": ["size", "c"]}, "parameter 'size' is a number; it has no key 'c'"),
        ({"get_param": []}, "takes the name of a parameter, not a list"),
        ({"get_param": {"get_resource": "x"}}, "takes the name of a parameter, not a mapping"),
    ],
)
def test_substitute_refuses(value: Any, part: str) -> None:
    with pytest.raises(BadInput) as caught:
        Scope(PARAMETERS.__getitem__).substitute(value)
    assert part in str(caught.value)


def names(value: Any) -> list[tuple[str, str | None]]:
    return [(found.function, found.name) for found in references(value, Spot())]


def test_references_are_found_wherever_they_are() -> None:
    value = {
        "a": {"get_resource": "r1"},
        "b": [{"yaql": {"expression": "$.x", "data": {"x": {"get_attr": ["r2", "y"]}}}}],
        "c": {"if": ["cond", {"get_param": ["p1", {"get_param": "p2"}]}, {"get_resource": "r3"}]},
        "d": {"get_attr": ["r4", {"get_attr": ["r5", "x"]}]},
        "e": {
            "str_replace": {"template": {"get_file": "f"}, "params": {"x": {"get_resource": "r6"}}}
        },
        "f": {"get_resource": "data", "two": "keys"},
        "g": {"Ref": "r7"},
        "h": {"Fn::GetAtt": ["r8", "x"]},
        "i": {"Fn::GetAtt": "r9.x"},
        "j": {"get_attr": "r10"},
    }
    assert names(value) == [
        ("get_resource", "r1"),
        ("get_attr", "r2"),
        ("get_param", "p1"),
        ("get_param", "p2"),
        ("get_resource", "r3"),
        ("get_attr", "r4"),
        ("get_attr", "r5"),
        ("get_resource", "r6"),
        ("Ref", "r7"),
        ("Fn::GetAtt", "r8"),
        ("Fn::GetAtt", "r9"),
        ("get_attr", "r10"),
    ]


def test_names_that_are_not_known_yet() -> None:
    assert names({"get_resource": {"get_param": "p"}}) == [
        ("get_resource", None),
        ("get_param", "p"),
    ]
    loop = {
        "repeat": {
            "for_each": {"<%n%>": ["a", "b"]},
            "template": [{"get_attr": ["<%n%>_server", "x"]}, {"get_resource": "r1"}],
        }
    }
    found = [(each.name, each.lenient) for each in references(loop, Spot())]
    assert found == [("<%n%>_server", True), ("r1", False)]


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"get_resource": 5}, "get_resource takes the name of a resource, not a number"),
        ({"get_resource": ["a"]}, "get_resource takes the name of a resource, not a list"),
        ({"get_resource": ""}, "not nothing"),
        ({"get_attr": []}, "not nothing"),
        ({"get_attr": [1, "x"]}, "not a list that starts with a number"),
        ({"get_param": None}, "not nothing"),
        ({"get_param": {"a": "b"}}, "get_param takes the name of a parameter"),
    ],
)
def test_references_of_a_wrong_form(value: Any, part: str) -> None:
    (found,) = references([value], Spot())
    assert part in (found.problem or "")


def test_misuses_have_lines() -> None:
    spot = Spot(1, {"a": Spot(2, [Spot(3, {"yaql": Spot(4)})])})
    assert [
        (text.split(";")[0], place.line) for text, place in misuses({"a": [{"yaql": 1}]}, spot)
    ] == [("converge does not evaluate the function yaql", 4)]
    (found,) = misuses({"a": {"get_attr": ["b", "c"], "other": 1}}, Spot())
    assert found[0] == "get_attr must be the only key of its mapping"
    assert list(misuses({"a": {"get_attr": ["b", "c"]}, "d": 1}, Spot())) == []
    (found,) = misuses({LITERAL: 1}, Spot())
    assert "does not evaluate" in found[0]


def test_function_of() -> None:
    assert function_of({"get_file": "a"}) == ("get_file", "a")
    assert function_of({"Fn::Anything": 1}) == ("Fn::Anything", 1)
    assert function_of({"a": 1}) is None
    assert function_of({"get_file": 1, "b": 2}) is None
    assert function_of("get_file") is None
