"""The list of mutations fits the source, and the documentation has all of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from converge import crash_points

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import mutations  # noqa: E402
from mutations import Edit, Mutation, MutationError  # noqa: E402

ALL = mutations.load()
SOURCE = """\
class Lock:
    def take(self):
        return free
def take():
    return free
"""


@pytest.mark.parametrize("mutation", ALL, ids=[one.name for one in ALL])
def test_a_mutation_fits_the_source_and_names_tests_that_are_there(mutation: Mutation) -> None:
    changed = {edit.path: (ROOT / edit.path).read_text(encoding="utf-8") for edit in mutation.edits}
    for edit in mutation.edits:
        after = edit.apply(changed[edit.path])
        assert after != changed[edit.path]
        changed[edit.path] = after
    assert mutation.tests
    for test in mutation.tests:
        path, _, rest = test.partition("::")
        name, _, case = rest.partition("[")
        text = (ROOT / path).read_text(encoding="utf-8") if rest else ""
        assert (ROOT / path).exists()
        assert not rest or f"def {name}(" in text, test
        # a story of a scenario is a test, too
        story = case.rstrip("]").partition(": ")
        stories = (ROOT / path).parent / f"{story[0].partition('-')[2]}.yaml"
        assert not story[2] or f"\n  {story[2]}:\n" in stories.read_text(encoding="utf-8"), test


def test_the_documentation_lists_all_mutations() -> None:
    page = mutations.PAGE.read_text(encoding="utf-8")
    assert page == mutations.documented(page), "run tools/mutations.py --write"


def test_the_documentation_lists_all_crash_points() -> None:
    page = mutations.PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^``(\w+)``$", page.partition(".. points")[2], re.MULTILINE)
    assert listed == list(dict.fromkeys(name.partition(".")[0] for name in crash_points.NAMES))


def test_an_edit_is_made_in_its_function_only() -> None:
    for at, place in (("x.py::take", -1), ("x.py::Lock.take", 0)):
        changed = Edit(at, "return free", "return taken").apply(SOURCE)
        assert SOURCE.split("return free")[place] == changed.split("return taken")[place]
        assert changed.count("return free") == 1


@pytest.mark.parametrize(
    ("at", "find", "put", "saying"),
    [
        ("x.py", "return free", "", "2 times"),
        ("x.py::take", "return mine", "", "0 times"),
        ("x.py::give", "return free", "", "no give"),
        ("x.py::take", "return free", "return (", "no Python"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(at: str, find: str, put: str, saying: str) -> None:
    with pytest.raises(MutationError, match=saying):
        Edit(at, find, put).apply(SOURCE)
