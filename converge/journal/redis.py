"""The journal in Redis: each method is one script (``redis_scripts``), which Redis runs atomically.

Times are from the server's clock. Whether records survive a crash of the server depends on its
configuration: ``appendonly yes`` with ``appendfsync always`` loses none.
"""

from __future__ import annotations

import logging
import uuid
import weakref
from collections.abc import Callable
from typing import Any

from converge.errors import BadInput, Busy, NotFound, StaleLock, StoreError
from converge.hiding import hide, hide_in, is_secret, learn, learn_options, show_place
from converge.journal.backend import Backend, Record, ScopeInfo, ScopeLock, StepStatus, Taken
from converge.journal.redis_scripts import SCRIPTS
from converge.lease import Lease, Leases, Owner
from converge.model import make_mark
from converge.process import is_gone

LOG = logging.getLogger(__name__)

PREFIX = "converge"
#: How often a call is retried when the connection is lost.
RETRIES = 5
_STATUSES = {str(status): status for status in StepStatus}


class KeyLeases(Leases):
    """Leases that are expiring keys of Redis.

    :param call: runs a script.
    """

    holder = "owner"

    def __init__(self, call: Callable[..., Any], seconds: float) -> None:
        super().__init__(seconds)
        self._call = call
        self._milliseconds = max(1, round(seconds * 1000))

    def register(self, mark: int) -> int:
        return int(self._call("register", self.identity(mark), self._milliseconds))

    def prolong(self, id_: int, mark: int) -> bool:
        return bool(self._call("renew", id_, self.identity(mark), self._milliseconds))

    def leave(self, id_: int, mark: int) -> None:
        self._call("leave", id_, self.identity(mark))

    def identity(self, mark: int) -> str:
        """A text that tells a lease from any other with the same number."""
        return f"{self.process} {mark}"

    def close(self) -> None:
        """Does nothing: the journal closes the connections."""


def _identity(lease: Lease) -> str:
    leases = lease.leases
    assert isinstance(leases, KeyLeases)
    return leases.identity(lease.mark)


