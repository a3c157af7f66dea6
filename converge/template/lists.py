"""The functions about lists: ``list_concat``, ``list_concat_unique``, ``filter``, ``contains``,
``repeat``; and ``equals``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import product
from math import prod

from converge.errors import BadInput
from converge.model import Json
from converge.template.forms import Check, Pure, check_keys, check_size, misfit, takes_list, weight
from converge.template.values import as_text, kind, show


def frozen(value: Json) -> Hashable:
    """What is equal for equal values, as Python compares them: 1, 1.0 and true are equal."""
    if isinstance(value, list):
        return ("list", *map(frozen, value))
    if isinstance(value, dict):
        return frozenset((key, frozen(each)) for key, each in value.items())
    scalar: Hashable = value
    return scalar


def _concat_check(name: str) -> Check:
    def check(argument: Json, settled: bool) -> str | None:
        wrong = takes_list(name, "the lists to put together", 0)(argument, settled)
        if wrong is not None or not isinstance(argument, list):
            return wrong
        for part in argument:
            if misfit("", part, settled, list, type(None)) is not None:
                return f"{name} puts lists together, not {kind(part)}"
        return None

    return check


def _concat(argument: Json) -> list[Json]:
    return [item for part in argument for item in part or ()]


def _unique(argument: Json) -> list[Json]:
    found: dict[Hashable, Json] = {}
    for item in _concat(argument):
        found.setdefault(frozen(item), item)
    return list(found.values())


def _filter_check(argument: Json, settled: bool) -> str | None:
    wrong = takes_list("filter", "a list of values to leave out, and a list", 2, 2)(
        argument, settled
    )
    if wrong is not None or not isinstance(argument, list):
        return wrong
    wrong = misfit("what filter leaves out", argument[0], settled, list, type(None))
    return wrong or misfit("what filter goes over", argument[1], settled, list, type(None))


def _filter(argument: Json) -> Json:
    values, items = argument
    if not items or not values:
        return items
    unwanted = set(map(frozen, values))
    return [item for item in items if frozen(item) not in unwanted]


def _contains_check(argument: Json, settled: bool) -> str | None:
    wrong = takes_list("contains", "a value, and a list", 2, 2)(argument, settled)
    if wrong is not None or not isinstance(argument, list):
        return wrong
    return misfit("where contains looks", argument[1], settled, list, str)


def _contains(argument: Json) -> bool:
    value, where = argument
    if isinstance(where, str):
        if not isinstance(value, str):
            raise BadInput(f"contains looks for a string in a string, not for {kind(value)}")
        return value in where
    return frozen(value) in set(map(frozen, where))


def _equals(argument: Json) -> bool:
    return frozen(argument[0]) == frozen(argument[1])


# repeat


def _repeat_check(argument: Json, settled: bool) -> str | None:
    wrong = check_keys("repeat", argument, ("template", "for_each"), ("permutations",))
    if wrong is not None:
        return wrong
    loops, nested = argument["for_each"], argument.get("permutations", True)
    wrong = misfit("the for_each of repeat", loops, settled, dict)
    if wrong is None and misfit("", nested, settled, bool) is not None:
        wrong = f"permutations in repeat must be true or false, not {show(nested)}"
    if wrong is not None or (not settled and not isinstance(loops, dict)):
        return wrong
    if not loops or "" in loops:
        return "the for_each of repeat has no variable" if not loops else "a variable is empty"
    kinds = (list, type(None)) if nested is False else (list, dict, type(None))
    for name, items in loops.items():
        wrong = wrong or misfit(f"the items of {show(name)} in repeat", items, settled, *kinds)
    return wrong


def _repeat(argument: Json) -> list[Json]:
    template, loops = argument["template"], argument["for_each"]
    names = list(loops)
    # a mapping stands for its keys
    lists: list[list[Json]] = [list(items or ()) for items in loops.values()]
    nested = argument.get("permutations", True)
    if not nested and len({len(items) for items in lists}) > 1:
        pairs = zip(names, lists, strict=True)
        counts = ", ".join(f"{show(name)} {len(items)}" for name, items in pairs)
        raise BadInput(f"repeat without permutations needs lists of one length, not {counts}")
    count = prod(map(len, lists)) if nested else len(lists[0])
    check_size("repeat", count * weight(template))
    rounds: Iterable[tuple[Json, ...]] = product(*lists) if nested else zip(*lists, strict=True)
    size = 0
    made = []
    for items in rounds:
        made.append(_put_in(template, list(zip(names, items, strict=True))))
        size += weight(made[-1])
        check_size("repeat", size)
    return made


def _put_in(template: Json, items: list[tuple[str, Json]]) -> Json:
    """A copy of a template with each variable replaced, in keys and values."""
    if isinstance(template, list):
        return [_put_in(part, items) for part in template]
    if isinstance(template, dict):
        return {
            as_text(_put_in(key, items)): _put_in(part, items) for key, part in template.items()
        }
    if not isinstance(template, str):
        return template
    for name, item in items:
        if template == name and not isinstance(item, str):
            return item
        template = template.replace(name, as_text(item))
        check_size("repeat", len(template))
    return template


FUNCTIONS = {
    "list_concat": Pure(_concat_check("list_concat"), _concat),
    "list_concat_unique": Pure(_concat_check("list_concat_unique"), _unique),
    "filter": Pure(_filter_check, _filter),
    "contains": Pure(_contains_check, _contains),
    "equals": Pure(takes_list("equals", "two values", 2, 2), _equals),
    "repeat": Pure(_repeat_check, _repeat),
}
