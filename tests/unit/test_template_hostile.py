"""Whatever the text is, it is understood or refused with a TemplateError."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converge.errors import TemplateError
from converge.resources.resource_type import ResourceType
from converge.template import Template, reading

SEED = """\
heat_template_version: 2021-04-16
parameters:
  size: {type: number, default: 3, constraints: [{range: {min: 1, max: 5}}]}
  mode: {type: string, default: "a", constraints: [{allowed_values: [a, b]}]}
resources:
  base: &base
    type: any
    properties: &props {value: [1, 2.5, ~, true, "x\\ty", 'it''s']}
  next:
    <<: *base
    depends_on: [base]
  last:
    type: any
    properties:
      text: {str_replace: {template: "$a $b", params: {$a: {get_resource: base}, $b: x}}}
      size: {get_param: size}
      list: {list_join: [",", [{get_attr: [next, x, 0]}, {get_param: "OS::stack_name"}]]}
      more: {if: [c, {get_file: x}, {repeat: {for_each: {<%a%>: [1]}, template: <%a%>}}]}
outputs:
  one: {value: {get_attr: [last, y]}}
"""

PIECES = [
    *"\t\n\r\0:-?[]{},&*!|>'\"%@`#~=<\\\ufeff\u2028\x85\ud800",
    "\n---\n",
    "\n...\n",
    "<<: *props",
    "*base",
    "&base ",
    "!!binary ",
    "!!python/object:os.system ",
    "!!set ",
    "!!int ",
    "[" * 300,
    "{a: " * 300,
    "- " * 300,
    "? ",
    "1" * 5000,
    "0x_",
    ".inf",
    "1.0e+999",
    "2001-01-01",
    "yes",
    "null",
    "get_resource",
    "get_attr: []",
    "get_param: 5",
    "depends_on: last",
    "resources:",
    "é" * 300,
    "%TAG ! tag:x,2000:",
]

KEYS = [
    *("type", "properties", "depends_on", "condition", "value", "default"),
    *("constraints", "range", "min", "allowed_values", "allowed_pattern"),
    *("get_resource", "get_attr", "get_param", "str_replace", "template", "params"),
    *("list_join", "repeat", "for_each"),
]
SECTIONS = ("parameters", "outputs", "conditions", "description", "parameter_groups")

mutations = st.lists(
    st.tuples(
        st.integers(0, len(SEED)),
        st.integers(0, 12),
        st.one_of(st.sampled_from(PIECES), st.text(max_size=4)),
    ),
    min_size=1,
    max_size=4,
)
budget = settings(
    max_examples=200,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def mutate(text: str, changes: list[tuple[int, int, str]]) -> str:
    for position, length, piece in changes:
        position = min(position, len(text))
        text = text[:position] + piece + text[position + length :]
    return text


def use(text: str | bytes) -> None:
    """Do all that can be done with a template; what is wrong must be a TemplateError."""
    try:
        template = Template.parse(text, "hostile", for_drawing=True)
        list(template.graph())
        assert Template.from_store(json.loads(json.dumps(template.to_dict()))).graph() == (
            template.graph()
        )
        template.validate({"any": ResourceType()})
        template.definitions(template.resolve_parameters({}), "x")
    except TemplateError as error:
        refusal = error
    else:
        return
    assert refusal.source in ("hostile", "<template>")
    assert 0 < len(str(refusal)) < 1500
    assert str(refusal).encode()


def test_many_loop_variables() -> None:
    loops: dict[str, Any] = {f"variable_{number}": [] for number in range(10_000)}
    template: list[Any] = [{"get_resource": "b"} for _ in range(10_000)]
    value = {"repeat": {"for_each": loops, "template": template}}
    body = {"a": {"type": "any", "properties": {"x": value}}, "b": {"type": "any"}}
    found = Template.from_store({"resources": body})
    assert found.resources["a"].requires == ("b",)


def test_a_loop_variable_hides_no_resource() -> None:
    value = {"repeat": {"for_each": {"b": []}, "template": [{"get_resource": "db"}]}}
    body = {"a": {"type": "any", "properties": {"x": value}}, "db": {"type": "any"}}
    assert Template.from_store({"resources": body}).resources["a"].requires == ("db",)


def test_the_seed_is_good_enough_to_be_drawn() -> None:
    assert len(Template.parse(SEED, for_drawing=True).graph()) == 3


@budget
@given(mutations)
def test_mutated_yaml(changes: list[tuple[int, int, str]]) -> None:
    use(mutate(SEED, changes))


@settings(budget, max_examples=80)
@given(mutations)
def test_mutated_yaml_in_pure_python(changes: list[tuple[int, int, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_LOADER", yaml.SafeLoader)
        use(mutate(SEED, changes))


@settings(budget, max_examples=120)
@given(mutations)
def test_mutated_json(changes: list[tuple[int, int, str]]) -> None:
    use(mutate(json.dumps(yaml.safe_load(SEED), default=str, indent=1), changes))


@settings(budget, max_examples=100)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60)))
def test_noise(text: str | bytes) -> None:
    use(text)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["a", "b", "any", "string", "size"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(KEYS),
                st.text(max_size=3),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@settings(budget, max_examples=100)
@given(
    st.fixed_dictionaries(
        {"resources": st.dictionaries(st.sampled_from("ab"), json_values)},
        optional=dict.fromkeys(SECTIONS, json_values),
    )
)
def test_bodies_of_any_shape(body: dict[str, Any]) -> None:
    try:
        template = Template.from_store(body)
        template.validate({"any": ResourceType()})
        template.definitions(template.resolve_parameters({}), "x")
    except TemplateError:
        pass
