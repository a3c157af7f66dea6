"""The page on loggers has those of the source, with their levels, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "doc" / "loggers.rst"
LEVELS = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
}


def logger_name(value: ast.expr, module: str) -> str | None:
    """The name in ``logging.getLogger(NAME)``; None of another expression."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func) != "logging.getLogger":
        return None
    (argument,) = value.args
    return module if ast.unparse(argument) == "__name__" else str(ast.literal_eval(argument))


def logged(path: Path) -> Iterator[tuple[str, str]]:
    """The loggers of a module's records, with the level of each."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    loggers = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = logger_name(statement.value, module)
            if name is not None:
                loggers[statement.targets[0].id] = name
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        name = loggers.get(ast.unparse(call.func.value))
        if name is None or call.func.attr == "isEnabledFor":
            continue
        if call.func.attr == "log":
            found = re.findall(r"logging\.([A-Z]+)", ast.unparse(call.args[0]))
            assert found, f"{path}:{call.lineno}: at which level?"
            yield from ((name, level) for level in found)
        else:
            yield name, LEVELS[call.func.attr]


def test_the_page_has_every_logger_and_level() -> None:
    source = {one for path in (ROOT / "converge").rglob("*.py") for one in logged(path)}
    text = PAGE.read_text(encoding="utf-8")
    page = re.findall(r"^   \* - ``([\w.]+)``\n     - ([A-Z]+)$", text, re.MULTILINE)
    assert set(page) == source
    assert len(page) == len(source)
