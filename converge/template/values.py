"""Plain values with the line of each, and what builds them within limits.

The values are those that JSON can express, with text for keys. The line of each is kept beside
them, in a tree of :class:`Spot` of the same shape. The builder does not recurse, and counts
whatever it repeats.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from converge.errors import TemplateError, did_you_mean, find_alike, with_article
from converge.model import Json

#: The largest text, in bytes of a file or in characters.
SIZE_LIMIT = 5 * 1024 * 1024
#: How deep lists and mappings may be nested.
DEPTH_LIMIT = 100
#: How deep stacks may be nested.
LEVELS = 15
#: Bounds values and characters together: a value weighs 10 and each of its characters 1, again
#: for every alias of it. An expanded alias costs memory as soon as it is written as JSON.
WEIGHT_LIMIT = 12_000_000
#: The whole numbers that all three databases return unchanged.
INTEGERS = range(-(2**63), 2**63)

#: The only key of a mapping that marks its value as data, whatever it looks like: a value that
#: looks like a function, or the template of a nested stack.
LITERAL = "converge::literal"

_VALUE_WEIGHT = 10
#: Characters that one of the databases, or UTF-8, cannot store.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(slots=True)
class Spot:
    """The place of a value in a text.

    :ivar line: its line, from 1; for a value in a mapping the line of its key; None: unknown.
    :ivar children: the spots of the values in it.
    :ivar problem: what is wrong with its key, None if nothing is.
    :ivar written: how a number or boolean is written, if that is not how it reads as text: ``NO``,
        ``3.10`` or ``0x1F``.
    """

    line: int | None = None
    children: dict[str, Spot] | list[Spot] | None = None
    problem: str | None = None
    written: str | None = None

    def child(self, key: str | int) -> Spot:
        """The spot of the value under a key or index; its own where that is not known."""
        if self.children is None:
            # of all that a program made: there a million resources must not take long
            return self
        try:
            return self.children[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return self


@dataclass(slots=True)
class Document:
    """A text that was read.

    :ivar name: the name of the file, or another name for messages.
    :ivar problems: mistakes that do not prevent it from being drawn.
    :ivar mistakes: where all mistakes are collected; None: the first one is raised.
    :ivar names_files: whether ``get_file`` can be in it.
    :ivar is_host_s: whether its resources are still a host's own values. A million copied at once
        would take as much memory as the host's.
    """

    name: str
    value: Json
    spot: Spot
    problems: list[TemplateError] = field(default_factory=list)
    mistakes: list[TemplateError] | None = None
    names_files: bool = True
    is_host_s: bool = False

    @classmethod
    def of_host(cls, body: object, name: str) -> Document:
        """A document of a host's mapping, copied by :func:`plain`, but for each resource.

        :raises TemplateError: as that does.
        """
        if not isinstance(body, Mapping) or not isinstance(body.get("resources"), Mapping):
            return cls(name, plain(body, name), Spot())
        resources = body["resources"]
        value = plain({**body, "resources": dict.fromkeys(resources)}, name)
        value["resources"] = dict(zip(value["resources"], resources.values(), strict=True))
        return cls(name, value, Spot(), is_host_s=True)

    def error(self, message: str, spot: Spot) -> TemplateError:
        """An error, to be raised, that says where."""
        return TemplateError(message, source=self.name, line=spot.line)

    def note(self, message: str, spot: Spot) -> None:
        """Note a mistake after which the rest can still be looked at.

        :raises TemplateError: it, unless all are collected.
        """
        self.keep(self.error(message, spot))

    def keep(self, error: TemplateError) -> None:
        """:meth:`note` an error that was made already.

        :raises TemplateError: it, unless all are collected.
        """
        if self.mistakes is None:
            raise error
        self.mistakes.append(error)

    def plain(self, resource: Json) -> Json:
        """The value of a resource, copied by :func:`plain` if it is a host's.

        :raises TemplateError: as that does.
        """
        return plain(resource, self.name, DEPTH_LIMIT - 2) if self.is_host_s else resource

    def mapping(self, value: Json, spot: Spot, what: object) -> dict[str, Json]:
        """A value as a mapping whose keys are names; null is an empty one.

        :raises TemplateError: if it is something else.
        """
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(f"{what} must be a mapping, not {kind(value)}", spot)
        for key in () if spot.children is None else value:
            place = spot.child(key)
            if place is not spot and place.problem:
                self.note(place.problem, place)
        return value


def plain(value: object, name: str, depth: int = DEPTH_LIMIT, levels: int = LEVELS + 1) -> Json:
    """A deep copy of a host's value, as plain dicts and lists; tuples become lists.

    :param name: its name in messages.
    :param levels: how many nested templates may be in it, each in the one before: each is as deep
        as if it stood alone.
    :raises TemplateError: if it is not a JSON value within the limits of this module.
    """
    if depth <= 0 and isinstance(value, dict | list | tuple | Mapping):
        raise TemplateError(TOO_DEEP, source=name)
    # nearly all that there is are strings, and printable: they cost no call and no search
    if isinstance(value, list | tuple):
        return [
            held
            if type(held) is str and held.isprintable()
            else plain(held, name, depth - 1, levels)
            for held in value
        ]
    if isinstance(value, dict | Mapping):
        copied: dict[str, Json] = {}
        if levels and len(value) == 1 and LITERAL in value:
            depth, levels = DEPTH_LIMIT + 1, levels - 1
        for key, held in value.items():
            if type(key) is not str or not key.isprintable():
                key = _plain_key(key, name)
            copied[key] = (
                held
                if type(held) is str and held.isprintable()
                else plain(held, name, depth - 1, levels)
            )
        return copied
    return _plain_scalar(value, name)


def _plain_key(key: object, name: str) -> str:
    if not isinstance(key, str):
        raise TemplateError(f"key {show(key)} must be a string", source=name)
    plain_key: str = _plain_scalar(key, name)
    return plain_key


def _plain_scalar(value: object, name: str) -> Json:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if UNSTORABLE.search(value):
            raise TemplateError(f"{show(value)} has a character that cannot be stored", source=name)
        return str(value)
    if isinstance(value, int):
        if value not in INTEGERS:
            raise TemplateError("a number has more than 64 bits; use a string", source=name)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TemplateError(f"JSON has no number {value}", source=name)
        return float(value)
    what = with_article(type(value).__name__)
    raise TemplateError(f"a value is {what}, which JSON does not have", source=name)


def as_text(value: Json) -> str:
    """How a value reads where text is wanted: null is empty, what is no string is JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def misreading(value: Json, spot: Spot) -> str | None:
    """Why a scalar would not be the text that is written, None if it would be."""
    if spot.written is None:
        return None
    what = "boolean" if isinstance(value, bool) else "number"
    return f"{spot.written} is the {what} {as_text(value)} here, not text; {quote(value, spot)}"


