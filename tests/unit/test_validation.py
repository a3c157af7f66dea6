"""All mistakes of a file in one run; what types declare; the JSON Schema."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from converge.cli import main
from converge.errors import BadInput, TemplateError
from converge.resources import load_types
from converge.resources.resource_type import Property, ResourceType
from converge.template import Template, check_properties, with_defaults
from converge.template.json_schema import make_schema
from converge.template.keys import FILES

BAD = """\
parameters:
  p: {type: strin}
  q: {type: number, default: x}
conditions:
  c: {equals: [1]}
resources:
  a:
    type: file
    propertis: {}
    properties: {path: 5, content: {get_param: nope}, mod: x}
  b:
    type: comand
  c:
    type: value
    depends_on: [a, zz]
    properties: {value: {get_attr: [a, shaa]}}
  d: {type: command, properties: {create: x, environment: {A: NO, B: 3.10, C: }}}
  5: {type: none}
outputs:
  o: {value: {get_resource: nn}}
  p: {valu: 1}
  q: {value: {yaql: 1}, condition: zz}
"""
SAID = [
    (2, "unknown type 'strin' of parameter 'p'"),
    (3, "the default of parameter 'q' is 'x'; it must be a number"),
    (5, "equals takes a list"),
    (9, "unknown key 'propertis' in resource 'a'"),
    (10, "get_param refers to 'nope', which is not a parameter"),
    (10, "resource 'a': type 'file' has no property 'mod'"),
    (10, "resource 'a': property 'path' of type 'file' must be a string"),
    (12, "resource 'b' has the unknown type 'comand'"),
    (15, "resource 'c' depends on 'zz', which is not a resource"),
    (16, "resource 'a' of type 'file' has no attribute 'shaa'; did you mean 'sha256'?"),
    (17, "'A': NO is the boolean false here"),
    (17, "'B': 3.10 is the number 3.1 here"),
    (17, "'C' must be a string, a number or a boolean, not null"),
    (18, "key '5' is a number in YAML"),
    (20, "get_resource refers to 'nn', which is not a resource"),
    (21, "unknown key 'valu' in output 'p'"),
    (21, "output 'p' has no value"),
    (22, "there is no condition 'zz'"),
    (22, "converge does not evaluate the function yaql"),
]


class Machine(ResourceType):
    """Declares all that can be declared."""

    attribute_names = ("address", "id")
    schema: ClassVar[Mapping[str, Property]] = {
        "name": Property(
            str,
            required=True,
            constraints={"length": {"min": 2, "max": 8}, "allowed_pattern": "[a-z]+"},
            description="What it is called",
        ),
        "size": Property(int, default=1, constraints={"range": {"min": 1, "max": 9}}),
        "kind": Property(str, constraints={"allowed_values": ["small", "large"]}),
        "tags": Property(list, constraints={"length": {"max": 2}}),
        "image": Property(str, immutable=True),
        "disks": Property(int, constraints={"modulo": {"step": 2, "offset": 0}}),
        "text": Property(str, nullable=False),
    }

    def update(self, *arguments: Any) -> None: ...


TYPES: dict[str, ResourceType] = {**load_types([]), "machine": Machine()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.yaml"


def mistakes(path: Path, text: str, **given: Any) -> list[tuple[int | None, str]]:
    path.write_text(text)
    return [(one.line, one.message) for one in Template.find_mistakes(path, TYPES, **given)]


def test_all_mistakes_are_found_in_one_run(path: Path) -> None:
    found = mistakes(path, BAD)
    assert [line for line, _ in found] == [line for line, _ in SAID]
    for (_, message), (_, part) in zip(found, SAID, strict=True):
        assert part in message
    # the reader refuses it with one of them
    with pytest.raises(TemplateError) as caught:
        Template.load(path)
    assert caught.value.message in [message for _, message in found]


def test_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(BAD)
    assert main(["validate", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"converge: error: {path}:2: unknown type 'strin'")
    assert lines[-1] == f"converge: {len(SAID)} mistakes"
    assert main(["validate", str(path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert [one["line"] for one in document["mistakes"]] == [line for line, _ in SAID]
    path.write_text("resources: {a: {type: none}}")
    assert main(["validate", str(path)]) == 0
    assert capsys.readouterr().out == "no mistakes\n"


@pytest.mark.parametrize("words", [["up"], ["plan"], ["up", "--plan", "--yes"]])
def test_what_starts_something_says_all_mistakes_too(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    database = path.with_name("a.db")
    words = [*words, str(path), "--db", f"sqlite:///{database}"]
    path.write_text(BAD)
    assert main(["validate", str(path)]) == 2
    said = capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr() == said
    assert not database.exists()
    assert main([*words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert [one["line"] for one in error["mistakes"]] == [line for line, _ in SAID]
    # one alone is said alone
    path.write_text("resources: {a: {type: nothing}}")
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*words, "--json"]) == 2
    assert "mistakes" not in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("words", [["validate"], ["plan", "--stack", "s"]])
def test_a_template_from_stdin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert main([*words, "-"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("converge: error: <stdin>:2: unknown type 'strin'")
    assert lines[-1] == f"converge: {len(SAID)} mistakes"


def test_null_is_refused_where_it_would_do_harm(path: Path) -> None:
    text = "resources: {a: {type: machine, properties: {name: abc, kind: null, text: null}}}"
    ((line, message),) = mistakes(path, text)
    assert line == 1
    assert message.endswith("property 'text' of type 'machine' must be a string, not null")
    with pytest.raises(BadInput, match="property 'text'"):
        check_properties("machine", Machine(), {"name": "abc", "kind": None, "text": None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("", "is empty"),
        ("resources: {a: {type: none, depends_on: b}, b: {type: none, depends_on: a}}", "circular"),
        ("resources: {a: {type: none, properties: {x: {get_file: none}}}}", "does not exist"),
        ("parameters: {p: 5}\nresources: {a: {type: none}}", "must be a mapping, not a number"),
        ("resources: {a: 5}", "resource 'a' must be a mapping, not a number"),
        ("resources: {a: {type: value}}", "type 'value' needs the property 'value'"),
        ("resources: {a: {type: file, properties: {path: null}}}", "must be a string, not null"),
    ],
)
def test_a_single_mistake(path: Path, text: str, message: str) -> None:
    ((_, found),) = mistakes(path, text)
    assert message in found


def test_what_parameters_decide_is_looked_at_if_they_are_known(path: Path) -> None:
    text = """\
