"""Which key the values of a database are encrypted with, and encrypting them all with another one.

A row says it, so that no process writes what others cannot read: who opens the database without
that key is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Column, Table, Text, and_, insert, or_, select, type_coerce, update

from converge.crash_points import Commit
from converge.errors import SecretKeyError
from converge.sealing import Keyring, missing_key
from converge.sql.database import Database, repeatable
from converge.sql.faults import duplicate_errors
from converge.sql.schema import resource, sealing, signal, step, sync_point, template
from converge.sql.transaction import Transaction
from converge.sql.types import Blind, Sealing

#: Rows of which values are encrypted in one transaction; versions of templates can be large.
_BATCH = 500
_FEW = 20
_ROW = sealing.c.id == 1


class _Sealed(NamedTuple):
    """A table with values to encrypt."""

    table: Table
    batch: int

    @property
    def columns(self) -> list[Column[Any]]:
        # digests are not decrypted: they are made anew when their resources are looked at
        return [
            one
            for one in self.table.c
            if isinstance(one.type, Sealing) and not isinstance(one.type, Blind)
        ]


_TABLES = (
    _Sealed(template, _FEW),
    _Sealed(resource, _BATCH),
    _Sealed(sync_point, _BATCH),
    _Sealed(step, _BATCH),
    _Sealed(signal, _BATCH),
)


def use_keyring(database: Database, keyring: Keyring | None, *, note: bool = True) -> None:
    """Encrypt and decrypt the values of a database with these keys from now on.

    :param note: if nothing says yet that values are encrypted, note that they are.
    :raises SecretKeyError: they are encrypted with a key that is none of these.
    """
    database.keyring = keyring
    with database.transaction(write=False) as tx:
        chosen = _get_chosen(tx)
    if chosen is None and keyring is not None and note:
        chosen = _note(database, keyring)
    if chosen is None:
        return
    if keyring is None:
        raise missing_key(chosen)
    if chosen not in keyring.fingerprints:
        own = " and ".join(keyring.fingerprints)
        raise SecretKeyError(
            f"values in {database.shown} are encrypted with the key {chosen}, and this process has "
            f"{own}; add the other key as a second one"
        )
    keyring.choose(chosen)


def reencrypt(database: Database) -> int:
    """Encrypt all values with the first key of the database's keyring, from now on those that this
    and other processes write, too. It can be interrupted, and called again.

    :returns: how many values had to be encrypted.
    :raises SecretKeyError: there is no key, or a value was encrypted with one that is missing.
    """
    keyring = database.keyring
    if keyring is None:
        raise SecretKeyError(
            "there is no key to encrypt with: name the file that has it in "
            "CONVERGE_SECRET_KEY_FILE; to make one, run: converge db new-key"
        )
    first = keyring.fingerprints[0]
    if keyring.chosen != first:
        keyring.choose(first)
        database.transact(lambda tx: _choose(tx, first), Commit.REENCRYPT, happened=repeatable)
    return sum(
        database.transact(
            lambda tx, one=sealed, key=start: _reseal(tx, keyring, one, key),  # type: ignore[misc]
            Commit.REENCRYPT,
            happened=repeatable,
        )
        for sealed in _TABLES
        for start in _starts(database, sealed)
    )


def _get_chosen(tx: Transaction) -> str | None:
    return tx.execute(select(sealing.c.fingerprint).where(_ROW)).scalar_one_or_none()


def _note(database: Database, keyring: Keyring) -> str:
    """Note that values are encrypted, unless another process was faster."""
    values = {"id": 1, "fingerprint": keyring.chosen}

    def note(tx: Transaction) -> str:
        tx.execute(insert(sealing).values(**values, chosen_at=tx.now))
        return keyring.chosen

    try:
        return database.transact(note, Commit.REENCRYPT)
    except duplicate_errors():
        with database.transaction(write=False) as tx:
            return _get_chosen(tx) or keyring.chosen


def _choose(tx: Transaction, fingerprint: str) -> None:
    tx.execute(update(sealing).where(_ROW).values(fingerprint=fingerprint, chosen_at=tx.now))


def _starts(database: Database, sealed: _Sealed) -> Iterator[tuple[Any, ...]]:
    """The keys after which the batches of a table begin."""
    keys = list(sealed.table.primary_key.columns)
    last: tuple[Any, ...] = ()
    while True:
        yield last
        query = select(*keys).where(_after(keys, last)).order_by(*keys)
        query = query.offset(sealed.batch - 1).limit(1)
        with database.transaction(write=False) as tx:
            row = tx.execute(query).first()
        if row is None:
            return
        last = tuple(row)


def _after(keys: list[Column[Any]], last: tuple[Any, ...]) -> Any:
    """The condition of the rows that come after a key."""
    if not last:
        return True
    if len(keys) == 1:
        return keys[0] > last[0]
    return or_(keys[0] > last[0], and_(keys[0] == last[0], keys[1] > last[1]))


def _reseal(tx: Transaction, keyring: Keyring, sealed: _Sealed, last: tuple[Any, ...]) -> int:
    keys = list(sealed.table.primary_key.columns)
    stored = [type_coerce(one, Text()).label(one.name) for one in sealed.columns]
    query = select(*keys, *stored).where(_after(keys, last)).order_by(*keys)
    count = 0
    for row in tx.execute(query.limit(sealed.batch).with_for_update()).mappings().all():
        values = {
            one.name: type_coerce(keyring.seal(keyring.unseal(text)), Text())
            for one in sealed.columns
            if (text := row[one.name]) is not None and not keyring.is_current(text)
        }
        if values:
            mine = and_(*(key == row[key.name] for key in keys))
            tx.execute(update(sealed.table).where(mine).values(**values))
            count += len(values)
    return count