def quote(value: Json, spot: Spot) -> str:
    """The remedy for a number or boolean that is meant as text."""
    return f'quote it: "{as_text(value) if spot.written is None else spot.written}"'


def kind(value: object) -> str:
    """The kind of a value, in words for a message."""
    if value is None:
        return "null"
    kinds: list[tuple[type, str]] = [
        (bool, "a boolean"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "a mapping"),
    ]
    return next((words for type_, words in kinds if isinstance(value, type_)), "no JSON value")


def show(value: object) -> str:
    """A value for a message, cut to a readable length."""
    if isinstance(value, dict | list):
        return kind(value)
    text = repr(value[:61] if isinstance(value, str) else value)
    return text if len(text) <= 63 else text[:57] + "..." + text[0]


def hint(word: object, known: Iterable[str]) -> str:
    """What may have been meant, to append to a message about an unknown word."""
    names = list(known)
    # comparing with everything is slow, and names differ little from what was meant
    if not isinstance(word, str) or len(word) > 300:
        return ""
    if len(names) > 20:
        near = [name for name in names if abs(len(name) - len(word)) <= 3][:5000]
        names = find_alike(word, names) or near
    text = did_you_mean(word, names)
    return "" if text.startswith("; known") and (len(names) > 20 or len(text) > 600) else text


