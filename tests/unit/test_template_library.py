"""The functions of values alone: each result is that of Heat's own evaluator, where it has one."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.errors import BadInput
from converge.model import Physical
from converge.template.evaluate import resolve
from converge.template.functions import PURE
from converge.template.library import FUNCTIONS
from converge.template.values import SIZE_LIMIT

WORLD = {"a": Physical("id-a", {"list": ["x", "y"], "map": {"k": "v"}, "none": None, "ip": "::1"})}


def evaluate(value: Any) -> Any:
    return resolve(value, WORLD.__getitem__)


def test_each_has_an_evaluator() -> None:
    assert FUNCTIONS.keys() == PURE


LIST = {"get_attr": ["a", "list"]}
NULL = {"get_attr": ["a", "none"]}
GOOD: list[tuple[str, Any, Any]] = [
    # the longest key first in the whole template, not where one begins first
    ("str_replace", {"template": "abcd", "params": {"ab": "1", "bcd": "2"}}, "a2"),
    ("str_replace", {"template": "aab", "params": {"a": "b", "b": "a"}}, "bba"),
    ("str_replace", {"template": "x", "params": {"x": {"b": [1, "é"], "a": None}}},
     '{"a": null, "b": [1, "\\u00e9"]}'),
    ("str_replace", {"template": "x y", "params": {"x": False, "y": 1.5}}, "False 1.5"),
    ("str_replace", {"template": "x", "params": {"x": NULL}}, ""),
    ("str_replace_strict", {"template": "a-b", "params": {"a": 1, "b": ""}}, "1-"),
    ("str_replace_vstrict", {"template": "a-b", "params": {"a": 1, "b": 0}}, "1-0"),
    ("list_join", ["-", ["a", None, {"b": 1}], NULL, LIST], 'a--{"b": 1}-x-y'),
    ("str_split", [",", "a,b,,c"], ["a", "b", "", "c"]),
    ("str_split", [",", "a,b", 1], "b"),
    ("str_split", [",", "a,b", "0"], "a"),
    ("str_split", [",", "a,b", -1], "b"),
    ("str_split", [",", NULL], None),
    ("str_split", [", ", ""], [""]),
    ("digest", ["md5", "a"], hashlib.md5(b"a").hexdigest()),
    ("digest", ["SHA512", ""], hashlib.sha512(b"").hexdigest()),
    ("digest", ["sha1", "é"], hashlib.sha1(b"\xe9").hexdigest()),
    ("list_concat", [["a"], None, LIST, []], ["a", "x", "y"]),
    ("list_concat", [], []),
    ("list_concat_unique", [["a", 1, {"b": [1]}], ["a", True, {"b": [1.0]}, "c"]],
     ["a", 1, {"b": [1]}, "c"]),
    ("filter", [["x", None], ["a", "x", None, "b"]], ["a", "b"]),
    ("filter", [None, ["a"]], ["a"]),
    ("filter", [["a"], None], None),
    ("contains", ["x", LIST], True),
    ("contains", ["b", "abc"], True),
    ("contains", [{"k": "v"}, [{"get_attr": ["a", "map"]}]], True),
    ("contains", ["z", []], False),
    ("equals", [1, 1.0], True),
    ("equals", [["a"], LIST], False),
    ("equals", [None, NULL], True),
    ("map_merge", [{"a": 1, "b": 2}, None, {"a": 3}], {"a": 3, "b": 2}),
    ("map_merge", [], {}),
    ("map_replace", [{"a": "x", "b": "y"}, {"keys": {"a": "c"}, "values": {"y": "z"}}],
     {"c": "x", "b": "z"}),
    ("map_replace", [{"a": [1], "b": "y"}, {"values": {"y": None}}], {"a": [1], "b": None}),
    ("map_replace", [{"a": 1}, {"keys": {"a": "a"}}], {"a": 1}),
    ("map_replace", [None, None], {}),
    ("make_url", {"scheme": "https", "host": "::1", "port": 80, "path": "/a b",
                  "query": {"q": "x/y"}},
     "https://[::1]:80/a%20b?q=x/y"),
    ("make_url", {"scheme": "http", "username": "u@", "password": "p:/", "host": "h",
                  "fragment": "f"}, "http://u%40:p%3A%2F@h#f"),
    ("make_url", {"host": {"get_attr": ["a", "ip"]}, "port": "8080"}, "//[::1]:8080"),
    ("make_url", {}, ""),
    ("repeat", {"template": "<%i%>", "for_each": {"%i%": ["a", "b"]}}, ["<a>", "<b>"]),
    ("repeat", {"template": {"%k%": ["%v%", 1]}, "for_each": {"%k%": ["a", "b"],
                                                             "%v%": ["c", "d"]}},
     [{"a": ["c", 1]}, {"a": ["d", 1]}, {"b": ["c", 1]}, {"b": ["d", 1]}]),
    ("repeat", {"template": "a.b", "for_each": {"a": ["1", "2"], "b": ["3", "4"]},
                "permutations": False}, ["1.3", "2.4"]),
    ("repeat", {"template": "i", "for_each": {"i": {"get_attr": ["a", "map"]}}}, ["k"]),
    ("repeat", {"template": "i", "for_each": {"i": NULL}}, []),
    # a variable is put in after functions in the template are evaluated
    ("repeat", {"template": {"list_join": ["", ["i", "j"]]}, "for_each": {"ij": ["x"]}}, ["x"]),
    # later variables are looked for in what earlier ones put in
    ("repeat", {"template": "a", "for_each": {"a": ["b"], "b": ["c"]}}, ["c"]),
    # more than Heat: other values than texts
    ("repeat", {"template": ["p", "at p"], "for_each": {"p": [80, {"x": 1}]}},
     [[80, "at 80"], [{"x": 1}, 'at {"x": 1}']]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "expected"), GOOD)
def test_results(name: str, argument: Any, expected: Any) -> None:
    found = evaluate({name: argument})
    assert found == expected
    assert type(found) is type(expected)


BAD: list[tuple[str, Any, str]] = [
    ("str_replace_strict", {"template": "a", "params": {"a": 1, "b": 2}}, "not in the template: "),
    ("str_replace_vstrict", {"template": "a", "params": {"a": NULL}}, "the value of 'a' is empty"),
    ("str_replace_vstrict", {"template": "a", "params": {"a": ""}}, "the value of 'a' is empty"),
    ("str_split", "a", "str_split takes a list: a delimiter, a text, and perhaps the number"),
    ("str_split", ["", "a"], "the delimiter of str_split is empty"),
    ("str_split", [",", 5], "the text of str_split must be a string, not a number"),
    ("str_split", [",", "a,b", 2], "there is no part 2; the text has 2, numbered from 0"),
    ("str_split", [",", "a", "x"], "the number of the part in str_split is 'x'"),
    ("digest", ["md4", "a"], "digest has no algorithm 'md4'; known: md5, sha1"),
    ("digest", ["md5", "€"], "characters up to U+00FF, as in Heat, not '€'"),
    ("digest", ["md5", 5], "the text of digest must be a string, not a number"),
    ("list_concat", [["a"], "b"], "list_concat puts lists together, not a string"),
    ("list_concat", {"a": 1}, "list_concat takes a list"),
    ("filter", [["a"]], "filter takes a list: a list of values to leave out, and a list"),
    ("filter", ["a", []], "what filter leaves out must be a list, not a string"),
    ("contains", ["a", {"get_attr": ["a", "map"]}], "where contains looks must be a list or a str"),
    ("contains", [1, "1"], "contains looks for a string in a string, not for a number"),
    ("equals", [1], "equals takes a list: two values"),
    ("map_merge", [["a"]], "map_merge merges mappings, not a list"),
    ("map_replace", [{"a": 1}], "map_replace takes a list: a mapping, and a mapping with 'keys'"),
    ("map_replace", [{}, {"key": {}}], "map_replace replaces 'keys' and 'values', not 'key'"),
    ("map_replace", [{"a": 1, "b": 2}, {"keys": {"a": "b"}}], "there would be two keys 'b'"),
    ("map_replace", [{"a": 1, "b": 2}, {"keys": {"a": "c", "b": "c"}}], "there would be two keys"),
    ("map_replace", [{"a": 1}, {"keys": {"a": 2}}], "the new key for 'a' is a number"),
    ("make_url", {"hots": "x"}, "make_url has no key 'hots'; did you mean 'host'?"),
    ("make_url", {"port": 0}, "the port of make_url must be a number from 1 to 65535, not 0"),
    ("make_url", {"port": "x"}, "the port of make_url must be a number from 1 to 65535, not 'x'"),
    ("make_url", {"scheme": "http:"}, "the scheme of make_url must not have a colon"),
    ("make_url", {"query": "a"}, "the query of make_url must be a mapping, not a string"),
    ("repeat", {"template": "x"}, "repeat takes a mapping with the keys 'template' and 'for_each'"),
    ("repeat", {"template": "x", "for_each": {}}, "the for_each of repeat has no variable"),
    ("repeat", {"template": "x", "for_each": {"x": "abc"}}, "items of 'x' in repeat must be a l"),
    ("repeat", {"template": "x", "for_each": {"a": [1], "b": []}, "permutations": False},
     "repeat without permutations needs lists of one length, not 'a' 1, 'b' 0"),
    ("repeat", {"template": "x", "for_each": {"a": {"k": 1}}, "permutations": False},
     "the items of 'a' in repeat must be a list, not a mapping"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "message"), BAD)
def test_refusals(name: str, argument: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        evaluate({name: argument})
    assert message in str(caught.value)


@pytest.mark.parametrize("name", sorted(PURE))
@pytest.mark.parametrize("argument", [None, 5, "x", True, [], {}, [[]], {"a": 1}, [None, None]])
def test_whatever_the_argument_is(name: str, argument: Any) -> None:
    """It has a result or is refused with a message that names the function."""
    refusal = name
    try:
        evaluate({name: argument})
    except BadInput as error:
        refusal = str(error)
    assert name in refusal


def test_no_result_is_without_end() -> None:
    many = [str(number) for number in range(300)]
    for value in (
        {"repeat": {"template": "x", "for_each": {"a": many, "b": many, "c": many, "d": many}}},
        {"repeat": {"template": "a" * 3000, "for_each": {"a": ["y" * 3000]}}},
        {"str_replace": {"template": "a" * 3000, "params": {"a": "y" * 3000}}},
    ):
        with pytest.raises(BadInput, match=f"is longer than {SIZE_LIMIT:,}"):
            evaluate(value)


texts = st.text(st.sampled_from("abc"), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, database=None, derandomize=True)
@given(st.lists(st.lists(values, max_size=4), max_size=3))
def test_unique_is_concat_without_repetitions(lists: list[Any]) -> None:
    unique = evaluate({"list_concat_unique": lists})
    whole = evaluate({"list_concat": lists})
    assert all(item in unique for item in whole)
    assert all(one != other for i, one in enumerate(unique) for other in unique[:i])
    assert evaluate({"filter": [unique, whole]}) in ([], whole if not unique else [])


def slow_replace(template: str, params: dict[str, str]) -> str:
    """As it is told in Heat's documentation: the longest key first, what was put in stays."""
    for key in sorted(sorted(params), key=len, reverse=True):
        if key in template:
            rest = {other: value for other, value in params.items() if other != key}
            return params[key].join(slow_replace(part, rest) for part in template.split(key))
    return template


@settings(max_examples=300, database=None, derandomize=True)
@given(texts, st.dictionaries(st.text(st.sampled_from("abc"), min_size=1, max_size=3), texts))
def test_replacing(template: str, params: dict[str, str]) -> None:
    found = evaluate({"str_replace": {"template": template, "params": params}})
    assert found == slow_replace(template, params)


@settings(max_examples=200, database=None, derandomize=True)
@given(texts, st.sampled_from(["a", "bc", ","]))
def test_split_and_join_are_inverse(text: str, delimiter: str) -> None:
    assert evaluate({"list_join": [delimiter, {"str_split": [delimiter, text]}]}) == text


@settings(max_examples=200, database=None, derandomize=True)
@given(values, values)
def test_equality_is_pythons(one: Any, other: Any) -> None:
    # what looks like a function is none: the values have no such keys
    assert evaluate({"equals": [one, other]}) is (one == other)
    assert evaluate({"contains": [one, [other, one]]}) is True
    assert json.dumps(evaluate({"list_concat": [[one]]})) == json.dumps([one])
