"""The scripts, in Lua, that Redis runs for the journal.

The keys of a journal begin with its prefix in braces, so that a cluster keeps them in one slot, as
scripts require; several prefixes spread over several slots. They are, after ``{converge}:``:

- ``owners``: the last owner's number; ``owner:N``: the process of a live owner and a random mark,
  until its lease expires; ``holds:N``: the names of the scopes that it took;
- ``scopes``: the names of all scopes; ``finished``: the names of finished ones, by time;
- ``scope:NAME``: epoch, owner, the mark of its lock, times, the number of records of keys;
  ``steps:NAME``: for each record ``=STEP``, its value, and ``@STEP``, all its other columns.
"""

from __future__ import annotations

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

#: The scripts by the name of what they do.
SCRIPTS = {name: _COMMON + script for name, script in _SCRIPTS.items()}
