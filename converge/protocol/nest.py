"""Nesting: what the handler of a nested stack does. It starts a traversal of that stack, and waits
until that has ended, with no thread.

What it has started is a step of its work's journal, recorded in the transaction of the start. So
an engine that dies has started nothing, or the next call of the handler knows of it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from converge.crash_points import Commit
from converge.errors import BadInput, Drifted, NestedFailed
from converge.hiding import Secrets
from converge.model import NAME_LENGTH, Action, Json, OnFailure, Physical, Status
from converge.protocol import answer
from converge.protocol.answer import Answer
from converge.protocol.draft import draft_first
from converge.protocol.marks import secrets_of
from converge.protocol.outputs import read_outputs, read_source
from converge.protocol.request import Intent, Wanted, work_out
from converge.protocol.secrets import read_secrets
from converge.protocol.work import Operation, Work
from converge.sql import events, nested, resource_locks, stacks, templates
from converge.sql.database import Database
from converge.sql.stacks import StackRow
from converge.sql.transaction import Transaction
from converge.template import Template
from converge.template.nesting import FILE, PARAMETERS, TEMPLATE, body_of
from converge.template.settings import QUEUE
from converge.wait import WaitForStack

if TYPE_CHECKING:
    from converge.resources.resource_type import Context

#: How many resources a message names.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Nest:
    """The nested stack of a work's resource, for its handler.

    :ivar engine_id: the engine that does the work.
    """

    database: Database
    work: Work
    engine_id: int

    def bring_about(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Bring the stack to a template and parameters.

        :raises Wait: it is on its way.
        :raises NestedFailed: it has failed.
        :raises BadInput: the template or a parameter is wrong.
        """
        row = self._follow(context, lambda: self._bringing_about(context, properties))
        assert row is not None
        outputs, secrets = self.database.read(partial(self._secrets_in, row=row))
        # so the attributes that have them are marked
        self.work.secrets = [*self.work.secrets, *secrets]
        return Physical(row.name, outputs)

    def check(self, context: Context) -> None:
        """Look at the real things of the stack.

        :raises Wait: that is on its way.
        :raises Drifted: something is not as it was made.
        :raises NestedFailed: something could not be looked at.
        """
        row = self._follow(context, self._checking)
        if row is None:
            raise Drifted("its nested stack is gone")
        key = row.id, row.traversal_id or 0
        drifted = self.database.read(lambda tx: events.list_with_status(tx, *key, Status.DRIFTED))
        if drifted:
            shown = ", ".join(map(repr, drifted[:_NAMED])) + (", ..." * (len(drifted) > _NAMED))
            raise Drifted(f"stack {row.name!r}: drifted: {shown}")

    def delete(self, context: Context) -> None:
        """Delete the stack, if it is there.

        :raises Wait: that is on its way.
        :raises NestedFailed: it has failed.
        """
        self._follow(context, self._deleting)

    # -- waiting

    def _follow(
        self, context: Context, prepare: Callable[[], Callable[[Transaction], Answer | None]]
    ) -> StackRow | None:
        """Start what is to be done, if this attempt has not, and wait until it has ended.

        :param prepare: gives what is done in the transaction; if that returns None, nothing is.
        :returns: its row; None if there was nothing to do.
        """
        number = 0
        while True:
            number += 1
            step = context.journal.open_step(f"stack {number}")
            if step.done:
                said: dict[str, Any] = step.value
            else:
                said = step.call_within(self._transact, partial(self._start, prepare()))
            if said["told"] == self._attempt:
                break
            # otherwise an earlier attempt has started it
        if said["stack"] is None:
            return None
        return self.database.read(partial(self._look, said=said))

    def _start(
        self, act: Callable[[Transaction], Answer | None], tx: Transaction
    ) -> dict[str, Json]:
        given = act(tx)
        if given is None:
            return {"told": self._attempt, "stack": None}
        row = stacks.get_stack_by_id(tx, given.stack_id)
        return {
            "told": self._attempt,
            "stack": row.id,
            "mark": row.mark,
        }

    def _look(self, tx: Transaction, said: Mapping[str, Any]) -> StackRow | None:
        """What has become of what was started.

        :returns: None if it was deleted, and pruned since.
        :raises Wait: it is in progress.
        :raises NestedFailed: it has not become what it was to become.
        """
        found = stacks.get_standing(tx, said["stack"])
        # after the database has lost commits, the id can be that of another one
        if found is None or found.stack.mark != said["mark"]:
            if self.work.decision.operation is Operation.DELETE:
                return None
            raise NestedFailed("its nested stack is no longer in the database")
        row = found.stack
        if row.status is Status.IN_PROGRESS:
            raise WaitForStack(row.id, f"waits for stack {row.name!r}")
        if row.status is not Status.COMPLETE:
            raise NestedFailed(f"stack {row.name!r}: {row.action} {row.status}: {row.reason}")
        return row

    @property
    def _attempt(self) -> list[int]:
        node = self.work.node
        return [node.traversal_id, node.attempts - node.deaths]

    def _transact(self, function: Callable[[Transaction], Any]) -> Any:
        # with locks that nobody waits for: a nested stack is locked before its resource, elsewhere
        # it may be the other way round
        return self.database.transact(function, Commit.NEST, wait_for_locks=False)

    # -- what is started

    def _bringing_about(
        self, context: Context, properties: Mapping[str, Any]
    ) -> Callable[[Transaction], Answer]:
        return self.database.read(lambda tx: self._plan(tx, context, properties))

    def _plan(
        self, tx: Transaction, context: Context, properties: Mapping[str, Any]
    ) -> Callable[[Transaction], Answer]:
        """Work out what is wanted, and plan it, before anything is locked."""
        resource_id = self._resource_id
        row = nested.find_inner(tx, resource_id)
        name = self._free_name(tx) if row is None else row.name
        wanted = self._wanted(tx, name, context, properties)
        intent = self._intent(tx)
        if row is None:
            first = draft_first(wanted.definitions)
            return lambda tx: self._recorded(
                tx, name, answer.create(tx, name, wanted, intent, first, resource_id=resource_id)
            )
        version = self._version_to_roll_back_to(tx, row, wanted)
        if version is not None:
            back = answer.draft_rollback(tx, name, version, resource_id)
            return lambda tx: answer.roll_back(
                tx, name, version, intent, back, None, resource_id=resource_id
            )
        draft = answer.draft_bringing_about(tx, name, wanted, intent)
        return lambda tx: self._recorded(
            tx,
            name,
            answer.bring_about(
                tx,
                name,
                wanted,
                intent,
                draft,
                source=None,
                any_source=True,
                resource_id=resource_id,
            ),
        )

    def _checking(self) -> Callable[[Transaction], Answer | None]:
        def look(tx: Transaction) -> tuple[StackRow | None, Intent]:
            return nested.find_inner(tx, self._resource_id), self._intent(tx)

        row, intent = self.database.read(look)
        if row is None:
            return lambda tx: None
        name, resource_id = row.name, self._resource_id
        intent = dataclasses.replace(intent, on_failure=OnFailure.CONTINUE)
        return lambda tx: answer.check(tx, name, intent, None, resource_id=resource_id)

    def _deleting(self) -> Callable[[Transaction], Answer | None]:
        def look(tx: Transaction) -> Callable[[Transaction], Answer | None]:
            row = nested.find_inner(tx, self._resource_id)
            if row is None:
                return lambda tx: None
            name, resource_id, intent = row.name, self._resource_id, self._intent(tx)
            draft = answer.draft_delete(tx, name)
            return lambda tx: answer.delete(tx, name, intent, draft, None, resource_id=resource_id)

        return self.database.read(look)

    # -- helpers

    @property
    def _resource_id(self) -> int:
        assert self.work.row is not None
        return self.work.row.id

    def _intent(self, tx: Transaction) -> Intent:
        """How the stack is worked on: as its outer one. Its outer one also rolls it back."""
        traversal = self.work.traversal
        outer = stacks.get_stack_by_id(tx, traversal.stack_id)
        goes_on = traversal.on_failure is OnFailure.CONTINUE
        return Intent(
            on_failure=OnFailure.CONTINUE if goes_on else OnFailure.STOP,
            node_timeout=traversal.node_timeout,
            queue=(self.work.decision.settings or {}).get(QUEUE) or outer.queue,
            priority=outer.priority,
            actor=traversal.actor,
        )

    def _wanted(
        self, tx: Transaction, name: str, context: Context, properties: Mapping[str, Any]
    ) -> Wanted:
        known = read_secrets(tx, self.work.traversal.stack_id, self.work.secrets)
        template, given = inner_template(properties, context.directory, known)
        return work_out(name, template, given, None, None, lambda other: read_source(tx, other))

    def _version_to_roll_back_to(
        self, tx: Transaction, row: StackRow, wanted: Wanted
    ) -> int | None:
        """The number of the earlier version that is wanted again, in a rollback of the outer
        stack; None if there is none."""
        if self.work.traversal.action is not Action.ROLLBACK:
            return None
        for number in reversed(templates.list_versions(tx, row.id)):
            id_ = templates.find_version(tx, row.id, number)
            if templates.get_texts(tx, id_) == (wanted.body, wanted.parameters):
                return None if id_ == row.template_id else number
        return None

    def _recorded(self, tx: Transaction, name: str, given: Answer) -> Answer:
        """Record the name of the stack as the physical id of its resource, beside its start."""
        row = self.work.row
        assert row is not None
        if self.work.decision.operation is Operation.CREATE:
            resource_locks.write_locked(
                tx, self.engine_id, row.id, row.epoch, row.mark, physical_id=name
            )
        return given

    def _free_name(self, tx: Transaction) -> str:
        """A name for the stack: of its outer one and the resource."""
        row = self.work.row
        assert row is not None
        name = inner_name(self.work.traversal.stack, row.name)
        if stacks.find_stack(tx, name, any_format=True) is None:
            return name
        # that of another version of the resource, or of somebody's stack
        return _fitting(f"{name}~{row.id}")

    def _secrets_in(self, tx: Transaction, row: StackRow) -> tuple[dict[str, Json], list[str]]:
        """The outputs of the stack, and the secrets in them."""
        outputs, _, named = read_outputs(tx, row)
        secrets = read_secrets(tx, row.id, secrets_of(named))
        return outputs, [found for value in outputs.values() for found in secrets.found_in(value)]


