"""How a definition gets a value: fields by JSON path, an optional plugin, and a type."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from converge.errors import BadInput, did_you_mean
from converge.model import Json
from converge.pipeline.items import TraitValue
from converge.pipeline.notification import parse_time
from converge.pipeline.paths import Getter, Match, compile_paths

TYPES = ("text", "int", "float", "datetime")
#: Characters of a text trait; the rest is refused by the store, as no index can hold it.
INTEGERS = range(-(2**63), 2**63)


class Plugin(ABC):
    """Makes values of what the paths of a definition have found.

    :cvar parameters: the names of its parameters.
    """

    parameters: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def values(self, matches: Sequence[Match]) -> list[Json]:
        """The values; of a trait, the first one counts.

        :param matches: without those whose value is null.
        """


class Split(Plugin):
    """A segment of a text."""

    parameters = ("separator", "segment", "max_split")

    def __init__(
        self, separator: str = ".", segment: int = 0, max_split: int | None = None
    ) -> None:
        if not isinstance(separator, str) or not separator:
            raise BadInput(f"separator must be a text, not {separator!r}")
        for name, value in (("segment", segment), ("max_split", max_split)):
            if value is not None and type(value) is not int:
                raise BadInput(f"{name} must be a whole number, not {value!r}")
        self._separator = separator
        self._segment = segment
        self._most = -1 if max_split is None else max_split

    def values(self, matches: Sequence[Match]) -> list[Json]:
        """The segment of each text that has one."""
        found = []
        for match in matches:
            parts = str(match.value).split(self._separator, self._most)
            if -len(parts) <= self._segment < len(parts):
                found.append(parts[self._segment])
        return found


class Bitfield(Plugin):
    """A number with a bit for each flag that a field has."""

    parameters = ("initial_bitfield", "flags")

    def __init__(
        self, initial_bitfield: int = 0, flags: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        if type(initial_bitfield) is not int:
            raise BadInput(f"initial_bitfield must be a whole number, not {initial_bitfield!r}")
        self._initial = initial_bitfield
        self._flags = list(flags or ())
        for flag in self._flags:
            if not isinstance(flag, Mapping) or not {"path", "bit"} <= set(flag):
                raise BadInput("each of the flags needs a path and a bit")
            if type(flag["bit"]) is not int or not 0 <= flag["bit"] < 63:
                raise BadInput(f"bit must be a whole number from 0 to 62, not {flag['bit']!r}")

    def values(self, matches: Sequence[Match]) -> list[Json]:
        """One number."""
        found = {match.path: match.value for match in matches}
        number = self._initial
        for flag in self._flags:
            path = flag["path"]
            if path in found and ("value" not in flag or found[path] == flag["value"]):
                number |= 1 << flag["bit"]
        return [number]


class TimeDelta(Plugin):
    """The seconds between two times."""

    def values(self, matches: Sequence[Match]) -> list[Json]:
        """One number if there are two times, 0 or more."""
        if len(matches) != 2:
            return []
        try:
            start, end = (parse_time(str(match.value)) for match in matches)
        except ValueError:
            return []
        return [abs(end - start)]


class Map(Plugin):
    """Other values for known ones."""

    parameters = ("values", "default", "case_sensitive")

    def __init__(
        self,
        values: Mapping[str, Json] | None = None,
        default: Json = None,
        case_sensitive: bool = True,
    ) -> None:
        if not isinstance(values, Mapping) or not values:
            raise BadInput("values must be a mapping of values to others")
        self._case = case_sensitive
        self._default = default
        self._values = {self._fold(key): value for key, value in values.items()}

    def _fold(self, value: Json) -> str:
        return str(value) if self._case else str(value).casefold()

    def values(self, matches: Sequence[Match]) -> list[Json]:
        """The value for each; the default for those that are not known."""
        found = (self._values.get(self._fold(match.value), self._default) for match in matches)
        return [value for value in found if value is not None]


PLUGINS: Mapping[str, type[Plugin]] = {
    "split": Split,
    "bitfield": Bitfield,
    "timedelta": TimeDelta,
    "map": Map,
}


def make_plugin(spec: Json) -> Plugin:
    """The plugin that a definition names.

    :param spec: its name, or a mapping of ``name`` and ``parameters``.
    :raises BadInput: there is none of that name, or a parameter is wrong.
    """
    parameters: Any = {}
    if isinstance(spec, str):
        name = spec
    elif isinstance(spec, dict) and isinstance(spec.get("name"), str):
        name, parameters = spec["name"], spec.get("parameters") or {}
    else:
        raise BadInput("plugin must be a name, or a mapping with a name and parameters")
    if name not in PLUGINS:
        raise BadInput(f"there is no plugin {name!r}{did_you_mean(name, PLUGINS)}")
    kind = PLUGINS[name]
    if not isinstance(parameters, dict):
        raise BadInput(f"the parameters of plugin {name!r} must be a mapping")
    for key in parameters:
        if key not in kind.parameters:
            raise BadInput(
                f"plugin {name!r} has no parameter {key!r}{did_you_mean(key, kind.parameters)}"
            )
    return kind(**parameters)


class Source:
    """Where a definition gets its values from.

    :param spec: a JSON path; a list of paths, the first value of which counts; a mapping of
        ``fields`` and ``plugin``; or a number, which is the value.
    :raises BadInput: it is none of these.
    """

    def __init__(self, spec: Json) -> None:
        plugin = None
        if isinstance(spec, dict):
            if "fields" not in spec:
                raise BadInput("it needs the key fields, a JSON path or a list of them")
            if spec.get("plugin") is not None:
                plugin = make_plugin(spec["plugin"])
            spec = spec["fields"]
        self._plugin = plugin
        self._constant: float | None = None
        self._getter: Getter = lambda body: []
        if isinstance(spec, int | float) and not isinstance(spec, bool):
            self._constant = spec
            return
        paths = [spec] if isinstance(spec, str) else spec
        if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
            raise BadInput("fields must be a JSON path, a list of them, or a number")
        self._getter = compile_paths(paths)

    def all(self, body: Mapping[str, Json], *, nulls: bool = False) -> list[Json]:
        """All values.

        :param nulls: also those that are null, unless a plugin makes them.
        """
        if self._constant is not None:
            return [self._constant]
        found = self._getter(body)
        if self._plugin is None:
            return [one.value for one in found if nulls or one.value is not None]
        return self._plugin.values([one for one in found if one.value is not None])

    def first(self, body: Mapping[str, Json]) -> Json:
        """The first value; None if there is none."""
        if self._plugin is None and self._constant is None:
            return next((one.value for one in self._getter(body) if one.value is not None), None)
        found = self.all(body)
        return found[0] if found else None


def convert(value: Json, kind: str) -> TraitValue | None:
    """A value as one of a type of trait; None for an empty text that is to be anything else.

    :param kind: one of :data:`TYPES`.
    :raises ValueError: it is none of that type.
    """
    if kind == "text":
        return value if isinstance(value, str) else str(value)
    if value == "":
        return None
    if kind == "datetime":
        return parse_time(value) if isinstance(value, str) else _number(value)
    if kind == "int":
        whole = int(value) if isinstance(value, str | int) else int(_number(value))
        if whole not in INTEGERS:
            raise ValueError("it has more than 64 bits")
        return whole
    return _number(value)


def _number(value: Json) -> float:
    if not isinstance(value, str | int | float):
        raise ValueError("it is not a number")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError("it is too large") from error
    if not math.isfinite(number):
        raise ValueError("it is not finite")
    return number
