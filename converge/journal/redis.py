"""The journal in Redis: each method is one script, which Redis runs atomically.

The keys of a journal begin with its prefix in braces, so that a cluster keeps them in one slot, as
scripts require; several prefixes spread over several slots. They are, after ``{converge}:``:

- ``owners``: the last owner's number; ``owner:N``: the process of a live owner and a random mark,
  until its lease expires; ``holds:N``: the names of the scopes that it took;
- ``scopes``: the names of all scopes; ``finished``: the names of finished ones, by time;
- ``scope:NAME``: epoch, owner, the mark of its lock, times, the number of records of keys;
  ``steps:NAME``: for each record ``=STEP``, its value, and ``@STEP``, all its other columns.

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
from converge.lease import Lease, Leases, Owner
from converge.model import make_mark
from converge.process import is_gone

LOG = logging.getLogger(__name__)

PREFIX = "converge"
#: How often a call is retried when the connection is lost.
RETRIES = 5
_STATUSES = {str(status): status for status in StepStatus}

# all scripts begin with this; KEYS[1] is the prefix of all keys
_COMMON = """
local p = KEYS[1]
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local function seconds(value) return string.format('%.6f', value) end
local function alive(owner)
  return owner and owner ~= '' and redis.call('EXISTS', p .. 'owner:' .. owner) == 1
end
-- the mark, as all else is used again when the server lost its last seconds
local function held(name, owner, epoch, mark)
  local found = redis.call('HMGET', p .. 'scope:' .. name, 'owner', 'epoch', 'mark')
  return found[1] == owner and found[2] == epoch and found[3] == mark
end
local function touch(name)
  redis.call('HSET', p .. 'scope:' .. name, 'updated', seconds(now))
end
-- a record has two fields, whether it is of a step or of keys
local function count(name)
  local others = redis.call('HGET', p .. 'scope:' .. name, 'others') or 0
  return redis.call('HLEN', p .. 'steps:' .. name) / 2 - others
end
local function info(name)
  local key = p .. 'scope:' .. name
  local f = redis.call('HMGET', key, 'owner', 'created', 'updated', 'finished', 'epoch')
  local owner = ''
  if alive(f[1]) then owner = f[1] end
  return {name, count(name), owner, f[2] or '', f[3] or '', f[4] or '', f[5] or ''}
end
local function drop(name)
  redis.call('DEL', p .. 'scope:' .. name, p .. 'steps:' .. name)
  redis.call('ZREM', p .. 'scopes', name)
  redis.call('ZREM', p .. 'finished', name)
end
"""

_SCRIPTS = {
    # the process and its mark, the lease in ms
    "register": """
local id = redis.call('INCR', p .. 'owners')
redis.call('SET', p .. 'owner:' .. id, ARGV[1], 'PX', ARGV[2])
return id
""",
    # owner, its process and mark, the lease in ms; an owner that is gone never comes back
    "renew": """
