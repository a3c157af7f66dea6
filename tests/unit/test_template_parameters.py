from __future__ import annotations

from typing import Any

import pytest

from converge.errors import TemplateError
from converge.template import Template


def text(declaration: str) -> str:
    return f"resources: {{}}\nparameters:\n  p: {declaration}\n"


def template(declaration: str) -> Template:
    return Template.parse(text(declaration), "t.yaml")


@pytest.mark.parametrize(
    ("type_name", "given", "expected"),
    [
        ("string", "text", "text"),
        ("string", "", ""),
        ("string", 8080, "8080"),
        ("number", 5, 5),
        ("number", "5", 5),
        ("number", " -5 ", -5),
        ("number", "+7", 7),
        ("number", "1.5", 1.5),
        ("number", ".5", 0.5),
        ("number", "1e3", 1000.0),
        ("number", 2.5, 2.5),
        ("boolean", True, True),
        ("boolean", "Yes", True),
        ("boolean", "off", False),
        ("boolean", "0", False),
        ("boolean", 1, True),
        ("json", {"a": [1]}, {"a": [1]}),
        ("json", '{"a": [1]}', {"a": [1]}),
        ("json", "[]", []),
        ("comma_delimited_list", "a, b,c", ["a", "b", "c"]),
        ("comma_delimited_list", "", []),
        ("comma_delimited_list", ["a", 4], ["a", "4"]),
        ("comma_delimited_list", ("a",), ["a"]),
    ],
)
def test_values(type_name: str, given: Any, expected: Any) -> None:
    found = template(f"{{type: {type_name}}}").resolve_parameters({"p": given})
    assert found == {"p": expected}
    assert type(found["p"]) is type(expected)


@pytest.mark.parametrize(
    ("type_name", "given", "part"),
    [
        ("string", 1.1, "'p' is 1.1; it must be a string, not a number; quote it"),
        ("string", True, "it must be a string, not a boolean; quote it"),
        ("string", None, "it must be a string, not null"),
        ("string", ["a"], "'p' is a list; it must be a string, not a list"),
        ("string", "a\0", "cannot be stored"),
        ("string", "\udc80", "cannot be stored"),
        ("string", {1: 2}, "key 1 must be a string"),
        ("string", object(), "a value is an object"),
        ("number", "five", "'p' is 'five'; it must be a number"),
        ("number", "", "it must be a number"),
        ("number", ".", "it must be a number"),
        ("number", "0x10", "it must be a number"),
        ("number", "nan", "it must be a number"),
        ("number", True, "it must be a number"),
        ("number", "1e999", "the number is too large"),
        ("number", "9" * 30, "the number is too large"),
        ("number", "9" * 5000, "it must be a number"),
        ("number", 2**63, "more than 64 bits"),
        ("number", float("inf"), "JSON has no number inf"),
        ("boolean", "maybe", "it must be true or false"),
        ("boolean", 2, "it must be true or false"),
        ("json", "{", "it must be a JSON object or list; it is not valid JSON: the text ends too"),
        ("json", '{"a": 1, "a": 2}', "key 'a' is given twice"),
        ("json", "5", "it must be a JSON object or list, not a number"),
        ("comma_delimited_list", 5, "it must be a list of strings, or a string with commas"),
        ("comma_delimited_list", [True], "it must be a string, not a boolean"),
    ],
)
def test_bad_values(type_name: str, given: Any, part: str) -> None:
    with pytest.raises(TemplateError) as caught:
        template(f"{{type: {type_name}}}").resolve_parameters({"p": given})
    assert part in caught.value.message
    assert (caught.value.source, caught.value.line) == ("t.yaml", 3)
    assert len(str(caught.value)) < 300


