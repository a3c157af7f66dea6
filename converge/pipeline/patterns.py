"""Patterns of names, as in Ceilometer: ``*`` and ``?``; one that starts with ``!`` excludes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import lru_cache
from re import compile as compile_re


class Patterns:
    """A choice of names: those that an including pattern matches, unless an excluding one does.

    :param texts: with excluding patterns only, all other names are included.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        excluded = [text[1:] for text in texts if text.startswith("!")]
        included = [text for text in texts if not text.startswith("!")] or ["*"] * bool(excluded)
        self._included = _any_of(included)
        self._excluded = _any_of(excluded)
        self.matches = lru_cache(4096)(self._matches)

    def _matches(self, name: str) -> bool:
        return bool(self._included(name)) and not self._excluded(name)

    @property
    def is_empty(self) -> bool:
        """Whether no name can match."""
        excluded = {text[1:] for text in self.texts if text.startswith("!")}
        included = [text for text in self.texts if not text.startswith("!")]
        if not included and not excluded:
            return True
        return "*" in excluded or (bool(included) and set(included) <= excluded)


def _any_of(texts: Sequence[str]) -> Callable[[str], object]:
    if not texts:
        return lambda name: None
    return compile_re("|".join(f"(?:{translate(text)})" for text in texts)).match
