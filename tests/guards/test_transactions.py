"""Guards of a transaction whose connection is lost, or that the database undoes.

Each of these tests fails without the guard that it is about, though the others, which would
make good for it, are there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from oslo_db.exception import DBConnectionError, DBDeadlock

import converge
from converge.crash_points import Commit
from converge.errors import CommitUnknown
from converge.sql.database import Database, repeatable
from converge.sql.transaction import Transaction


class Trouble:
    """A transaction that meets trouble once, at a crash point, and counts its attempts."""

    def __init__(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, point: str, error: Exception
    ) -> None:
        self.database = database
        self.attempts = 0
        self.asked = 0
        self._point = point
        self._errors = [error]
        monkeypatch.setattr("converge.crash_points.hook", self._hit)

    def _hit(self, name: str) -> None:
        if name == self._point and self._errors:
            raise self._errors.pop()

    def _once(self, tx: Transaction) -> int:
        self.attempts += 1
        return self.attempts

    def happened(self, tx: Transaction, result: int) -> bool:
        self.asked += 1
        return True

    def transact(self, happened: Callable[[Transaction, int], bool] | None = None) -> int:
        return self.database.transact(self._once, Commit.CLAIM, happened=happened)


#: Makes trouble at a point, of a kind.
Make = Callable[[str, Exception], Trouble]


@pytest.fixture
def trouble(store: converge.Store, monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda point, error: Trouble(store.database, monkeypatch, point, error)


def test_what_the_database_undid_is_run_again(trouble: Make) -> None:
    undone = trouble(Commit.CLAIM.before, DBDeadlock())
    assert undone.transact() == undone.attempts == 2


def test_what_was_lost_before_the_commit_is_run_again(trouble: Make) -> None:
    lost = trouble(Commit.CLAIM.before, DBConnectionError())
    assert lost.transact() == lost.attempts == 2


def test_what_was_lost_during_the_commit_is_not_run_again_blindly(trouble: Make) -> None:
    lost = trouble(Commit.CLAIM.after, DBConnectionError())
    with pytest.raises(CommitUnknown):
        lost.transact()
    assert lost.attempts == 1


def test_what_was_lost_during_the_commit_is_looked_for_or_harmless(trouble: Make) -> None:
    found = trouble(Commit.CLAIM.after, DBConnectionError())
    assert found.transact(happened=found.happened) == found.attempts == found.asked == 1
    again = trouble(Commit.CLAIM.after, DBConnectionError())
    assert again.transact(happened=repeatable) == again.attempts == 2
