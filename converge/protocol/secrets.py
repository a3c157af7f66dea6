"""The secrets of a stack: the values of its templates' hidden parameters, and what is hidden of
that which it reads of other stacks."""

from __future__ import annotations

from collections.abc import Iterable

from converge.hiding import Secrets
from converge.model import Json
from converge.sql import templates
from converge.sql.transaction import Transaction
from converge.template.outputs import hidden_parts
from converge.template.parameters import hidden_values


def read_secrets(tx: Transaction, stack_id: int, others: Iterable[Json] = ()) -> Secrets:
    """The secrets to mask in everything that is reported about a stack: those of all its kept
    versions, as a resource that an older version made may be what fails.

    :param others: what else is secret.
    """
    rows = templates.list_with_hidden(tx, stack_id)
    hidden = (
        value
        for row in rows
        for value in (*hidden_values(row.body, row.parameters), *hidden_parts(row.parameters))
    )
    return Secrets([*hidden, *others])