def test_unknown_and_missing() -> None:
    wanted = Template.parse(
        "resources: {}\nparameters: {size: {type: number}, name: {type: string}, "
        "other: {type: string, default: x}, none: {type: string, default: null}}"
    )
    with pytest.raises(TemplateError, match="there is no parameter 'sice'; did you mean 'size'"):
        wanted.resolve_parameters({"sice": 1})
    with pytest.raises(TemplateError, match="2: parameters need values: 'size', 'name', 'none'"):
        wanted.resolve_parameters({})
    with pytest.raises(TemplateError, match="parameter needs a value: 'name'"):
        wanted.resolve_parameters({"size": 1, "none": ""})
    found = wanted.resolve_parameters({"size": 1, "name": "a", "none": "b"})
    assert found == {"size": 1, "name": "a", "other": "x", "none": "b"}


@pytest.mark.parametrize(
    ("declaration", "good", "bad", "part"),
    [
        ("{type: string, constraints: [{allowed_values: [a, b]}]}", "a", "c", "one of 'a', 'b'"),
        ("{type: string, constraints: [{allowed_values: [1, 2]}]}", "1", "3", "one of '1', '2'"),
        ("{type: number, constraints: [{allowed_values: [1, '2']}]}", "2", 3, "one of 1, 2"),
        ("{type: boolean, constraints: [{allowed_values: [on]}]}", "yes", "no", "one of True"),
        (
            "{type: comma_delimited_list, constraints: [{allowed_values: [a, b]}]}",
            "b,a,b",
            "a,c",
            "one of 'a', 'b'",
        ),
        (
            "{type: json, constraints: [{allowed_values: [{a: 1}]}]}",
            {"a": 1},
            {"a": True},
            "one of",
        ),
        (
            "{type: number, constraints: [{range: {min: 1, max: 5}}]}",
            5,
            6,
            "at least 1 and at most 5",
        ),
        ("{type: number, constraints: [{range: {min: 1.5}}]}", "1.5", "1.4", "be at least 1.5"),
        (
            "{type: number, constraints: [{range: {max: 0}}]}",
            -7,
            1,
            "p' is 1: it must be at most 0",
        ),
        ("{type: string, constraints: [{length: {min: 2}}]}", "é€", "é", "at least 2, not 1"),
        ("{type: json, constraints: [{length: {max: 1}}]}", "[1]", "[1, 2]", "its length must be"),
        (
            "{type: string, constraints: [{allowed_pattern: '[a-z]+'}]}",
            "abc",
            "abc1",
            "match the pat",
        ),
        (
            "{type: comma_delimited_list, constraints: [{allowed_pattern: '[a-z]'}]}",
            "a,b",
            "a,bc",
            "match the pat",
        ),
        (
            "{type: string, constraints: [{length: {max: 3}}, {allowed_pattern: '.*'}]}",
            "abc",
            "abcd",
            "at most 3, not 4",
        ),
        (
            "{type: number, constraints: [{range: {min: 1}, description: Give at least one}]}",
            1,
            0,
            "parameter 'p' is 0: Give at least one",
        ),
    ],
)
def test_constraints(declaration: str, good: Any, bad: Any, part: str) -> None:
    declared = template(declaration)
    declared.resolve_parameters({"p": good})
    with pytest.raises(TemplateError) as caught:
        declared.resolve_parameters({"p": bad})
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(a", "is not a regular expression"), (r"(a)\1", "converge does not support a reference")],
)
def test_a_pattern_that_cannot_be_used_is_refused_but_for_drawing(
    pattern: str, message: str
) -> None:
    declaration = f"{{type: string, default: b, constraints: [{{allowed_pattern: '{pattern}'}}]}}"
    with pytest.raises(TemplateError, match=message) as caught:
        template(declaration)
    assert caught.value.line == 3
    Template.parse(text(declaration), for_drawing=True)


def test_a_pattern_that_is_too_much_work_is_said_in_place_of_the_authors_words() -> None:
    pattern = "(.?){0,1600}x"
    declared = template(
        f"{{type: string, constraints: [{{allowed_pattern: '{pattern}', description: Wrong}}]}}"
    )
    with pytest.raises(TemplateError, match=r"'p' is .* too much work"):
        declared.resolve_parameters({"p": "a" * 5000})


