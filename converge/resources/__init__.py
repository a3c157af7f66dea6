"""The built-in resource types, and how installed ones are found."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from converge.errors import BadInput
from converge.resources.command import Command
from converge.resources.file import File
from converge.resources.none import Nothing
from converge.resources.resource_type import ResourceType, check_types
from converge.resources.signal import Signal
from converge.resources.stack import Stack
from converge.resources.value import Value

__all__ = ["GROUP", "Command", "File", "Nothing", "Signal", "Stack", "Value", "load_types"]

#: The entry point group in which packages register resource types.
GROUP = "converge.resource_types"

#: They exist even where converge runs from a folder and is not installed.
_BUILT_IN: dict[str, type[ResourceType]] = {
    "command": Command,
    "file": File,
    "none": Nothing,
    "signal": Signal,
    "stack": Stack,
    "value": Value,
}


def load_types(found: Iterable[EntryPoint] | None = None) -> dict[str, ResourceType]:
    """The resource types of every installed package, by the names that templates use.

    An entry point names a subclass of :class:`~converge.ResourceType` that can be made without
    arguments, or an instance of one.

    :param found: entry points to use instead of the installed ones.
    :raises BadInput: if an entry point cannot be loaded or is not a resource type, or if two
        packages use the same name.
    """
    types: dict[str, ResourceType] = {name: cls() for name, cls in _BUILT_IN.items()}
    origins = {name: f"{cls.__module__}:{cls.__name__}" for name, cls in _BUILT_IN.items()}
    for point in entry_points(group=GROUP) if found is None else found:
        # a source tree and its installed metadata can both announce the same thing
        if origins.get(point.name) == point.value:
            continue
        if point.name in origins:
            raise BadInput(
                f"two resource types are called {point.name!r}: {origins[point.name]} and "
                f"{point.value}; uninstall one of the packages that provide them"
            )
        types[point.name] = _load(point)
        origins[point.name] = point.value
    check_types(types)
    return types


def _load(point: EntryPoint) -> ResourceType:
    try:
        loaded: Any = point.load()
        instance = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise BadInput(
            f"the resource type {point.name!r} ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}; repair or uninstall its package"
        ) from error
    if not isinstance(instance, ResourceType):
        raise BadInput(
            f"the entry point {point.name!r} ({point.value}) is not a converge.ResourceType"
        )
    return instance
