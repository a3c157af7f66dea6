"""Where a sink ends: the interface of publishers, and those that need nothing but this process
and its database: ``log``, ``file`` and ``database``.

A publisher is written in a pipeline file as a URL (``file:///var/log/events.jsonl``), as a mapping
of its name to its parameters, or as a name alone.
"""

from __future__ import annotations

import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from converge.errors import BadInput
from converge.model import NAME_LENGTH
from converge.pipeline.items import Group, Item, Sample, to_json
from converge.pipeline.notification import is_storable

if TYPE_CHECKING:
    from converge.sql.transaction import Transaction
    from converge.store import Store

LOG = logging.getLogger("converge.pipeline.items")


@dataclass(frozen=True, slots=True)
class Outlet:
    """What a publisher is given beside the items.

    :ivar now: seconds since 1970, by the database's clock.
    :ivar transaction: the one in which it is recorded that the items are published, for a publisher
        that is ``transactional``; else None.
    """

    store: Store
    now: float
    transaction: Transaction | None = None


class Publisher(ABC):
    """The end of a sink.

    Its parameters are those of ``__init__``, which raises :class:`~converge.errors.BadInput` for a
    wrong one. It may be called again with the same items, after a death or a failure; the ``id`` of
    each is then the same. Where it is ``transactional``, what it writes in the transaction that it
    is given is written once.

    :cvar transactional: it writes in the given transaction only, which must not take long.
    """

    transactional: ClassVar[bool] = False

    @abstractmethod
    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Publish items. If it raises, all items are published again, those of each notification
        by themselves, so that one bad item does not hold up the others."""

    def close(self) -> None:
        """Free what it holds."""
        return None


class LogPublisher(Publisher):
    """Writes each item to the log ``converge.pipeline.items``, as JSON.

    :param level: ``debug``, ``info`` or ``warning``.
    """

    def __init__(self, level: str = "info") -> None:
        levels = {"debug": LOG.debug, "info": LOG.info, "warning": LOG.warning}
        if level not in levels:
            raise BadInput(f"level must be one of {', '.join(levels)}, not {level!r}")
        self._log = levels[level]

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Log them."""
        for item in items:
            self._log("%s", json.dumps(to_json(item), sort_keys=True))


class FilePublisher(Publisher):
    """Appends each item to a file, as a line of JSON. The items of a batch are one write.

    After a death, items may be in it twice, with the same ``id``.

    :param path: of the file; it is made if it does not exist, its folder is not.
    """

    def __init__(self, path: str) -> None:
        if not isinstance(path, str) or not path.strip("/"):
            raise BadInput("it needs the path of a file")
        self._path = path

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Append them."""
        text = "".join(json.dumps(to_json(item), sort_keys=True) + "\n" for item in items)
        # opened for each batch, so that it can be moved away
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            data = text.encode("utf-8", "backslashreplace")
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)


class DatabasePublisher(Publisher):
    """Stores samples in the database, each once. Events are there already."""

    transactional = True

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Store them."""
        from converge.sql.samples import insert_samples

        assert outlet.transaction is not None
        found = [item for item in flat(items) if isinstance(item, Sample)]
        for one in found:
            _check_storable(one)
        if found:
            insert_samples(outlet.transaction, [_row(one) for one in found])


def flat(items: Sequence[Item]) -> Iterator[Item]:
    """Items, with those of groups in place of the groups."""
    for item in items:
        if isinstance(item, Group):
            yield from item.items
        else:
            yield item


_NAMES = ("name", "unit", "resource_id", "user_id", "project_id")


def _check_storable(sample: Sample) -> None:
    for name in _NAMES:
        value = getattr(sample, name)
        if value is None:
            continue
        if len(value) > NAME_LENGTH:
            raise ValueError(
                f"{name} of a sample of {sample.name[:60]} has {len(value):,} characters; "
                f"the database takes {NAME_LENGTH}"
            )
        if not is_storable(value):
            raise ValueError(f"{name} of a sample has a character that cannot be stored")


def _row(one: Sample) -> dict[str, Any]:
    names = ("name", "type", "unit", "volume", "resource_id", "user_id", "project_id", "at")
    row = {name: getattr(one, name) for name in names}
    return {"sample_id": one.id, **row, "metadata": dict(one.metadata)}


class Discard(Publisher):
    """In the place of a publisher that converge does not have."""

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Publish nothing."""
        return None
