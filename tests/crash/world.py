"""A world to converge that outlives the process: a file to which every call is appended.

What there is, and which calls fail, follows from the file alone. So when a process dies
between two lines, the next one finds all that it did.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converge.errors import Replace
from converge.model import Json, Physical
from converge.resources.resource_type import Context, ResourceType
from converge.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a handler, in the order of the file.

    :ivar token: its idempotency token.
    :ivar attempt: which attempt of its node it was.
    """

    verb: str
    name: str
    token: str
    attempt: int


class World:
    """:param path: the file, made if need be.

    :ivar calls: all calls, also those that failed or came again.
    :ivar things: the properties of what exists, by physical id.
    :ivar note: what the player of a story noted last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[Call] = []
        self.things: dict[str, dict[str, Json]] = {}
        self.note: dict[str, Any] = {}
        self._ids: dict[str, str] = {}
        self._made: Counter[str] = Counter()
        self._failures: dict[str, int] = {}
        self._result: str | None = None
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self._place = 0
        self._read()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def write(self, **line: Any) -> str | None:
        """Append one line, in one write.

        :returns: for a call, the physical id, None if the call fails.
        """
        os.write(self._file, json.dumps(line).encode() + b"\n")
        self._read()
        return self._result

    def call(self, verb: str, context: Context, **values: Any) -> str:
        """Append a call and let it have its effect.

        :raises RuntimeError: it is to fail.
        """
        line = {"call": verb, "name": context.name, "attempt": context.attempt}
        result = self.write(**line, token=context.token, **values)
        if result is None:
            raise RuntimeError(f"{verb} {context.name} failed")
        return result

    def find(self, token: str) -> str | None:
        """What was made with this token, if it exists."""
        thing = self._ids.get(token)
        return thing if thing in self.things else None

    def types(self) -> dict[str, ResourceType]:
        """Resource types that act on this world: ``thing`` is updated in place, but replaced
        for another ``kind``; ``fixed`` has no update; ``only`` can be there only once."""
        return {"thing": Thing(self), "fixed": Fixed(self), "only": Only(self)}

    def _read(self) -> None:
        while part := os.pread(self._file, 1 << 20, self._place):
            # lines are written whole
            self._place += len(part)
            for line in part.splitlines():
                self._apply(json.loads(line))

    def _apply(self, line: dict[str, Any]) -> None:
        if "note" in line:
            self.note = line["note"]
        elif "fail" in line:
            self._failures = line["fail"]
        else:
            self.calls.append(_call(line))
            self._result = self._effect(line)

    def _effect(self, line: dict[str, Any]) -> str | None:
        what = f"{line['call']} {line['name']}"
        left = self._failures.get(what, 0)
        if left:
            self._failures[what] = left - 1
        if left or "broken" in (line.get("properties") or {}):
            return None
        if line["call"] == "create":
            return self._create(line)
        thing = str(line["id"])
        if line["call"] == "delete":
            self.things.pop(thing, None)
        elif line["call"] == "update" and line["properties"] is not None:
            self.things[thing] = line["properties"]
        return thing

    def _create(self, line: dict[str, Any]) -> str:
        found = self.find(line["token"])
        if found is None:
            number = self._made[line["name"]]
            self._made[line["name"]] += 1
            found = self._ids[line["token"]] = f"{line['name']}.{number}"
        self.things[found] = line["properties"]
        return found


def _call(line: Mapping[str, Any]) -> Call:
    return Call(line["call"], line["name"], line["token"], line["attempt"])


class Fixed(ResourceType):
    """A thing that cannot be updated in place. With ``record`` it stores its id at once."""

    schema = None
    retry = RetryPolicy(attempts=3, first=5.0, exceptions=(RuntimeError,))

    def __init__(self, world: World) -> None:
        self.world = world

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Make it."""
        thing = self.world.call("create", context, properties=dict(properties))
        if "record" in properties:
            context.record(thing)
        return Physical(thing, {**properties, "made": thing})

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove it; gone already is no error."""
        self.world.call("delete", context, id=physical_id)

    def find(self, context: Context) -> Physical | None:
        """What an interrupted create made."""
        thing = self.world.find(context.token)
        return None if thing is None else Physical(thing)

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Whether it is still there."""
        self.world.call("check", context, id=physical_id)
        assert physical_id in self.world.things


class Only(Fixed):
    """A thing of which there can be one of a name, and which is replaced for another ``kind``."""

    replace = "delete_first"

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Make it; never is there another."""
        mine = self.world.find(context.token)
        made = [one for one in self.world.things if one.rpartition(".")[0] == context.name]
        assert made in ([], [mine]), f"{made} there already"
        return super().create(context, properties)

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Change it, if it is of the same kind."""
        if properties.get("kind") != previous.get("kind"):
            raise Replace
        self.world.call("update", context, id=physical_id, properties=dict(properties))
        return Physical(physical_id, {**properties, "made": physical_id})


class Thing(Fixed):
    """A thing that is updated in place, unless its ``kind`` changes."""

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Change it."""
        replaces = properties.get("kind") != previous.get("kind")
        wanted = None if replaces else dict(properties)
        self.world.call("update", context, id=physical_id, properties=wanted)
        if replaces:
            raise Replace
        return Physical(physical_id, {**properties, "made": physical_id})
