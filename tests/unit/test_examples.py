from __future__ import annotations

import ast
from pathlib import Path

import pytest

from converge.resources import load_types
from converge.template import Template

EXAMPLES = Path(__file__).parents[2] / "examples"
#: How many resources each example has, and how many distinct references there are among them.
SIZES = {"webapp": (21, 54), "report": (15, 44), "site": (9, 18)}


def load(name: str) -> Template:
    return Template.load(EXAMPLES / f"{name}.yaml")


def test_every_example_is_listed_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == SIZES.keys()


@pytest.mark.parametrize("name", SIZES)
def test_an_example_is_valid_and_has_defaults_for_everything(name: str) -> None:
    template = load(name)
    template.validate(load_types([]))
    definitions = template.definitions(template.resolve_parameters({}), name)
    assert definitions.keys() == template.resources.keys()
    assert Template.from_dict(template.to_dict()).to_dict() == template.to_dict()


@pytest.mark.parametrize("name", SIZES)
def test_the_graph_of_an_example(name: str) -> None:
    graph = load(name).graph()
    nodes, edges = SIZES[name]
    assert len(graph) == nodes
    assert sum(required is not None for _, required in graph.edges()) == edges
    assert next(iter(graph)) == "place"


def test_what_waits_for_what_in_the_web_application() -> None:
    graph = load("webapp").graph()
    assert set(graph.leaves()) == {"place", "url"}
    assert set(graph.roots()) == {"readme"}
    order = list(graph)
    for earlier, later in (
        ("database", "books"),
        ("books", "search_index"),
        ("search_index", "config"),
        ("config", "server"),
        ("server", "health"),
        ("health", "smoke_test"),
    ):
        assert order.index(earlier) < order.index(later)


@pytest.mark.parametrize("name", SIZES)
def test_every_command_but_the_disposable_ones_can_be_updated_or_is_replaced_elsewhere(
    name: str,
) -> None:
    # a command that is replaced is deleted after its successor was made: both must not use the
    # same path, so one with a `delete` needs an `update`, or the physical id in its path
    by_physical_id = {"webapp": {"database"}, "report": set(), "site": {"release", "backup"}}
    for resource, entry in load(name).resources.items():
        if entry.type == "command" and "delete" in entry.properties and resource != "folder":
            assert "update" in entry.properties or resource in by_physical_id[name], resource


@pytest.mark.parametrize("name", SIZES)
def test_the_programs_in_an_example_are_python_that_older_ones_read(name: str) -> None:
    programs = 0
    for resource, entry in load(name).resources.items():
        path = str(entry.properties.get("path"))
        if entry.type == "file" and ".py" in path:
            content = entry.properties["content"]
            assert isinstance(content, str), resource
            ast.parse(content, feature_version=(3, 8))
            programs += 1
    assert programs


@pytest.mark.parametrize("name", SIZES)
def test_an_example_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"converge up examples/{name}.yaml" in text
    assert f"converge down {name}" in text
