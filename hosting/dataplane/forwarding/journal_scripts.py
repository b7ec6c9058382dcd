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

APPEND_LUA: Final = """
-- KEYS: log, meta, owner, index, logged now, logged before.
-- ARGV: token, lease ms, life s, most events, most bytes, tenant's bytes, now s, most logs, prefix of logs, stream, about ('': it is
-- open), position ('': as before), done ('', 'done', 'lost'), then (sequence, sealed) for each event.
-- Appending twice what was appended changes nothing. Returns 1, or LOST, GONE, FULL.
local now, life = tonumber(ARGV[7]), tonumber(ARGV[3])
if redis.call('EXISTS', KEYS[2]) == 0 then
  if ARGV[11] == '' then return -2 end
  local over = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[8]) + 1
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', KEYS[4], 0, over - 1)) do
      local log = ARGV[9] .. old
      redis.call('DEL', log, log .. ':meta', log .. ':owner')
      redis.call('ZREM', KEYS[4], old)
    end
  end
  redis.call('HSET', KEYS[2], 'about', ARGV[11], 'seq', 0, 'bytes', 0)
  redis.call('ZADD', KEYS[4], now, ARGV[10])
end
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
local seq = tonumber(redis.call('HGET', KEYS[2], 'seq'))
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes'))
local size = 0
for i = 14, #ARGV, 2 do
  if tonumber(ARGV[i]) > seq then size = size + #ARGV[i + 1] end
end
local done, said = ARGV[13], 1
local logged = tonumber(redis.call('GET', KEYS[5]) or 0) + tonumber(redis.call('GET', KEYS[6]) or 0)
if size > 0 and logged + size > tonumber(ARGV[6]) then
  said = -3
  if done == 'done' then done = 'lost' end
elseif size > 0 then
  for i = 14, #ARGV, 2 do
    if tonumber(ARGV[i]) > seq then
      seq = tonumber(ARGV[i])
      redis.call('XADD', KEYS[1], ARGV[i] .. '-0', 'e', ARGV[i + 1], 't', ARGV[7])
    end
  end
  bytes = bytes + size
  local count = redis.call('XLEN', KEYS[1])
  while count > 1 do
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    local fields = first[2]
    if count <= tonumber(ARGV[4]) and bytes <= tonumber(ARGV[5]) and tonumber(fields[4]) >= now - life then break end
    redis.call('XDEL', KEYS[1], first[1])
    bytes, count = bytes - #fields[2], count - 1
  end
  if ARGV[12] ~= '' then redis.call('HSET', KEYS[2], 'position', ARGV[12]) end
  redis.call('HSET', KEYS[2], 'seq', seq, 'bytes', bytes)
  redis.call('EXPIRE', KEYS[1], life)
  redis.call('INCRBY', KEYS[5], size)
  redis.call('EXPIRE', KEYS[5], life * 2)
end
if done ~= '' then
  redis.call('HSET', KEYS[2], 'done', done)
  redis.call('DEL', KEYS[3])
  redis.call('ZADD', KEYS[4], now - 10000000000, ARGV[10])
end
redis.call('EXPIRE', KEYS[2], life)
redis.call('EXPIRE', KEYS[4], life * 2)
return said
"""

READ_LUA: Final = """
-- KEYS: log, meta, owner. ARGV: after which sequence, how many. Returns nothing, or {about, done, seq, has an owner, entries}.
local about = redis.call('HGET', KEYS[2], 'about')
if not about then return nil end
local told = redis.call('HMGET', KEYS[2], 'done', 'seq')
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
return {about, told[1] or '', tonumber(told[2]), redis.call('EXISTS', KEYS[3]), entries}
"""

CLAIM_LUA: Final = """
-- KEYS: meta, owner. ARGV: token, lease ms, life s. Returns {seq, position}, or LOST, GONE, OVER.
if redis.call('EXISTS', KEYS[1]) == 0 then return -2 end
if redis.call('HEXISTS', KEYS[1], 'done') == 1 then return -4 end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return -1 end
redis.call('HDEL', KEYS[1], 'asked')
redis.call('EXPIRE', KEYS[1], ARGV[3])
local told = redis.call('HMGET', KEYS[1], 'seq', 'position')
return {tonumber(told[1]), told[2] or ''}
"""

BEAT_LUA: Final = """
-- KEYS: (meta, owner, index) for each log. ARGV: lease ms, life s, then a token for each log.
-- Keeps what is still the token's. Returns for each log when it was asked for ('': never), or LOST, GONE as text.
local told = {}
for i = 1, #KEYS, 3 do
  local token = ARGV[2 + (i + 2) / 3]
  local holder = redis.call('GET', KEYS[i + 1])
  if redis.call('EXPIRE', KEYS[i], ARGV[2]) == 0 then told[#told + 1] = '-2'
  elseif holder and holder ~= token then told[#told + 1] = '-1'
  else
    redis.call('SET', KEYS[i + 1], token, 'PX', ARGV[1])
    redis.call('EXPIRE', KEYS[i + 2], ARGV[2] * 2)
    told[#told + 1] = redis.call('HGET', KEYS[i], 'asked') or ''
  end
end
return told
"""

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
