"""The parameters that a template declares: their types, constraints and values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from converge.errors import BadInput, TemplateError
from converge.model import Json
from converge.template.keys import BOUNDS, CONSTRAINT, MODULO, PARAMETER
from converge.template.patterns import PatternError, compile_pattern
from converge.template.reading import parse_json
from converge.template.values import INTEGERS, Document, Spot, hint, kind, misreading, plain, show

TYPES = ("string", "number", "boolean", "json", "comma_delimited_list")
#: Parameters that every stack has.
PSEUDO = frozenset({"OS::stack_name"})

_CONSTRAINTS: Mapping[str, tuple[str, ...]] = {
    "allowed_values": TYPES,
    "range": ("number",),
    "length": ("string", "json", "comma_delimited_list"),
    "allowed_pattern": ("string", "comma_delimited_list"),
    "modulo": ("number",),
    "custom_constraint": TYPES,
}
_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})
_NUMBER = re.compile(
    r"[-+]?([0-9]{1,100}|(?=\.?[0-9])[0-9]{0,100}\.?[0-9]{0,100}([eE][-+]?[0-9]{1,5})?)"
)
_EMPTY: Mapping[str, Json] = {"json": {}, "comma_delimited_list": []}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition that the values of a parameter must meet.

    :ivar kind: ``allowed_values``, ``range``, ``length``, ``modulo``, ``allowed_pattern``, or one
        that converge does not check.
    :ivar description: the author's message for a value that does not.
    """

    kind: str
    argument: Json
    description: str | None
    spot: Spot

    def complaint(self, value: Json) -> str | None:
        """Why a value of the parameter's type does not meet it, None if it does."""
        try:
            message = self._complaint(value)
        except PatternError as error:
            return str(error)
        return message if message is None or self.description is None else self.description

    def _complaint(self, value: Json) -> str | None:
        if self.kind == "allowed_values":
            given = value if isinstance(value, list) else [value]
            # a list of the type json can be allowed as a whole
            if any(_same(value, each) for each in self.argument):
                return None
            if all(any(_same(item, each) for each in self.argument) for item in given):
                return None
            shown = ", ".join(show(each) for each in self.argument[:20])
            return f"it must be one of {shown}" + (", ..." if len(self.argument) > 20 else "")
        if self.kind in ("range", "length"):
            low, high = self.argument.get("min"), self.argument.get("max")
            size = value if self.kind == "range" else len(value)
            if (low is None or size >= low) and (high is None or size <= high):
                return None
            bounds = " and ".join(
                f"{word} {bound}"
                for word, bound in (("at least", low), ("at most", high))
                if bound is not None
            )
            what = "it" if self.kind == "range" else "its length"
            return f"{what} must be {bounds}" + ("" if what == "it" else f", not {size}")
        if self.kind == "modulo":
            step, offset = self.argument["step"], self.argument["offset"]
            if value % step == offset:
                return None
            return f"it must be {offset} more than a multiple of {step}"
        if self.kind == "allowed_pattern":
            return self._mismatch(value if isinstance(value, list) else [value])
        return None

    def _mismatch(self, values: list[str]) -> str | None:
        matches = compile_pattern(self.argument).fullmatch
        if all(matches(value) for value in values):
            return None
        return f"it must match the pattern {show(self.argument)}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that a template declares.

    :ivar type: one of :data:`TYPES`.
    :ivar has_default: whether it can be left out.
    :ivar default: its value where none is given.
    :ivar hidden: whether its value is left out of messages.
    """

    name: str
    type: str
    spot: Spot
    has_default: bool = False
    default: Json = None
    description: str | None = None
    constraints: tuple[Constraint, ...] = ()
    hidden: bool = False

    def value(self, given: object) -> Json:
        """What is given as a value of the declared type. Strings are converted to it.

        :raises BadInput: if it cannot be converted, or does not meet a constraint.
        """
        shown = "has a hidden value" if self.hidden else f"is {show(given)}"
        try:
            value = convert(self.type, given)
        except _WrongError as error:
            # after the semicolon a part of the value may be quoted
            what = str(error).partition(";")[0] if self.hidden else str(error)
            raise BadInput(f"parameter {show(self.name)} {shown}; {what}") from None
        for constraint in self.constraints:
            complaint = constraint.complaint(value)
            if complaint is not None:
                raise BadInput(f"parameter {show(self.name)} {shown}: {complaint}")
        return value


class _WrongError(ValueError):
    """A value does not have the type."""


def convert(type_name: str, given: object) -> Json:
    """A value as one of the given type, of :data:`TYPES`; strings are converted.

    :raises ValueError: if it cannot be.
    """
    try:
        given = plain(given, "")
    except TemplateError as error:
        raise _WrongError(error.message) from None
    return _CONVERTERS[type_name](given)


def _to_string(given: Json) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    # what a person wrote is lost by now: 1.10 is 1.1, and no is false
    quoted = "; quote it" if isinstance(given, bool | float) else ""
    raise _WrongError(f"it must be a string, not {kind(given)}{quoted}")


def _to_number(given: Json) -> int | float:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
        text = given.strip()
        number = int(text) if text.lstrip("+-").isdigit() else float(text)
        if isinstance(number, int) and number in INTEGERS:
            return number
        if isinstance(number, float) and abs(number) != float("inf"):
            return number
        raise _WrongError("the number is too large")
    raise _WrongError("it must be a number")


def _to_boolean(given: Json) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).strip().lower() if isinstance(given, str | int) else ""
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise _WrongError("it must be true or false")


def _to_json(given: Json) -> Json:
    if isinstance(given, str):
        try:
            given = parse_json(given, "")
        except TemplateError as error:
            # some of these messages lack a subject
            it = "it " if error.message.startswith(("is ", "has ")) else ""
            raise _WrongError(f"it must be a JSON object or list; {it}{error.message}") from None
    if isinstance(given, dict | list):
        return given
    raise _WrongError(f"it must be a JSON object or list, not {kind(given)}")


def _to_list(given: Json) -> list[str]:
    if isinstance(given, str):
        return [item.strip() for item in given.split(",")] if given.strip() else []
    if isinstance(given, list):
        return [_to_string(item) for item in given]
    raise _WrongError(f"it must be a list of strings, or a string with commas, not {kind(given)}")


_CONVERTERS: Mapping[str, Callable[[Json], Json]] = {
    "string": _to_string,
    "number": _to_number,
    "boolean": _to_boolean,
    "json": _to_json,
    "comma_delimited_list": _to_list,
}


def _same(one: Json, other: Json) -> bool:
    """Whether two values are equal, true not being 1."""
    if isinstance(one, dict | list):
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def parse_parameter(document: Document, name: str, value: Json, spot: Spot) -> Parameter:
    """The declaration of a parameter.

    :raises TemplateError: if something in it is wrong.
    """
    what = f"parameter {show(name)}"
    if name.startswith(OWN):
        message = f"{what}: names that begin with {OWN} are converge's own; give it another name"
        raise document.error(message, spot)
    body = PARAMETER.check(document, value, spot, what)
    type_name = body.get("type")
    if type_name is None:
        raise document.error(f"{what} has no type; known: {', '.join(TYPES)}", spot)
    if type_name not in TYPES:
        message = f"unknown type {show(type_name)} of {what}{hint(type_name, TYPES)}"
        raise document.error(message, spot.child("type"))
    for key in ("description", "label"):
        if body.get(key) is not None and not isinstance(body[key], str):
            message = f"the {key} of {what} must be a string, not {kind(body[key])}"
            raise document.error(message, spot.child(key))
    for key in ("hidden", "immutable"):
        if key in body:
            try:
                _to_boolean(body[key])
            except _WrongError as error:
                raise document.error(f"{key} of {what}: {error}", spot.child(key)) from None
    constraints = _parse_constraints(document, what, type_name, body, spot)
    parameter = Parameter(
        name=name,
        type=type_name,
        spot=spot,
        description=body.get("description"),
        constraints=constraints,
        hidden="hidden" in body and _to_boolean(body["hidden"]),
    )
    if body.get("default") is None:
        return parameter
    default = body["default"]
    if default == "" and type_name in _EMPTY:
        # as in Heat
        default = _EMPTY[type_name]
    return _with_default(document, parameter, default, spot.child("default"))


#: How names begin that no parameter has.
OWN = "converge::"


def hidden_values(body: Json, parameters: Mapping[str, Json]) -> list[Json]:
    """The values of a stored template's hidden parameters.

    :param body: of the template.
    :param parameters: the values of all its parameters.
    """
    declared = body.get("parameters") or {}
    return [
        value
        for name, value in parameters.items()
        if (about := declared.get(name)) and "hidden" in about and _to_boolean(about["hidden"])
    ]


def refuse_foreign(document: Document, name: str, value: Json, spot: Spot) -> None:
    """Refuse what converge would ignore in a declaration that :func:`parse_parameter` accepted.

    :raises TemplateError: if there is anything of the kind.
    """
    what = f"parameter {show(name)}"
    # immutable: false changes nothing
    if "immutable" in value and _to_boolean(value["immutable"]):
        raise PARAMETER.unsupported(document, "immutable", spot.child("immutable"), what)
    place = spot.child("constraints")
    for index, each in enumerate(value.get("constraints") or ()):
        spot = place.child(index)
        CONSTRAINT.refuse_foreign(document, each, spot, f"a constraint of {what}")
        if "allowed_pattern" in each:
            try:
                compile_pattern(each["allowed_pattern"])
            except PatternError as error:
                message = f"the allowed_pattern of {what} cannot be used: {error}"
                raise document.error(message, spot.child("allowed_pattern")) from None


def _with_default(document: Document, parameter: Parameter, default: Json, spot: Spot) -> Parameter:
    for wrong, place in misread_values(parameter.type, default, spot):
        document.problems.append(
            document.error(f"the default of parameter {show(parameter.name)}: {wrong}", place)
        )
    # the pattern is checked when the default is used, which it may never be
    checked = tuple(each for each in parameter.constraints if each.kind != "allowed_pattern")
    try:
        value = _declared(parameter, checked).value(default)
    except BadInput as error:
        problem = document.error(f"the default of {error}", spot)
        scalars = default if isinstance(default, list) else [default]
        texts = parameter.type in ("string", "comma_delimited_list")
        if not texts or not any(isinstance(each, bool | float) for each in scalars):
            raise problem from None
        # Heat accepts it, so it can be drawn, but not used
        document.problems.append(problem)
        value = default
    return _declared(parameter, parameter.constraints, default=value, has_default=True)


def misread_values(type_name: str, value: Json, spot: Spot) -> Iterator[tuple[str, Spot]]:
    """What in a value of a parameter would not be the text that is written."""
    scalars: list[tuple[Json, Spot]] = []
    if type_name == "string":
        scalars = [(value, spot)]
    elif type_name == "comma_delimited_list" and isinstance(value, list):
        scalars = [(each, spot.child(index)) for index, each in enumerate(value)]
    for each, place in scalars:
        wrong = misreading(each, place)
        if wrong is not None:
            yield wrong, place


def _declared(parameter: Parameter, constraints: tuple[Constraint, ...], **more: Any) -> Parameter:
    return Parameter(
        name=parameter.name,
        type=parameter.type,
        spot=parameter.spot,
        description=parameter.description,
        constraints=constraints,
        hidden=parameter.hidden,
        **more,
    )


def _parse_constraints(
    document: Document, what: str, type_name: str, body: Mapping[str, Json], spot: Spot
) -> tuple[Constraint, ...]:
    listed = body.get("constraints")
    place = spot.child("constraints")
    if listed is None:
        return ()
    if not isinstance(listed, list):
        message = f"the constraints of {what} must be a list, not {kind(listed)}"
        raise document.error(message, place)
    return tuple(
        _parse_constraint(document, what, type_name, each, place.child(index))
        for index, each in enumerate(listed)
    )


def _parse_constraint(
    document: Document, what: str, type_name: str, value: Json, spot: Spot
) -> Constraint:
    body = CONSTRAINT.check(document, value, spot, f"a constraint of {what}")
    kinds = [key for key in body if key != "description"]
    if len(kinds) != 1:
        message = f"a constraint of {what} must have one of {', '.join(CONSTRAINT.known[:-1])}"
        raise document.error(message, spot)
    name = kinds[0]
    place = spot.child(name)
    if type_name not in _CONSTRAINTS[name]:
        raise document.error(f"{name} is not a constraint for the type {type_name}", place)
    description = body.get("description")
    if description is not None and not isinstance(description, str):
        message = f"a description must be a string, not {kind(description)}"
        raise document.error(message, spot.child("description"))
    argument = body[name]
    if name == "allowed_values":
        argument = _allowed_values(document, what, type_name, argument, place)
    elif name in ("range", "length"):
        argument = _bounds(document, f"{name} of {what}", name, argument, place)
    elif name == "modulo":
        argument = _modulo(document, f"modulo of {what}", argument, place)
    elif name == "allowed_pattern" and not isinstance(argument, str):
        raise document.error(f"allowed_pattern must be a string, not {kind(argument)}", place)
    return Constraint(name, argument, description, spot)


def _allowed_values(
    document: Document, what: str, type_name: str, argument: Json, spot: Spot
) -> list[Json]:
    if not isinstance(argument, list) or not argument:
        raise document.error(f"the allowed_values of {what} must be a list of values", spot)
    allowed = []
    for index, each in enumerate(argument):
        # each item of a list must be allowed
        one = type_name == "comma_delimited_list" and not isinstance(each, list)
        for wrong, place in misread_values("string" if one else type_name, each, spot.child(index)):
            message = f"the allowed_values of {what}: {wrong}"
            document.problems.append(document.error(message, place))
        try:
            allowed.append(convert("string" if one else type_name, each))
        except _WrongError as error:
            problem = document.error(
                f"{show(each)} in the allowed_values of {what}: {error}", spot.child(index)
            )
            if not isinstance(each, bool | float):
                raise problem from None
            document.problems.append(problem)
    return allowed


def _bounds(document: Document, what: str, name: str, argument: Json, spot: Spot) -> Json:
    body = BOUNDS.check(document, argument, spot, f"the {what}")
    if not body:
        raise document.error(f"the {what} must have min, max or both", spot)
    for key, bound in body.items():
        good = isinstance(bound, int if name == "length" else int | float)
        if not good or isinstance(bound, bool) or (name == "length" and bound < 0):
            wanted = "a whole number from 0" if name == "length" else "a number"
            message = f"{key} in the {what} must be {wanted}, not {show(bound)}"
            raise document.error(message, spot.child(key))
    if len(body) == 2 and body["min"] > body["max"]:
        raise document.error(f"in the {what} min is greater than max", spot)
    return body


def _modulo(document: Document, what: str, argument: Json, spot: Spot) -> Json:
    body = MODULO.check(document, argument, spot, f"the {what}")
    for key in MODULO.known:
        if type(body.get(key)) is not int:
            message = f"the {what} must have step and offset, which are whole numbers"
            raise document.error(message, spot)
    step, offset = body["step"], body["offset"]
    # as in Python, and so in Heat, a remainder has the sign of the step
    if step == 0 or abs(offset) >= abs(step) or (offset != 0 and (offset < 0) != (step < 0)):
        message = f"in the {what} step must not be 0, and offset must be between 0 and step"
        raise document.error(message, spot)
    return body
