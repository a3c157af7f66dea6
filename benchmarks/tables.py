"""Tables of figures that the documentation includes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

DOC = Path(__file__).resolve().parents[1] / "doc"
#: What is measured: figures as JSON, and the tables that are made of them.
MEASURED = DOC / "measured"


def list_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, as reStructuredText."""
    lines = [f".. list-table:: {title}".rstrip(), "   :header-rows: 1", "   :stub-columns: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'*' if not i else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return [*lines, ""]


def keep(name: str, lines: Iterable[str]) -> None:
    """Write a file for the documentation to include."""
    MEASURED.mkdir(exist_ok=True)
    (MEASURED / name).write_text("\n".join(lines).rstrip() + "\n")
