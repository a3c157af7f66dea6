"""The stages of a sink: its steps, then its publishers, by what a pipeline file says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from converge.errors import BadInput, did_you_mean
from converge.pipeline.converging import ConvergePublisher, import_name
from converge.pipeline.memory import Accumulate, Aggregate, RateOfChange, Trigger
from converge.pipeline.publishers import (
    DatabasePublisher,
    Discard,
    FilePublisher,
    LogPublisher,
    Publisher,
)
from converge.pipeline.reading import Place
from converge.pipeline.remote import HttpPublisher, NotifyPublisher
from converge.pipeline.steps import Filter, FunctionStep, Rename, Scale, StatefulStep, Step

#: The group of entry points of steps.
ENTRY_POINTS = "converge.pipeline_steps"

STEPS: Mapping[str, type[Step | StatefulStep]] = {
    "rename": Rename,
    "filter": Filter,
    "scale": Scale,
    "rate_of_change": RateOfChange,
    "aggregate": Aggregate,
    "accumulate": Accumulate,
    "trigger": Trigger,
}
PUBLISHERS: Mapping[str, type[Publisher]] = {
    "log": LogPublisher,
    "file": FilePublisher,
    "database": DatabasePublisher,
    "notify": NotifyPublisher,
    "http": HttpPublisher,
    "converge": ConvergePublisher,
}
#: Publishers of Ceilometer that are not here, and what to use instead.
ELSEWHERE: Mapping[str, str] = {
    "gnocchi": "use database, or http with a service that stores samples",
    "notifier": "use notify with the URL of a bus",
    "prometheus": "use http",
    "udp": "use http or notify",
    "tcp": "use http or notify",
    "zaqar": "use notify",
    "opentelemetry-http": "use http",
    "opentelemetryHttp": "use http",
    "monasca": "use http",
    "panko": "use database: events are stored anyway, see converge event-store list",
    "direct": "use database",
    "kafka": "use notify with a kafka:// URL",
    "test": "use log",
}


@dataclass(frozen=True, slots=True)
class Handover:
    """What a sink hands to another sink.

    :ivar sink: the name of that one.
    """

    sink: str


Work: TypeAlias = Step | StatefulStep | Publisher | Handover


@dataclass(frozen=True, slots=True)
class Stage:
    """A step or publisher in its place.

    :ivar name: unique in its sink; what a delivery that failed remembers.
    :ivar kind: what it is, as it is written.
    :ivar line: where it is written.
    """

    name: str
    kind: str
    work: Work
    line: int | None = None

    @property
    def is_publisher(self) -> bool:
        """Whether it is at the end of its sink."""
        return isinstance(self.work, Publisher | Handover)

    @property
    def is_pure(self) -> bool:
        """Whether it has no effect beside its result."""
        return isinstance(self.work, Step) and self.work.pure


@cache
def installed_steps() -> Mapping[str, Any]:
    """The steps that installed packages bring, by name."""
    from stevedore import ExtensionManager

    manager: Any = ExtensionManager(ENTRY_POINTS)
    return {extension.name: extension.plugin for extension in manager}


def make_stage(place: Place, taken: set[str], *, publisher: bool) -> Stage | None:
    """A stage, by what is written at a place; mistakes are noted there.

    :param taken: the names of the stages before it in the sink.
    """
    form = _publisher_form(place) if publisher else _step_form(place)
    if form is None:
        return None
    kind, parameters, shown = form
    name = kind.rpartition(":")[2] if not publisher else kind
    given = parameters.pop("as", None) if isinstance(parameters, dict) else None
    if given is not None and (not isinstance(given, str) or not given):
        place.refuse(f"as must be a name for the stage, not {given!r}")
        given = None
    unique = given or _unique(name, taken)
    if unique in taken:
        place.refuse(f"two stages of the sink have the name {unique!r}; say as: another name")
    taken.add(unique)
    make = _make_publisher if publisher else _make_step
    work = place.attempt(lambda: make(kind, parameters, place))
    return None if work is None else Stage(unique, shown, work, place.line)


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def _step_form(place: Place) -> tuple[str, dict[str, Any], str] | None:
    value = place.value
    if isinstance(value, str) and value:
        return value, {}, value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, parameters),) = value.items()
        if parameters is None or isinstance(parameters, dict):
            return kind, dict(parameters or {}), kind
    place.refuse(
        "a step is a name, or a mapping of one name to its parameters: {scale: {factor: 8}}"
    )
    return None


def _publisher_form(place: Place) -> tuple[str, dict[str, Any], str] | None:
    value = place.value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, parameters),) = value.items()
        if parameters is None or isinstance(parameters, dict):
            return kind, dict(parameters or {}), kind
        if kind == "sink" and isinstance(parameters, str):
            return kind, {"name": parameters}, kind
    if isinstance(value, str) and value:
        return _of_url(value)
    place.refuse("a publisher is a URL, a name, or a mapping of one name to its parameters")
    return None


def _of_url(text: str) -> tuple[str, dict[str, Any], str]:
    """A publisher as Ceilometer writes it."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text, {}, text
    parts = urlsplit(text)
    query: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if scheme in {"http", "https"}:
        return "http", {"url": text}, text
    if scheme == "file":
        # how to rotate it is left to logrotate
        return "file", {"path": parts.netloc + parts.path}, text
    if scheme == "sink":
        return "sink", {"name": rest}, text
    return scheme, query, text


