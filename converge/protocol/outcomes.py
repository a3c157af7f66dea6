"""Outcomes of calls that did not succeed, and the texts of outcomes without their secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converge.hiding import Secrets
from converge.model import Action, Kind, Status
from converge.protocol.drift import masked
from converge.protocol.limits import Limits
from converge.protocol.marks import secret_values
from converge.protocol.work import HANDLED, Operation, Outcome, Result, Work
from converge.reasons import cut_traceback
from converge.sql.types import fit_text
from converge.wait import Wait, WaitForSignal, WaitForStack

if TYPE_CHECKING:
    from converge.sql.resources import ResourceRow


#: Seconds until the retry of a work that was handed back because of a database error.
HAND_BACK = 1.0


def without_drift(row: ResourceRow) -> dict[str, Any]:
    """The columns to write of a resource that is as it should be."""
    return {} if row.drift is None else {"drift": None}


def failed_attempt(
    work: Work,
    limits: Limits,
    reason: str,
    error: BaseException,
    seconds: float,
    traceback: str | None = None,
) -> Outcome:
    """The outcome of a failed handler call: a retry if the limits allow one, else a failure.

    :param seconds: how long the call took.
    """
    wait = limits.retry.wait(work.node.attempts - work.node.deaths, error)
    spent = None
    if wait is not None and limits.deadline is not None:
        spent = limits.spent + limits.waited + seconds + wait
        if spent >= limits.deadline:
            reason += f"; no time for another attempt: the deadline is {limits.deadline:g} s"
            wait = None
    outcome = failure(work, reason, wait, traceback)
    # attempts in which an engine died do not count
    outcome.max_attempts = limits.retry.attempts + work.node.deaths
    outcome.spent = spent
    return outcome


def put_off(work: Work, limits: Limits, wait: Wait, seconds: float) -> Outcome:
    """The outcome of a handler call that asks for another one later; a failed attempt, if there is
    no time left. The last call comes when the time is over, not after it.

    :param seconds: how long the call took.
    """
    left = limits.left
    progress = wait.progress or None
    if left is None or seconds < left:
        pause = wait.seconds if left is None else min(wait.seconds, left - seconds)
        outcome = Outcome(work, Result.WAIT, {"reason": progress}, reason=progress, wait=pause)
        outcome.seconds = seconds
        outcome.raw = True
        if isinstance(wait, WaitForSignal):
            outcome.signal = wait.signal
        elif isinstance(wait, WaitForStack):
            outcome.inner = wait.stack_id
        if isinstance(wait, WaitForSignal | WaitForStack):
            # what it waits for finds it by that
            traversal_id, node = work.node.key
            outcome.values |= {"waiting_traversal": traversal_id, "waiting_node": node}
        return outcome
    of_all = limits.deadline is not None and (
        limits.timeout is None or limits.deadline - limits.spent <= limits.timeout
    )
    what = f"its deadline of {limits.deadline:g} s" if of_all else f"{limits.timeout:g} s"
    reason = f"{work.decision.operation} waited for longer than {what}"
    if progress is not None:
        reason += f": {progress}"
    return failed_attempt(work, limits, reason, TimeoutError(reason), seconds)


def handed_back(work: Work, reason: str | None = None) -> Outcome:
    """The outcome of a handler call that was interrupted: it is called again, and the attempt is
    not counted.

    :param reason: the database error that interrupted it, if any.
    """
    outcome = Outcome(work, Result.HANDED_BACK, started=True)
    if reason is not None:
        outcome.values = {"reason": f"interrupted, will be retried: {reason}"}
        outcome.raw = True
        outcome.wait = HAND_BACK
    return outcome


def failure(
    work: Work, reason: str, wait: float | None = None, traceback: str | None = None
) -> Outcome:
    """The outcome of a failed attempt. Its texts are raw: see :func:`mask_outcome`.

    :param reason: why it failed.
    :param wait: seconds until the next attempt, None if there is none.
    :param traceback: the traceback of the exception, if any.
    """
    row = work.row
    operation = work.decision.operation
    values: dict[str, Any] = {"reason": reason}
    if traceback is not None:
        values["traceback"] = traceback
    elif row is not None and row.reason == reason:
        # a repeated reason, as of a check, keeps its traceback
        del values["reason"]
    if wait is None and row is not None:
        if operation in HANDLED or operation is Operation.DROP:
            action = Action(_ACTIONS[operation])
            if work.decision.wanted is not None:
                action = Action.REPLACE
            values |= {"action": action, "status": Status.FAILED}
            if operation is Operation.CHECK:
                # what it is now, is not known
                values |= without_drift(row)
        elif row.status is not Status.COMPLETE and work.node.kind is Kind.UPDATE:
            # its handler was never called; a healthy resource stays healthy
            values |= {"status": Status.FAILED}
    if wait is None:
        return Outcome(work, Result.FAILED, values, reason=reason, raw=True)
    return Outcome(work, Result.RETRY, values, reason=reason, wait=wait, raw=True)


_ACTIONS = {
    Operation.CREATE: "CREATE",
    Operation.UPDATE: "UPDATE",
    Operation.DELETE: "DELETE",
    Operation.DROP: "DELETE",
    Operation.CHECK: "CHECK",
    Operation.READ: "CREATE",
}


def mask_outcome(outcome: Outcome, secrets: Secrets) -> None:
    """Mask the secrets in an outcome's texts, then cut the texts to fit their columns: half a
    secret would not be recognized.

    :param secrets: those of the stack; the work knows its own.
    """
    outcome.raw = False
    own = _secrets_of(outcome.work)

    def hide(text: str) -> str:
        return secrets.hide(own.hide(text))

    if outcome.reason is not None:
        outcome.reason = fit_text(hide(outcome.reason))
    values = outcome.values
    if values.get("reason") is not None:
        values["reason"] = fit_text(hide(values["reason"]))
    if values.get("drift") is not None:
        assert outcome.work.row is not None
        made = outcome.work.row.properties
        for one in (own, secrets):
            values["drift"] = masked(values["drift"], made, one)
    if values.get("traceback") is not None:
        values["traceback"] = cut_traceback(hide(values["traceback"]))


def _secrets_of(work: Work) -> Secrets:
    """What a work knows that is secret: of what it requires, of what there was, and of what is
    wanted."""
    values = list(work.secrets)
    row, decision = work.row, work.decision
    if row is not None:
        values += secret_values(row.settings, row.properties, row.attributes)
    for wanted in (decision.properties, decision.wanted):
        values += secret_values(decision.settings, wanted)
    return Secrets(values)
