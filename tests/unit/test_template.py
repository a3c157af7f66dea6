"""Templates: what they say, and how they come back from what is stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converge.errors import CircularDependency, TemplateError
from converge.model import Physical, Replacing, ResourceDefinition
from converge.template import Template, resolve
from tests.unit.templates import TYPES, in_resources

SHOP = """\
heat_template_version: 2021-04-16
description: A shop.
parameters:
  image: {type: string, default: linux}
  map: {type: json, default: {a: {b: 7}}}
resources:
  web:
    type: server
    depends_on: log
    properties:
      image: {get_param: image}
      labels:
        db: {get_attr: [db, address, 0]}
        stack: {get_param: "OS::stack_name"}
  db:
    type: server
    properties: {image: {get_resource: net}, size: {get_param: [map, a, b]}}
  log: {type: any}
  net: {type: any}
outputs:
  url:
    description: Where it is.
    value:
      str_replace:
        template: http://host/name
        params:
          host: {get_attr: [web, address]}
          name: {get_param: "OS::stack_name"}
"""

FOREIGN = """\
heat_template_version: wallaby
description: >
  What converge does not bring about, it can still draw.
parameter_groups:
- label: All
  parameters: [image, names]
parameters:
  image:
    type: string
    label: Image
    immutable: true
    tags: [a, b]
    default: 2.10
    constraints:
    - custom_constraint: glance.image
      description: Must be known to Glance
  names: {type: comma_delimited_list, default: [4, 5]}
conditions:
  big: {not: {equals: [{get_param: image}, small]}}
resources:
  key: {type: "OS::Nova::KeyPair"}
  net:
    type: OS::Neutron::Net
    deletion_policy: Retain
    condition: big
  volume:
    type: OS::Cinder::Volume
    external_id: {get_resource: net}
  group:
    type: OS::Heat::ResourceGroup
    update_policy:
      rolling_updates: {pause_time: {get_attr: [volume, size]}}
    properties:
      count: 3
      resource_def:
        type: nested.yaml
        properties:
          index: "%index%"
          data: {yaql: {expression: $.data, data: {x: {get_attr: [key, {get_param: image}]}}}}
  server:
    type: OS::Nova::Server
    depends_on: {if: [big, [group], []]}
    metadata: {stack: {get_param: "OS::stack_id"}, 80: {get_resource: net}}
    properties:
      user_data:
        str_replace:
          template: {get_file: boot.sh}
          params: {$key: {get_resource: key}}
      networks:
        repeat:
          for_each: {<%n%>: {get_param: names}}
          template: {name: <%n%>, port: {get_resource: <%n%>_port}}
  attached:
    type: OS::Cinder::VolumeAttachment
    properties: {map_merge: [{a: {get_attr: [server]}}, {b: {get_attr: volume.size}}]}
outputs:
  all: {value: {if: [big, {get_resource: server}, ""]}, condition: big}
