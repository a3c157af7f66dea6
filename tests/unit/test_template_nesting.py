"""Templates that name the templates of nested stacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import converge
from converge import Template, TemplateError
from converge.resources import load_types
from converge.template import nesting
from converge.template.json_schema import make_schema
from converge.template.keys import FILES
from converge.template.reading import read
from converge.template.values import Document

CHILD = """
parameters:
  size: {type: number, constraints: [{range: {min: 1}}]}
  word: {type: string, default: x}
resources:
  a: {type: value, properties: {value: {get_param: size}}}
outputs:
  value: {value: {get_attr: [a, value]}}
"""


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


def load(folder: Path) -> Template:
    return Template.load(folder / "outer.yaml")


def mistakes(folder: Path) -> list[str]:
    found = Template.find_mistakes(folder / "outer.yaml", load_types())
    return [str(one).replace(f"{folder}{os.sep}", "") for one in found]


def test_a_file_as_a_type_is_a_nested_stack_with_the_template_of_that_file(tmp_path: Path) -> None:
    write(tmp_path, child=CHILD)
    for path in ("./child.yaml", "child.yaml"):
        write(tmp_path, outer=f"resources: {{c: {{type: {path}, properties: {{size: 2}}}}}}")
        template = load(tmp_path)
        definition = template.definitions({}, "s")["c"]
        assert definition.type == "stack"
        assert definition.properties["parameters"] == {"size": 2}
        body = nesting.body_of(definition.properties)
        assert body is not None
        assert body.keys() == {"parameters", "resources", "outputs"}
        assert (
            Template.from_store(converge.canonical.load(template.dump())).dump() == template.dump()
        )


def test_all_mistakes_are_told_at_once_also_those_of_the_nested_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        child=CHILD.replace("type: value,", "type: valve,"),
        outer="""
resources:
  child:
    type: ./child.yaml
    properties: {size: 0, wurd: 1}
  empty: {type: ./child.yaml}
  none: {type: ./nope.yaml}
  always: {type: ./child.yaml, runs: always, properties: {size: 1}}
  there: {type: ./child.yaml, external_id: x, properties: {size: 1}}
  all: {type: ./child.yaml, properties: {get_param: x}}
outputs:
  a: {value: {get_attr: [child, valu]}}
""",
    )
    assert mistakes(tmp_path) == [
        "outer.yaml:5: resource 'child': child.yaml: parameter 'size' is 0: it must be at least 1",
        "outer.yaml:5: resource 'child': child.yaml has no parameter 'wurd'; did you mean 'word'?",
        "outer.yaml:6: resource 'empty': child.yaml: parameter needs a value: 'size'",
        "child.yaml:6: resource 'a' has the unknown type 'valve'; did you mean 'value'?",
        "outer.yaml:7: resource 'none': './nope.yaml' does not exist",
        "outer.yaml:8: resource 'always': a nested stack runs after what it requires, so it cannot "
        "have runs; give it to a resource in it",
        "outer.yaml:9: resource 'there': a nested stack is made by converge, so it cannot have an "
        "external_id; to read what another stack gives, write get_output",
        "outer.yaml:9: resource 'there' has an external_id, so it is used as it is, and cannot "
        "have properties; remove one of the two",
        "outer.yaml:10: the properties of resource 'all' must be a mapping of names, not a "
        "function",
        "outer.yaml:12: nested stack 'child' has no output 'valu'; did you mean 'value'?",
    ]


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ("{type: ../child.yaml}", "is not in the folder of the template"),
        ("{type: ./link.yaml}", "is not in the folder of the template, or leads out of it"),
        ("{type: 'http://x/child.yaml'}", "is a URL"),
        ("{type: ./sub.yaml}", "is not a file"),
        ("{type: ./outer.yaml}", r"lead back to each other: .*outer\.yaml > .*outer\.yaml"),
        ("{type: ./one.yaml}", r"lead back to each other: .*one\.yaml > .*two\.yaml > .*one\.yaml"),
        ("{type: stack}", "type 'stack' needs the property 'template'"),
        ("{type: stack, properties: {template: {get_param: x}}}", "not the function get_param"),
        (
            "{type: stack, properties: {template: 1}}",
            "must be a template, written out, not a number",
        ),
        ("{type: stack, properties: {template: {resources: 1}}}", "must be a mapping"),
        ("{type: stack, properties: {template: {resources: {}}, parameter: {}}}", "no property"),
        (
            "{type: ./child.yaml, properties: {size: {get_secret: 'env:X'}}}",
            "get_secret is known to handlers only",
        ),
    ],
)
def test_what_cannot_be_a_nested_stack_is_refused(
    tmp_path: Path, resource: str, message: str
) -> None:
    folder = tmp_path / "here"
    (folder / "sub.yaml").mkdir(parents=True)
    write(tmp_path, child=CHILD)
    (folder / "link.yaml").symlink_to(tmp_path / "child.yaml")
    again = "resources: {a: {type: ./%s.yaml}}"
    write(folder, child=CHILD, one=again % "two", two=again % "one")
    write(folder, outer=f"parameters: {{x: {{type: string}}}}\nresources: {{c: {resource}}}")
    with pytest.raises(TemplateError, match=message):
        load(folder)


def test_a_template_from_no_file_cannot_name_one() -> None:
    with pytest.raises(TemplateError, match="the template is from none"):
        Template.parse("resources: {c: {type: ./child.yaml}}")


def test_nested_templates_have_a_limit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, child=CHILD)
    size = Template.load(tmp_path / "child.yaml").size
    monkeypatch.setattr(nesting, "SIZE_LIMIT", 2 * size)
    some = "  %s: {type: ./child.yaml, properties: {size: 1}}\n"
    write(tmp_path, outer="resources:\n" + some % "a" + some % "b")
    load(tmp_path)
    write(tmp_path, outer="resources:\n" + some % "a" + some % "b" + some % "c")
    with pytest.raises(TemplateError, match=r"resource 'c': .*characters together: .*child\.yaml"):
        load(tmp_path)


def test_a_file_that_many_name_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watched(path: str, shown: str) -> Document:
        seen.append(shown)
        return read(path, shown)

    monkeypatch.setattr(nesting, "read", watched)
    write(tmp_path, child=CHILD, outer="resources:\n")
    with (tmp_path / "outer.yaml").open("a") as file:
        for number in range(50):
            file.write(f"  r{number}: {{type: ./child.yaml, properties: {{size: {number + 1}}}}}\n")
    assert len(load(tmp_path).resources) == 50
    assert len(seen) == 1


def test_what_is_drawn_need_not_have_its_files(tmp_path: Path) -> None:
    write(tmp_path, outer="resources: {c: {type: ./gone.yaml}, d: {type: none, depends_on: c}}")
    drawn = Template.load(tmp_path / "outer.yaml", for_drawing=True)
    assert drawn.resources["c"].type == "./gone.yaml"
    assert drawn.graph().requires("d") == {"c"}


def test_the_schema_knows_files_as_types() -> None:
    shown = make_schema(load_types())["$defs"]["resource"]["properties"]["type"]
    assert shown["anyOf"][1]["pattern"] == FILES
