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

from converge import Context, RetryPolicy
from converge.model import Json
from tests import world

RETRY = RetryPolicy(attempts=3, first=5.0, exceptions=(RuntimeError,))


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


class World(world.World):
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

    # -- what handlers do

    def create(self, context: Context, properties: Mapping[str, Any]) -> str:
        """Make a thing."""
        return self.call("create", context, properties=dict(properties))

    def update(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Change it."""
        self.call("update", context, id=physical_id, properties=dict(properties))

    def declined(self, context: Context, physical_id: str) -> None:
        """This is a call, too."""
        self.call("update", context, id=physical_id, properties=None)

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove it."""
        self.call("delete", context, id=physical_id)

    def check(self, context: Context, physical_id: str) -> None:
        """Look at it."""
        self.call("check", context, id=physical_id)
        super().check(context, physical_id)

    def look(self, context: Context, physical_id: str) -> dict[str, Any] | None:
        """A look is a call."""
        self.call("read", context, id=physical_id)
        return self.things.get(physical_id)

    def check_alone(self, context: Context) -> None:
        """Never is there another."""
        mine = self.find(context.token)
        made = [one for one in self.things if one.rpartition(".")[0] == context.name]
        assert made in ([], [mine]), f"{made} there already"

    def has(self, physical_id: str) -> bool:
        """Whether a thing is there."""
        return physical_id in self.things

    def find(self, token: str) -> str | None:
        """What was made with this token, if it exists."""
        thing = self._ids.get(token)
        return thing if thing in self.things else None

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
        elif "hand" in line:
            for thing, properties in line["hand"].items():
                self.things.pop(thing, None)
                if properties is not None:
                    self.things[thing] = properties
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