"""


def edges(template: Template) -> set[tuple[str, str | None]]:
    return set(template.graph().edges())


def test_a_template() -> None:
    template = Template.parse(SHOP, "shop.yaml")
    assert template.source == "shop.yaml"
    assert template.description == "A shop."
    assert list(template.parameters) == ["image", "map"]
    assert list(template.resources) == ["web", "db", "log", "net"]
    assert template.resources["web"].type == "server"
    assert template.resources["web"].depends_on == ("log",)
    assert template.resources["web"].requires == ("db", "log")
    assert template.resources["web"].properties["image"] == {"get_param": "image"}
    assert template.outputs["url"].description == "Where it is."
    assert set(template.graph()) == {"log", "net", "db", "web"}
    assert edges(template) == {("web", "db"), ("web", "log"), ("db", "net")}
    assert repr(template) == "<Template shop.yaml of 4 resources>"
    template.validate(TYPES)


def test_definitions() -> None:
    template = Template.parse(SHOP)
    parameters = template.resolve_parameters({"image": "bsd"})
    definitions = template.definitions(parameters, "shop")
    assert list(definitions) == list(template.graph())
    assert definitions["db"] == ResourceDefinition(
        "server", {"image": {"get_resource": "net"}, "size": 7}, ("net",)
    )
    assert definitions["web"].properties == {
        "image": "bsd",
        "labels": {"db": {"get_attr": ["db", "address", 0]}, "stack": "shop"},
    }
    assert definitions["log"] == ResourceDefinition("any")
    json.dumps(definitions["web"].properties)
    values = template.output_values(parameters, "shop")
    world = {"web": Physical("1", {"address": "10.0.0.1"})}
    assert resolve(values, world.__getitem__) == {"url": "http://10.0.0.1/shop"}


def test_definitions_need_their_parameters() -> None:
    template = Template.parse(SHOP, "shop.yaml")
    with pytest.raises(TemplateError, match=r"shop\.yaml:17: parameter 'map' has no value"):
        template.definitions({"image": "x"}, "shop")
    with pytest.raises(TemplateError, match=r"shop\.yaml:17: .* has no key 'a'; it has z"):
        template.definitions({"image": "x", "map": {"z": 1}}, "shop")


@pytest.mark.parametrize("text", [SHOP, "resources: {}"])
def test_round_trip(text: str) -> None:
    template = Template.parse(text)
    body = json.loads(json.dumps(template.to_dict()))
    again = Template.from_dict(body, source="stored")
    assert again.to_dict() == Template.from_store(body).to_dict() == body
    assert again.graph() == template.graph()
    assert list(again.graph()) == list(template.graph())
    assert again.resources == template.resources
    assert again.source == "stored"
    body["resources"]["more"] = {"type": "any"}
    assert "more" not in again.to_dict()["resources"]


def test_json_and_yaml_are_the_same(tmp_path: Path) -> None:
    template = Template.parse(SHOP)
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(template.to_dict(), indent="\t"))
    loaded = Template.load(path)
    assert loaded.to_dict() == template.to_dict()
    assert loaded.source == str(path)


def test_the_graph_of_what_converge_cannot_do() -> None:
    template = Template.parse(FOREIGN, "foreign.yaml", for_drawing=True)
    assert edges(template) == {
        ("volume", "net"),
        ("group", "volume"),
        ("group", "key"),
        ("server", "group"),
        ("server", "key"),
        ("server", "net"),
        ("attached", "server"),
        ("attached", "volume"),
    }
    # an older converge may have stored it
    assert edges(Template.from_store(template.to_dict())) == edges(template)
    refusals: list[Callable[[], object]] = [
        lambda: Template.parse(FOREIGN, "foreign.yaml"),
        lambda: Template.from_dict(template.to_dict()),
        lambda: template.validate(TYPES),
        lambda: template.resolve_parameters({"image": "x"}),
    ]
    for refuse in refusals:
        with pytest.raises(TemplateError):
            refuse()


def test_extensions_are_left_alone() -> None:
    text = "x-all: &all {a: 1}\n" + in_resources("a: {type: any, properties: {<<: *all}}")
    template = Template.parse(text)
    assert template.resources["a"].properties == {"a": 1}
    assert list(template.to_dict()) == ["resources"]
    with pytest.raises(TemplateError, match="unknown key 'x-a' in resource 'a'"):
        Template.parse(in_resources("a: {type: any, x-a: 1}"))


def test_nothing_is_a_template_too() -> None:
    template = Template.parse("parameters:\noutputs:\nresources: {}\n")
    template.validate({})
    assert list(template.graph()) == []
    assert template.definitions({}, "x") == {}


def test_names_that_work() -> None:
    names = ["a b", "it's", 'say "x"', "näme", "名前", "x" * 255, "a/b", "1", "get_resource"]
    body: dict[str, Any] = {"resources": {name: {"type": "any"} for name in names}}
    body["resources"]["last"] = {
        "type": "any",
        "properties": {"x": [{"get_attr": [names[1], "y"]}]},
    }
    template = Template.from_dict(body)
    assert set(template.resources) == {*names, "last"}
    assert template.resources["last"].requires == ("it's",)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty; a template is a mapping with at least the key 'resources'"),
        ("# just this\n", None, "is empty; a template is"),
        ("---\n...\n", None, "is empty; a template is"),
        ("- a\n- b", 1, "is a list; a template is a mapping"),
        ("\nhello", 2, "is a string; a template is a mapping"),
        ("7", 1, "is a number; a template is a mapping"),
        ("description: x", 1, "the section 'resources' is missing"),
        ("description: x\nresources:\n", 2, "is empty; if it has none, write 'resources: {}'"),
        ("resources: [a]", 1, "the section 'resources' must be a mapping, not a list"),
        (
            "resources: {}\nresource: {}",
            2,
            "unknown key 'resource' in a template; did you mean 'res",
        ),
        ("resources: {}\noutputs: 5", 2, "the section 'outputs' must be a mapping, not a number"),
        ("AWSTemplateFormatVersion: 1\nResources: {}", 1, "only Heat's own (HOT)"),
        ("heat_template_version: 5\nresources: {}", 1, "must be a date or a name, not a number"),
        ("resources: {}\ndescription: [x]", 2, "the description must be a string, not a list"),
        (
            "resources:\n  on: {type: any}",
            2,
            "key 'on' is true in YAML",
        ),
        ("resources:\n  5: {type: any}", 2, "key '5' is a number in YAML"),
        ('resources:\n  "": {type: any}', 2, "the name of a resource must not be empty"),
        ('resources:\n  "a\\nb": {type: any}', 2, "has the unprintable character '\\n'"),
        ("resources:\n  ' a': {type: any}", 2, "must not start or end with white space"),
        (f"resources:\n  {'x' * 300}: {{type: any}}", 2, "has 300 characters; at most 255"),
        (in_resources("a: {type: any}\nb: {type: any}\na: {type: any}"), 4, "on lines 2 and 4"),
        (in_resources("a: server"), 2, "resource 'a' must be a mapping, not a string"),
        (in_resources("a:"), 2, "resource 'a' has no type"),
        (in_resources("a: {type: 5}"), 2, "the name of a resource type must be a string, not int"),
        (
            in_resources("a: {typ: any}"),
            2,
            "unknown key 'typ' in resource 'a'; did you mean 'type'",
        ),
        (in_resources("a:\n  type: any\n  propertys: {}"), 4, "did you mean 'properties'?"),
        (in_resources("a:\n  type: any\n  properties: 5"), 4, "must be a mapping, not a number"),
        (in_resources("a:\n  type: any\n  properties: {no: 5}"), 4, "key 'no' is false in YAML"),
        (
            in_resources("a:\n  type: any\n  depends_on: b"),
            4,
            "'a' depends on 'b', which is not a reso",
        ),
        (in_resources("a:\n  type: any\n  depends_on:\n  - 5"), 5, "must be a string or a list"),
        (in_resources("a: {type: any, depends_on: a}"), 2, "resource 'a' depends on itself"),
        (
            in_resources(
                "web: {type: any}\na:\n  type: any\n  metadata:\n    x: {get_resource: wep}"
            ),
            6,
            "get_resource refers to 'wep', which is not a resource; did you mean 'web'?",
        ),
        (
            in_resources("a:\n  type: any\n  properties:\n    x:\n    - get_attr: [a, b]"),
            6,
            "resource 'a' refers to itself with get_attr",
        ),
        (
            in_resources("a: {type: any, properties: {x: {get_attr: 5}}}"),
            2,
            "get_attr takes a list",
        ),
        (
            "parameters: {size: {type: number}}\n"
            + in_resources("a:\n  type: any\n  properties: {x: {get_param: sise}}"),
            5,
            "get_param refers to 'sise', which is not a parameter; did you mean 'size'?",
        ),
        ("resources: {}\nconditions:\n  c: {equals: [{get_param: x}, 1]}", 3, "is not a parameter"),
        ("resources: {}\noutputs: {a: }", 2, "output 'a' has no value"),
        ("resources: {}\noutputs:\n  a: 5", 3, "output 'a' must be a mapping, not a number"),
        ("resources: {}\noutputs:\n  a: {value: 5, val: 6}", 3, "unknown key 'val' in output 'a'"),
        ("resources: {}\noutputs: {a: {value: 5, description: 6}}", 2, "must be a string"),
        ("resources: {}\noutputs:\n  a:\n    value: {get_attr: [b, c]}", 4, "is not a resource"),
    ],
)
def test_what_is_wrong_in_itself(text: str, line: int | None, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text, "t.yaml")
    assert message in caught.value.message
    assert (caught.value.source, caught.value.line) == ("t.yaml", line)
    place = "t.yaml: " if line is None else f"t.yaml:{line}: "
    assert str(caught.value).startswith(place)


def test_a_cycle_is_named() -> None:
    text = in_resources(
        """\
