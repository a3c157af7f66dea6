"""What becomes of what a stage remembers, before it is written."""

from __future__ import annotations

import secrets
from dataclasses import replace

from converge.errors import StaleLock
from converge.model import Json
from converge.pipeline.steps import Advance
from converge.sql import step_states
from converge.sql.step_states import StateRow
from converge.sql.transaction import Transaction


class StaleState(Exception):
    """What a stage was worked out from has changed: it is to be done anew."""


class Ledger:
    """What becomes of the states of a stage, before it is written.

    :param states: those that there are, by digest.
    """

    def __init__(self, sink: str, step: str, states: dict[str, StateRow]) -> None:
        self._sink, self._step = sink, step
        self._states = states
        self._changed: dict[str, tuple[Json, int, Advance]] = {}

    def get(self, digest: str) -> Json:
        """The state of a key; None if there is none."""
        if digest in self._changed:
            return self._changed[digest][2].state
        row = self._states.get(digest)
        return None if row is None else row.state

    def set(self, digest: str, key: Json, share: int, moved: Advance) -> None:
        """Change the state of a key."""
        self._changed[digest] = (key, share, replace(moved, made=()))

    def mark(self) -> dict[str, tuple[Json, int, Advance]]:
        """What was changed so far."""
        return dict(self._changed)

    def back_to(self, mark: dict[str, tuple[Json, int, Advance]]) -> None:
        """Forget what was changed since."""
        self._changed = mark

    def write(self, tx: Transaction) -> None:
        """Write all changes.

        :raises StaleState: another process has changed one of the keys.
        """
        made, changed, gone = [], [], []
        for digest, (key, share, moved) in self._changed.items():
            row = self._states.get(digest)
            mark = secrets.randbits(62)
            if row is None:
                if moved.state is not None:
                    made.append(
                        {
                            "sink": self._sink,
                            "step": self._step,
                            "digest": digest,
                            "key": key,
                            "share": share,
                            "state": moved.state,
                            "deadline_at": moved.deadline,
                            "mark": mark,
                        }
                    )
                continue
            changed.append(
                {
                    "id": row.id,
                    "mark": row.mark,
                    "new_mark": mark,
                    # its partition may be another one by now
                    "share": share,
                    "state": moved.state if moved.state is not None else {},
                    "deadline_at": moved.deadline,
                }
            )
            if moved.state is None:
                gone.append(row.id)
        try:
            step_states.insert_states(tx, made)
            step_states.update_states(tx, changed)
        except StaleLock:
            raise StaleState from None
        step_states.delete_states(tx, gone)
