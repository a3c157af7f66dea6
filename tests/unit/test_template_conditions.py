"""What parameters decide: conditions, resources with for_each, and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converge.errors import TemplateError
from converge.model import Physical
from converge.template import Template, resolve
from converge.template.values import LITERAL

TEXT = """
parameters:
  env: {type: string, default: dev}
  big: {type: boolean, default: false}
  zones: {type: comma_delimited_list, default: "a,b"}
conditions:
  prod: {equals: [{get_param: env}, prod]}
  large: {or: [prod, {get_param: big}]}
  small: {not: large}
  both: {and: [prod, large, {contains: [a, {get_param: zones}]}]}
  always: true
resources:
  net: {type: any}
  backup:
    type: any
    condition: large
    properties: {net: {get_resource: net}}
  server:
    type: any
    depends_on: [backup, net]
    properties:
      size: {if: [large, 8, 1]}
      copy: {if: [large, {get_resource: backup}, none]}
      only: {if: [both, 1]}
      list: [1, {if: [small, 2]}, {if: [{equals: [{get_param: env}, x]}, 3]}]
      map: {a: {if: [prod, 1]}, b: {if: [always, {get_param: env}]}}
      flag: {not: prod}
outputs:
  backup: {condition: large, value: {get_resource: backup}}
  copies: {value: [{get_resource: backup}, {get_attr: [backup, ip]}]}
  server: {value: {get_resource: server}}
"""


def made(text: str, **parameters: Any) -> dict[str, Any]:
    template = Template.parse(text, "t.yaml")
    return dict(template.definitions(template.resolve_parameters(parameters), "s"))


def outputs(text: str, **parameters: Any) -> dict[str, Any]:
    template = Template.parse(text, "t.yaml")
    return template.output_values(template.resolve_parameters(parameters), "s")


def test_what_is_not_wanted_is_not_there() -> None:
    found = made(TEXT)
    assert list(found) == ["net", "server"]
    assert found["server"].requires == ("net",)
    assert found["server"].properties == {
        "size": 1,
        "copy": "none",
        "list": [1, 2],
        "map": {"b": "dev"},
        "flag": True,
    }
    assert outputs(TEXT) == {
        "backup": None,
        "copies": [None, None],
        "server": {"get_resource": "server"},
    }


def test_what_is_wanted_is_there() -> None:
    found = made(TEXT, env="prod")
    assert list(found) == ["net", "backup", "server"]
    assert found["server"].requires == ("backup", "net")
    assert found["server"].properties == {
        "size": 8,
        "copy": {"get_resource": "backup"},
        "only": 1,
        "list": [1],
        "map": {"a": 1, "b": "prod"},
        "flag": False,
    }
    assert outputs(TEXT, env="prod")["backup"] == {"get_resource": "backup"}
    assert "only" not in made(TEXT, big=True, zones="b")["server"].properties


def test_the_graph_has_all_that_there_can_be() -> None:
    template = Template.parse(TEXT)
    assert set(template.graph()) == {"net", "backup", "server"}
    values = template.resolve_parameters({})
    assert set(template.graph_with(values, "s")) == {"net", "server"}
    values = template.resolve_parameters({"big": "true"})
    assert set(template.graph_with(values, "s").edges()) == {
        ("backup", "net"),
        ("server", "backup"),
        ("server", "net"),
    }


def test_it_comes_back_from_what_is_stored() -> None:
    template = Template.parse(TEXT)
    again = Template.from_store(json.loads(template.dump()))
    values = template.resolve_parameters({})
    assert again.definitions(values, "s") == template.definitions(values, "s")
    assert again.to_dict() == template.to_dict()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("conditions:\n  a: b", 3, "there is no condition 'b'; known: a"),
        ("conditions:\n  a: {not: [b]}", 3, "a condition is true, false, the name of one"),
        ("conditions:\n  a: {and: [true]}", 3, "and takes a list of two or more conditions"),
        ("conditions:\n  a: {equals: [1, {get_attr: [r, x]}]}", 3, "can refer to parameters only"),
        ("conditions:\n  a: {get_resource: r}", 3, "a condition can refer to parameters only"),
        ("conditions:\n  a: {yaql: 1}", 3, "does not evaluate the function yaql; filter, repeat"),
        ("outputs:\n  o: {value: {if: [x, 1, 2]}}", 3, "there is no condition 'x'"),
        ("outputs:\n  o: {value: {if: [true]}}", 3, "if takes a list: a condition, the value if"),
        ("outputs:\n  o: {value: 1, condition: 5}", 3, "a condition is true, false, the name of"),
        ("outputs:\n  o: {value: {get_each: key}}", 3, "get_each is for resources with for_each"),
        ("outputs:\n  o: {value: {get_file: x}}", 3, "get_file takes the path of a file"),
        (
            "outputs:\n  o: {value: {repeat: {for_each: {x: [a]}, template: {get_resource: x1}}}}",
            3,
            "get_resource refers to 'x1': repeat puts in its values after references",
        ),
    ],
)
def test_wrong_conditions(text: str, line: int, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse("resources: {r: {type: any}}\n" + text, "t.yaml")
    assert message in caught.value.message
    assert caught.value.line == line


def test_conditions_in_a_circle() -> None:
    text = "conditions: {a: {not: b}, b: {not: a}}\nresources: {r: {type: any, condition: a}}"
    with pytest.raises(TemplateError, match=r"t\.yaml:2: condition 'a' depends on itself"):
        made(text)


def test_a_long_chain_of_conditions() -> None:
    chain = ", ".join(f"c{n}: {{not: c{n + 1}}}" for n in range(5000))
    text = f"conditions: {{{chain}, c5000: true}}\nresources: {{r: {{type: any, condition: c0}}}}"
    with pytest.raises(TemplateError, match="conditions refer to each other more than 100 times"):
        made(text)


def test_a_condition_that_is_none() -> None:
    text = "parameters: {p: {type: string}}\nresources: {r: {type: any, condition: {get_param: p}}}"
    with pytest.raises(TemplateError, match=r"t\.yaml:2: a condition is true or false, not a stri"):
        made(text, p="true")


# -- for_each

GROUP = """
parameters:
  zones: {type: comma_delimited_list, default: "a,b"}
  disks: {type: json, default: {root: {size: 5}, data: {size: 50}}}
