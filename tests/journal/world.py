"""What the steps of the tests act on, and the programs that these steps are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from converge.errors import JournalMismatch
from converge.journal import Scope
from tests.journal.places import Place


@dataclass
class World:
    """Where steps have their effects; it outlives journals.

    :ivar calls: what was called, in order.
    """

    calls: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    def call(self, name: str, value: Any = None) -> Any:
        """Have an effect, unless this name has failures left."""
        self.calls.append(name)
        left = self.failures.get(name, 0)
        if left:
            self.failures[name] = left - 1
            raise RuntimeError(f"{name} failed")
        return value


def run(place: Place, program: Callable[[Scope], Any], name: str = "job") -> Any:
    """Run a program as the scope of that name, in a new process as it were."""
    journal = place.journal()
    with journal.scope(name) as scope:
        result = program(scope)
    return result


def mismatch(place: Place, program: Callable[[Scope], Any]) -> JournalMismatch:
    with pytest.raises(JournalMismatch) as caught:
        run(place, program)
    return caught.value


def steps(world: World, *names: str) -> Callable[[Scope], list[Any]]:
    """A program of these steps; each returns its name in capitals."""

    def program(scope: Scope) -> list[Any]:
        return [scope.step(name, world.call, name, name.upper()) for name in names]

    return program
