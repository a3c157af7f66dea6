"""Crash points: the named places at which a test ends the process.

Every commit edge of the code has two, one on each side of the commit, and so has the call of
a handler. In production they do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum


class Commit(StrEnum):
    """The transactions that write, by what they are for."""

    #: a traversal starts: create, update, rollback, delete, check
    START = "start"
    #: the host's own transaction
    HOST = "host"
    CANCEL = "cancel"
    #: a stack forgets a resource without deleting it
    ABANDON = "abandon"
    #: READY nodes become an engine's
    CLAIM = "claim"
    #: what became of a group of nodes; in the same transaction others are claimed
    COMPLETE = "complete"
    #: a failure that halts its traversal
    FAIL = "fail"
    REPLACE = "replace"
    #: what was deleted before its replacement is made
    CLEAR = "clear"
    #: the traversal ends
    FINISH = "finish"
    #: a physical id, in the middle of a handler
    RECORD = "record"
    REGISTER = "register"
    RENEW = "renew"
    #: an engine that stops hands back what it holds
    LEAVE = "leave"
    #: what an engine holds without knowing it
    RECONCILE = "reconcile"
    #: the lease of a process that is known to be gone
    EXPIRE = "expire"
    #: what a dead engine held
    RECOVER = "recover"
    #: what engines hold that were dead before
    RELEASE = "release"
    UNBLOCK = "unblock"
    #: retries whose time has come take their turn
    PROMOTE = "promote"
    #: a traversal past its deadline
    OVERDUE = "overdue"
    #: sync points of traversals that are over
    SWEEP = "sweep"
    #: rows of engines that ended long ago
    FORGET = "forget"
    #: a process takes a scope of the journal
    TAKE = "take"
    #: a step of a scope is recorded
    STEP = "step"
    #: an item of a scope's each is recorded
    ITEM = "item"
    #: a scope is released
    LET_GO = "let_go"
    #: scopes are deleted
    PRUNE = "prune"
    #: instances of a machine are made or deleted
    INSTANCE = "instance"
    #: events fire
    FIRE = "fire"
    #: timeouts fire
    TIMEOUT = "timeout"
    #: a process takes actions of a machine
    ACTION_CLAIM = "action_claim"
    #: an action of a machine is over, or is to be tried again
    ACTION = "action"

    @property
    def before(self) -> str:
        """The point before the commit: nothing of the transaction is left."""
        return f"{self}.before_commit"

    @property
    def after(self) -> str:
        """The point after the commit: all of it is there, and nobody was told."""
        return f"{self}.after_commit"


BEFORE_CALL = "handler.before_call"
AFTER_CALL = "handler.after_call"

#: The journal's own, and the machines'.
JOURNAL = (Commit.TAKE, Commit.STEP, Commit.ITEM, Commit.LET_GO, Commit.PRUNE)
MACHINE = (
    Commit.INSTANCE,
    Commit.FIRE,
    Commit.TIMEOUT,
    Commit.ACTION_CLAIM,
    Commit.ACTION,
)


def both_sides(commits: Iterable[Commit]) -> tuple[str, ...]:
    """The points on either side of these commits."""
    return tuple(name for commit in commits for name in (commit.before, commit.after))


#: All crash points.
NAMES: tuple[str, ...] = (*both_sides(Commit), BEFORE_CALL, AFTER_CALL)
#: Those of stacks and engines.
STACKS = tuple(name for name in NAMES if name not in both_sides(JOURNAL + MACHINE))

#: What a test sets: called with the name of each point that is reached, in any thread.
hook: Callable[[str], None] | None = None


def hit(name: str) -> None:
    """Tell the hook, if there is one, that a point is reached."""
    if hook is not None:
        hook(name)