def _make_step(kind: str, parameters: dict[str, Any], place: Place) -> Work:
    found = STEPS.get(kind)
    if found is None:
        found = _find_step(kind)
    if not inspect.isclass(found):
        if not callable(found):
            raise BadInput(f"{kind!r} is neither a function nor a class")
        return FunctionStep(found, parameters)
    if not issubclass(found, Step | StatefulStep):
        raise BadInput(f"class {kind!r} must inherit from Step or StatefulStep")
    return _made(kind, found, parameters)


def _find_step(kind: str) -> Any:
    if ":" in kind or "." in kind:
        return import_name(kind)
    installed = installed_steps()
    if kind not in installed:
        raise BadInput(
            f"there is no step {kind!r}{did_you_mean(kind, {*STEPS, *installed})}; one of your own "
            "is written package.module:name"
        )
    return installed[kind]


def _make_publisher(kind: str, parameters: dict[str, Any], place: Place) -> Work:
    if kind == "sink":
        name = parameters.get("name")
        if not isinstance(name, str) or not name or len(parameters) != 1:
            raise BadInput("sink needs the name of another sink")
        return Handover(name)
    if kind in ELSEWHERE:
        place.note(
            f"there is no publisher {kind!r} here, so what it would get is dropped; "
            f"{ELSEWHERE[kind]}"
        )
        return Discard()
    if kind not in PUBLISHERS:
        if ":" in kind:
            found = import_name(kind)
            if not (inspect.isclass(found) and issubclass(found, Publisher)):
                raise BadInput(f"{kind!r} must be a class that inherits from Publisher")
            return _made(kind, found, parameters)
        raise BadInput(f"there is no publisher {kind!r}{did_you_mean(kind, {*PUBLISHERS, 'sink'})}")
    return _made(kind, PUBLISHERS[kind], parameters)


def _made(kind: str, make: Callable[..., Work], parameters: dict[str, Any]) -> Work:
    """Make a step or publisher with its parameters.

    :raises BadInput: it has no such parameter, needs another one, or does not take a value.
    """
    known = inspect.signature(make).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    for name in parameters:
        if name not in known and not takes_all:
            raise BadInput(f"{kind} has no parameter {name!r}{did_you_mean(name, known)}")
    for name, one in known.items():
        needed = one.default is inspect.Parameter.empty and one.kind in {
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        }
        if needed and name not in parameters:
            raise BadInput(f"{kind} needs the parameter {name}")
    try:
        return make(**parameters)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{kind} does not take these parameters: {error}") from None
