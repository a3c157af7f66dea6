"""A move that an event made, and what is raised where its action failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converge.errors import ConvergeError


@dataclass(frozen=True, slots=True)
class Move:
    """What an event did.

    :ivar number: as which move of its instance, from 1.
    :ivar payload: as it is given back after it was stored.
    :ivar at: when, in seconds since 1970; None of one just made.
    :ivar action: ``NONE``, ``PENDING``, ``DONE`` or ``FAILED``.
    :ivar reason: why the last attempt of the action failed.
    """

    key: str
    number: int
    event: str
    source: str
    target: str
    payload: Any
    action: str
    at: float | None = None
    reason: str | None = None


class ActionFailed(ConvergeError):
    """A move of a machine was made, and its action did not come to its end. What it raised is the
    ``__cause__``.

    :ivar move: the move; ``move.action`` says whether the action is called again.
    """

    def __init__(self, message: str, *, move: Move) -> None:
        super().__init__(message)
        self.move = move
