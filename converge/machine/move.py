"""A move that an event made, and the error that is raised if its action failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converge.errors import ConvergeError


@dataclass(frozen=True, slots=True)
class Move:
    """What an event did.

    :ivar key: the key of the instance.
    :ivar number: the number of the move among those of its instance, from 1.
    :ivar source: the state before the move.
    :ivar target: the state after the move.
    :ivar payload: the payload of the event, after a round trip through the database.
    :ivar action: the status of its action: ``NONE``, ``PENDING``, ``DONE`` or ``FAILED``.
    :ivar at: when it was made, in seconds since 1970; None if just made.
    :ivar reason: why the last attempt of the action failed, if it did.
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
    """A move of a machine was made, but its action failed. What the action raised is the
    ``__cause__``.

    :ivar move: the move; ``move.action`` says whether the action is called again.
    """

    def __init__(self, message: str, *, move: Move) -> None:
        super().__init__(message)
        self.move = move
