"""Programs of steps, and an oracle that foretells what one does from what is recorded."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st

from converge.journal import Record
from converge.journal.backend import StepStatus
from converge.journal.values import dumps, loads

#: How often a step with a policy is tried.
ATTEMPTS = 3
EACH = (StepStatus.OPEN, StepStatus.END)
#: How many keys of items get a record of their own.
FULL = 2


# -- programs ----------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """:ivar form: how it is written: ``call``, ``decorated`` or ``with``.
    :ivar fails: how often it fails under a policy, None without one.
    :ivar own: whether it is in the caller's transaction, where there are such.
    """

    name: str
    value: Any = None
    version: int = 1
    form: str = "call"
    fails: int | None = None
    own: bool = False


@dataclass(frozen=True)
class Each:
    """:ivar items: what records each: the ``next`` one, ``done()``, or an ``own`` transaction.
    :ivar lazy: whether a function gives the rest.
    :ivar keyed: whether they have keys.
    :ivar first: the first one's value; the others count on from it.
    """

    name: str
    items: tuple[str, ...] = ("next",)
    every: int = 1
    lazy: bool = False
    keyed: bool = False
    first: int = 0

    @property
    def values(self) -> range:
        """The items themselves."""
        return range(self.first, self.first + len(self.items))


@dataclass(frozen=True)
class Nest:
    """A nested scope."""

    name: str
    program: Program


Program = tuple[Step | Each | Nest, ...]

VALUES: list[Any] = [
    *(None, True, -7, 10**30, 0.1, math.inf, "", "\x00 \N{SNOWMAN} '\"\\", b"\x00\xff"),
    *(datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC), datetime(1, 1, 1), date(9999, 12, 31)),
    *(time(23, 59, 59, 1), timedelta(-1, 2, 3), UUID(int=5), Decimal("-1.50")),
    *({(1, 2), "x"}, frozenset({None}), [1, [{}, []]], {"$": {"b": [date(2026, 1, 1)]}}),
]
NAMES = st.sampled_from(["a", "B", "c d", "é", "_"])
FORMS = st.sampled_from(["call", "decorated", "with"])
STEPS = st.builds(Step, NAMES, st.sampled_from(VALUES), st.sampled_from([1, 1, 2]), FORMS)
ITEMS = st.lists(st.sampled_from(["next", "next", "done", "own"]), max_size=5).map(tuple)
OPERATIONS = st.one_of(
    STEPS,
    st.builds(replace, STEPS, own=st.just(True)),
    # a block that fails ends its program
    st.builds(replace, STEPS, form=st.just("call"), fails=st.integers(0, ATTEMPTS)),
    st.builds(Each, NAMES, ITEMS, st.integers(1, 3), st.booleans()),
    st.builds(Each, NAMES, ITEMS, st.integers(1, 3), keyed=st.just(True)),
)
#: How many places a process passes before it dies.
LIVES = st.integers(0, 16) | st.integers(4, 60)


def programs(depth: int = 2) -> st.SearchStrategy[Program]:
    """Programs with nested scopes within each other at most so deep."""
    nests = [st.builds(Nest, NAMES, programs(depth - 1)) for _ in range(depth)]
    return st.lists(
        st.one_of(OPERATIONS, *nests),
        min_size=depth,
        max_size=2 + depth,
        unique_by=lambda op: (type(op) is Nest, op.name),
    ).map(tuple)


def change(data: st.DataObject, program: Program) -> Program:
    """A program with one thing changed, at the top or in a nested scope."""
    at = data.draw(st.integers(0, len(program)), label="at")
    if at == len(program):
        return (*program, Step("new"))
    op, before, after = program[at], program[:at], program[at + 1 :]
    if isinstance(op, Nest) and data.draw(st.sampled_from([True, True, False]), label="inside"):
        return (*before, replace(op, program=change(data, op.program)), *after)
    places: list[Program] = [after, (Step("new"), op, *after), (replace(op, name="new"), *after)]
    places.append((Nest("new", (Step("new"),)), op, *after))
    places += [
        (after[other], *after[:other], op, *after[other + 1 :]) for other in range(len(after))
    ]
    others: list[Step | Each] = []
    if isinstance(op, Step):
        others = [replace(op, version=op.version + 1, value="again"), Each(op.name)]
        others += [replace(op, version=one) for one in range(1, op.version)]
    if isinstance(op, Each):
        others = [Step(op.name), *(replace(op, items=op.items[:end]) for end in (-1, 0))]
        others += [replace(op, first=one) for one in (1, -2)]
        others += [] if op.lazy else [replace(op, keyed=not op.keyed)]
    changes = st.sampled_from(places)
    if others:
        changes |= st.sampled_from(others).map(lambda other: (other, *after))
    return (*before, *data.draw(changes, label="changed"))


def asked(program: Program, path: str = "") -> Iterator[tuple[str, Step | Each]]:
    """All that a program asks for, by its names with those of the scopes around it."""
    for op in program:
        if isinstance(op, Nest):
            yield from asked(op.program, f"{path}{op.name}/")
        else:
            yield path + op.name, op


# -- the oracle --------------------------------------------------------------


class Event(NamedTuple):
    """:ivar entry: what a log has to have.
    :ivar record: what is recorded then.
    :ivar row: the effect that is committed with it.
    """

    entry: str
    record: Record | None = None
    row: str | None = None


class Refused(Exception):
    """What a JournalMismatch has to say of what is recorded, and was asked."""


def expect(
    program: Program, recorded: Mapping[str, Record], *, finished: bool = False
) -> tuple[list[Event], tuple[Any, ...] | None]:
    """All events of a run in their order, and what the mismatch that ends it has to say.

    :param finished: whether the scope had come to its end; it stays so if nothing is recorded.
    """
    events = []
    try:
        for event in _foretell(program, recorded):
            events.append(event)
    except Refused as error:
        still = finished and not any(event.record for event in events)
        return [*events, Event("finished" if still else "left")], error.args
    return [*events, Event("finished")], None


def keeps(program: Program, recorded: Mapping[str, Record]) -> bool:
    """Whether what is recorded is, in each scope, the beginning of what a program asks for."""
    steps = dict(asked(program))
    recorded = _steps(recorded)
    for path in set(map(_scope_of, recorded)):
        wanted = [one.name for one in _within(recorded, path)]
        if [name for name in steps if _scope_of(name) == path][: len(wanted)] != wanted:
            return False
    return all(_fits(steps[name], record) for name, record in recorded.items())


def written(record: Record) -> str:
    """The entry of a record in a log."""
    return f"write {record.name} version {record.version} {record.status}"


def _fits(op: Step | Each, record: Record) -> bool:
    is_each = record.status in EACH
    if isinstance(op, Step):
        return op.version >= record.version + is_each
    if not is_each:
        return False
    return record.status is StepStatus.END or record.position == 0 or _differ(op, record) is None


def _differ(op: Each, record: Record) -> tuple[str, str] | None:
    """What a mismatch says if an each that has come to a position was of other items."""
    recorded, asked = (f"each {record.name} {how} key=" for how in ("with", "without"))
    keyed = "keys" in loads(record.value)
    if keyed != op.keyed:
        return (recorded, asked) if keyed else (asked, recorded)
    if keyed or op.lazy:
        return None
    if record.position > len(op.items):
        return str(record.position), str(len(op.items))
    digest = f'{{"digest":"{_digest(op.values[: record.position])}"}}'
    if digest == record.value:
        return None
    both = (loads(one)["digest"] for one in (record.value, digest))
    recorded, asked = (f"each {record.name} of digest {one}" for one in both)
    return recorded, asked


def _digest(values: Iterable[int]) -> str:
    digest = bytes(16)
    for value in values:
        digest = blake2b(digest + str(value).encode(), digest_size=16).digest()
    return digest.hex()


def _short(value: int) -> str:
    """A key as it is recorded."""
    digest = blake2b(f'"{value}"'.encode(), digest_size=12).digest()
    return base64.urlsafe_b64encode(digest).decode()


def _steps(recorded: Mapping[str, Record]) -> dict[str, Record]:
    """Without the keys of items."""
    return {name: one for name, one in recorded.items() if one.status is not StepStatus.KEYS}


def _scope_of(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _within(recorded: Mapping[str, Record], path: str) -> list[Record]:
    found = (one for one in _steps(recorded).values() if _scope_of(one.name) == path)
    return sorted(found, key=lambda one: one.number)


def _foretell(program: Program, recorded: Mapping[str, Record], path: str = "") -> Iterator[Event]:
    """What a program does in a scope. Each scope has an order of its own, so a nested one that is
    gone, or has another name, is missed at the end only."""
    here = _within(recorded, path)
    count = 0
    for op in program:
        name = path + op.name
        if isinstance(op, Nest):
            yield from _foretell(op.program, recorded, f"{name}/")
            continue
        found = here[count] if count < len(here) else None
        count += 1
        if found is not None and found.name != name:
            raise Refused(found.name, name)
        if isinstance(op, Each):
            yield from _foretell_each(op, found, Record(name, count), recorded)
        else:
            yield from _foretell_step(op, found, Record(name, count))
    left = (
        {one.name for one in here[count:]}
        if path
        else {*_steps(recorded)} - {*dict(asked(program))}
    )
    if left:
        raise Refused(min(left), None)


def _foretell_step(op: Step, found: Record | None, new: Record) -> Iterator[Event]:
    tried = 0
    if found is not None and op.version <= found.version:
        if op.version < found.version:
            raise Refused(f"{new.name} version {found.version}", f"{new.name} version {op.version}")
        if found.status in EACH:
            raise Refused(f"each {new.name}", f"step {new.name}")
        if found.status is not StepStatus.RETRY:
            return
        tried = found.attempts
    call = f"call {new.name} version {op.version}"
    for attempt in range(tried + 1, ATTEMPTS + 1):
        yield Event(call)
        status, value = StepStatus.DONE, op.value
        if attempt <= (op.fails or 0):
            status = StepStatus.RETRY if attempt < ATTEMPTS else StepStatus.FAILED
            value = {"type": "Flaky", "message": call}
        record = Record(new.name, new.number, op.version, status, dumps(value), attempt)
        yield Event(written(record), record, call if op.own else None)
        if status is StepStatus.DONE:
            return


def _foretell_each(
    op: Each, found: Record | None, new: Record, recorded: Mapping[str, Record]
) -> Iterator[Event]:
    record = replace(new, status=StepStatus.OPEN)
    if found is None:
        yield Event(written(record), record)
    elif found.version > 1:
        raise Refused(f"{new.name} version {found.version}", f"{new.name} version 1")
    elif found.status not in EACH:
        raise Refused(f"step {new.name}", f"each {new.name}")
    elif found.status is StepStatus.END:
        return
    else:
        record = found
    if record.position and (told := _differ(op, record)):
        raise Refused(*told)
    part = f"keys\n{blake2b(new.name.encode(), digest_size=16).hexdigest()}\n"
    parts = [one for name, one in recorded.items() if name.startswith(part)]
    done = [short for one in parts for short in _split(loads(one.value))]
    latest = _split((loads(record.value) or {}).get("keys", ""))
    latest = [one for one in latest if one not in done]
    position = record.position
    for index, value in enumerate(op.values):
        if _short(value) in done + latest if op.keyed else index < position:
            continue
        full = len(latest) - (position - record.position)
        if op.keyed and full >= FULL:
            parts.append(Record(f"{part}{len(parts) + 1}", new.number, status=StepStatus.KEYS))
            parts[-1] = replace(parts[-1], value=dumps("".join(latest[:full])))
            yield Event(written(parts[-1]), parts[-1])
            done += latest[:full]
            del latest[:full]
        position += 1
        latest.append(_short(value))
        call = f"call {new.name} {f'key {value}' if op.keyed else index}"
        yield Event(call)
        keys = f'{{"keys":"{"".join(latest)}"}}'
        if not op.keyed:
            keys = f'{{"digest":"{_digest(op.values[:position])}"}}'
        here = replace(record, position=position, value=keys)
        advance = Event(f"advance {new.name} {position}", here)
        if op.items[index] != "next":
            record = here
            yield advance._replace(row=call if op.items[index] == "own" else None)
        if position - record.position >= op.every:
            record = here
            yield advance
    end = Record(new.name, new.number, status=StepStatus.END, position=position)
    yield Event(written(end), end)


def _split(shorts: str) -> list[str]:
    return [shorts[at : at + 16] for at in range(0, len(shorts), 16)]
