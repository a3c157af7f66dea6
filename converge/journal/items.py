"""The items of an ``each``, and the record of which ones are done.

Without keys, their number is recorded, with a digest of all of them in order. With keys, the keys
are recorded, shortened to 16 characters each: the latest ones beside the number, the others in
records of their own, so that an item costs the same however many are done.
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
    from converge.sql.transaction import HostTransaction

T = TypeVar("T")

#: How many keys are stored in a record of their own; PostgreSQL keeps such a row in one piece.
FULL = 100
#: Characters of a shortened key.
_SHORT = 16
_EMPTY_DIGEST = bytes(16)


class Item(Generic[T]):
    """An item from :meth:`Scope.each`.

    :ivar value: the item itself.
    :ivar index: its place among the items, from 0.
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
        """Record that this item, and all before it, are done.

        :param transaction: the caller's own transaction, in which the item has its effect.
        """
        self._progress.record(self._position, transaction)


class Progress(ABC):
    """How far an ``each`` has come, and how far that is recorded.

    :param where: the scope and the each, for messages.
    :param record: the record of the each, which has not ended.
    :param every: after how many items to record.
    :ivar position: how many items are done or handed out.
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
        """The items that are not done: for each its index, itself, and its part of the idempotency
        key.

        :raises JournalMismatch: the record is about other items.
        :raises BadInput: the key of an item is not valid.
        """

    @abstractmethod
    def _text(self, position: int) -> str:
        """What to record with a position, as JSON text."""

    def reach(self, position: int) -> None:
        """Note that this many items are done; record it if it is time to."""
        if position - self._recorded >= self._every:
            self.record(position, None)

    def record(self, position: int, transaction: HostTransaction | None) -> None:
        """Record that this many items are done, unless that is recorded already."""
        # a recorded position may have been rolled back, and be recorded in another transaction
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
    """The progress of items without keys: the same items in the same order each time."""

    def __init__(self, ledger: _Ledger, where: str, record: Record, every: int) -> None:
        super().__init__(ledger, where, record, every)
        kept = loads(record.value) or {}
        if "keys" in kept:
            raise self._mismatch(
                f"{record.position} items were recorded with keys; give it key= again, or forget "
                "the scope to start again",
                f"each {record.name} with key=",
                f"each {record.name} without key=",
            )
        # position → digest, from the recorded one to the latest; None if it is not known
        self._digests: dict[int, bytes | None] = {
            record.position: bytes.fromhex(kept["digest"]) if kept else None
        }
        if record.position == 0:
            self._digests = {0: _EMPTY_DIGEST}

    def rest(self, items: Any) -> Iterator[tuple[int, Any, str]]:
        left = iter(items(self.position)) if callable(items) else self._pass_over(iter(items))
        digest = self._digests[self.position]
        for value in left:
            index = self.position
            self.position += 1
            # before it is handed out: the program may change it
            digest = None if digest is None else _extend_digest(digest, value)
            self._digests[self.position] = digest
            yield index, value, str(index)

    def _pass_over(self, left: Iterator[Any]) -> Iterator[Any]:
        digest = _EMPTY_DIGEST
        count = self.position
        for passed in range(count):
            try:
                digest = _extend_digest(digest, next(left))
            except StopIteration:
                raise self._mismatch(
                    f"{count} items are done, but now there are only {passed}",
                    str(count),
                    str(passed),
                ) from None
        recorded = self._digests[count]
        if recorded is not None and digest != recorded:
            raise self._mismatch(
                f"the first {count} items are not the ones that were done. Give it the same items "
                "in the same order, or forget the scope to start again; if items change between "
                "runs, start with key=, a function that returns the key of an item",
                f"each {self._record.name} of digest {recorded.hex()}",
                f"each {self._record.name} of digest {digest.hex()}",
            )
        # also if an older version recorded no digest
        self._digests = {count: digest}
        return left

    def _text(self, position: int) -> str:
        digest = self._digests[position]
        for earlier in [one for one in self._digests if one < position]:
            del self._digests[earlier]
        return "null" if digest is None else f'{{"digest":"{digest.hex()}"}}'


class ByKey(Progress):
    """The progress of items with keys, which may be added, removed and reordered between runs."""

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
                f"{record.position} items were recorded without keys; leave out key=, or forget "
                "the scope to start again",
                f"each {record.name} without key=",
                f"each {record.name} with key=",
            )
        parts = ledger.keys.get(_keys_prefix(record.name), [])
        self._parts = len(parts)
        self._done = {short for part in parts for short in _split(loads(part.value))}
        # keys that are not in a record of their own yet; a process may have died after writing one
        latest = [one for one in _split(kept.get("keys", "")) if one not in self._done]
        self._done.update(latest)
        self._latest = latest
        self._before = record.position - len(latest)

    def rest(self, items: Any) -> Iterator[tuple[int, Any, str]]:
        keyed = self._with_keys(items)
        if isinstance(items, Collection):
            # find two items with one key before any is done
            keyed = iter(list(keyed))
        for index, value, text, short in keyed:
            if short in self._done:
                continue
            # here, and not in record(), whose transaction may be rolled back
            count = self._recorded - self._before
            if count >= FULL:
                self._store_keys(count)
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
            short = _shorten_key(text)
            first = seen.setdefault(short, index)
            if first != index:
                raise BadInput(
                    f"{self._where}: items {first} and {index} have the same key {key!r}; "
                    "give each its own"
                )
            yield index, value, text, short

    def _store_keys(self, count: int) -> None:
        """Move the first of the latest keys into a record of their own."""
        full, self._latest = self._latest[:count], self._latest[count:]
        self._before += count
        self._parts += 1
        name = f"{_keys_prefix(self._record.name)}{self._parts}"
        number, value = self._record.number, dumps("".join(full))
        self._ledger.write(Record(name, number, status=StepStatus.KEYS, value=value), None)

    def _text(self, position: int) -> str:
        return f'{{"keys":"{"".join(self._latest[: position - self._before])}"}}'


def sort_keys(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of keys, by the each that they belong to."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.status is StepStatus.KEYS:
            each = record.name[: record.name.rfind("\n") + 1]
            found.setdefault(each, []).append(record)
    return found


def _keys_prefix(path: str) -> str:
    """The prefix of the names of an each's records of keys. No step has such a name, and it is
    short enough for the longest path."""
    return f"keys\n{blake2b(path.encode(), digest_size=16).hexdigest()}\n"


def _extend_digest(digest: bytes, value: object) -> bytes:
    """The digest with one more item."""
    try:
        text = canonical(value)
    except BadInput:
        # an item that cannot be stored is only counted
        text = ""
    return blake2b(digest + text.encode("ascii"), digest_size=16).digest()


def _shorten_key(text: str) -> str:
    # 12 bytes: the chance that two of a million keys collide is 1 in 10¹⁷
    digest = blake2b(text.encode("ascii"), digest_size=12).digest()
    return base64.urlsafe_b64encode(digest).decode("ascii")


def _split(shorts: str) -> list[str]:
    return [shorts[at : at + _SHORT] for at in range(0, len(shorts), _SHORT)]
