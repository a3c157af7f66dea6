from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from converge.errors import TemplateError
from converge.template import reading
from converge.template.values import DEPTH_LIMIT, SIZE_LIMIT, hint, plain, show

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


def value(text: str | bytes, name: str = "t.yaml") -> Any:
    document = reading.parse(text, name)
    for problem in document.problems:
        if "is given twice" in problem.message:
            raise problem
    return document.value


@pytest.fixture(params=["libyaml", "pure"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers of PyYAML: the fast one is not everywhere."""
    if request.param == "pure":
        monkeypatch.setattr(reading, "_LOADER", yaml.SafeLoader)
    return str(request.param)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text", "text"),
        ("'1'", "1"),
        ("12", 12),
        ("-1_000", -1000),
        ("0o17", "0o17"),
        ("0644", 0o644),
        ("0x1F", 31),
        ("0b11", 3),
        ("0b_", "0b_"),
        ("09", "09"),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.0e+3", 1000.0),
        ("1e3", "1e3"),
        ("-x", "-x"),
        ("+", "+"),
        ("2021-04-16", "2021-04-16"),
        ("2021-04-16 10:20:30", "2021-04-16 10:20:30"),
        ("22:22", "22:22"),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("=", "="),
        ("!!str 1", "1"),
        ("!!int '7'", 7),
        ("!!float 3", 3.0),
        ("!!bool 'yes'", True),
        ("!!null ''", None),
        ("{b: [1, {c: d}]}", {"b": [1, {"c": "d"}]}),
        ("!!map {b: !!seq [1]}", {"b": [1]}),
        ('"\\x41\\u00e9\\e"', "Aé\x1b"),
    ],
)
def test_yaml_values(loader: str, text: str, expected: Any) -> None:
    found = value(f"a: {text}")["a"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: 2\na: 3", 3, "key 'a' is given twice, on lines 1 and 3"),
        ("{a: 1, a: 2}", 1, "key 'a' is given twice, on line 1"),
        ("a: 1\n? [b]\n: c", 2, "a key must be a string, not a list"),
        ("b: &b [1]\n*b : c", 2, "a key must be a string"),
        ("a: .nan", 1, "JSON has no number .nan"),
        ("a:\n  b: -.inf", 2, "JSON has no number -.inf"),
        ("a: 9223372036854775808", 1, "more than 64 bits"),
        ("a: " + "9" * 6000, 1, "more than 64 bits"),
        ("a: 0x" + "f" * 200_000, 1, "more than 64 bits"),
        ("a: 1.0e+400", 1, "too large"),
        ("a:\n- !!python/object/apply:os.system [ls]", 2, "'!!python/object/apply:os.system'"),
        ("a: !!binary aGVsbG8=", 1, "the tag '!!binary' is not supported"),
        ("a: !!set {b}", 1, "the tag '!!set' is not supported"),
        ("a: !!timestamp 2021-01-01", 1, "the tag '!!timestamp' is not supported"),
        ("a: !Ref b", 1, "the tag '!Ref' is not supported"),
        ("a: !!int b", 1, "'b' is not a value of !!int"),
        ("a:\n\tb: 1", 2, "a tab is used for indentation; use spaces"),
        ("a: b: c", 1, "mapping values are not allowed"),
        ("a: 'b\n\n", 3, "quoted scalar"),
        ("a: 1\n---\nb: 2", 2, "a second document starts"),
        ("%YAML 3.0\n--- a", 1, "is not valid YAML"),
        ("a: *b", 1, "alias '*b' has no anchor before it"),
        ("a: &a [*a]", 1, "alias '*a' is inside the value of its anchor"),
        ("a: 1\nb: \x07", 2, r"the character '\x07' is not allowed in a template"),
        ("a: \ud800", 1, r"the character '\ud800'"),
        ('a: "\\0"', 1, "cannot be stored"),
        ("a: {<<: 3}", 1, "'<<' merges mappings, not a number"),
        ("a:\n  <<: {b: c}\n  <<: {b: c}", 3, "key '<<' is given twice, on lines 2 and 3"),
        ("[" * 200_000, 1, "nested deeper than 100 levels"),
        ("- " * 200_000, 1, "nested deeper than 100 levels"),
        ("? " * 5_000, 1, "nested deeper than 100 levels"),
        (LAUGHS, 7, "too many values"),
    ],
)
def test_yaml_refusals(loader: str, text: str, line: int, part: str) -> None:
    with pytest.raises(TemplateError) as caught:
        value(text)
    assert part in str(caught.value)
    assert (caught.value.source, caught.value.line) == ("t.yaml", line)
    assert len(str(caught.value)) < 400


def test_many_tag_directives_are_refused_at_once() -> None:
    directives = "".join(f"%TAG !a{number}! x\n" for number in range(200_000))
    with pytest.raises(TemplateError, match="too many %TAG directives"):
        value(directives + "---\na: b")
    assert value("a: |\n" + "  %TAG\n" * 1000)["a"].startswith("%TAG\n")


def test_a_deep_value_cannot_be_made_deeper_by_aliases() -> None:
    half = "[" * 60 + "]" * 60
    assert value(f"a: &a {half}\nb: *a")
    with pytest.raises(TemplateError, match="nested deeper"):
        value(f"a: &a {half}\nb: {'[' * 60}*a{']' * 60}")


def test_the_deepest_allowed() -> None:
    depth = DEPTH_LIMIT
    assert value("[" * depth + "]" * depth)
    assert value('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(TemplateError, match="nested deeper"):
        value("[" * (depth + 1) + "]" * (depth + 1))


def test_keys_that_are_no_strings_are_kept_as_written_and_noted() -> None:
    document = reading.parse("on: {80: a, 1.50: b, ~: c}\n", "t.yaml")
    assert document.value == {"on": {"80": "a", "1.50": "b", "~": "c"}}
    assert [str(problem) for problem in document.problems] == [
        "t.yaml:1: key 'on' is true in YAML; to be a name, it must be quoted",
        "t.yaml:1: key '80' is a number in YAML; to be a name, it must be quoted",
        "t.yaml:1: key '1.50' is a number in YAML; to be a name, it must be quoted",
        "t.yaml:1: key '~' is null in YAML; to be a name, it must be quoted",
    ]
    with pytest.raises(TemplateError, match="key 'on' is true in YAML"):
        document.mapping(document.value, document.spot, "it")


def test_merging(loader: str) -> None:
    text = """
base: &base {a: 1, b: 1}
other: &other {b: 2, c: 2}
one:
  b: 3
  <<: *base
two:
  <<: [*base, *other]
quoted: {"<<": 1}
"""
    found = reading.parse(text, "t.yaml")
    assert found.value["one"] == {"b": 3, "a": 1}
    assert found.value["two"] == {"a": 1, "b": 1, "c": 2}
    assert found.value["quoted"] == {"<<": 1}
    assert found.spot.child("two").child("c").line == 3


def test_lines(loader: str) -> None:
    spot = reading.parse("# comment\na:\n  b:\n  - c\n  - d:\n      e\n", "t.yaml").spot
    assert spot.child("a").line == 2
    assert spot.child("a").child("b").child(0).line == 4
    assert spot.child("a").child("b").child(1).child("d").line == 5
    assert spot.child("nothing") is spot
    assert spot.child("a").child("b").child(7).line == 3


def test_lines_of_json() -> None:
    spot = reading.parse('{"a":\n  {"b": [1,\n 2]},\n\n "c": "d"}', "t").spot
    assert spot.child("a").child("b").line == 2
    assert spot.child("a").child("b").child(1).line == 3
    assert spot.child("c").line == 5


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5, 1e3, true, false, null, "x\\n\\u00e9\\ud83d\\ude00"], "b": {}, "c": []}',
        '{\n\t"a"\t:\r\n\t[ ]\n}\n',
        "{}",
        '{"": ""}',
    ],
)
def test_json_is_what_json_says(text: str) -> None:
    assert value(text) == json.loads(text)
    assert value(text, "t.json") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ('{"a": 1,\n "a": 2}', 2, "key 'a' is given twice, on lines 1 and 2"),
        ('{"a": 1,}', 1, "a key in \"\" is expected, not '}'"),
        ('{"a": [1,]}', 1, "a value is expected, not ']'"),
        ('{"a"\n1}', 2, "':' is expected"),
        ('{"a": 1 "b": 2}', 1, "',' or '}' is expected"),
        ("[1 2]", 1, "',' or ']' is expected"),
        ('{"a": NaN}', 1, "JSON has no number NaN"),
        ('{"a": -Infinity}', 1, "JSON has no number -Infinity"),
        ('{"a": 1e999}', 1, "too large"),
        ('{"a": 123456789012345678901}', 1, "more than 64 bits"),
        ('{"a": "\\u0000"}', 1, "cannot be stored"),
        ('{"a": "\\ud800"}', 1, "cannot be stored"),
        ('{"a": "b\nc"}', 1, "is not valid JSON"),
        ('{"a": "b', 1, "is not valid JSON"),
        ('{\n"a": yes}', 2, "a value is expected, not 'yes'"),
        ('{"a": 1}\n}', 2, "'}' follows the end"),
        ('{\n"a": ', 2, "the text ends too early"),
        ("", 1, "the text ends too early"),
        ('{"a":' * 100_000, 1, "nested deeper than 100 levels"),
        ("[" * 100_000, 1, "nested deeper than 100 levels"),
    ],
)
def test_json_refusals(text: str, line: int, part: str) -> None:
    with pytest.raises(TemplateError) as caught:
        value(text, "t.JSON")
    assert part in str(caught.value)
    assert caught.value.line == line


def test_a_yaml_mapping_in_braces_is_yaml() -> None:
    assert value("{a: b, c: [d]}") == {"a": "b", "c": ["d"]}
    with pytest.raises(TemplateError, match="is not valid JSON"):
        value('{"a": ]')
    with pytest.raises(TemplateError, match="is not valid JSON"):
        value("{a: b}", "t.json")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ("a: b".encode("utf-16"), "is UTF-16, UTF-32 or no text; save it as UTF-8"),
        ("a: b".encode("utf-16-le"), "is UTF-16, UTF-32 or no text"),
        ("a: b".encode("utf-32"), "is UTF-16, UTF-32 or no text"),
        ("x: y\na: é".encode("latin-1"), "t.yaml:2: is not UTF-8: byte 0xE9"),
        (b"\x7fELF\x02\x01", "is not allowed in a template"),
    ],
)
def test_encodings(data: bytes, part: str) -> None:
    with pytest.raises(TemplateError) as caught:
        value(data)
    assert part in str(caught.value)


def test_a_mark_of_utf_8_is_let_pass() -> None:
    assert value("\ufeffa: é".encode()) == {"a": "é"}
    assert value("\ufeffa: é") == {"a": "é"}
    assert value('\ufeff{"a": 1}', "t.json") == {"a": 1}


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("a: 1")
    assert reading.read(good).value == {"a": 1}
    assert reading.read(str(good)).name == str(good)
    with pytest.raises(TemplateError, match=r"none\.yaml: cannot be read: No such file"):
        reading.read(tmp_path / "none.yaml")
    with pytest.raises(TemplateError, match="cannot be read: Is a directory"):
        reading.read(tmp_path)
    with pytest.raises(TemplateError, match="cannot be read: embedded null byte"):
        reading.read("a\0b")
    with pytest.raises(TemplateError) as caught:
        reading.read(tmp_path / ("x" * 5000))
    assert len(str(caught.value)) < 400


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        os.truncate(file.fileno(), 10_000_000)
    with pytest.raises(TemplateError) as caught:
        reading.read(large)
    assert caught.value.message == ("has 10,000,000 bytes; a template can have 5,242,880 at most")
    with pytest.raises(TemplateError, match="at most"):
        reading.read("/dev/zero")
    with pytest.raises(TemplateError, match="5,242,881 characters"):
        reading.parse("x" * (SIZE_LIMIT + 1), "t")


class Strange:
    pass


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({1: 2}, "key 1 must be a string"),
        ({"a": Strange()}, "a value is a Strange"),
        ({"a": {1, 2}}, "a value is a set"),
        ([float("nan")], "JSON has no number nan"),
        ([2**63], "more than 64 bits"),
        (["\0"], "cannot be stored"),
        ({"\ud800": 1}, "cannot be stored"),
    ],
)
def test_values_of_a_program(given: Any, part: str) -> None:
    with pytest.raises(TemplateError) as caught:
        plain(given, "body")
    assert part in str(caught.value)
    assert caught.value.source == "body"


def test_a_value_that_holds_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TemplateError, match="nested deeper"):
        plain(endless, "body")


def test_plain_copies() -> None:
    given = {"a": (1, [2.5, None, True])}
    assert plain(given, "body") == {"a": [1, [2.5, None, True]]}


def test_parse_json() -> None:
    assert reading.parse_json("[1]", "x") == [1]
    with pytest.raises(TemplateError, match="is not valid JSON"):
        reading.parse_json("[1", "x")
    with pytest.raises(TemplateError, match="characters"):
        reading.parse_json(" " * (SIZE_LIMIT + 1), "x")


def test_hints_stay_short_and_cheap() -> None:
    names = [f"resource_{number}" for number in range(100_000)]
    assert hint("resource_1x", names).startswith("; did you mean 'resource_1")
    assert hint("something else", names) == ""
    assert hint("x" * 1000, names) == ""
    assert hint(5, names) == ""
    assert hint("x", ["alpha", "beta"]) == "; known: alpha, beta"
    assert hint("x", ["a" * 250, "b" * 250, "c" * 250]) == ""


def test_shown_values_are_cut() -> None:
    assert show("short") == "'short'"
    assert len(show("x" * 10_000)) < 70
    assert len(show("'\x01\"" * 10_000)) < 70
    assert show({"a": 1}) == "a mapping"
