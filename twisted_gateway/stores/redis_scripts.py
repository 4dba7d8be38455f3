"""What Redis does for limits, in one step each (`policy.md` 11.5): Lua, by the server's own clock.

Keys below the prefix `aisix:rl[:<env_id>]:`

    <bucket>:<rps|rpm|rph|rpd|tpm|tpd>:<window start>   a number; expires 5 s after the window
    <bucket>:concurrency                                a sorted set: holds by when they were last known to live
    <bucket>:reserved, <bucket>:reserved:ages           a hash: tokens held by hold, and their sum; holds by age
    told:<process>, epoch:<process>                     how much of what a process tells was done; its connections

Holds that nobody has renewed for the TTL are those of a gateway that died: they are dropped.
"""

_COMMON = """
local prefix, ttl = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local spans = {rps = 1, rpm = 60, rph = 3600, rpd = 86400, tpm = 60, tpd = 86400}
local longest = 2 * ttl + 5

-- What was sent on a connection that the process has given up since, and was not read until now, must not be done.
local process, epoch = ARGV[3], tonumber(ARGV[4])
local current = tonumber(redis.call('GET', prefix .. 'epoch:' .. process) or '-1')
if current > epoch then return {-2, 0, 0, 0} end
if current < epoch then redis.call('SET', prefix .. 'epoch:' .. process, ARGV[4], 'EX', 86400) end

local function counter(bucket, name, at)
  local second = math.floor(at)
  local span = spans[name]
  return prefix .. bucket .. ':' .. name .. ':' .. string.format('%d', second - second % span)
end

local function add(bucket, name, at, amount)
  local key = counter(bucket, name, at)
  redis.call('INCRBY', key, string.format('%d', amount))
  redis.call('EXPIRE', key, spans[name] + 5)
end

local function used(bucket, name)
  return tonumber(redis.call('GET', counter(bucket, name, now)) or '0')
end

local function hold(bucket, name, amount)
  local key = prefix .. bucket .. ':reserved'
  redis.call('ZADD', key .. ':ages', now, name)
  if redis.call('HSETNX', key, name, string.format('%d', amount)) == 1 then
    redis.call('HINCRBY', key, 'sum', string.format('%d', amount))
  end
  redis.call('EXPIRE', key, longest)
  redis.call('EXPIRE', key .. ':ages', longest)
end

local function unhold(bucket, name)
  local key = prefix .. bucket .. ':reserved'
  local amount = redis.call('HGET', key, name)
  if amount then
    redis.call('HDEL', key, name)
    redis.call('ZREM', key .. ':ages', name)
    redis.call('HINCRBY', key, 'sum', string.format('%d', -tonumber(amount)))
  end
end

local function held(bucket)
  local key = prefix .. bucket .. ':reserved'
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', key .. ':ages', '-inf', now - ttl)) do
    unhold(bucket, name)
  end
  return tonumber(redis.call('HGET', key, 'sum') or '0')
end

local function occupy(bucket, name)
  local key = prefix .. bucket .. ':concurrency'
  redis.call('ZADD', key, now, name)
  redis.call('EXPIRE', key, longest)
end

local function occupied(bucket)
  local key = prefix .. bucket .. ':concurrency'
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - ttl)
  return redis.call('ZCARD', key)
end

local function leave(bucket, name)
  redis.call('ZREM', prefix .. bucket .. ':concurrency', name)
end
"""

