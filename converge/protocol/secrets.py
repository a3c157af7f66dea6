"""The secrets of a stack: what its templates' hidden parameters are, and were."""

from __future__ import annotations

from converge.hiding import Secrets
from converge.sql import templates
from converge.sql.database import Transaction
from converge.template.parameters import hidden_values


def read_secrets(tx: Transaction, stack_id: int) -> Secrets:
    """What is secret in all that is told of a stack, in any version that there still is: what an
    older one made may be what fails."""
    rows = templates.list_hiding(tx, stack_id)
    return Secrets(value for row in rows for value in hidden_values(row.body, row.parameters))
