"""Random templates, and random changes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import converge

NAMES = "ABCD"
TYPES = ("fake", "fake", "fixed", "noting", "only", "slow", "asked", "seen", "seen")
#: How one resource refers to another: by its id, by an attribute, by order alone, or so that
#: a new one of the other makes a new one of it.
HOWS = ("id", "attribute", "order", "replacing")


@dataclass(frozen=True)
class Entry:
    """A resource of a template.

    :ivar refers: the names of others that it refers to, with how.
    :ivar always: it runs also if others failed; then it refers to them by order alone.
    """

    type: str
    size: int
    renewal: int
    refers: tuple[tuple[str, str], ...]
    always: bool = False

    def body(self) -> dict[str, Any]:
        """As it stands in a template."""
        properties: dict[str, Any] = {"size": self.size, "replace": self.renewal}
        for name, how in self.refers if not self.always else ():
            if how == "id":
                properties[f"to {name}"] = {"get_resource": name}
            elif how == "attribute":
                properties[f"to {name}"] = {"get_attr": [name, "made"]}
            elif how == "replacing":
                properties["replace"] = {"get_attr": [name, "made"]}
        after = [name for name, how in self.refers if how == "order" or self.always]
        body = {"type": self.type, "properties": properties, "depends_on": after}
        return body | ({"runs": "always"} if self.always else {})


#: A template: what each name is to be. Names refer only to names before them.
Wanted = dict[str, Entry]


def draw(random: Random) -> Wanted:
    """A template of one to four resources."""
    names = random.sample(NAMES, random.choice((1, 2, 2, 3, 3, 4)))
    wanted: Wanted = {}
    for name in names:
        wanted[name] = _entry(random, list(wanted))
    return wanted


def change(random: Random, wanted: Wanted) -> Wanted:
    """The same with something changed, added, replaced or removed; or another altogether."""
    how = random.choice(
        ("size", "size", "replace", "replace", "type", "edges", "drop", "add", "all")
    )
    if not wanted or how == "all":
        return draw(random)
    name = random.choice(list(wanted))
    changed = dict(wanted)
    if how == "size":
        changed[name] = replace(wanted[name], size=wanted[name].size + 1)
    elif how == "replace":
        changed[name] = replace(wanted[name], renewal=wanted[name].renewal + 1)
    elif how == "type":
        changed[name] = replace(wanted[name], type=random.choice(TYPES))
    elif how == "edges":
        before = list(wanted)[: list(wanted).index(name)]
        changed[name] = replace(wanted[name], refers=_refers(random, before))
    elif how == "drop":
        del changed[name]
        for other, entry in changed.items():
            kept = tuple(one for one in entry.refers if one[0] != name)
            changed[other] = replace(entry, refers=kept)
    else:
        for new in NAMES:
            if new not in wanted:
                changed[new] = _entry(random, list(wanted))
                break
    return changed or draw(random)


def adjust(random: Random, wanted: Wanted) -> Wanted:
    """The same, but for the size of one, most likely of the first."""
    name = random.choice([*wanted, *[next(iter(wanted))] * len(wanted)])
    return {**wanted, name: replace(wanted[name], size=wanted[name].size + 1)}


def parse(wanted: Wanted) -> converge.Template:
    """As the library takes it."""
    return converge.Template.from_dict(
        {"resources": {name: entry.body() for name, entry in wanted.items()}}
    )


def describe(wanted: Wanted) -> str:
    """In one line: ``A fixed 0/1 <- B id``."""
    parts = []
    for name, entry in wanted.items():
        refers = "".join(f" <- {other} {how}" for other, how in entry.refers)
        always = " always" if entry.always else ""
        parts.append(f"{name} {entry.type} {entry.size}/{entry.renewal}{refers}{always}")
    return ", ".join(parts)


def _entry(random: Random, before: list[str]) -> Entry:
    refers = _refers(random, before)
    always = bool(refers) and random.random() < 0.35
    return Entry(
        random.choice(TYPES), random.randrange(2), random.randrange(2), refers, always=always
    )


def _refers(random: Random, before: list[str]) -> tuple[tuple[str, str], ...]:
    others = random.sample(before, min(len(before), random.choice((0, 1, 1, 2))))
    return tuple(zip(others, random.sample(HOWS, len(others)), strict=True))
