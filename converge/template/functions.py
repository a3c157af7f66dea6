"""The functions of a template: finding references, filling in parameters, evaluating.

A function is a mapping with one key, its name. References are found wherever they are
nested, even inside functions that converge does not evaluate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from converge.errors import BadInput, UnresolvedReference, find_alike
from converge.model import Json, Physical
from converge.template.values import SIZE_LIMIT, Spot, as_text, hint, kind, misreading, show

#: Functions that refer to something else in the template.
REFERENCES = frozenset({"get_resource", "get_attr", "get_param"})
#: Functions that converge evaluates.
EVALUATED = REFERENCES | {"str_replace", "list_join"}
#: Functions of Heat that converge does not evaluate, besides those that begin with ``Fn::``.
UNSUPPORTED = frozenset(
    (
        "get_file",
        "repeat",
        "if",
        "equals",
        "not",
        "and",
        "or",
        "digest",
        "list_concat",
        "list_concat_unique",
        "map_merge",
        "map_replace",
        "yaql",
        "filter",
        "str_split",
        "str_replace_strict",
        "str_replace_vstrict",
        "make_url",
        "contains",
        "resource_facade",
        "Ref",
    )
)
#: Marks a value as data, whatever it looks like. Only :func:`substitute` writes it.
LITERAL = "converge::literal"

_NESTING = frozenset((dict, list))
_SHOWN_NAMES = 20
# Each name within a repeat is compared with each of them.
_MOST_VARIABLES = 100


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in a template.

    :ivar function: the function's name.
    :ivar name: what it refers to; None where a function has to be evaluated to know.
    :ivar spot: where it is.
    :ivar problem: what is wrong with its form, None if nothing is.
    :ivar lenient: the name need not be in the template, and is then ignored.
    """

    function: str
    name: str | None
    spot: Spot
    problem: str | None = None
    lenient: bool = False


