"""Reading definitions and pipeline files: what a mapping must have, with the line of each mistake.

All mistakes of a file are collected, so that a person sees them at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from converge.errors import BadInput, PipelineError, TemplateError, did_you_mean
from converge.model import Json
from converge.template.reading import parse as parse_text
from converge.template.reading import read as read_file
from converge.template.values import Document, Spot

T = TypeVar("T")


class Place:
    """A value in a file, and what is said about it.

    :ivar path: how to name it in a message, such as ``sinks[0].steps``; empty for the whole.
    """

    def __init__(self, document: Document, value: Json, spot: Spot, path: str, log: Log) -> None:
        self.value = value
        self.path = path
        self._document = document
        self._spot = spot
        self._log = log

    @property
    def line(self) -> int | None:
        """The line that it is on, from 1."""
        return self._spot.line

    @property
    def source(self) -> str:
        """The name of the file."""
        return self._document.name

    def error(self, message: str) -> PipelineError:
        """An error, to be raised, that says where."""
        named = f"{self.path}: {message}" if self.path else message
        return PipelineError(named, source=self._document.name, line=self._spot.line)

    def refuse(self, message: str) -> None:
        """Note a mistake; the rest is looked at, too."""
        self._log.errors.append(self.error(message))

    def note(self, message: str) -> None:
        """Note what is no mistake, but should be known."""
        self._log.notes.append(str(self.error(message)))

    def child(self, key: str | int) -> Place:
        """The place of a value in it; of itself if there is no such value."""
        named = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else str(key)
        try:
            value = self.value[key]
        except (KeyError, IndexError, TypeError):
            value = None
        return Place(self._document, value, self._spot.child(key), f"{self.path}{named}", self._log)

    def __iter__(self) -> Iterator[Place]:
        """The places of the items of a list; none if it is no list."""
        count = len(self.value) if isinstance(self.value, list) else 0
        return iter([self.child(index) for index in range(count)])

    def has(self, key: str) -> bool:
        """Whether it is a mapping with a value under this key."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def check_keys(self, known: Sequence[str], needed: Sequence[str] = ()) -> bool:
        """Check that it is a mapping with these keys.

        :returns: whether it has all that are needed.
        """
        if not isinstance(self.value, dict):
            self.refuse(f"a mapping is expected, with {', '.join(known)}")
            return False
        for key in self.value:
            if key not in known:
                self.child(key).refuse(f"there is no such key{did_you_mean(key, known)}")
        missing = [key for key in needed if self.value.get(key) is None]
        for key in missing:
            self.refuse(f"{key} is missing")
        return not missing

    def text(self, key: str, default: str | None = None) -> str | None:
        """The text under a key."""
        if not self.has(key):
            return default
        value = self.value[key]
        if not isinstance(value, str) or not value:
            self.child(key).refuse(f"a text is expected, not {value!r}")
            return default
        return value

    def texts(self, key: str) -> list[str]:
        """The texts under a key: a list of them, or one."""
        if not self.has(key):
            return []
        value = self.value[key]
        if isinstance(value, str) and value:
            return [value]
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return list(value)
        self.child(key).refuse("a text or a list of texts is expected")
        return []

    def items(self, key: str) -> list[Place]:
        """The places of a list under a key."""
        if not self.has(key):
            return []
        if not isinstance(self.value[key], list):
            self.child(key).refuse("a list is expected")
            return []
        return list(self.child(key))

    def attempt(self, make: Callable[[], T]) -> T | None:
        """What a function makes; None if it raises :class:`BadInput`, which is noted here."""
        try:
            return make()
        except PipelineError as error:
            self._log.errors.append(error)
        except BadInput as error:
            self.refuse(str(error))
        return None


class Log:
    """What was found wrong, and what should be known."""

    def __init__(self) -> None:
        self.errors: list[PipelineError] = []
        self.notes: list[str] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note an error that is raised, and go on after the block."""
        try:
            yield
        except PipelineError as error:
            self.errors.append(error)

    def check(self) -> None:
        """:raises PipelineError: the first mistake, with how many there are."""
        if not self.errors:
            return
        first = self.errors[0]
        if len(self.errors) == 1:
            raise first
        more = len(self.errors) - 1
        plural = "mistake" if more == 1 else "mistakes"
        raise PipelineError(
            f"{first.message} (and {more} more {plural})", source=first.source, line=first.line
        )


def load(
    what: str | os.PathLike[str] | Mapping[str, Any] | list[Any], name: str, log: Log
) -> Place:
    """The whole of a file, or of a program's own value.

    :param name: what to call a value or a text in messages.
    :raises PipelineError: it cannot be read.
    """
    try:
        if isinstance(what, Mapping | list):
            document = Document(name, what, Spot())
        elif isinstance(what, str) and "\n" in what:
            document = parse_text(what, name)
        else:
            document = read_file(what)
    except TemplateError as error:
        message = error.message.replace("a template, which", "this file, which")
        message = message.replace("a template", "a file")
        raise PipelineError(message, source=error.source, line=error.line) from None
    for problem in document.problems:
        log.errors.append(PipelineError(problem.message, source=problem.source, line=problem.line))
    return Place(document, document.value, document.spot, "", log)
