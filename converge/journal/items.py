"""The items of an ``each``: which ones are done, as is told by what is recorded of them.

Without keys, that is how many, and a digest of all of them in their order. With keys, it is the
keys, shortened to 16 characters each: the latest ones beside the number, the others in records of
their own, so that an item costs the same however many are done.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from converge.errors import BadInput, JournalMismatch, with_article
from converge.journal.backend import Record, StepStatus
from converge.journal.values import canonical, dumps, loads

if TYPE_CHECKING:
    from converge.journal.scope import _Ledger
    from converge.sql.database import HostTransaction

T = TypeVar("T")

#: So many keys get a record of their own; PostgreSQL keeps a row of them in one piece.
FULL = 100
#: The characters of a shortened key.
_SHORT = 16
_START = bytes(16)


class Item(Generic[T]):
    """One of the items of :meth:`Scope.each`.

    :ivar value: the item itself.
    :ivar index: its number in what was given, from 0.
    """

    __slots__ = ("_key", "_position", "_progress", "index", "value")

    def __init__(
        self, value: T, index: int, key: Callable[[], str], progress: Progress, position: int
    ) -> None:
        self.value = value
        self.index = index
        self._key = key
        self._progress = progress
        self._position = position

    @property
    def key(self) -> str:
        """Its idempotency key."""
        return self._key()

    def done(self, transaction: HostTransaction | None = None) -> None:
        """Record that it, and all before it, are done.

        :param transaction: the caller's own, in which the item has its effect.
        """
        self._progress.record(self._position, transaction)


class Progress(ABC):
    """How far an ``each`` has come, and how far that is recorded.

    :param where: the scope and the each, for people.
    :param record: of the each, which has not come to its end.
    :param every: after how many items to record.
    :ivar position: how many items are done, or are handed out.
    """

    def __init__(self, ledger: _Ledger, where: str, record: Record, every: int) -> None:
        self.position = record.position
        self._ledger = ledger
        self._where = where
        self._record = record
        self._every = every
        self._recorded = record.position

    @abstractmethod
    def rest(self, items: Any) -> Iterator[tuple[int, Any, str]]:
        """The items that are not done: the index of each, itself, and what tells it from others
        in its idempotency key.

        :raises JournalMismatch: what is recorded was done of other items.
        :raises BadInput: the items cannot be gone through so.
        """

    @abstractmethod
    def _text(self, position: int) -> str:
        """What to record with a position, as a text of JSON."""

    def reach(self, position: int) -> None:
        """So many items are done."""
        if position - self._recorded >= self._every:
            self.record(position, None)

    def record(self, position: int, transaction: HostTransaction | None) -> None:
        """Record that so many are done, unless that is recorded."""
        # one that was recorded in a transaction may have been rolled back, and be done in another
        if position < self._recorded or (position == self._recorded and transaction is None):
            return
        ledger, path = self._ledger, self._record.name
        text = self._text(position)
        ledger.backend.advance(ledger.taken.lock, path, position, text, transaction)
        ledger.records[path] = replace(ledger.records[path], position=position, value=text)
        self._recorded = position

    def _mismatch(self, problem: str, recorded: str, asked: str) -> JournalMismatch:
        return JournalMismatch(f"{self._where}: {problem}", recorded=recorded, asked=asked)


class InOrder(Progress):
    """Of items that are the same ones in the same order each time."""

    def __init__(self, ledger: _Ledger, where: str, record: Record, every: int) -> None:
        super().__init__(ledger, where, record, every)
        kept = loads(record.value) or {}
        if "keys" in kept:
            raise self._mismatch(
                f"{record.position} items are done by their keys; give it key= again, or forget "
                "the scope to begin afresh",
                f"each {record.name} with key=",
                f"each {record.name} without key=",
            )
        # position → digest, from the one recorded to the latest; None if nothing is known
        self._digests: dict[int, bytes | None] = {
            record.position: bytes.fromhex(kept["digest"]) if kept else None
        }
        if record.position == 0:
            self._digests = {0: _START}

    def rest(self, items: Any) -> Iterator[tuple[int, Any, str]]:
        left = iter(items(self.position)) if callable(items) else self._pass_over(iter(items))
        digest = self._digests[self.position]
        for value in left:
            index = self.position
            self.position += 1
            # now, as whoever gets it may change it
            digest = None if digest is None else _add(digest, value)
            self._digests[self.position] = digest
            yield index, value, str(index)

    def _pass_over(self, left: Iterator[Any]) -> Iterator[Any]:
        digest = _START
        count = self.position
        for passed in range(count):
            try:
                digest = _add(digest, next(left))
            except StopIteration:
                raise self._mismatch(
                    f"{count} items are done, but there are only {passed} now",
                    str(count),
                    str(passed),
                ) from None
        recorded = self._digests[count]
        if recorded is not None and digest != recorded:
            raise self._mismatch(
                f"the first {count} items are others now than those that were done. Give it the "
                "same ones in the same order, or forget the scope to begin afresh; where items "
                "change between runs, begin with key=, a function that tells them apart",
                f"each {self._record.name} of digest {recorded.hex()}",
                f"each {self._record.name} of digest {digest.hex()}",
            )
        # also where nothing was recorded, by an older version
        self._digests = {count: digest}
        return left

    def _text(self, position: int) -> str:
        digest = self._digests[position]
        for earlier in [one for one in self._digests if one < position]:
            del self._digests[earlier]
        return "null" if digest is None else f'{{"digest":"{digest.hex()}"}}'


class ByKey(Progress):
    """Of items that have keys: others may come before, between and behind them, and any may go."""

    def __init__(
        self,
        ledger: _Ledger,
        where: str,
        record: Record,
        every: int,
        key: Callable[[Any], str | int],
    ) -> None:
        super().__init__(ledger, where, record, every)
        self._key = key
        kept = loads(record.value) or {}
        if record.position and "keys" not in kept:
            raise self._mismatch(
                f"{record.position} items are done without keys; leave out key=, or forget the "
                "scope to begin afresh",
                f"each {record.name} without key=",
                f"each {record.name} with key=",
            )
        parts = ledger.keys.get(_part(record.name), [])
        self._parts = len(parts)
        self._done = {short for part in parts for short in _split(loads(part.value))}
        # those that have no record of their own yet; a process may have died just after that
        latest = [one for one in _split(kept.get("keys", "")) if one not in self._done]
        self._done.update(latest)
        self._latest = latest
        self._before = record.position - len(latest)

    def rest(self, items: Any) -> Iterator[tuple[int, Any, str]]:
        keyed = self._with_keys(items)
        if isinstance(items, Collection):
            # two of one key are refused before anything is done
            keyed = iter(list(keyed))
        for index, value, text, short in keyed:
            if short in self._done:
                continue
            # not when they are recorded, which may be in a transaction that is rolled back
            count = self._recorded - self._before
            if count >= FULL:
                self._move(count)
            self.position += 1
            self._latest.append(short)
            yield index, value, f"key {text}"

    def _with_keys(self, items: Iterable[Any]) -> Iterator[tuple[int, Any, str, str]]:
        seen: dict[str, int] = {}
        for index, value in enumerate(items):
            key: Any = self._key(value)
            if type(key) not in (str, int):
                raise BadInput(
                    f"{self._where}: the key of item {index} must be a string or a whole number, "
                    f"not {with_article(type(key).__name__)}"
                )
            text = dumps(key)
            short = _shorten(text)
            first = seen.setdefault(short, index)
            if first != index:
                raise BadInput(
                    f"{self._where}: items {first} and {index} have the same key {key!r}; "
                    "give each its own"
                )
            yield index, value, text, short

    def _move(self, count: int) -> None:
        """Give the first of the latest keys a record of their own."""
        full, self._latest = self._latest[:count], self._latest[count:]
        self._before += count
        self._parts += 1
        name = f"{_part(self._record.name)}{self._parts}"
        number, value = self._record.number, dumps("".join(full))
        self._ledger.write(Record(name, number, status=StepStatus.KEYS, value=value), None)

    def _text(self, position: int) -> str:
        return f'{{"keys":"{"".join(self._latest[: position - self._before])}"}}'


def sort_keys(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of keys, by the each that they are of."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.status is StepStatus.KEYS:
            each = record.name[: record.name.rfind("\n") + 1]
            found.setdefault(each, []).append(record)
    return found


def _part(path: str) -> str:
    """What the names of the records of an each's keys begin with: no step has such a name, and
    the longest path has one."""
    return f"keys\n{blake2b(path.encode(), digest_size=16).hexdigest()}\n"


def _add(digest: bytes, value: object) -> bytes:
    """The digest of items with one more."""
    try:
        text = canonical(value)
    except BadInput:
        # it is counted, and no more
        text = ""
    return blake2b(digest + text.encode("ascii"), digest_size=16).digest()


def _shorten(text: str) -> str:
    # of 12 bytes: among a million keys, two are the same by chance once in 10¹⁷ times
    digest = blake2b(text.encode("ascii"), digest_size=12).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")


def _split(shorts: str) -> list[str]:
    return [shorts[at : at + _SHORT] for at in range(0, len(shorts), _SHORT)]