def function_of(value: Json) -> tuple[str, Json] | None:
    """The name and the argument of a function, None for any other value."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, argument),) = value.items()
        if name in EVALUATED or name in UNSUPPORTED or name == LITERAL or name[:4] == "Fn::":
            return name, argument
    return None


def may_refer(value: Json) -> bool:
    """Whether there can be a function in a value: a quick look, for a million of them."""
    if isinstance(value, list):
        return not _NESTING.isdisjoint(map(type, value))
    return isinstance(value, dict) and (
        not _NESTING.isdisjoint(map(type, value.values())) or function_of(value) is not None
    )


def references(value: Json, spot: Spot) -> Iterator[Reference]:
    """All references in a value, in the order of the text."""
    # names within a repeat can contain its loop variables
    stack: list[tuple[Json, Spot, tuple[str, ...]]] = [(value, spot, ())]
    while stack:
        value, spot, variables = stack.pop()
        if isinstance(value, list):
            parts: list[tuple[str | int, Json]] = list(enumerate(value))
        elif isinstance(value, dict):
            function = function_of(value)
            if function is not None:
                found = _reference(*function, spot.child(function[0]))
                if found is not None:
                    varies = any(variable in (found.name or "") for variable in variables)
                    yield replace(found, lenient=True) if varies else found
                variables = (variables + _loop_variables(*function))[:_MOST_VARIABLES]
            parts = list(value.items())
        else:
            continue
        for key, part in reversed(parts):
            if isinstance(part, dict | list):
                stack.append((part, spot.child(key), variables))


def _reference(function: str, argument: Json, spot: Spot) -> Reference | None:
    if function in ("Ref", "Fn::GetAtt"):
        name = argument[0] if isinstance(argument, list) and argument else argument
        text = name.partition(".")[0] if isinstance(name, str) else None
        return Reference(function, text, spot, lenient=True)
    if function not in REFERENCES:
        return None
    name = argument
    if isinstance(argument, list) and argument and function != "get_resource":
        name = argument[0]
    if isinstance(name, str) and name:
        return Reference(function, name, spot)
    if function_of(name) is not None:
        return Reference(function, None, spot)
    forms = {
        "get_resource": "the name of a resource",
        "get_attr": "a list: the name of a resource, an attribute, and keys within it",
        "get_param": "the name of a parameter, or a list of it and keys within its value",
    }
    given = f"a list that starts with {kind(name)}" if name is not argument else kind(argument)
    given = "nothing" if argument in ("", [], None) else given
    return Reference(function, None, spot, f"{function} takes {forms[function]}, not {given}")


def _loop_variables(function: str, argument: Json) -> tuple[str, ...]:
    loops = (
        argument.get("for_each") if function == "repeat" and isinstance(argument, dict) else None
    )
    return tuple(name for name in loops if name) if isinstance(loops, dict) else ()


def misuses(value: Json, spot: Spot) -> Iterator[tuple[str, Spot]]:
    """What converge could not evaluate in a value: messages, each with its place."""
    stack = [(value, spot)]
    while stack:
        value, spot = stack.pop()
        if isinstance(value, dict):
            function = function_of(value)
            if function is not None:
                place = spot.child(function[0])
                message = _misuse(*function)
                if message is not None:
                    yield message, place
                else:
                    yield from _misread_texts(*function, place)
            elif not REFERENCES.isdisjoint(value):
                name = next(key for key in value if key in REFERENCES)
                yield f"{name} must be the only key of its mapping", spot.child(name)
            parts: list[tuple[str | int, Json]] = list(value.items())
        else:
            parts = list(enumerate(value)) if isinstance(value, list) else []
        for key, part in reversed(parts):
            if isinstance(part, dict | list):
                stack.append((part, spot.child(key)))


def misread(value: Json, spot: Spot) -> Iterator[tuple[str, Spot]]:
    """What in a value would not be the text that is written, where text is wanted: messages, each
    with its place. Numbers and booleans that read as they are written are text."""
    wrong = misreading(value, spot)
    if wrong is not None:
        yield wrong, spot
    function = function_of(value)
    if function is not None and function[0] == "if" and isinstance(function[1], list):
        for index, each in enumerate(function[1][1:], 1):
            yield from misread(each, spot.child("if").child(index))


def _misread_texts(name: str, argument: Json, spot: Spot) -> Iterator[tuple[str, Spot]]:
    if name == "str_replace":
        for key, value in argument["params"].items():
            yield from misread(value, spot.child("params").child(key))
    if name == "list_join":
        for index, part in enumerate(argument[1:], 1):
            for number, value in enumerate(part if isinstance(part, list) else ()):
                yield from misread(value, spot.child(index).child(number))


def _misuse(name: str, argument: Json) -> str | None:
    if name not in EVALUATED:
        return f"converge does not evaluate the function {show(name)[1:-1]}" + (
            "; it evaluates " + ", ".join(sorted(EVALUATED))
        )
    # whether a part that is a function fits is known only when it has a value
    if name == "str_replace":
        if not isinstance(argument, dict) or set(argument) != {"template", "params"}:
            return "str_replace takes a mapping with the keys 'template' and 'params'"
        template, params = argument["template"], argument["params"]
        if not isinstance(template, str) and function_of(template) is None:
            return f"the template of str_replace must be a string, not {kind(template)}"
        if not isinstance(params, dict):
            return f"the params of str_replace must be a mapping, not {kind(params)}"
        return "a key in the params of str_replace is empty" if "" in params else None
    if name == "list_join":
        if not isinstance(argument, list) or len(argument) < 2:
            return "list_join takes a list: a delimiter, and one or more lists"
        if not isinstance(argument[0], str) and function_of(argument[0]) is None:
            return f"the delimiter of list_join must be a string, not {kind(argument[0])}"
        for part in argument[1:]:
            if not isinstance(part, list) and function_of(part) is None:
                return f"list_join joins lists, not {kind(part)}"
        return None
    if name == "get_attr" and isinstance(argument, str):
        return "get_attr takes a list: [name, attribute, key...]"
    if name != "get_param":
        target = argument[0] if isinstance(argument, list) and argument else argument
        if function_of(target) is not None:
            return f"the name in {name} must be a plain string, not a function"
    for part in argument[1:] if isinstance(argument, list) else ():
        whole = isinstance(part, str | int) and not isinstance(part, bool)
        if not whole and function_of(part) is None:
            return f"the keys in {name} must be strings or whole numbers, not {kind(part)}"
    return None


def substitute(value: Json, parameter: Callable[[str], Json]) -> Json:
    """A copy of a value with every ``get_param`` replaced; other functions stay.

    A parameter's value is data: where it looks like a function, it is marked so that
    :func:`resolve` takes it as it is.

    :param parameter: gives the value of a name, or raises BadInput.
    :raises BadInput: if a ``get_param`` has no value.
    """
    if isinstance(value, list):
        return [substitute(part, parameter) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and "get_param" in value:
        argument = substitute(value["get_param"], parameter)
        name, *keys = argument if isinstance(argument, list) and argument else [argument]
        if not isinstance(name, str):
            raise BadInput(f"get_param takes the name of a parameter, not {kind(name)}")
        found = _walk(parameter(name), keys, f"parameter {show(name)}", BadInput)
        return {LITERAL: found} if _looks_like_a_function(found) else found
    return {key: substitute(part, parameter) for key, part in value.items()}


def _looks_like_a_function(value: Json) -> bool:
    if function_of(value) is not None:
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_looks_like_a_function(part) for part in parts)


def resolve(value: Json, lookup: Callable[[str], Physical]) -> Json:
    """Evaluate the functions in a value whose parameters are filled in already.

    ``get_resource`` gives a resource's physical id, ``get_attr`` one of its attributes or
    what a path of keys leads to within it (without an attribute: all of them).
    ``str_replace`` goes over its template once and, where several keys fit, replaces the
    longest. There and in ``list_join`` null becomes an empty text, and what is not a string JSON.

    :param lookup: gives what is known of a resource; KeyError where nothing is.
    :raises UnresolvedReference: if a resource, an attribute or a key in it does not exist.
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
    message = _misuse(name, argument)
    if message is not None:
        raise BadInput(message)
    if name == "get_param":
        raise BadInput(f"parameter {_shown_argument(argument)} has no value yet")
    argument = resolve(argument, lookup)
    if name == "str_replace":
        return _str_replace(argument)
    if name == "list_join":
        return _list_join(argument)
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


