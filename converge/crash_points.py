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
    #: a resource gets another name
    RENAME = "rename"
    #: a thing that is there becomes a resource
    ADOPT = "adopt"
    #: a stack forgets a resource without deleting it
    ABANDON = "abandon"
    #: an engine takes READY nodes
    CLAIM = "claim"
    #: the outcomes of a group of nodes; in the same transaction others are claimed
    COMPLETE = "complete"
    #: a failure that halts its traversal
    FAIL = "fail"
    REPLACE = "replace"
    #: a resource that was deleted before its replacement is created
    CLEAR = "clear"
    #: the traversal ends
    FINISH = "finish"
    #: a limit is set or removed
    LIMIT = "limit"
    #: a signal is sent to a resource
    SIGNAL = "signal"
    #: a handler receives a signal
    DELIVER = "deliver"
    #: a physical id, in the middle of a handler
    RECORD = "record"
    REGISTER = "register"
    RENEW = "renew"
    #: an engine that stops releases its nodes
    LEAVE = "leave"
    #: an engine releases nodes that it holds without knowing it
    RECONCILE = "reconcile"
    #: the lease of a process that is known to have ended
    EXPIRE = "expire"
    #: the nodes of a dead engine are released
    RECOVER = "recover"
    #: the nodes of engines that were found dead before are released
    RELEASE = "release"
    UNBLOCK = "unblock"
    #: retries that are due join the queue
    PROMOTE = "promote"
    #: a traversal of a nested stack starts
    NEST = "nest"
    #: a nested stack is stopped, as its outer one was
    NEST_STOP = "nest_stop"
    #: handlers are called that missed the end of their nested stack
    NEST_WAKE = "nest_wake"
    #: a traversal past its deadline is ended
    OVERDUE = "overdue"
    #: sync points of ended traversals are deleted
    SWEEP = "sweep"
    #: rows of engines that ended long ago are deleted
    FORGET = "forget"
    #: what is old of stacks is deleted
    PRUNE_STACKS = "prune_stacks"
    #: values are encrypted with another key
    REENCRYPT = "reencrypt"
    #: a process locks a scope of the journal
    TAKE = "take"
    #: a step of a scope is recorded
    STEP = "step"
    #: an item of an ``each`` is recorded
    ITEM = "item"
    #: a scope is released
    SCOPE_RELEASE = "scope_release"
    #: scopes are deleted
    PRUNE = "prune"
    #: instances of a machine are made or deleted
    INSTANCE = "instance"
    #: events fire
    FIRE = "fire"
    #: timeouts fire
    TIMEOUT = "timeout"
    #: a process claims actions of a machine
    ACTION_CLAIM = "action_claim"
    #: an action of a machine has ended, or will be retried
    ACTION = "action"
    #: a batch of notifications is recorded
    NOTIFICATIONS = "notifications"
    #: deliveries of notifications have come to the next stage of their sink
    DELIVERIES = "deliveries"
    #: deliveries have failed at a stage
    FAILURES = "failures"
    #: a sweep takes deliveries
    DELIVERY_CLAIM = "delivery_claim"
    #: a step hands on what it has collected, as its time has come
    EXPIRY = "expiry"
    #: dead letters are tried again or dropped
    LETTERS = "letters"
    #: what notifications have left, and is old, is deleted
    PRUNE_NOTIFICATIONS = "prune_notifications"
    #: a member joins its group
    JOIN = "join"
    #: a member takes partitions, and notes who is gone
    BALANCE = "balance"
    #: a member gives a partition back
    GIVE = "give"
    #: the number of a group's partitions changes
    RESIZE = "resize"
    #: a member notes which messages of other members it has handled
    POSITIONS = "positions"

    @property
    def before(self) -> str:
        """The point before the commit: nothing of the transaction is left."""
        return f"{self}.before_commit"

    @property
    def after(self) -> str:
        """The point after the commit: all of it is there, and nobody has been notified."""
        return f"{self}.after_commit"


BEFORE_CALL = "handler.before_call"
AFTER_CALL = "handler.after_call"

#: The transactions of the journal, and those of machines.
JOURNAL = (Commit.TAKE, Commit.STEP, Commit.ITEM, Commit.SCOPE_RELEASE, Commit.PRUNE)
MACHINE = (
    Commit.INSTANCE,
    Commit.FIRE,
    Commit.TIMEOUT,
    Commit.ACTION_CLAIM,
    Commit.ACTION,
)
#: Those of keys.
KEYS = (Commit.REENCRYPT,)
#: Those of notifications.
PIPELINE = (
    Commit.NOTIFICATIONS,
    Commit.DELIVERIES,
    Commit.FAILURES,
    Commit.DELIVERY_CLAIM,
    Commit.EXPIRY,
    Commit.LETTERS,
    Commit.PRUNE_NOTIFICATIONS,
)
#: Those of groups.
GROUP = (Commit.JOIN, Commit.BALANCE, Commit.GIVE, Commit.RESIZE, Commit.POSITIONS)


def both_sides(commits: Iterable[Commit]) -> tuple[str, ...]:
    """The points on either side of these commits."""
    return tuple(name for commit in commits for name in (commit.before, commit.after))


#: All crash points.
NAMES: tuple[str, ...] = (*both_sides(Commit), BEFORE_CALL, AFTER_CALL)
#: Those of stacks and engines.
STACKS = tuple(
    name for name in NAMES if name not in both_sides(JOURNAL + MACHINE + PIPELINE + KEYS + GROUP)
)

#: What a test sets: called with the name of each point that is reached, in any thread.
hook: Callable[[str], None] | None = None


def hit(name: str) -> None:
    """Tell the hook, if there is one, that a point is reached."""
    if hook is not None:
        hook(name)