if redis.call('GET', p .. 'owner:' .. ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('PEXPIRE', p .. 'holds:' .. ARGV[1], ARGV[3])
return redis.call('PEXPIRE', p .. 'owner:' .. ARGV[1], ARGV[3])
""",
    # scope, owner, the call's mark, the owner's process and mark; the call's mark makes it safe to
    # repeat when the answer was lost
    "take": """
local name, owner, mark = ARGV[1], ARGV[2], ARGV[3]
local key = p .. 'scope:' .. name
if redis.call('GET', p .. 'owner:' .. owner) ~= ARGV[4] then return {'lost'} end
local f = redis.call('HMGET', key, 'owner', 'epoch', 'mark', 'finished')
if alive(f[1]) and f[3] ~= mark then
  return {'busy', f[1], redis.call('GET', p .. 'owner:' .. f[1])}
end
if f[3] ~= mark then
  if not f[2] then
    redis.call('HSET', key, 'created', seconds(now))
    redis.call('ZADD', p .. 'scopes', 0, name)
  end
  redis.call('HINCRBY', key, 'epoch', 1)
  redis.call('HSET', key, 'owner', owner, 'mark', mark, 'updated', seconds(now))
  redis.call('SADD', p .. 'holds:' .. owner, name)
  redis.call('PEXPIRE', p .. 'holds:' .. owner, redis.call('PTTL', p .. 'owner:' .. owner))
end
local epoch = redis.call('HGET', key, 'epoch')
return {'taken', epoch, f[4] or '', seconds(now), redis.call('HGETALL', p .. 'steps:' .. name)}
""",
    # scope, owner, epoch, mark, step, value, number, version, status, attempts, wait, position
    "write": """
local name = ARGV[1]
if not held(name, ARGV[2], ARGV[3], ARGV[4]) then return 0 end
local rest = {ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[12]}
rest[6] = seconds(now)
rest[7] = seconds(now + tonumber(ARGV[11]))
rest[8] = ''
local steps = p .. 'steps:' .. name
local text = table.concat(rest, ' ')
local new = redis.call('HSET', steps, '=' .. ARGV[5], ARGV[6], '@' .. ARGV[5], text)
if ARGV[9] == 'KEYS' and new > 0 then
  redis.call('HINCRBY', p .. 'scope:' .. name, 'others', 1)
end
touch(name)
return 1
""",
    # scope, owner, epoch, mark, step, position, value, the call's mark
    "advance": """
local name, field = ARGV[1], '@' .. ARGV[5]
if not held(name, ARGV[2], ARGV[3], ARGV[4]) then return 0 end
local text = redis.call('HGET', p .. 'steps:' .. name, field)
if not text then return 0 end
local pattern = '^(%d+ %d+) (%u+) (%d+) (%d+) (%S+) (%S+) (.*)$'
local head, status, attempts, position, at, next, mark = string.match(text, pattern)
if mark == ARGV[8] then return 1 end
if status ~= 'OPEN' or tonumber(position) >= tonumber(ARGV[6]) then return 0 end
local rest = {head, status, attempts, ARGV[6], seconds(now), next, ARGV[8]}
local steps = p .. 'steps:' .. name
redis.call('HSET', steps, field, table.concat(rest, ' '), '=' .. ARGV[5], ARGV[7])
touch(name)
return 1
""",
    # scope, owner, epoch, mark, whether it is finished; empty: as if its owner had died
    "release": """
local name = ARGV[1]
local key = p .. 'scope:' .. name
if not held(name, ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('HDEL', key, 'owner', 'mark')
redis.call('SREM', p .. 'holds:' .. ARGV[2], name)
if ARGV[5] == '' then return 1 end
touch(name)
if ARGV[5] == '1' then
  redis.call('HSET', key, 'finished', seconds(now))
  redis.call('ZADD', p .. 'finished', seconds(now), name)
else
  redis.call('HDEL', key, 'finished')
  redis.call('ZREM', p .. 'finished', name)
end
return 1
""",
    # owner, its process and mark
    "holds": """
local found = {}
if redis.call('GET', p .. 'owner:' .. ARGV[1]) ~= ARGV[2] then return found end
for _, name in ipairs(redis.call('SMEMBERS', p .. 'holds:' .. ARGV[1])) do
  local f = redis.call('HMGET', p .. 'scope:' .. name, 'owner', 'epoch', 'mark')
  if f[1] == ARGV[1] then found[#found + 1] = {name, f[2], f[3]} end
end
return found
""",
    "list": """
local first = '-'
if ARGV[1] ~= '' then first = '(' .. ARGV[1] end
local found = redis.call('ZRANGEBYLEX', p .. 'scopes', first, '+', 'LIMIT', 0, ARGV[2])
local infos = {}
for i, name in ipairs(found) do infos[i] = info(name) end
return infos
""",
    "show": """
return {info(ARGV[1]), seconds(now), redis.call('HGETALL', p .. 'steps:' .. ARGV[1])}
""",
    # scope, whether to delete only records of steps that failed for good
    "forget": """
local owner = redis.call('HGET', p .. 'scope:' .. ARGV[1], 'owner')
if redis.call('EXISTS', p .. 'scope:' .. ARGV[1]) == 0 then return {'missing', ''} end
if alive(owner) then return {'busy', owner} end
local key = p .. 'steps:' .. ARGV[1]
if ARGV[2] == '0' then
  local steps = count(ARGV[1])
  drop(ARGV[1])
  return {'done', steps}
end
local fields, failed = redis.call('HGETALL', key), 0
for i = 1, #fields, 2 do
  local status = string.match(fields[i + 1], '^%d+ %d+ (%u+) ')
  local is_failed = status == 'FAILED' or status == 'CAUGHT'
  if string.sub(fields[i], 1, 1) == '@' and is_failed then
    redis.call('HDEL', key, fields[i], '=' .. string.sub(fields[i], 2))
    failed = failed + 1
  end
end
return {'done', failed}
""",
    # age or empty, how many to keep or empty, limit
    "prune": """
local key = p .. 'finished'
local keep, limit = tonumber(ARGV[2]) or 0, tonumber(ARGV[3])
local function free(name) return not alive(redis.call('HGET', p .. 'scope:' .. name, 'owner')) end
local kept, left, place = {}, keep, 0
while left > 0 do
  local part = redis.call('ZREVRANGE', key, place, place + 999)
  if #part == 0 then break end
  for _, name in ipairs(part) do
    if left > 0 and free(name) then
      kept[name] = true
      left = left - 1
    end
  end
  place = place + 1000
end
local count, passed = 0, 0
while count < limit do
  local name, at = unpack(redis.call('ZRANGE', key, passed, passed, 'WITHSCORES'))
  if not name or kept[name] then break end
  if ARGV[1] ~= '' and tonumber(at) > now - tonumber(ARGV[1]) then break end
  if free(name) then
    drop(name)
    count = count + 1
  else
    passed = passed + 1
  end
end
return count
""",
    # owner, its process and mark
    "leave": """
if redis.call('GET', p .. 'owner:' .. ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('DEL', p .. 'owner:' .. ARGV[1], p .. 'holds:' .. ARGV[1])
""",
}


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
        self._scripts = {
            name: client.register_script(_COMMON + script) for name, script in _SCRIPTS.items()
        }
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
