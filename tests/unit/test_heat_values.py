"""The comparison with Heat's values, without Heat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import heat_values
import pytest

TEXT = """
parameters:
  name: {type: string, constraints: [{length: {min: 2}}]}
  size: {type: number, constraints: [{range: {min: 3}}]}
  kind: {type: string, constraints: [{allowed_values: [small, large]}]}
resources:
  a: {type: any, properties: {name: {get_param: name}, size: {get_param: size}}}
  b: {type: any, properties: {a: [{get_resource: a}, {get_attr: [a, {get_param: kind}, 0]}]}}
outputs:
  o: {value: {list_concat: [{get_attr: [a, list]}, [1]]}}
"""


class FakeHeat(heat_values.Heat):
    """Answers as it is told."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.jobs: list[dict[str, Any]] = []

    def evaluate(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self.jobs.append(dict(job))
        return self.answers.pop(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.yaml"
    path.write_text(TEXT)
    return path


MADE: dict[str, Any] = {
    "resources": {"a": {"name": "xx", "size": 3}, "b": {"a": [None, None]}},
    "outputs": {"o": [1]},
}


def test_what_heat_makes_too(path: Path) -> None:
    heat = FakeHeat({"refused": "a list is wanted"}, MADE)
    assert heat_values.compare(path, heat) == ("same", [])
    assert [job["null"] for job in heat.jobs] == [False, True]
    assert heat.jobs[0]["parameters"] == {"name": "xx", "size": 3, "kind": "small"}


def test_what_heat_makes_otherwise(path: Path) -> None:
    other = {"resources": {"a": {"name": "xx", "size": 3.0}}, "outputs": {"o": [1], "p": 2}}
    heat = FakeHeat({"refused": "a list is wanted"}, other)
    assert heat_values.compare(path, heat) == (
        "different",
        [
            "outputs.p: only Heat has it: 2",
            "resources.a.size: converge 3, Heat 3.0",
            'resources.b: only converge has it: {"a": [null, null]}',
        ],
    )


def test_what_one_of_them_refuses(path: Path) -> None:
    path.write_text(TEXT.replace("{list_concat: [{get_attr: [a, list]}, [1]]}", "1"))
    refused = {"refused": "no"}
    assert heat_values.compare(path, FakeHeat(refused, refused)) == ("only converge", ["no"])
    path.write_text("resources: {a: {type: any, properties: {a: {yaql: x}}}}")
    result, said = heat_values.compare(path, FakeHeat(MADE))
    assert result == "only Heat"
    assert "does not evaluate the function yaql" in said[0]
    assert heat_values.compare(path, FakeHeat(refused, refused))[0] == "neither"
    path.write_text("a: [")
    assert heat_values.compare(path, FakeHeat())[0] == "neither"


def test_references_are_their_own_words(path: Path) -> None:
    path.write_text(TEXT.replace("{list_concat: [{get_attr: [a, list]}, [1]]}", "1"))
    made = {
        "resources": {
            "a": MADE["resources"]["a"],
            "b": {"a": ['<{"get_resource": "a"}>', '<{"get_attr": ["a", "small", 0]}>']},
        },
        "outputs": {"o": 1},
    }
    assert heat_values.compare(path, FakeHeat(made)) == ("same", [])
