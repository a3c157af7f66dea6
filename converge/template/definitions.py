"""What a template wants, with its parameters filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from converge.canonical import dump, load
from converge.graph import Graph
from converge.model import Json, Replacing, ResourceDefinition

_KEYS = frozenset(("type", "properties", "depends_on", "replace"))
# Quotes in a string are escaped, so what follows is the next key. A list of names with brackets
# may not match, which only takes longer.
_DEPENDS_ON = re.compile(r'\{"depends_on":(?:"(?:[^"\\]|\\.)*"|\[[^][]*\]),(?="properties":)')
_TYPE = '"type":"'
_QUEUE = '"queue":"'
_EXTERNAL = '"external_id":"'
_ALWAYS = '"runs":"always"'


def is_definition(body: Mapping[str, Json]) -> bool:
    """Whether a resource of a template, in which there is nothing to fill in, is a definition but
    for what it depends on."""
    return (
        _KEYS.issuperset(body)
        and isinstance(body.get("properties"), dict)
        and body.get("replace", "") is not None
    )


class Definitions(Mapping[str, ResourceDefinition]):
    """The wanted resources by name, in topological order. Each is kept as text, as there may be a
    million, and parsed when it is asked for.

    :ivar graph: which requires which.
    :ivar moved: the newest name by each name that one had before.
    :ivar reads: what was read of other stacks, as :mod:`~converge.template.outputs` keeps it.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        graph: Graph[str],
        moved: Mapping[str, str] | None = None,
        reads: Mapping[str, Json] | None = None,
    ) -> None:
        """:param texts: each as canonical JSON, as :func:`dump_definition` makes it, perhaps with
        ``depends_on``.
        """
        self._texts = texts
        self.graph = graph
        self.moved = moved or {}
        # it grows while the template's outputs are evaluated
        self.reads: Mapping[str, Json] = {} if reads is None else reads

    @classmethod
    def of(
        cls,
        definitions: Mapping[str, ResourceDefinition],
        moved: Mapping[str, str] | None = None,
        reads: Mapping[str, Json] | None = None,
    ) -> Definitions:
        """Those that are made already."""
        texts = {name: dump(dump_definition(one)) for name, one in definitions.items()}
        graph = Graph.of({name: one.requires for name, one in definitions.items()})
        return cls(texts, graph, moved, reads)

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.graph)

    def __contains__(self, name: object) -> bool:
        return name in self._texts

    def __getitem__(self, name: str) -> ResourceDefinition:
        return load_definition(load(self._texts[name]), self.requires(name))

    def requires(self, name: str) -> tuple[str, ...]:
        """The names of the resources that must come before one, sorted."""
        return tuple(sorted(self.graph.requires(name)))

    def type(self, name: str) -> str:
        """The name of a resource's type."""
        text = self._texts[name]
        # it is the last key, and in a string quotes are escaped
        written = text[text.rindex(_TYPE) + len(_TYPE) : -2]
        return str(load(f'"{written}"')) if "\\" in written else written

    def queues(self) -> dict[str, str]:
        """The queues of the resources that name one, by the resource's name."""
        found = {}
        for name, text in self._texts.items():
            # most do not; that of a property looks the same until it is parsed
            if _QUEUE in text:
                queue = load(text).get("settings", {}).get("queue")
                if queue is not None:
                    found[name] = str(queue)
        return found

    def externals(self) -> list[str]:
        """The names of the resources that are there already, and are never touched."""
        # likewise
        found = (name for name, text in self._texts.items() if _EXTERNAL in text)
        return [name for name in found if "external_id" in self[name].settings]

    def always(self) -> frozenset[str]:
        """The names of the resources that run whether those before them failed or not."""
        # likewise
        found = (name for name, text in self._texts.items() if _ALWAYS in text)
        return frozenset(name for name in found if self[name].settings.get("runs") == "always")

    def text(self, name: str) -> str:
        """A resource as canonical JSON, as :func:`dump_definition` makes it."""
        text = self._texts[name]
        if not text.startswith('{"depends_on":'):
            return text
        found = _DEPENDS_ON.match(text)
        return "{" + text[found.end() :] if found else dump(dump_definition(self[name]))


def dump_definition(definition: ResourceDefinition) -> Json:
    """A definition as JSON, without what it requires: that is in the graph."""
    value: dict[str, Json] = {
        "type": definition.type,
        "properties": dict(definition.properties),
    }
    if definition.replace is not None:
        value["replace"] = definition.replace
    if definition.settings:
        value["settings"] = dict(definition.settings)
    return value


def load_definition(value: Json, requires: tuple[str, ...] = ()) -> ResourceDefinition:
    """What :func:`dump_definition` made.

    :param requires: the names of all resources that must come first, sorted.
    """
    replace = value.get("replace")
    return ResourceDefinition(
        value["type"],
        value["properties"],
        requires,
        None if replace is None else Replacing(replace),
        value.get("settings", {}),
    )
