"""The resources of a template, each kept as text.

There may be a million: parsed, they would take four times the memory, and what is done with nearly
all of them is to store their texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from converge.canonical import load
from converge.graph import Graph
from converge.model import Json, Replacing
from converge.template.settings import settings_in
from converge.template.values import Spot

_VARIATION = ("condition", "for_each")


@dataclass(frozen=True, slots=True)
class ResourceEntry:
    """A resource as the template has it.

    :ivar type: the name of its resource type.
    :ivar depends_on: names of resources that must come first even if it does not refer to them.
    :ivar requires: names of all resources that must come first, sorted.
    :ivar replace: in which order it is replaced; None leaves it to the type.
    :ivar settings: what else is said of it, by key; see ``settings``.
    :ivar variation: its ``condition`` and its ``for_each``, if it has them.
    """

    type: str
    properties: Mapping[str, Json]
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]
    replace: Replacing | None
    settings: Mapping[str, Json]
    variation: Mapping[str, Json]
    spot: Spot = field(repr=False, compare=False)


class Entries(Mapping[str, ResourceEntry]):
    """The resources by name, in the order of the template. One is parsed each time that it is
    asked for.

    :ivar texts: each as canonical JSON.
    :ivar graph: which requires which.
    """

    def __init__(self, texts: Mapping[str, str], graph: Graph[str], spot: Spot) -> None:
        self.texts = texts
        self.graph = graph
        self._spot = spot

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __contains__(self, name: object) -> bool:
        return name in self.texts

    def __getitem__(self, name: str) -> ResourceEntry:
        body = load(self.texts[name])
        replace = body.get("replace")
        return ResourceEntry(
            type=body["type"],
            properties=MappingProxyType(body.get("properties") or {}),
            depends_on=named_first(body.get("depends_on"), self.texts),
            requires=tuple(sorted(self.graph.requires(name))),
            replace=None if replace is None else Replacing(replace),
            settings=MappingProxyType(settings_in(body)),
            variation=MappingProxyType(variation_in(body)),
            spot=self.spot(name),
        )

    def spot(self, name: str) -> Spot:
        """Where a resource is."""
        return self._spot.child(name)


def variation_in(body: Mapping[str, Json]) -> dict[str, Json]:
    """The keys of a resource by which parameters decide whether there is one, or several."""
    return {key: body[key] for key in _VARIATION if body.get(key) is not None}


def named_first(depends_on: Json, names: Collection[str]) -> tuple[str, ...]:
    """The resources that a ``depends_on`` names. What is in it and is no name may be a condition:
    whatever that may result in is an edge."""
    found: list[str] = []
    for each in depends_on if isinstance(depends_on, list) else [depends_on]:
        if isinstance(each, str):
            found.append(each)
        else:
            found += (text for text in _strings(each) if text in names)
    return tuple(dict.fromkeys(found))


def _strings(value: Json) -> Iterable[str]:
    """All strings in a value that are not keys."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            stack += value.values() if isinstance(value, dict) else value