def test_hidden_values_stay_hidden() -> None:
    declared = template("{type: string, hidden: true, constraints: [{length: {min: 9}}]}")
    with pytest.raises(TemplateError) as caught:
        declared.resolve_parameters({"p": "sesame"})
    assert "sesame" not in str(caught.value)
    assert "'p' has a hidden value: its length must be at least 9" in str(caught.value)


@pytest.mark.parametrize(
    ("declaration", "part"),
    [
        ("text", "parameter 'p' must be a mapping, not a string"),
        ("{default: 1}", "parameter 'p' has no type; known: string, number"),
        ("{type: strin}", "unknown type 'strin' of parameter 'p'; did you mean 'string'?"),
        ("{type: [a]}", "unknown type a list of parameter 'p'"),
        ("{type: string, defualt: 1}", "unknown key 'defualt' in parameter 'p'; did you mean 'def"),
        ("{type: string, description: 5}", "the description of parameter 'p' must be a string"),
        ("{type: string, label: 5}", "the label of parameter 'p' must be a string"),
        ("{type: string, hidden: perhaps}", "hidden of parameter 'p': it must be true or false"),
        ("{type: number, default: x}", "the default of parameter 'p' is 'x'; it must be a number"),
        ("{type: string, default: [x]}", "the default of parameter 'p' is a list; it must be a"),
        (
            "{type: number, default: 9, constraints: [{range: {max: 5}}]}",
            "the default of parameter 'p' is 9: it must be at most 5",
        ),
        ("{type: string, constraints: {length: {max: 5}}}", "must be a list, not a mapping"),
        ("{type: string, constraints: [length]}", "must be a mapping, not a string"),
        ("{type: string, constraints: [{}]}", "must have one of allowed_values, range"),
        ("{type: string, constraints: [{lenght: {}}]}", "did you mean 'length'?"),
        (
            "{type: number, constraints: [{range: {min: 1}, modulo: {}}]}",
            "must have one of allowed_values",
        ),
        (
            "{type: string, constraints: [{range: {min: 1}}]}",
            "not a constraint for the type string",
        ),
        ("{type: number, constraints: [{length: {min: 1}}]}", "not a constraint for the type numb"),
        ("{type: number, constraints: [{range: 5}]}", "must be a mapping, not a number"),
        ("{type: number, constraints: [{range: {}}]}", "must have min, max or both"),
        ("{type: number, constraints: [{range: {mim: 5}}]}", "did you mean 'min'?"),
        ("{type: number, constraints: [{range: {min: a}}]}", "must be a number, not 'a'"),
        ("{type: number, constraints: [{range: {min: 2, max: 1}}]}", "min is greater than max"),
        ("{type: string, constraints: [{length: {min: -1}}]}", "must be a whole number from 0"),
        ("{type: string, constraints: [{length: {min: 1.5}}]}", "must be a whole number from 0"),
        ("{type: string, constraints: [{allowed_values: a}]}", "must be a list of values"),
        ("{type: string, constraints: [{allowed_values: []}]}", "must be a list of values"),
        ("{type: number, constraints: [{allowed_values: [a]}]}", "'a' in the allowed_values of pa"),
        ("{type: string, constraints: [{allowed_pattern: 5}]}", "must be a string, not a number"),
        (
            "{type: string, constraints: [{allowed_pattern: a, description: 5}]}",
            "a description must be a string",
        ),
    ],
)
def test_bad_declarations(declaration: str, part: str) -> None:
    with pytest.raises(TemplateError) as caught:
        template(declaration)
    assert part in caught.value.message
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "declaration",
    [
        "{type: string, default: 1.10}",
        "{type: string, default: no}",
        "{type: string, constraints: [{allowed_values: [yes, 'no']}]}",
    ],
)
def test_what_yaml_has_changed_can_be_drawn_but_not_used(declaration: str) -> None:
    with pytest.raises(TemplateError, match="quote it"):
        template(declaration)
    declared = Template.parse(text(declaration), "t.yaml", for_drawing=True)
    assert list(declared.graph()) == []
    with pytest.raises(TemplateError, match="quote it"):
        declared.validate({})
    with pytest.raises(TemplateError, match="quote it"):
        declared.resolve_parameters({"p": "yes"})
