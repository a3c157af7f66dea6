"""Evaluating a template: first what depends on parameters, then what depends on resources.

:class:`Scope` fills in parameters and takes the decisions that depend on them, before a start.
:func:`resolve` evaluates what is left when the resources that it refers to exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converge.errors import BadInput, UnresolvedReference, find_alike
from converge.model import Json, Physical
from converge.template.elsewhere import stand_in, wrong_reference
from converge.template.functions import (
    CHOICES,
    EACH,
    OUTPUT,
    PURE,
    SECRET,
    function_of,
    instance_name,
    split_instance,
)
from converge.template.library import FUNCTIONS
from converge.template.misuses import misuse
from converge.template.values import DEPTH_LIMIT, LITERAL, hint, kind, show

#: The result of an ``if`` that has no value: whatever it would be the value of is left out.
OMITTED: Any = object()

_SHOWN_NAMES = 20


class NotRead(BadInput):
    """The output of another stack is needed, and nobody has read it yet."""


@dataclass(slots=True)
class Scope:
    """What the values of a template can depend on before a start.

    :ivar parameter: gives the value of a parameter, or raises BadInput.
    :ivar conditions: as the template has them, by name.
    :ivar absent: the resources that there are not, as their condition is false.
    :ivar groups: the resources with ``for_each``, each with its keys.
    :ivar outputs: gives the value of an output of another stack, or raises BadInput; None: these
        are not read yet, and stay as they are.
    :ivar each: the key and the value that the resource is made for, if it has ``for_each``.
    """

    parameter: Callable[[str], Json]
    conditions: Mapping[str, Json] = field(default_factory=dict)
    absent: Collection[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    outputs: Callable[[str, str], Json] | None = None
    each: tuple[str, Json] | None = None
    _known: dict[str, bool | None] = field(default_factory=dict)
    _depth: int = 0

    def substitute(self, value: Json) -> Json:
        """A copy of a value in which all that depends on parameters is evaluated; references to
        resources, and functions around them, stay.

        A parameter's value is data: where it looks like a function, it is marked so that
        :func:`resolve` takes it as it is.

        :returns: the value, or :data:`OMITTED`.
        :raises BadInput: if a parameter has no value, or a condition is none.
        """
        if isinstance(value, list):
            return [part for part in map(self.substitute, value) if part is not OMITTED]
        if not isinstance(value, dict):
            return value
        function = function_of(value)
        if function is None:
            found = {key: self.substitute(part) for key, part in value.items()}
            if OMITTED in found.values():
                return {key: part for key, part in found.items() if part is not OMITTED}
            return found
        name, argument = function
        if name == LITERAL:
            return value
        if name == "if":
            return self._if(argument)
        if name in CHOICES:
            return self.holds(value)
        argument = self.substitute(argument)
        if name == "get_param":
            return self._parameter(argument)
        if name == EACH:
            return self._each(argument)
        if name == OUTPUT and self.outputs is not None:
            return self._output(argument, self.outputs)
        if name in ("get_resource", "get_attr"):
            return self._reference(name, argument)
        return {name: argument}

    def evaluate(self, value: Json, what: str) -> Json:
        """The value of what can depend on parameters only.

        :param what: it, for messages.
        :raises BadInput: if it depends on a resource, or cannot be evaluated.
        """

        def refuse(name: str) -> Physical:
            raise BadInput(f"{what} can refer to parameters only, not to resource {show(name)}")

        return resolve(self.substitute(value), refuse)

    def holds(self, condition: Json) -> bool:
        """Whether a condition is true.

        :param condition: true, false, the name of one, or a function.
        :raises BadInput: if it is none, or depends on itself.
        """
        if isinstance(condition, bool):
            return condition
        if isinstance(condition, str):
            return self._named(condition)
        function = function_of(condition)
        if function is not None and function[0] in CHOICES and function[0] != "if":
            name, argument = function
            message = misuse(name, argument, settled=False)
            if message is not None:
                raise BadInput(message)
            if name == "not":
                return not self.holds(argument)
            results = map(self.holds, argument)
            return all(results) if name == "and" else any(results)
        found = self.evaluate(condition, "a condition")
        if not isinstance(found, bool):
            raise BadInput(f"a condition is true or false, not {kind(found)}")
        return found

    def _named(self, name: str) -> bool:
        if name not in self.conditions:
            raise BadInput(f"there is no condition {show(name)}{hint(name, self.conditions)}")
        if name in self._known:
            known = self._known[name]
            if known is None:
                raise BadInput(f"condition {show(name)} depends on itself")
            return known
        if self._depth >= DEPTH_LIMIT:
            raise BadInput(f"conditions refer to each other more than {DEPTH_LIMIT} times deep")
        self._known[name] = None
        self._depth += 1
        try:
            found = self.holds(self.conditions[name])
        finally:
            self._depth -= 1
            del self._known[name]
        self._known[name] = found
        return found

    def _if(self, argument: Json) -> Json:
        message = misuse("if", argument, settled=False)
        if message is not None:
            raise BadInput(message)
        condition, *branches = argument
        if self.holds(condition):
            return self.substitute(branches[0])
        return self.substitute(branches[1]) if len(branches) == 2 else OMITTED

    def _parameter(self, argument: Json) -> Json:
        name, *keys = argument if isinstance(argument, list) and argument else [argument]
        if not isinstance(name, str):
            raise BadInput(f"get_param takes the name of a parameter, not {kind(name)}")
        return _as_data(_walk(self.parameter(name), keys, f"parameter {show(name)}", BadInput))

    def _output(self, argument: Json, outputs: Callable[[str, str], Json]) -> Json:
        parts = self.evaluate(argument, OUTPUT)
        message = misuse(OUTPUT, parts, settled=True)
        if message is not None:
            raise BadInput(message)
        stack, name, *keys = parts
        what = f"output {show(name)} of stack {show(stack)}"
        return _as_data(_walk(outputs(stack, name), keys, what, BadInput))

    def _each(self, argument: Json) -> Json:
        if self.each is None:
            raise BadInput(f"{EACH} is for resources with for_each")
        which, *keys = argument if isinstance(argument, list) else [argument]
        if which == "key":
            return self.each[0]
        return _as_data(_walk(self.each[1], keys, f"the value for {show(self.each[0])}", BadInput))

    def _reference(self, name: str, argument: Json) -> Json:
        target, *keys = argument if isinstance(argument, list) and argument else [argument]
        if target in self.absent:
            return None
        if target in self.groups:
            return {
                key: _refer(name, instance_name(target, key), keys) for key in self.groups[target]
            }
        found = split_instance(target) if isinstance(target, str) and self.groups else None
        if found is not None and found[0] in self.groups and found[1] not in self.groups[found[0]]:
            group, key = found
            known = hint(key, self.groups[group]) or "; it is made for nothing"
            raise BadInput(f"resource {show(group)} is not made for {show(key)}{known}")
        if found is not None and found[0] in self.absent:
            return None
        return {name: argument}


def _refer(name: str, target: str, keys: list[Json]) -> Json:
    return {name: target if name == "get_resource" else [target, *keys]}


def _as_data(value: Json) -> Json:
    return {LITERAL: value} if _looks_like_a_function(value) else value


def _looks_like_a_function(value: Json) -> bool:
    if function_of(value) is not None:
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_looks_like_a_function(part) for part in parts)


def resolve(value: Json, lookup: Callable[[str], Physical]) -> Json:
    """Evaluate the functions in a value whose parameters are filled in already.

    ``get_resource`` gives a resource's physical id, ``get_attr`` one of its attributes or
    what a path of keys leads to within it (without an attribute: all of them).

    :param lookup: gives what is known of a resource; KeyError where nothing is.
    :raises UnresolvedReference: if a resource, an attribute or a key in it does not exist.
    :raises NotRead: if it has an output of another stack that was not read.
    :raises BadInput: if a function is not one that converge evaluates, or misused.
    """
    if isinstance(value, list):
        return [resolve(part, lookup) for part in value]
    if not isinstance(value, dict):
        return value
    function = function_of(value)
    if function is None:
        return {key: resolve(part, lookup) for key, part in value.items()}
    name, argument = function
    if name == LITERAL:
        return argument
    if name in PURE:
        argument = resolve(argument, lookup)
        message = misuse(name, argument, settled=True)
        if message is not None:
            raise BadInput(message)
        return FUNCTIONS[name].evaluate(argument)
    message = misuse(name, argument, settled=False)
    if message is not None:
        raise BadInput(message)
    if name == "get_param":
        raise BadInput(f"parameter {_shown_argument(argument)} has no value yet")
    if name == SECRET:
        message = wrong_reference(argument)
        if message is not None:
            raise BadInput(message)
        return stand_in(argument)
    if name == OUTPUT:
        raise NotRead(f"{name} is evaluated before a start only")
    if name not in ("get_resource", "get_attr"):
        raise BadInput(f"{name} is evaluated before a start only")
    argument = resolve(argument, lookup)
    target, *keys = argument if isinstance(argument, list) else [argument]
    if not isinstance(target, str) or (name == "get_resource" and keys):
        raise BadInput(f"{name} takes the name of a resource, not {kind(argument)}")
    try:
        physical = lookup(target)
    except KeyError:
        raise UnresolvedReference(f"resource {show(target)} has not been created") from None
    if name == "get_resource":
        return physical.id
    return _attribute(target, dict(physical.attributes), keys)


def resolve_properties(
    properties: Mapping[str, Json], lookup: Callable[[str], Physical]
) -> dict[str, Json]:
    """:func:`resolve` each property. A property may have the name of a function.

    :raises UnresolvedReference: as :func:`resolve` does.
    :raises BadInput: as :func:`resolve` does.
    """
    return {name: resolve(value, lookup) for name, value in properties.items()}


def _shown_argument(argument: Json) -> str:
    return show(argument[0] if isinstance(argument, list) and argument else argument)


def _attribute(name: str, attributes: dict[str, Json], keys: list[Json]) -> Json:
    if not keys:
        return attributes
    first, *rest = keys
    if first not in attributes:
        raise UnresolvedReference(
            f"resource {show(name)} has no attribute {show(first)}{_there_is(attributes, first)}"
        )
    what = f"attribute {show(first)} of resource {show(name)}"
    return _walk(attributes[first], rest, what, UnresolvedReference)


def _walk(value: Json, keys: list[Json], what: str, error: type[Exception]) -> Json:
    for key in keys:
        if isinstance(value, dict) and isinstance(key, str | int):
            if str(key) not in value:
                raise error(f"{what} has no key {show(key)}{_there_is(value, key)}")
            value = value[str(key)]
        elif isinstance(value, list) and re.fullmatch("[0-9]{1,9}", str(key)):
            if int(key) >= len(value):
                raise error(
                    f"{what} has {len(value)} items, numbered from 0; there is no item {key}"
                )
            value = value[int(key)]
        elif isinstance(value, list):
            raise error(f"{what} is a list; its keys are whole numbers from 0, not {show(key)}")
        else:
            raise error(f"{what} is {kind(value)}; it has no key {show(key)}")
        what = f"{show(key)} in {what}"
    return value


def _there_is(names: Mapping[str, Json], word: Json) -> str:
    if not names:
        return "; it has none"
    if len(names) > _SHOWN_NAMES or (isinstance(word, str) and find_alike(word, names)):
        return hint(word, names)
    return "; it has " + ", ".join(show(name)[1:-1] for name in sorted(names))
