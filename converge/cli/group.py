"""The command ``group``: shows and maintains groups of agents."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from converge.cli import EXIT_COMPLETE
from converge.cli.database import is_there, opened
from converge.cli.output import moment, write_json, write_table
from converge.errors import NotFound
from converge.escaping import quoted

if TYPE_CHECKING:
    from converge.group.group import View
    from converge.sql.database import Database


def run(arguments: Namespace) -> int:
    """Do what was asked for."""
    if not is_there(arguments):
        if arguments.name is not None:
            raise NotFound(f"there is no group {arguments.name!r}")
        return _print_list([], arguments)
    with opened(arguments) as store:
        return _OPERATIONS[arguments.operation](store.database, arguments)


def _list(database: Database, arguments: Namespace) -> int:
    from converge.group import group

    names = [row.name for row in group.list_all(database)]
    return _print_list([group.show(database, name) for name in names], arguments)


def _print_list(views: list[View], arguments: Namespace) -> int:
    if arguments.json:
        write_json([_summary(view) for view in views], sys.stdout)
    elif not views:
        print("there are no groups")
    else:
        columns = ("group", "partitions", "key", "members")
        rows = [
            [one.group.name, one.group.partitions, one.group.key, len(one.members)] for one in views
        ]
        write_table(columns, rows, sys.stdout)
    return EXIT_COMPLETE


def _show(database: Database, arguments: Namespace) -> int:
    from converge.group import group

    view = group.show(database, arguments.name)
    living = {one.engine_id for one in view.members}
    if arguments.json:
        write_json(_summary(view) | _details(view, living), sys.stdout)
        return EXIT_COMPLETE
    row = view.group
    print(f"group {quoted(row.name)}: {row.partitions} partitions of {quoted(row.key)}")
    if view.draining:
        print(f"{view.draining} partitions from before the resize still have work")
    print()
    members = [
        [
            one.engine_id,
            one.host,
            one.pid,
            moment(one.joined_at),
            sum(held.engine_id == one.engine_id for held in view.partitions),
        ]
        for one in view.members
    ]
    if members:
        write_table(("member", "host", "pid", "joined", "holds"), members, sys.stdout)
    else:
        print("it has no members: start an agent")
    print()
    partitions = [
        [
            one.number if one.generation == row.generation else f"{one.number} (old)",
            one.engine_id if one.engine_id in living else "nobody",
            one.epoch,
            "never" if one.worked_at is None else moment(one.worked_at),
        ]
        for one in view.partitions
    ]
    write_table(("partition", "member", "epoch", "last work"), partitions, sys.stdout)
    return EXIT_COMPLETE


def _summary(view: View) -> dict[str, object]:
    row = view.group
    return {
        "name": row.name,
        "partitions": row.partitions,
        "generation": row.generation,
        "key": row.key,
        "members": len(view.members),
        "draining": view.draining,
    }


def _details(view: View, living: set[int]) -> dict[str, object]:
    return {
        "members": [
            {
                "id": one.engine_id,
                "host": one.host,
                "pid": one.pid,
                "joined_at": one.joined_at,
                "generation": one.generation,
            }
            for one in view.members
        ],
        "held": [
            {
                "generation": one.generation,
                "partition": one.number,
                "member": one.engine_id if one.engine_id in living else None,
                "epoch": one.epoch,
                "taken_at": one.taken_at,
                "worked_at": one.worked_at,
            }
            for one in view.partitions
        ],
    }


def _resize(database: Database, arguments: Namespace) -> int:
    from converge.group import group

    row = group.resize(database, arguments.name, arguments.partitions)
    if arguments.json:
        write_json({"name": row.name, "partitions": row.partitions}, sys.stdout)
        return EXIT_COMPLETE
    print(
        f"group {quoted(row.name)} has {row.partitions} partitions; its agents finish the work of "
        f"the old ones first.\nIf agents are started with --partitions, change it to "
        f"{row.partitions}."
    )
    return EXIT_COMPLETE


def _delete(database: Database, arguments: Namespace) -> int:
    from converge.group import group

    group.drop(database, arguments.name)
    if arguments.json:
        write_json({"deleted": arguments.name}, sys.stdout)
    else:
        print(f"group {quoted(arguments.name)} is deleted")
    return EXIT_COMPLETE


_OPERATIONS: Mapping[str, Callable[[Database, Namespace], int]] = {
    "list": _list,
    "show": _show,
    "resize": _resize,
    "delete": _delete,
}