def inner_name(stack: str, resource: str) -> str:
    """The name of the nested stack of a resource."""
    return _fitting(f"{stack}/{resource}")


def inner_template(
    properties: Mapping[str, Any], directory: str | None, secrets: Secrets | None = None
) -> tuple[Template, dict[str, Json]]:
    """The template of a nested stack, and the values of its parameters that are given.

    :param directory: where relative paths of the outer stack start; None: it is from no file.
    :param secrets: of the outer stack: a parameter that is given one is hidden.
    :raises BadInput: there is no template.
    """
    body = body_of(properties)
    if body is None:
        raise BadInput(f"{TEMPLATE} must be a template, as a mapping")
    given = {
        key: value for key, value in (properties.get(PARAMETERS) or {}).items() if value is not None
    }
    hidden = [key for key, value in given.items() if secrets and secrets.found_in(value)]
    template = Template.from_store(_with_hidden(body, hidden))
    if directory is not None:
        folder = os.path.dirname(properties.get(FILE) or "")
        template.directory = os.path.normpath(os.path.join(directory, folder))
    return template, given


def _fitting(name: str) -> str:
    if len(name) <= NAME_LENGTH:
        return name
    digest = blake2b(name.encode(), digest_size=8).hexdigest()
    return f"{name[: NAME_LENGTH - len(digest) - 1].rstrip()}~{digest}"


def _with_hidden(body: Mapping[str, Json], names: Collection[str]) -> dict[str, Json]:
    """A template in which the parameters of these names are hidden."""
    declared = dict(body.get("parameters") or {})
    for name in names:
        if name in declared:
            declared[name] = {**(declared[name] or {}), "hidden": True}
    return {**body, "parameters": declared} if names else dict(body)