class RedisBackend(Backend):
    """The scopes of one owner.

    :param client: a client of the package ``redis`` with ``decode_responses=True``.
    :param lease: seconds without a sign of life after which other processes take over scopes.
    :param prefix: the prefix of all keys; another prefix is another journal.
    """

    def __init__(self, client: Any, lease: float, *, prefix: str = PREFIX) -> None:
        self._client = client
        self._prefix = f"{{{prefix}}}:"
        self._scripts = {name: client.register_script(script) for name, script in SCRIPTS.items()}
        # the marks of scopes that this process holds, or is taking
        self._own_marks: set[int] = set()
        # the thread that renews the lease must not keep this object alive
        this = weakref.ref(self)

        def after(lease: Lease) -> None:
            backend = this()
            if backend is not None:
                backend.reconcile(lease)

        self.owner = Owner(lambda: KeyLeases(self._call, lease), after)

    @classmethod
    def open(cls, url: str, lease: float) -> RedisBackend:
        """The journal of a URL, such as ``redis://HOST:6379/0?prefix=converge``.

        :raises BadInput: the URL is not valid, or the package ``redis`` is missing.
        :raises StoreError: the server cannot be reached.
        """
        try:
            import redis
            from redis.backoff import ExponentialBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise BadInput(
                "the client for Redis is not installed; type: pip install redis"
            ) from error
        from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

        try:
            parts = urlsplit(url)
            wrong = parts.port == 0 or "@" in parts.path + parts.fragment
        except ValueError:
            wrong = True
        if wrong or any("@" in one and not is_secret(one) for one in parts.query.split("&")):
            # without the message of urlsplit, which may quote a password
            raise BadInput(
                f"{show_place(url)} is not the URL of a Redis; one looks like "
                "redis://user:password@host:6379/0 (in a password, write % @ / : ? and # as "
                "%25 %40 %2F %3A %3F and %23; a port is a number)"
            )
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        seen = (parts.username, parts.hostname, parts.path[1:])
        learn([parts.password], seen)
        learn_options(query.items(), seen)
        prefix = query.pop("prefix", PREFIX)
        if not prefix or not set(prefix).isdisjoint("{}"):
            raise BadInput(f"the prefix of keys must not be empty or contain braces: {prefix!r}")
        # a server that does not answer must not hang its callers
        query = {"socket_timeout": "30", "socket_connect_timeout": "10", **query}
        plain = urlunsplit(parts._replace(query=urlencode(query)))
        try:
            client = redis.Redis.from_url(
                plain,
                decode_responses=True,
                # every script is safe to repeat when its answer was lost
                retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), RETRIES),
                retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            )
        except (ValueError, TypeError) as error:
            hide_in(error)
            raise BadInput(f"this is not the URL of a Redis: {error}") from error
        backend = cls(client, lease, prefix=prefix)
        try:
            backend._asking(client.ping)
        except (ValueError, TypeError) as error:
            hide_in(error)
            raise BadInput(f"this URL of a Redis has a wrong option: {error}") from error
        return backend

    def close(self) -> None:
        self.owner.close()
        self._client.close()

    # -- scopes

    def take(self, name: str) -> Taken:
        mark = make_mark()
        # before the call: reconcile() may run right after it
        self._own_marks.add(mark)
        try:
            return self._take(name, mark)
        except BaseException:
            self._own_marks.discard(mark)
            raise

    def _take(self, name: str, mark: int) -> Taken:
        while True:
            lease = self.owner.current_lease()
            owner = lease.id
            what, *found = self._call("take", name, owner, mark, _identity(lease))
            if what == "lost":
                self.owner.give_up(owner)
            elif what == "busy":
                holder, identity = found
                # the process, without the mark
                if not is_gone(identity.split(" ")[0]):
                    raise Busy(f"scope {name!r} is being worked on by owner {holder}")
                # its process was on this host and is gone: no need to wait for its lease
                self._call("leave", holder, identity)
            else:
                epoch, finished, time, steps = found
                lock = ScopeLock(name, owner, int(epoch), mark)
                return Taken(lock, finished != "", _records(steps, float(time)))

    def write(
        self, lock: ScopeLock, record: Record, transaction: Any = None, *, replaces: bool = False
    ) -> None:
        _refuse(transaction)
        done = self._call(
            "write",
            *self._arguments(lock),
            record.name,
            record.value,
            record.number,
            record.version,
            str(record.status),
            record.attempts,
            record.wait,
            record.position,
        )
        if not done:
            raise StaleLock(f"step {record.name!r}: the scope is no longer held by this caller")

    def advance(
        self, lock: ScopeLock, name: str, position: int, value: str, transaction: Any = None
    ) -> None:
        _refuse(transaction)
        mark = uuid.uuid4().hex
        if not self._call("advance", *self._arguments(lock), name, position, value, mark):
            raise StaleLock(
                f"each {name!r}: the scope is no longer held by this caller, or it is at item "
                f"{position} already, or beyond it"
            )

    def release(self, lock: ScopeLock, *, finished: bool) -> None:
        try:
            self._call("release", *self._arguments(lock), int(finished))
        finally:
            # not before: reconcile() would release the scope as unfinished
            self._own_marks.discard(lock.mark)

    def reconcile(self, lease: Lease) -> None:
        """Release scopes that a lease holds without this process knowing, as does
        :meth:`converge.journal.sql.SqlBackend.reconcile`."""
        try:
            # read these before the marks: a scope that is taken meanwhile then has its mark here
            for name, epoch, mark in self._call("holds", lease.id, _identity(lease)):
                if int(mark) not in self._own_marks:
                    self._call("release", name, lease.id, epoch, mark, "")
                    LOG.warning("the journal released scope %r, which it did not know", name)
        except StoreError as error:
            LOG.warning("the journal cannot compare its scopes: %s; tried again later", error)

    def _arguments(self, lock: ScopeLock) -> tuple[Any, ...]:
        return lock.scope, lock.owner, lock.epoch, lock.mark

    def list_scopes(self, *, after: str = "", limit: int = 1000) -> list[ScopeInfo]:
        return [_info(one) for one in self._call("list", after, limit)]

    def show(self, name: str) -> tuple[ScopeInfo, list[Record]]:
        info, time, steps = self._call("show", name)
        if info[-1] == "":
            raise NotFound(f"there is no scope {name!r}")
        return _info(info), _records(steps, float(time))

    def forget(self, name: str, *, failed: bool = False) -> int:
        what, found = self._call("forget", name, int(failed))
        if what == "missing":
            raise NotFound(f"there is no scope {name!r}")
        if what == "busy":
            raise Busy(f"scope {name!r} is being worked on by owner {found}")
        return int(found)

    def prune(self, *, age: float | None, keep: int | None, limit: int) -> int:
        limits = ("" if value is None else value for value in (age, keep))
        return int(self._call("prune", *limits, limit))

    # -- calling

    def _call(self, script: str, *arguments: Any) -> Any:
        return self._asking(lambda: self._scripts[script](keys=[self._prefix], args=arguments))

    def _asking(self, function: Callable[[], Any]) -> Any:
        import redis

        try:
            return function()
        except (redis.RedisError, OSError) as error:
            hide_in(error)
            words = hide(" ".join(str(error).split())) or type(error).__name__
            if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
                words = f"the Redis server cannot be reached ({words})"
            raise StoreError(words[:500]) from error


def _refuse(transaction: object) -> None:
    if transaction is not None:
        raise BadInput("a journal in Redis cannot join a transaction; leave out transaction=")


def _records(fields: list[str], time: float) -> list[Record]:
    """The records in a hash, whose fields and values alternate in the list."""
    by_field = dict(zip(fields[::2], fields[1::2], strict=True))
    records = []
    for field, text in by_field.items():
        if field[0] != "@":
            continue
        number, version, status, attempts, position, at, due, _ = text.split(" ")
        records.append(
            Record(
                name=field[1:],
                number=int(number),
                version=int(version),
                status=_STATUSES[status],
                value=by_field["=" + field[1:]],
                attempts=int(attempts),
                wait=max(0.0, float(due) - time),
                position=int(position),
                at=float(at),
            )
        )
    return sorted(records, key=lambda one: (one.number, one.name))


def _info(found: list[Any]) -> ScopeInfo:
    name, steps, owner, created, updated, finished, _ = found
    return ScopeInfo(
        name=name,
        steps=int(steps),
        owner=f"owner {owner}" if owner else None,
        created=float(created),
        updated=float(updated),
        finished=float(finished) if finished else None,
    )
