"""The tests by subject, as ``subjects.yaml`` lists them, for pytest's option ``--about``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parent


def read() -> dict[str, list[str]]:
    """The entries of each subject."""
    text = (TESTS / "subjects.yaml").read_text(encoding="utf-8")
    found: dict[str, list[str]] = yaml.safe_load(text)
    return found


def file_of(entry: str) -> Path:
    """Where the tests of an entry are."""
    return TESTS / entry.partition("::")[0]


def has(entry: str, path: Path, name: str) -> bool:
    """Whether a test is one of an entry's.

    :param path: its file.
    :param name: its own, with its parameters.
    """
    words = entry.partition("::")[2] or "*"
    return path == file_of(entry) and fnmatchcase(name, words)