TAKE = (
    _COMMON
    + """
-- ARGV: prefix, ttl, process, epoch, hold, number of asks; for each: bucket, rps, rpm, rph, rpd, tpm, tpd,
-- concurrency, estimate (-1: no such limit; estimate -1: nothing is held). Gives: index of the ask that was refused or
-- -1, why (0 requests, 1 tokens, 2 concurrency), seconds to the window's end, milliseconds of the clock; for each ask,
-- requests and tokens of the minute, and calls at a time.
local name, asks = ARGV[5], tonumber(ARGV[6])
local requests, tokens = {'rps', 'rpm', 'rph', 'rpd'}, {'tpm', 'tpd'}
local standings = {}

local function limit(ask, at) return tonumber(ARGV[7 + 9 * ask + at]) end

local function left(window) return spans[window] - math.floor(now) % spans[window] end

local function refused(ask, bucket)
  local most, estimate = limit(ask, 7), limit(ask, 8)
  local slots, sum = 0, 0
  if most >= 0 then
    slots = occupied(bucket)
    if slots >= most then return 2, -1 end
  end
  if estimate >= 0 then sum = held(bucket) end
  for at, window in ipairs(tokens) do
    local top = limit(ask, 4 + at)
    if top >= 0 then
      local count, full = used(bucket, window), false
      if estimate < 0 then full = count > top
      else full = count + sum + estimate > top and (count > 0 or sum > 0) end
      if full then return 1, left(window) end
    end
  end
  for at, window in ipairs(requests) do
    local top = limit(ask, at)
    if top >= 0 and used(bucket, window) + 1 > top then return 0, left(window) end
  end
  return nil, 0
end

for ask = 0, asks - 1 do
  local bucket = ARGV[7 + 9 * ask]
  local why, after = refused(ask, bucket)
  if why then
    for earlier = 0, ask - 1 do
      leave(ARGV[7 + 9 * earlier], name)
      unhold(ARGV[7 + 9 * earlier], name)
    end
    return {ask, why, after, math.floor(now * 1000)}
  end
  for at, window in ipairs(requests) do
    if limit(ask, at) >= 0 then add(bucket, window, now, 1) end
  end
  if limit(ask, 7) >= 0 then occupy(bucket, name) end
  if limit(ask, 8) >= 0 then hold(bucket, name, limit(ask, 8)) end
end

local answer = {-1, 0, 0, math.floor(now * 1000)}
for ask = 0, asks - 1 do
  local bucket = ARGV[7 + 9 * ask]
  answer[#answer + 1] = limit(ask, 2) >= 0 and used(bucket, 'rpm') or 0
  local count = limit(ask, 5) >= 0 and used(bucket, 'tpm') or 0
  if limit(ask, 8) >= 0 then count = count + held(bucket) end
  answer[#answer + 1] = count
  answer[#answer + 1] = limit(ask, 7) >= 0 and occupied(bucket) or 0
end
return answer
"""
)

TELL = (
    _COMMON
    + """
-- ARGV: prefix, ttl, process, epoch, number of the first; for each: verb, milliseconds of age, bucket, hold, amount,
-- flags.
-- What was done before is not done again: after an outage everything that was not acknowledged is told once more.
local number = tonumber(ARGV[5])
local mark = prefix .. 'told:' .. process
local done = tonumber(redis.call('GET', mark) or '-1')
local windows = {s = 'rps', m = 'rpm', h = 'rph', d = 'rpd', M = 'tpm', D = 'tpd'}

local function counted(bucket, at, amount, flags)
  for flag, window in pairs(windows) do
    if string.find(flags, flag, 1, true) then add(bucket, window, at, amount) end
  end
end

for from = 6, #ARGV, 6 do
  if number > done then
    local verb, at = ARGV[from], now - tonumber(ARGV[from + 1]) / 1000
    local bucket, name, amount, flags = ARGV[from + 2], ARGV[from + 3], tonumber(ARGV[from + 4]), ARGV[from + 5]
    if verb == 'release' then
      if string.find(flags, 'c', 1, true) then leave(bucket, name) end
      if string.find(flags, 'r', 1, true) then unhold(bucket, name) end
      if amount > 0 then counted(bucket, at, amount, flags) end
    elseif verb == 'count' then
      counted(bucket, at, amount, flags)
    elseif verb == 'enlarge' then
      local key = prefix .. bucket .. ':reserved'
      if redis.call('HEXISTS', key, name) == 1 then
        redis.call('HINCRBY', key, name, ARGV[from + 4])
        redis.call('HINCRBY', key, 'sum', ARGV[from + 4])
      end
    elseif verb == 'renew' then
      if string.find(flags, 'c', 1, true) then occupy(bucket, name) end
      if string.find(flags, 'r', 1, true) then hold(bucket, name, amount) end
    end
  end
  number = number + 1
end
if number - 1 > done then  redis.call('SET', mark, string.format('%d', number - 1), 'EX', 86400)
end
return number - 1
"""
)
