"""The commands ``deadletters``, ``deliveries`` and ``event-store``."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from converge.cli import EXIT_COMPLETE
from converge.cli.database import is_there, opened
from converge.cli.output import moment, write_json, write_table
from converge.errors import NotFound
from converge.escaping import escape, lines

if TYPE_CHECKING:
    from converge.sql.dead_letters import DeadLetter, Filter
    from converge.sql.deliveries import DeliveryView
    from converge.sql.notifications import EventRow
    from converge.store import Store

R = TypeVar("R", "DeliveryView", "EventRow")

#: Rows that are read at a time.
BATCH = 1000


def deadletters(arguments: Namespace) -> int:
    """Do what was asked for of dead letters."""
    if not is_there(arguments):
        return _no_letters(arguments)
    with opened(arguments) as store:
        return _OPERATIONS[arguments.operation](store, arguments)


def _no_letters(arguments: Namespace) -> int:
    if arguments.operation == "show":
        raise NotFound(f"there is no dead letter {arguments.ids[0]}: there is no database here")
    if arguments.operation == "list":
        return _print_letters([], arguments)
    return _print_count(0, arguments)


def _filter(arguments: Namespace) -> Filter:
    from converge.sql.dead_letters import Filter

    return Filter(
        arguments.ids or None,
        arguments.reason,
        arguments.sink,
        arguments.step,
        arguments.type,
        arguments.older_than,
    )


def _list(store: Store, arguments: Namespace) -> int:
    from converge.pipeline.letters import DeadLetters

    letters = DeadLetters(store)
    chosen, left, after = _filter(arguments), arguments.limit, arguments.after or 0
    found: list[DeadLetter] = []
    while left > 0 and (part := letters.list(chosen, after=after, limit=min(left, BATCH))):
        found += part
        left -= len(part)
        after = part[-1].id
    return _print_letters(found, arguments)


def _print_letters(found: list[DeadLetter], arguments: Namespace) -> int:
    if arguments.json:
        listed = [asdict(one) for one in found]
        for one in listed:
            # show prints them; a body can have a megabyte
            del one["raw"], one["digest"]
        write_json(listed, sys.stdout)
    elif not found:
        print("no dead letters")
    else:
        columns = ("id", "reason", "count", "last", "sink", "step", "type", "message")
        rows = (
            [
                one.id,
                one.reason,
                one.count,
                moment(one.last_at),
                one.sink,
                one.step,
                one.event_type,
                one.message,
            ]
            for one in found
        )
        write_table(columns, rows, sys.stdout)
    return EXIT_COMPLETE


def _show(store: Store, arguments: Namespace) -> int:
    from converge.pipeline.letters import DeadLetters

    one = DeadLetters(store).show(arguments.ids[0])
    if arguments.json:
        write_json(asdict(one), sys.stdout)
        return EXIT_COMPLETE
    print(f"dead letter {one.id}: {lines(one.message)}")
    facts = {
        "reason": one.reason,
        "message id": one.origin,
        "event type": one.event_type,
        "sink": one.sink,
        "step": one.step,
        "count": one.count,
        "first": moment(one.first_at),
        "last": moment(one.last_at),
        "retry": None if one.retry_at is None else f"asked for at {moment(one.retry_at)}",
        "headers": one.headers or None,
    }
    for name, value in facts.items():
        if value is not None:
            print(f"  {name}: {escape(value)}")
    print(f"  body: {escape(_body(one.raw))}")
    return EXIT_COMPLETE


def _body(raw: Any) -> str:
    if isinstance(raw, dict) and "text" in raw:
        return str(raw["text"])
    return json.dumps(raw)


def _retry(store: Store, arguments: Namespace) -> int:
    from converge.pipeline.letters import DeadLetters

    count = DeadLetters(store).retry(_filter(arguments), limit=arguments.limit)
    return _print_count(count, arguments)


def _drop(store: Store, arguments: Namespace) -> int:
    from converge.pipeline.letters import DeadLetters

    count = DeadLetters(store).drop(_filter(arguments), limit=arguments.limit)
    return _print_count(count, arguments)


def _print_count(count: int, arguments: Namespace) -> int:
    retries = arguments.operation == "retry"
    if arguments.json:
        write_json({"retried" if retries else "dropped": count}, sys.stdout)
        return EXIT_COMPLETE
    letters = "dead letter" if count == 1 else "dead letters"
    print(f"{count} {letters} {'will be tried again by an agent' if retries else 'dropped'}")
    return EXIT_COMPLETE


def deliveries(arguments: Namespace) -> int:
    """List what is on its way through sinks."""
    if not is_there(arguments):
        return _print_deliveries([], arguments)
    with opened(arguments) as store:
        return _print_deliveries(list(_deliveries(store, arguments)), arguments)


def _deliveries(store: Store, arguments: Namespace) -> Iterator[DeliveryView]:
    from converge.sql.deliveries import view_deliveries

    state = arguments.state and arguments.state.upper()
    read = partial(view_deliveries, sink=arguments.sink, state=state)
    return _pages(store, arguments, read)


def _print_deliveries(found: list[DeliveryView], arguments: Namespace) -> int:
    if arguments.json:
        listed = []
        for one in found:
            row = one._asdict()
            row["partition"] = _partition(row.pop("share"))
            listed.append(row)
        write_json(listed, sys.stdout)
    elif not found:
        print("nothing is on its way")
    else:
        columns = (
            "id",
            "origin",
            "sink",
            "step",
            "state",
            "partition",
            "attempts",
            "next",
            "since",
        )
        rows = (
            [
                one.id,
                one.origin,
                one.sink,
                one.step,
                one.state.lower(),
                _partition(one.share),
                one.attempts,
                None if one.next_at is None else moment(one.next_at),
                moment(one.created_at),
            ]
            for one in found
        )
        write_table(columns, rows, sys.stdout)
    return EXIT_COMPLETE


def _partition(share: int) -> int | None:
    from converge.group.keys import MOST_PARTITIONS

    return share % MOST_PARTITIONS if share else None


def event_store(arguments: Namespace) -> int:
    """List events, or prune them."""
    if arguments.operation == "prune":
        return _prune(arguments)
    if not is_there(arguments):
        return _print_events([], arguments)
    with opened(arguments) as store:
        return _print_events(list(_events(store, arguments)), arguments)


def _prune(arguments: Namespace) -> int:
    from converge.cli.words import pruned_notifications
    from converge.pipeline.pruning import PrunedNotifications, prune

    dry_run = bool(arguments.dry_run)
    done = PrunedNotifications()
    if is_there(arguments):
        with opened(arguments) as store:
            done = prune(store, older_than=arguments.older_than, dry_run=dry_run)
    if arguments.json:
        told = {"events": done.events, "samples": done.samples, "dry_run": dry_run}
        write_json(told, sys.stdout)
    else:
        print(pruned_notifications(done, dry_run=dry_run))
    return EXIT_COMPLETE


def _events(store: Store, arguments: Namespace) -> Iterator[EventRow]:
    from converge.sql.notifications import list_events, read_clock

    since = arguments.since
    if isinstance(since, datetime):
        since = since.timestamp()
    elif since is not None:
        since = store.database.read(read_clock) - since
    read = partial(list_events, types=arguments.type, traits=arguments.trait, since=since)
    return _pages(store, arguments, read)


def _pages(store: Store, arguments: Namespace, read: Callable[..., list[R]]) -> Iterator[R]:
    """The rows that were asked for, some at a time.

    :param read: gives those with higher ids than ``after``.
    """
    left, after = arguments.limit, arguments.after
    while left > 0:
        page = partial(read, after=after, limit=min(left, BATCH))
        part = store.database.read(page)
        if not part:
            return
        yield from part
        left -= len(part)
        after = part[-1].id


def _print_events(found: list[EventRow], arguments: Namespace) -> int:
    if arguments.json:
        listed = [
            asdict(one) | {"traits": {name: _typed(*given) for name, given in one.traits.items()}}
            for one in found
        ]
        write_json(listed, sys.stdout)
    elif not found:
        print("no events")
    else:
        rows = (
            [
                one.id,
                moment(one.at),
                one.event_type,
                ", ".join(f"{name}={_told(*given)}" for name, given in sorted(one.traits.items())),
            ]
            for one in found
        )
        write_table(("id", "sent", "type", "traits"), rows, sys.stdout)
    return EXIT_COMPLETE


def _typed(kind: str, text: str) -> str | int | float:
    """A trait as it was."""
    if kind == "int":
        return int(text)
    return text if kind == "text" else float(text)


def _told(kind: str, text: str) -> str:
    return moment(float(text)) if kind == "datetime" else text


_OPERATIONS = {"list": _list, "show": _show, "retry": _retry, "drop": _drop}
