"""Text is text: what is written without quotes, and would be another text, is refused."""

from __future__ import annotations

from typing import Any

import pytest

from converge.errors import TemplateError
from converge.resources import load_types
from converge.template import Template

#: What YAML 1.1 takes for a number or a boolean, and would be written otherwise.
MISREAD = [
    ("NO", "boolean false"),
    ("on", "boolean true"),
    ("True", "boolean true"),
    ("3.10", "number 3.1"),
    ("1.20", "number 1.2"),
    ("0510", "number 328"),
    ("1_000", "number 1000"),
    ("0x1F", "number 31"),
    ("+5", "number 5"),
    ("0b11", "number 3"),
    ("1.", "number 1.0"),
]
#: What is text, or reads as it is written.
SAME = ["true", "8080", "-1", "2.5", "12:30", "2026-11-27", "1e3", "'NO'", '"3.10"']

PLACES = {
    "environment": """
resources:
  r:
    type: command
    properties:
      create: "true"
      environment:
        V: {}
""",
    "a default": """
parameters:
  p:
    type: string
    default: {}
resources: {{}}
""",
    "a default of a list": """
parameters:
  p:
    type: comma_delimited_list
    default: [a, {}]
resources: {{}}
""",
    "allowed values": """
parameters:
  p:
    type: string
    constraints:
      - allowed_values: [a, {}]
resources: {{}}
""",
    "list_join": """
resources: {{}}
outputs:
  o: {{value: {{list_join: ["-", [python, {}]]}}}}
""",
    "str_replace": """
resources: {{}}
outputs:
  o: {{value: {{str_replace: {{template: x, params: {{x: {}}}}}}}}}
""",
}


def check(text: str) -> None:
    Template.parse(text, "t.yaml").validate(load_types())


@pytest.mark.parametrize(
    ("place", "written"),
    # into a text, str_replace puts a boolean as Heat does
    [
        (place, written)
        for place in PLACES
        for written, _ in MISREAD
        if (place, written) != ("str_replace", "True")
    ],
)
def test_what_would_be_another_text_is_refused(place: str, written: str) -> None:
    text = PLACES[place].format(written)
    with pytest.raises(TemplateError) as caught:
        check(text)
    assert "quote it" in str(caught.value)
    line = text[: text.index(f" {written}")].count("\n") + 1
    assert caught.value.line == line
    check(PLACES[place].format(f'"{written}"'))


@pytest.mark.parametrize("place", ["environment", "list_join", "str_replace"])
@pytest.mark.parametrize("written", SAME)
def test_what_reads_as_it_is_written_is_taken(place: str, written: str) -> None:
    if (place, written) == ("str_replace", "true"):
        with pytest.raises(TemplateError, match='true becomes True here, as in Heat; quote it: "t'):
            check(PLACES[place].format(written))
        written = "True"
    check(PLACES[place].format(written))


@pytest.mark.parametrize(("written", "meaning"), MISREAD)
def test_the_message_says_what_it_would_be(written: str, meaning: str) -> None:
    with pytest.raises(TemplateError) as caught:
        check(PLACES["environment"].format(written))
    assert caught.value.message == (
        "property 'environment' of resource 'r': 'V': "
        f'{written} is the {meaning} here, not text; quote it: "{written}"'
    )


def test_an_alias_is_what_its_anchor_is() -> None:
    text = "x-port: &port 0510\n" + PLACES["environment"].format("*port")
    with pytest.raises(TemplateError, match='0510 is the number 328 here, not text; quote it: "0'):
        check(text)


def test_json_has_the_same_rule() -> None:
    properties = '{"create": "x", "environment": {"V": %s}}'
    text = f'{{"resources": {{"r": {{"type": "command", "properties": {properties}}}}}}}'
    check(text % "3.5")
    with pytest.raises(TemplateError, match=r"3.10 is the number 3.1 here"):
        check(text % "3.10")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3.10", 'must be a string, not a number; quote it: "3.10"'),
        ("no", 'must be a string, not true or false; quote it: "no"'),
        ("5", 'must be a string, not a number; quote it: "5"'),
    ],
)
def test_a_property_that_wants_text_says_how_to_write_it(value: str, message: str) -> None:
    text = f"resources: {{f: {{type: file, properties: {{path: a, content: {value}}}}}}}"
    with pytest.raises(TemplateError) as caught:
        check(text)
    assert caught.value.message.endswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", 'not null; for an empty text, write ""'),
        ("[1]", "not a list"),
        ("{a: b}", "not a mapping"),
    ],
)
def test_a_variable_that_cannot_be_text(value: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        check(PLACES["environment"].format(value))
    assert caught.value.message.endswith(message)


def test_numbers_and_booleans_are_values_where_a_value_is_wanted() -> None:
    text = "resources: {r: {type: value, properties: {value: [NO, 0510, 1_000, 3.10]}}}"
    template = Template.parse(text)
    wanted: list[Any] = [False, 328, 1000, 3.1]
    assert template.definitions({}, "s")["r"].properties["value"] == wanted
