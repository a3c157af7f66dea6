"""Each of the ten invariants has tests that name it."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def test_every_invariant_has_a_test_that_names_and_says_it() -> None:
    found: set[int] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            number = re.match(r"test_invariant_(\d+)_", node.name)
            if number is not None:
                assert ast.get_docstring(node), node.name
                found.add(int(number[1]))
    assert found == set(range(1, 11))
