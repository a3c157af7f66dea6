"""The command ``machine``: shows and maintains instances of machines."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from converge.cli import EXIT_COMPLETE
from converge.cli.database import is_there, opened
from converge.cli.output import duration, moment, shown, write_json, write_table
from converge.errors import NotFound, did_you_mean
from converge.escaping import quoted

if TYPE_CHECKING:
    from converge.machine import Instance, Instances, Move
    from converge.store import Store

#: Rows that are read at a time.
BATCH = 1000


def run(arguments: Namespace) -> int:
    """Do what was asked for."""
    if not is_there(arguments):
        return _run(arguments, None)
    with opened(arguments) as store:
        return _run(arguments, store)


def _run(arguments: Namespace, store: Store | None) -> int:
    """:param store: None if there is no database."""
    from converge.machine import Instances, list_machines

    names = [] if store is None else list_machines(store)
    if arguments.machine is None:
        return _list_machines(arguments, names)
    if arguments.machine not in names:
        raise NotFound(
            f"machine {arguments.machine!r} has no instances"
            f"{did_you_mean(arguments.machine, names)}"
        )
    assert store is not None
    return _OPERATIONS[arguments.operation](Instances(store, arguments.machine), arguments)


def _list_machines(arguments: Namespace, names: list[str]) -> int:
    if arguments.json:
        write_json(names, sys.stdout)
    elif not names:
        print("no machine has instances")
    else:
        write_table(("machine",), ([name] for name in names), sys.stdout)
    return EXIT_COMPLETE


def _list(instances: Instances, arguments: Namespace) -> int:
    if arguments.failed:
        _print_moves(instances.failed(limit=BATCH), arguments, keys=True)
        return EXIT_COMPLETE
    (state,) = arguments.state or [None]
    found = _all(instances, state)
    if arguments.json:
        write_json([asdict(one) for one in found], sys.stdout)
        return EXIT_COMPLETE
    columns = ("key", "state", "moves", "updated", "timeout")
    write_table(columns, (_row(one) for one in found), sys.stdout)
    return EXIT_COMPLETE


def _all(instances: Instances, state: str | None) -> Iterator[Instance]:
    after = ""
    while part := instances.instances(state=state, after=after, limit=BATCH):
        yield from part
        after = part[-1].key


def _row(one: Instance) -> list[object]:
    return [one.key, one.state, one.moves, moment(one.updated), _timeout(one)]


def _timeout(one: Instance) -> str | None:
    if one.timeout is None:
        return None
    return f"in {duration(one.timeout)}" if one.timeout > 0 else "now"


def _show(instances: Instances, arguments: Namespace) -> int:
    (key,) = arguments.keys
    one = instances.get(key)
    history = list(_history(instances, key))
    if arguments.json:
        moves = [asdict(move) for move in history]
        write_json(asdict(one) | {"history": moves}, sys.stdout)
        return EXIT_COMPLETE
    timeout = _timeout(one)
    print(
        f"{quoted(key)} of machine {quoted(instances.name)}: in state {quoted(one.state)}"
        f" of version {one.version} since {moment(one.updated)}"
        + (f", timeout {timeout}" if timeout else "")
    )
    if history:
        print()
        _print_moves(history, arguments, keys=False)
    return EXIT_COMPLETE


def _history(instances: Instances, key: str) -> Iterator[Move]:
    after = 0
    while part := instances.history(key, after=after, limit=BATCH):
        yield from part
        after = part[-1].number


def _print_moves(moves: Iterable[Move], arguments: Namespace, *, keys: bool) -> None:
    if arguments.json:
        write_json([asdict(move) for move in moves], sys.stdout)
        return
    columns = ("move", "event", "from", "to", "at", "payload", "action", "reason")
    rows: Iterable[list[object]] = (
        [
            *([move.key] if keys else []),
            move.number,
            move.event,
            move.source,
            move.target,
            "" if move.at is None else moment(move.at),
            "" if move.payload is None else shown(move.payload),
            "" if move.action == "NONE" else move.action,
            move.reason,
        ]
        for move in moves
    )
    write_table((*(["key"] if keys else []), *columns), rows, sys.stdout)


def _retry(instances: Instances, arguments: Namespace) -> int:
    count = instances.retry(*arguments.keys)
    if arguments.json:
        write_json({"retried": count}, sys.stdout)
    else:
        actions = "action" if count == 1 else "actions"
        print(f"{count} failed {actions} will be called again by the next sweep")
    return EXIT_COMPLETE


def _delete(instances: Instances, arguments: Namespace) -> int:
    for key in arguments.keys:
        instances.get(key)  # a wrong key is reported before anything is deleted
    return _deleted(instances.delete(*arguments.keys), arguments)


def _prune(instances: Instances, arguments: Namespace) -> int:
    count = instances.prune(arguments.age, *arguments.state)
    return _deleted(count, arguments)


def _deleted(count: int, arguments: Namespace) -> int:
    if arguments.json:
        write_json({"deleted": count}, sys.stdout)
    else:
        print(f"{count} {'instance' if count == 1 else 'instances'} deleted")
    return EXIT_COMPLETE


_OPERATIONS = {
    "list": _list,
    "show": _show,
    "retry": _retry,
    "delete": _delete,
    "prune": _prune,
}