TOO_DEEP = f"lists and mappings are nested deeper than {DEPTH_LIMIT} levels"
_TOO_HEAVY = "has too many values (those of an alias count each time); split the template"


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is not complete yet."""

    value: Any
    line: int
    anchor: str | None
    children: Any
    key: str | None = None
    key_line: int = 0
    key_problem: str | None = None
    merging: bool = False
    merged: tuple[Json, Spot] | None = None
    weight: int = _VALUE_WEIGHT
    height: int = 1


class Builder:
    """Makes a document of the pieces that a parser finds, one after the other.

    All its methods raise :class:`~converge.errors.TemplateError` if a limit is exceeded.

    :param name: the name of the text in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[_Frame] = []
        # for each anchor: value, spots of its parts, weight, height, how it is written; None while
        # it is open
        self.anchors: dict[str, tuple[Json, Any, int, int, str | None] | None] = {}
        self.weight = 0
        self.problems: list[TemplateError] = []
        # shared by all scalars of one line: most values are scalars
        self.last = Spot()
        self.root: Json = None
        self.root_spot = Spot()

    def error(self, message: str, line: int) -> TemplateError:
        """An error, to be raised, that says where."""
        return TemplateError(message, source=self.name, line=line)

    def open(self, value: dict[str, Json] | list[Json], line: int, anchor: str | None) -> None:
        """Begin a list or mapping.

        :param value: an empty one.
        """
        if len(self.stack) >= DEPTH_LIMIT:
            raise self.error(TOO_DEEP, line)
        if anchor is not None:
            self.anchors[anchor] = None
        self._weigh(_VALUE_WEIGHT, line)
        self.stack.append(_Frame(value, line, anchor, {} if isinstance(value, dict) else []))

    def close(self) -> None:
        """End the list or mapping that was begun last."""
        frame = self.stack.pop()
        if frame.merged is not None:
            self._merge(frame, *frame.merged)
        self._add(frame.value, frame.children, frame.line, frame.weight, frame.height, frame.anchor)

    def scalar(self, value: Json, text: str, line: int, anchor: str | None, merge: bool) -> None:
        """Add a scalar.

        :param text: as it is written: its name if it turns out to be a key.
        :param merge: whether it brings in other mappings if it turns out to be a key.
        """
        weight = _VALUE_WEIGHT + len(text)
        self._weigh(weight, line)
        reads = isinstance(value, str) or value is None or as_text(value) == text
        self._add(value, None, line, weight, 0, anchor, text, merge, None if reads else text)

    def alias(self, anchor: str, line: int) -> None:
        """Add again the value that has an anchor."""
        if anchor not in self.anchors:
            raise self.error(f"alias {show('*' + anchor)} has no anchor before it", line)
        known = self.anchors[anchor]
        if known is None:
            raise self.error(f"alias {show('*' + anchor)} is inside the value of its anchor", line)
        value, children, weight, height, written = known
        if len(self.stack) + height > DEPTH_LIMIT:
            raise self.error(TOO_DEEP, line)
        self._weigh(weight, line)
        self._add(value, children, line, weight, height, None, written=written)

    def _weigh(self, weight: int, line: int) -> None:
        self.weight += weight
        if self.weight > WEIGHT_LIMIT:
            raise self.error(_TOO_HEAVY, line)

    def _add(
        self,
        value: Json,
        children: Any,
        line: int,
        weight: int,
        height: int,
        anchor: str | None,
        text: str | None = None,
        merge: bool = False,
        written: str | None = None,
    ) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, children, weight, height, written)
        if not self.stack:
            self.root, self.root_spot = value, Spot(line, children)
            return
        frame = self.stack[-1]
        frame.weight += weight
        if height >= frame.height:
            frame.height = height + 1
        if isinstance(frame.value, list):
            frame.value.append(value)
            frame.children.append(self._spot(line, children, None, written))
        elif frame.merging:
            frame.merged = (value, Spot(frame.key_line, children))
            frame.merging = False
        elif frame.key is None:
            self._key(frame, value, text, line, merge)
        else:
            frame.value[frame.key] = value
            frame.children[frame.key] = self._spot(
                frame.key_line, children, frame.key_problem, written
            )
            frame.key = None

    def _spot(self, line: int, children: Any, problem: str | None, written: str | None) -> Spot:
        if children is not None or problem is not None or written is not None:
            return Spot(line, children, problem, written)
        if self.last.line != line:
            self.last = Spot(line)
        return self.last

    def _key(self, frame: _Frame, value: Json, text: str | None, line: int, merge: bool) -> None:
        problem = None
        if merge:
            if frame.merged is not None:
                self.problems.append(self._twice("<<", frame.merged[1], line))
            frame.merging, frame.key_line = True, line
            return
        if isinstance(value, str):
            key = value
        elif text is None:
            raise self.error(f"a key must be a string, not {kind(value)}", line)
        else:
            key = text
            problem = (
                f"key {show(text)} is {_meaning(value)} in YAML; to be a name, it must be quoted"
            )
            self.problems.append(self.error(problem, line))
        if key in frame.children:
            # it can be drawn: like other readers, the last one counts
            self.problems.append(self._twice(key, frame.children[key], line))
        frame.key, frame.key_line, frame.key_problem = key, line, problem

    def _twice(self, key: str, first: Spot, line: int) -> TemplateError:
        where = f"on line {line}" if first.line == line else f"on lines {first.line} and {line}"
        return self.error(f"key {show(key)} is given twice, {where}", line)

    def _merge(self, frame: _Frame, value: Json, spot: Spot) -> None:
        """Add what ``<<`` merges: the mapping's own keys win, then earlier items of the list."""
        several = isinstance(value, list)
        for index, each in enumerate(value if several else [value]):
            place = spot.child(index) if several else spot
            if not isinstance(each, dict):
                message = f"'<<' merges mappings, not {kind(each)}"
                raise self.error(message, spot.line or frame.line)
            for key, held in each.items():
                if key not in frame.value:
                    frame.value[key] = held
                    frame.children[key] = place.child(key)

    def document(self) -> Document:
        """What was built."""
        return Document(self.name, self.root, self.root_spot, self.problems)


def _meaning(value: Json) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else "a number"