a:
  type: any
  properties: {x: {get_attr: [b, y]}}
b:
  type: any
  depends_on: [c]
c:
  type: any
  metadata:
    x: {if: [z, {get_resource: a}]}
d: {type: any, depends_on: a}"""
    )
    with pytest.raises(
        TemplateError, match=r"t\.yaml:4: circular dependency: a -> b -> c -> a"
    ) as c:
        Template.parse(text, "t.yaml")
    assert isinstance(c.value.__cause__, CircularDependency)
    reordered = text.replace("depends_on: [c]", "depends_on: c").replace("  a:\n", "  a:\n\n")
    with pytest.raises(TemplateError, match="circular dependency"):
        Template.parse(reordered)


def test_ten_thousand_resources() -> None:
    text = in_resources(
        "r0: {type: any}\n"
        + "\n".join(
            f"r{i}:\n  type: any\n  depends_on: r{i - 1}\n"
            f"  properties:\n    x: {{get_attr: [r{i // 2}, y]}}"
            for i in range(1, 10_000)
        )
    )
    start = time.process_time()
    template = Template.parse(text)
    # processor time: the machine may be busy with other things
    assert time.process_time() - start < 5
    assert list(template.graph()) == [f"r{i}" for i in range(10_000)]


def test_a_resource_says_in_which_order_it_is_replaced() -> None:
    text = "resources: {a: {type: t, replace: delete_first}, b: {type: t}}"
    definitions = Template.parse(text).definitions({}, "s")
    assert definitions["a"].replace is Replacing.DELETE_FIRST
    assert definitions["b"].replace is None
    for wrong in ("destroy", "1", "{get_param: a}"):
        with pytest.raises(TemplateError, match="must be create_first or delete_first, not"):
            Template.parse(f"resources: {{a: {{type: t, replace: {wrong}}}}}")
