"""Patterns mean what they mean to Python's own matcher, and cannot take for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.template.patterns import WORK, PatternError, compile_pattern

PATTERNS = [
    "",
    "a",
    "[a-c]+",
    "[^a-c]+",
    "a|b|",
    "(a|ab)(c|bcd)(d*)",
    "a{2,3}",
    "a{2,}b{0,1}",
    "(ab){2}",
    "a*?b+?",
    "(a*)*",
    "(a*)+b",
    "(|a)+",
    "^a$",
    "^a$|b\n",
    "(?m)^a$\n^b$",
    "a.c",
    "(?s)a.c",
    r"(?i)straSSE|\u0130|\u212a",
    "(?i:a)b",
    "(?i)(?-i:a)b",
    "(?x) a b # c",
    r"\w+\s\d\D",
    r"(?a)\w+",
    r"\bab\b.*",
    r"a\Bb",
    r"\Aa\Z",
    "(?=.*[0-9])(?=.*[a-z]).{2,5}",
    "(?!.*aa).*",
    "a(?<=a)b(?<!a)c?",
    "(?:(?=a)|b)*.",
    "(?!)|a",
    "[\\]a-]+",
    "(?P<name>a)b",
    r"\u00e9[^\W\d_]*",
    "((((a?)?)?)?){3}",
    "(){0,1000000}",
    "(){1000}a",
]
TEXTS = ["", "a", "b", "ab", "aab", "abc", "abcd", "aaa", "A", "aB", "a\n", "b\n", "a\nb", "a\nc"]
TEXTS += [
    "straße",
    "STRASSE",
    "i̇",
    "K",
    "k",
    "İ",
    "été",
    "a1",
    "1aa",
    "ab ab",
    "x 1y",
    "a]-",
    "aaaaaa",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_python(pattern: str) -> None:
    python, ours = re.compile(pattern), compile_pattern(pattern)
    for text in TEXTS:
        assert ours.fullmatch(text) is (python.fullmatch(text) is not None), text


parts = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "^", "$", r"\b", "\n", ""]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join).map("(?:{})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "*?", "{1,}?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map("(?={})".format),
        inner.map("(?!{})".format),
    ),
    max_leaves=5,
)


@settings(max_examples=300, database=None, derandomize=True)
@given(parts, st.lists(st.text("ab\n", max_size=5), min_size=1, max_size=5))
def test_any_pattern_means_what_it_means_to_python(pattern: str, texts: list[str]) -> None:
    python, ours = re.compile(pattern), compile_pattern(pattern)
    for text in texts:
        assert ours.fullmatch(text) is (python.fullmatch(text) is not None), text


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a+)+b", "(a|aa)+b", "(a|a?)+b", "(a*)*b", "(.*)(.*)(.*)(.*)b", "(?=(a+)+b)."],
)
def test_what_would_take_python_for_ever_is_over_at_once(pattern: str) -> None:
    # by the limit of the work, whatever the machine: it is far below that
    text = "a" * 1000 + "!"
    assert not compile_pattern(pattern).fullmatch(text)


def test_a_long_text_is_little_work_for_a_simple_pattern() -> None:
    assert compile_pattern("[a-z0-9]+(-[a-z0-9]+)*").fullmatch("abc-" * (WORK // 8) + "x")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("(.?){0,1600}x", "a" * 5000), ("(?:(?=.*b)a)*b", "a" * 3000 + "b"), (".*", "a" * 3 * WORK)],
)
def test_too_much_work_is_refused(pattern: str, text: str) -> None:
    with pytest.raises(PatternError, match="takes too much work; make the pattern simpler"):
        compile_pattern(pattern).fullmatch(text)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "it is not a regular expression: missing )"),
        ("a**", "it is not a regular expression: multiple repeat"),
        ("(" * 5000 + ")" * 5000, "it is not a regular expression"),
        ("a{99999999999}", "it is not a regular expression"),
        (r"(a)\1", "does not support a reference to a group"),
        (r"(a)?(?(1)b|c)", "does not support a condition on a group"),
        ("(?>a)", "does not support an atomic group"),
        ("a++", "does not support a possessive repetition"),
        ("a{5001}", "it is too large"),
        ("(a{1000}){1000}", "it is too large"),
        ("((a?){1000}){1000000}", "it is too large"),
    ],
)
def test_what_cannot_be_matched_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=re.escape(message)):
        compile_pattern(pattern)