parameters: {list: {type: string}}
resources:
  m:
    type: machine
    properties:
      name: {str_split: [",", {get_param: list}, 1]}
      size: {if: [{equals: [{get_param: list}, "a,bc"]}, 5, 50]}
"""
    assert mistakes(path, text) == []
    assert mistakes(path, text, parameters={"list": "a,bc"}) == []
    assert mistakes(path, text, parameters={"list": "a"}) == [
        (6, "property 'name' of resource 'm': str_split: there is no part 1; the text has 1, "
         "numbered from 0"),
        (7, "property 'size' of resource 'm': it is 50; it must be at least 1 and at most 9"),
    ]  # fmt: skip
    assert "there is no parameter 'x'" in mistakes(path, text, parameters={"x": 1})[0][1]
    values = path.with_name("e.yaml")
    values.write_text("parameters: {list: 3.10}")
    ((line, found),) = mistakes(path, text, environments=[values])
    assert (line, "3.10 is the number 3.1 here" in found) == (1, True)


# -- what types declare


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"name": "x"}, "it is 'x'; its length must be at least 2 and at most 8, not 1"),
        ({"name": "XX"}, "it is 'XX'; it must match the pattern '[a-z]+'"),
        ({"name": "xx", "size": 10}, "it is 10; it must be at least 1 and at most 9"),
        ({"name": "xx", "kind": "huge"}, "it is 'huge'; it must be one of 'small', 'large'"),
        ({"name": "xx", "tags": [1, 2, 3]}, "its length must be at most 2, not 3"),
        ({"name": "xx", "disks": 3}, "it is 3; it must be 0 more than a multiple of 2"),
    ],
)
def test_constraints(path: Path, properties: dict[str, Any], message: str) -> None:
    body = {"resources": {"m": {"type": "machine", "properties": properties}}}
    with pytest.raises(TemplateError) as caught:
        Template.from_dict(body).validate(TYPES)
    assert message in caught.value.message
    # and once more when its value is known
    with pytest.raises(BadInput) as late:
        check_properties("machine", Machine(), properties)
    assert message in str(late.value)


def test_constraints_are_for_values(path: Path) -> None:
    good = {"name": {"get_param": "OS::stack_name"}, "size": None, "kind": "large"}
    Template.from_dict({"resources": {"m": {"type": "machine", "properties": good}}}).validate(
        TYPES
    )


def test_defaults() -> None:
    assert with_defaults(Machine(), {"name": "x"}) == {"name": "x", "size": 1}
    assert with_defaults(Machine(), {"name": "x", "size": None}) == {"name": "x", "size": 1}
    given = {"name": "x", "size": 2}
    assert with_defaults(Machine(), given) is given


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ({"get_attr": ["m", "address"]}, True),
        ({"get_attr": ["m"]}, True),
        ({"get_attr": ["m", {"get_param": "OS::stack_name"}]}, True),
        ({"list_join": [",", [{"get_attr": ["m", "adress"]}]]}, False),
    ],
)
def test_attributes(value: Any, good: bool) -> None:
    machine = {"type": "machine", "properties": {"name": "xx"}}
    for body in (
        {"resources": {"m": machine}, "outputs": {"o": {"value": value}}},
        {"resources": {"m": machine, "n": {"type": "none", "properties": {"x": value}}}},
        {"resources": {"m": machine, "n": {"type": "none", "triggers": value}}},
    ):
        template = Template.from_dict(body)
        if good:
            template.validate(TYPES)
        else:
            with pytest.raises(TemplateError, match="no attribute 'adress'; did you mean"):
                template.validate(TYPES)


# -- the schema


def test_the_schema_has_what_types_declare() -> None:
    schema = make_schema(TYPES)
    resource = schema["$defs"]["resource"]
    known, file = resource["properties"]["type"]["anyOf"]
    assert (known, file["pattern"]) == ({"enum": sorted(TYPES)}, FILES)
    (of_machine,) = [
        one["then"]
        for one in resource["allOf"]
        if one["if"]["properties"]["type"]["const"] == "machine"
    ]
    assert of_machine["anyOf"] == [{"required": ["properties"]}, {"required": ["external_id"]}]
    properties = of_machine["properties"]["properties"]
    assert properties["required"] == ["name"]
    assert properties["additionalProperties"] is False
    name, size, kind, tags, disks = (
        properties["properties"][each] for each in ("name", "size", "kind", "tags", "disks")
    )
    assert name["description"] == "What it is called"
    function = {"$ref": "#/$defs/function"}
    assert name["anyOf"] == [
        {"type": "string", "minLength": 2, "maxLength": 8, "pattern": "^(?:[a-z]+)$"},
        function,
    ]
    assert size["default"] == 1
    assert size["anyOf"] == [
        {"type": "integer", "minimum": 1, "maximum": 9},
        function,
        {"type": "null"},
    ]
    assert {"type": "null"} in kind["anyOf"]
    assert {"type": "null"} not in properties["properties"]["text"]["anyOf"]
    assert kind["anyOf"][0] == {"type": "string", "enum": ["small", "large"]}
    assert tags["anyOf"][0] == {"type": "array", "maxItems": 2}
    assert disks["anyOf"][0] == {"type": "integer", "multipleOf": 2}


def test_the_command_that_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(make_schema(load_types())))
    target = tmp_path / "schema.json"
    assert main(["schema", "-o", str(target)]) == 0
    assert json.loads(target.read_text()) == printed
