"""What the log of a stream does inside Redis, each script atomic.

A log is three keys: `<log>` (a stream, entry ids `<sequence>-0`, fields e = sealed event, t = second it was written), `<log>:meta` (a hash:
about, position, seq, bytes, done, asked) and `<log>:owner` (the token of the one who may append, with the lease as its life). The
session's index is a sorted set of its logs, finished ones first, older ones first.
"""

from __future__ import annotations

from typing import Final

LOST: Final = -1  # another owner has it
GONE: Final = -2  # it was removed, evicted, or aged out
FULL: Final = -3  # the tenant has logged as much as it may
OVER: Final = -4  # nothing will be appended to it any more

LIFE_S: Final = 600  # of an event, and of a log that nobody appends to
LEASE_S: Final = 6.0  # after which an owner that is not heard of is dead
MAX_EVENTS: Final = 512  # of one log; the oldest go first
MAX_BYTES: Final = 1024 * 1024  # likewise, sealed
MAX_LOGS: Final = 32  # of one session

# The bounds stand in the scripts: handing them over with each event would cost more than the event.
_BOUNDS: Final = f"""
local LIFE, LEASE = {LIFE_S}, {int(LEASE_S * 1000)}
local MAX_EVENTS, MAX_BYTES, MAX_LOGS = {MAX_EVENTS}, {MAX_BYTES}, {MAX_LOGS}
"""

APPEND_LUA: Final = (
    _BOUNDS
    + """
-- KEYS: log, index, logged now, logged before.
-- ARGV: token, tenant's bytes, now s, about ('': it is open), position ('': as before), done ('', 'done', 'lost'), then (sequence,
-- sealed) for each event. Appending twice what was appended changes nothing. Returns 1, or LOST, GONE, FULL.
local log, index, now, done, said = KEYS[1], KEYS[2], tonumber(ARGV[3]), ARGV[6], 1
local meta, owner, stream = log .. ':meta', log .. ':owner', string.sub(log, -16)
local told = redis.call('HMGET', meta, 'seq', 'bytes')
if not told[1] then
  if ARGV[4] == '' then return -2 end
  local over = redis.call('ZCARD', index) - MAX_LOGS + 1
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', index, 0, over - 1)) do
      local gone = string.sub(log, 1, -17) .. old
      redis.call('DEL', gone, gone .. ':meta', gone .. ':owner')
      redis.call('ZREM', index, old)
    end
  end
  redis.call('HSET', meta, 'about', ARGV[4], 'seq', 0, 'bytes', 0)
  redis.call('ZADD', index, now, stream)
  told = {'0', '0'}
end
local holder = redis.call('GET', owner)
if holder and holder ~= ARGV[1] then return -1 end
redis.call('SET', owner, ARGV[1], 'PX', LEASE)
local seq, bytes, size = tonumber(told[1]), tonumber(told[2]), 0
for i = 7, #ARGV, 2 do
  if tonumber(ARGV[i]) > seq then size = size + #ARGV[i + 1] end
end
local logged = tonumber(redis.call('GET', KEYS[3]) or 0) + tonumber(redis.call('GET', KEYS[4]) or 0)
if size > 0 and logged + size > tonumber(ARGV[2]) then
  said = -3
  if done == 'done' then done = 'lost' end
elseif size > 0 then
  for i = 7, #ARGV, 2 do
    if tonumber(ARGV[i]) > seq then
      seq = tonumber(ARGV[i])
      redis.call('XADD', log, ARGV[i] .. '-0', 'e', ARGV[i + 1], 't', ARGV[3])
    end
  end
  bytes = bytes + size
  local count = redis.call('XLEN', log)
  while count > 1 do
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    local fields = first[2]
    if count <= MAX_EVENTS and bytes <= MAX_BYTES and tonumber(fields[4]) >= now - LIFE then break end
    redis.call('XDEL', log, first[1])
    bytes, count = bytes - #fields[2], count - 1
  end
  redis.call('HSET', meta, 'seq', seq, 'bytes', bytes)
  if ARGV[5] ~= '' then redis.call('HSET', meta, 'position', ARGV[5]) end
  redis.call('EXPIRE', log, LIFE)
  if redis.call('INCRBY', KEYS[3], size) == size then redis.call('EXPIRE', KEYS[3], LIFE * 2) end
end
if done ~= '' then
  redis.call('HSET', meta, 'done', done)
  redis.call('DEL', owner)
  redis.call('ZADD', index, now - 10000000000, stream)
end
redis.call('EXPIRE', meta, LIFE)
redis.call('EXPIRE', index, LIFE * 2)
return said
"""
)

READ_LUA: Final = """
-- KEYS: log, meta, owner. ARGV: after which sequence, how many. Returns nothing, or {about, done, seq, has an owner, entries}.
local about = redis.call('HGET', KEYS[2], 'about')
if not about then return nil end
local told = redis.call('HMGET', KEYS[2], 'done', 'seq')
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
return {about, told[1] or '', tonumber(told[2]), redis.call('EXISTS', KEYS[3]), entries}
"""

CLAIM_LUA: Final = (
    _BOUNDS
    + """
-- KEYS: meta, owner. ARGV: token. Returns {seq, position}, or LOST, GONE, OVER.
if redis.call('EXISTS', KEYS[1]) == 0 then return -2 end
if redis.call('HEXISTS', KEYS[1], 'done') == 1 then return -4 end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', LEASE) then return -1 end
redis.call('HDEL', KEYS[1], 'asked')
redis.call('EXPIRE', KEYS[1], LIFE)
local told = redis.call('HMGET', KEYS[1], 'seq', 'position')
return {tonumber(told[1]), told[2] or ''}
"""
)

BEAT_LUA: Final = (
    _BOUNDS
    + """
-- KEYS: (meta, owner, index) for each log. ARGV: a token for each.
-- Keeps what is still the token's. Returns for each log when it was asked for ('': never), or LOST, GONE as text.
local told = {}
for i = 1, #KEYS, 3 do
  local token = ARGV[(i + 2) / 3]
  local holder = redis.call('GET', KEYS[i + 1])
  if redis.call('EXPIRE', KEYS[i], LIFE) == 0 then told[#told + 1] = '-2'
  elseif holder and holder ~= token then told[#told + 1] = '-1'
  else
    redis.call('SET', KEYS[i + 1], token, 'PX', LEASE)
    redis.call('EXPIRE', KEYS[i + 2], LIFE * 2)
    told[#told + 1] = redis.call('HGET', KEYS[i], 'asked') or ''
  end
end
return told
"""
)

ASK_LUA: Final = """
-- KEYS: meta. ARGV: when, ms.
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'asked', ARGV[1]) end
return 0
"""

RELEASE_LUA: Final = """
-- KEYS: owner. ARGV: token.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""

FORGET_LUA: Final = """
-- KEYS: index. ARGV: prefix of logs. Removes all logs of a session.
for _, stream in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local log = ARGV[1] .. stream
  redis.call('DEL', log, log .. ':meta', log .. ':owner')
end
redis.call('DEL', KEYS[1])
return 0
"""

SCRIPTS: Final = (APPEND_LUA, READ_LUA, CLAIM_LUA, BEAT_LUA, ASK_LUA, RELEASE_LUA, FORGET_LUA)
