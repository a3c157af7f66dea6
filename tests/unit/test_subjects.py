"""The list of tests by subject has every file of tests, and nothing that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import subjects

TESTS = Path(__file__).resolve().parent.parent
ENTRIES = [(subject, entry) for subject, entries in subjects.read().items() for entry in entries]


def test_every_file_of_tests_has_a_subject() -> None:
    listed = {subjects.file_of(entry) for _, entry in ENTRIES if "::" not in entry}
    assert set(TESTS.glob("*/test_*.py")) == listed


def test_the_page_says_what_each_folder_is_for() -> None:
    page = (TESTS.parent / "doc" / "contributing.rst").read_text(encoding="utf-8")
    folders = {file.parent.name for file in TESTS.glob("*/test_*.py")}
    assert {name for name in folders if f"``tests/{name}`` " not in page} == set()


def test_an_entry_stands_once_in_its_place() -> None:
    assert len(set(ENTRIES)) == len(ENTRIES)
    assert list(subjects.read()) == sorted(subjects.read())


@pytest.mark.parametrize("entry", sorted({entry for _, entry in ENTRIES if "::" in entry}))
def test_words_of_an_entry_are_in_its_file(entry: str) -> None:
    path, _, words = entry.partition("::")
    texts = [(TESTS / path).read_text(encoding="utf-8")]
    if path.startswith("scenarios/"):
        texts += [f"{one.stem}: {one.read_text()}" for one in (TESTS / "scenarios").glob("*.yaml")]
    assert any(words.strip("*") in text for text in texts)