def _str_replace(argument: dict[str, Json]) -> str:
    template, params = argument["template"], argument["params"]
    if not isinstance(template, str):
        raise BadInput(f"the template of str_replace must be a string, not {kind(template)}")
    if not isinstance(params, dict) or "" in params:
        raise BadInput("the params of str_replace must be a mapping without empty keys")
    if not params:
        return template
    texts = {key: as_text(value) for key, value in params.items()}
    longest_first = sorted(texts, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    size = len(template)

    def replacement(match: re.Match[str]) -> str:
        nonlocal size
        size += len(texts[match.group()])
        _check_size("str_replace", size)
        return texts[match.group()]

    return pattern.sub(replacement, template)


def _list_join(argument: list[Json]) -> str:
    delimiter, *lists = argument
    if not isinstance(delimiter, str):
        raise BadInput(f"the delimiter of list_join must be a string, not {kind(delimiter)}")
    for part in lists:
        if not isinstance(part, list):
            raise BadInput(f"list_join joins lists, not {kind(part)}")
    texts = [as_text(item) for part in lists for item in part]
    _check_size("list_join", sum(map(len, texts)) + len(delimiter) * len(texts))
    return delimiter.join(texts)


def _check_size(name: str, size: int) -> None:
    # otherwise nested functions could make a huge text of a small one
    if size > SIZE_LIMIT:
        raise BadInput(f"the result of {name} is longer than {SIZE_LIMIT:,} characters")
