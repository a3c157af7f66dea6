"""What is printed: escaped text, tables, JSON documents, files.

Names and reasons come from templates and handlers: they are never interpreted as markup, and
what could move a terminal's cursor or reverse its text is escaped.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from converge.errors import BadInput
from converge.escaping import escape

STYLES: Mapping[str, str] = {
    "COMPLETE": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "DRIFTED": "yellow",
    "RETRY": "yellow",
    "SKIPPED": "yellow",
    "IN_PROGRESS": "cyan",
    "WAITING": "dim",
}


def shown(value: Any) -> str:
    """A JSON value in one line: strings as they are, all else as JSON."""
    if isinstance(value, str):
        return escape(value)
    return escape(json.dumps(value, ensure_ascii=False, default=str))


def duration(seconds: float) -> str:
    """A time span, for people: ``0.3 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def moment(seconds: float) -> str:
    """A time given in seconds since 1970, in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_terminal(stream: IO[str]) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def write_json(value: Any, stream: IO[str]) -> None:
    """Print one JSON document, in ASCII, so that it survives any encoding of the stream."""
    stream.write(json.dumps(value, indent=2, default=str) + "\n")


def write_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    stream: IO[str],
    *,
    wide: bool = False,
) -> None:
    """Print rows in columns: folded and coloured on a terminal, else complete and plain.

    :param wide: also on a terminal, a line for each row.
    """
    cells = [[escape("" if cell is None else cell) for cell in row] for row in rows]
    if is_terminal(stream) and not wide:
        _rich_table(headers, cells, stream)
        return
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    for row in ([header.upper() for header in headers], *cells):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        stream.write("  ".join(padded).rstrip() + "\n")


def _rich_table(headers: Sequence[str], cells: Iterable[Sequence[str]], stream: IO[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header.upper(), overflow="fold", no_wrap=header in {"status", "action"})
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    make_console(stream).print(table)


def make_console(stream: IO[str]) -> Any:
    """A rich console on the stream that interprets no text as markup."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=False)


def write_file(path: str | Path, text: str) -> None:
    """Write a file, in UTF-8, as a whole or not at all.

    A device or a pipe is written to; the target of a symbolic link is replaced.

    :raises BadInput: it is a folder, or cannot be written.
    """
    target = Path(os.path.realpath(path))
    data = text.encode("utf-8", "backslashreplace")
    try:
        if target.is_dir():
            raise BadInput(f"cannot write {escape(path)}: it is a folder; name a file")
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            target.write_bytes(data)
            return
        _replace(target, data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"cannot write {escape(path)}: {reason}") from error


def _replace(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=".converge-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(target))
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _mode(target: Path) -> int:
    """The mode of the existing file, else rw-rw-rw- less the umask."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
