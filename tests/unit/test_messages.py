"""What is said of a word that is not known, the articles before nouns, and names of packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from converge.errors import BadInput, UnresolvedReference, did_you_mean, with_article
from converge.model import Physical
from converge.template import Template
from converge.template.evaluate import resolve
from converge.template.parameters import convert

ONE, TWO = "caf\N{LATIN SMALL LETTER E WITH ACUTE}s", "cafe\N{COMBINING ACUTE ACCENT}s"


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        (ONE, TWO, "with U+0065 U+0301 in place of U+00E9?"),
        (TWO, ONE, "with U+00E9 in place of U+0065 U+0301?"),
        ("\u00e9", "e\u0301", "with U+0065 U+0301 in place of U+00E9?"),
        ("\ufb01le", "file", "with U+0066 U+0069 in place of U+FB01?"),
        ("n\N{CYRILLIC SMALL LETTER A}me", "name", "with U+0061 in place of U+0430?"),
        ("stra\u00dfe", "strase", "mean 'strase'?"),
        ("name", "names", "mean 'names'?"),
    ],
)
def test_a_word_that_looks_the_same_is_told_by_its_characters(
    word: str, known: str, said: str
) -> None:
    for others in ([], ["xyz"]):
        hint = did_you_mean(word, [*others, known])
        assert hint.startswith(f"; did you mean {known!r}")
        assert hint.endswith(said)


def test_a_word_that_looks_the_same_comes_before_near_ones() -> None:
    near = [f"{ONE}{number}" for number in range(30)]
    assert "U+0065 U+0301 in place" in did_you_mean(ONE, [*near, TWO])


def test_references_name_the_characters() -> None:
    body = {
        "resources": {
            ONE: {"type": "none"},
            "a": {"type": "none", "properties": {"x": {"get_resource": TWO}}},
            **{f"r{number}": {"type": "none"} for number in range(30)},
        }
    }
    with pytest.raises(BadInput) as caught:
        Template.from_dict(body)
    assert "with U+00E9 in place of U+0065 U+0301?" in str(caught.value)
    physical = Physical("id", {ONE: 1})
    with pytest.raises(UnresolvedReference, match=r"has no attribute .* in place of U\+0065"):
        resolve({"get_attr": ["a", TWO]}, lambda name: physical)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"a": 1, "a": 2}', "or list; key 'a' is given twice, on line 1"),
        ("{", "or list; it is not valid JSON"),
        ('["\\u0000"]', "has a character that cannot be stored"),
        ("[" * 200, "or list; lists and mappings are nested deeper"),
    ],
)
def test_what_is_wrong_in_json_is_a_sentence(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        convert("json", given)


def test_articles() -> None:
    nouns = ["int", "object", "Output", "engine", "str", "UUID", "user", "one-off", ""]
    said = [with_article(noun).partition(" ")[0] for noun in nouns]
    assert said == ["an", "an", "an", "an", "a", "a", "a", "a", "a"]


def test_nobody_is_told_to_install_the_other_project_that_is_called_converge() -> None:
    """On PyPI, ``converge`` is a project of other people."""
    root = Path(__file__).resolve().parents[2]
    files = [root / "README.md", *(root / "doc").glob("*.rst"), *(root / "converge").rglob("*.py")]
    told = re.compile(r"pip install\s+(-\S+\s+)*['\"]?converge\b")
    assert len(files) > 200
    assert [str(file) for file in files if told.search(file.read_text("utf-8"))] == []
