"""The command ``journal``: the recorded steps of work whose steps are done once each."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE
from converge.cli.database import database_url, has_default
from converge.cli.output import moment, shown, write_json, write_table
from converge.escaping import escape
from converge.model import DEFAULT_URL

if TYPE_CHECKING:
    from converge.journal import Journal, Record, ScopeInfo

#: Scopes that are read at a time.
BATCH = 1000


def run(arguments: Namespace) -> int:
    """Do what was asked for."""
    from converge.journal import Journal

    # without a database there is nothing recorded
    url = database_url(arguments) or (DEFAULT_URL if has_default() else "memory://")
    with Journal(url) as journal:
        return _OPERATIONS[arguments.operation](journal, arguments)


def _list(journal: Journal, arguments: Namespace) -> int:
    scopes = list(_all(journal))
    if arguments.json:
        write_json([asdict(scope) for scope in scopes], sys.stdout)
    elif not scopes:
        print("nothing is recorded")
    else:
        columns = ("scope", "steps", "state", "owner", "updated")
        write_table(
            columns,
            ([one.name, one.steps, _state(one), one.owner, moment(one.updated)] for one in scopes),
            sys.stdout,
        )
    return EXIT_COMPLETE


def _all(journal: Journal) -> Iterator[ScopeInfo]:
    after = ""
    while part := journal.scopes(after=after, limit=BATCH):
        yield from part
        after = part[-1].name


def _state(scope: ScopeInfo) -> str:
    if scope.owner is not None:
        return "locked"
    return "open" if scope.finished is None else "finished"


def _show(journal: Journal, arguments: Namespace) -> int:
    scope, records = journal.show(arguments.scope)
    if arguments.json:
        steps = [asdict(one) | {"value": _value(one)} for one in records]
        write_json(asdict(scope) | {"records": steps}, sys.stdout)
        return EXIT_COMPLETE
    holder = "" if scope.owner is None else f" by {scope.owner}"
    print(f"scope {escape(repr(scope.name))}: {_state(scope)}{holder}, {scope.steps} steps")
    if records:
        print()
        columns = ("step", "number", "status", "attempts", "at", "value")
        write_table(columns, (_row(one) for one in records), sys.stdout)
    return EXIT_COMPLETE


def _row(record: Record) -> list[object]:
    name = record.name if record.version == 1 else f"{record.name} (version {record.version})"
    value = shown(_value(record))
    if record.status in ("OPEN", "END"):
        value = f"{record.position} items"
    elif record.wait > 0:
        value += f" (retry in {record.wait:.0f} s)"
    short = value if len(value) <= 60 else value[:57] + "..."
    return [name, record.number, record.status, record.attempts, moment(record.at), short]


def _value(record: Record) -> Any:
    """As it is stored, with the names of the types that JSON lacks."""
    import json

    return json.loads(record.value)


def _forget(journal: Journal, arguments: Namespace) -> int:
    count = journal.forget(arguments.scope, failed=arguments.failed)
    if arguments.json:
        write_json({"forgotten": arguments.scope, "steps": count}, sys.stdout)
    elif arguments.failed:
        steps = "failed step" if count == 1 else "failed steps"
        print(f"scope {escape(repr(arguments.scope))}: {count} {steps} forgotten")
    else:
        print(f"scope {escape(repr(arguments.scope))}: forgotten; its work would start afresh")
    return EXIT_COMPLETE


def _prune(journal: Journal, arguments: Namespace) -> int:
    count = journal.prune(age=arguments.age, keep=arguments.keep)
    if arguments.json:
        write_json({"deleted": count}, sys.stdout)
    else:
        print(f"{count} finished {'scope' if count == 1 else 'scopes'} deleted")
    return EXIT_COMPLETE


_OPERATIONS = {"list": _list, "show": _show, "forget": _forget, "prune": _prune}