resources:
  net: {type: any, for_each: {get_param: zones}, properties: {zone: {get_each: key}}}
  disk:
    type: any
    for_each: {get_param: disks}
    depends_on: net
    properties: {name: {get_each: key}, size: {get_each: [value, size]}, all: {get_each: value}}
  first: {type: any, properties: {net: {get_resource: "net[a]"}}}
  last: {type: any, properties: {nets: {get_attr: [net, ip]}}}
outputs:
  ids: {value: {get_resource: net}}
"""


def test_for_each() -> None:
    found = made(GROUP)
    assert set(found) == {"net[a]", "net[b]", "disk[root]", "disk[data]", "first", "last"}
    assert found["net[a]"].properties == {"zone": "a"}
    assert found["disk[data]"].properties == {"name": "data", "size": 50, "all": {"size": 50}}
    assert found["disk[root]"].requires == ("net[a]", "net[b]")
    assert found["first"].requires == ("net[a]",)
    assert found["last"].properties == {
        "nets": {"a": {"get_attr": ["net[a]", "ip"]}, "b": {"get_attr": ["net[b]", "ip"]}}
    }
    assert found["last"].requires == ("net[a]", "net[b]")
    known = {"net[a]": Physical("1"), "net[b]": Physical("2")}
    assert resolve(outputs(GROUP)["ids"], known.__getitem__) == {"a": "1", "b": "2"}


def test_one_more_leaves_the_others_as_they_are() -> None:
    before, after = made(GROUP), made(GROUP, zones="c,b,a")
    assert after.keys() - before.keys() == {"net[c]"}
    assert after["net[a]"] == before["net[a]"]
    assert after["disk[root]"].properties == before["disk[root]"].properties


def test_for_nothing() -> None:
    text = GROUP.replace('{get_resource: "net[a]"}', "x")
    found = made(text, zones="", disks="{}")
    assert set(found) == {"first", "last"}
    assert found["last"].properties == {"nets": {}}
    assert outputs(text, zones="") == {"ids": {}}


def test_a_value_is_data() -> None:
    text = (
        "resources: {r: {type: any, for_each: {x: {a: [b]}}, properties: {p: {get_each: value}}}}"
    )
    assert made(text)["r[x]"].properties == {"p": {"a": ["b"]}}
    text = (
        "parameters: {m: {type: json}}\n"
        "resources: {r: {type: any, for_each: {get_param: m}, properties: {p: {get_each: value}}}}"
    )
    found = made(text, m='{"x": {"get_resource": "y"}}')
    assert found["r[x]"].properties == {"p": {LITERAL: {"get_resource": "y"}}}


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ("5", "for_each of resource 'r' must be a list or a mapping, not a number"),
        ("[a, a]", "for_each of resource 'r' has 'a' twice"),
        ("[[a]]", "an item in the for_each of resource 'r' is a list: the items of a list name"),
        ("{get_attr: [o, x]}", "it can refer to parameters only"),
        ("{get_param: [p, zz]}", "parameter 'p' has no key 'zz'"),
        ("{str_split: [',', 5]}", "the text of str_split must be a string"),
    ],
)
def test_wrong_for_each(each: str, message: str) -> None:
    text = (
        "parameters: {p: {type: json, default: {}}}\n"
        f"resources:\n  o: {{type: any}}\n  r: {{type: any, for_each: {each}}}"
    )
    with pytest.raises(TemplateError) as caught:
        made(text)
    assert message in caught.value.message
    assert caught.value.line == 4


def test_an_instance_that_there_is_not() -> None:
    with pytest.raises(TemplateError, match="resource 'net' is not made for 'a'; known: b"):
        made(GROUP, zones="b,c")
    with pytest.raises(TemplateError, match=r"refers to 'nett\[a\]', which is not a resource"):
        Template.parse(GROUP.replace("net[a]", "nett[a]"))


# -- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app" / "sub").mkdir(parents=True)
    (tmp_path / "app" / "boot.sh").write_text("echo {get_resource: x} é\n")
    (tmp_path / "app" / "sub" / "x").write_text("x")
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "app" / "link").symlink_to("../secret")
    (tmp_path / "app" / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "app" / "nul").write_bytes(b"a\0b")
    return tmp_path / "app"


def load(folder: Path, value: str) -> Any:
    (folder / "t.yaml").write_text(f"resources:\n  r: {{type: any, properties: {{p: {value}}}}}")
    template = Template.load(folder / "t.yaml")
    assert Template.from_dict(template.to_dict()).to_dict() == template.to_dict()
    return template.definitions({}, "s")["r"].properties["p"]


def test_the_content_of_a_file(folder: Path) -> None:
    assert load(folder, "{get_file: boot.sh}") == "echo {get_resource: x} é\n"
    assert load(folder, "[{get_file: ./sub/../sub/x}, {get_file: sub/x}]") == ["x", "x"]
    replaced = load(folder, "{str_replace: {template: {get_file: boot.sh}, params: {echo: a}}}")
    assert replaced == {
        "str_replace": {"template": "echo {get_resource: x} é\n", "params": {"echo": "a"}}
    }


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret", "is not in the folder of the template, or leads out of it"),
        ("link", "is not in the folder of the template, or leads out of it"),
        ("/etc/passwd", "is not in the folder of the template"),
        ("sub/../../secret", "is not in the folder of the template"),
        ("sub", "is not a file"),
        ("none", "does not exist"),
        ("binary", "is not text in UTF-8"),
        ("nul", "has a character that cannot be stored"),
        ("http://x/y", "is a URL; copy what it leads to beside the template"),
        ("{get_param: x}", "takes the path of a file as a plain string, not a mapping"),
    ],
)
def test_files_that_are_not_read(folder: Path, path: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        load(folder, f"{{get_file: {path}}}")
    assert message in caught.value.message
    assert caught.value.line == 2


def test_a_template_of_no_file_reads_none(folder: Path) -> None:
    text = "resources: {r: {type: any, properties: {p: {get_file: boot.sh}}}}"
    with pytest.raises(TemplateError, match="get_file takes the path of a file"):
        Template.parse(text)
    assert Template.parse(text, directory=folder).to_dict()["resources"]["r"]["properties"] == {
        "p": "echo {get_resource: x} é\n"
    }
    # to be drawn, it needs no file
    assert Template.parse(text.replace("boot.sh", "none"), for_drawing=True).graph()
